import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import facevae_keras as fv
from facevae_keras.losses import scale_images


def test_kl_divergence_is_the_closed_form():
    random = np.random.default_rng(0)
    mean, log_variance = random.normal(size=(2, 5, 100)).astype("float32")
    found = ops.convert_to_numpy(fv.kl_divergence(mean, log_variance))
    # Between two one-dimensional Gaussians, from their densities.
    deviation = np.exp(log_variance / 2)
    wanted = -np.log(deviation) + (deviation**2 + mean**2) / 2 - 0.5
    np.testing.assert_allclose(found, wanted.sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize("size", [64, 96, 200])
def test_scaling_agrees_with_tensorflow_anti_aliased(size):
    images = np.random.default_rng(0).uniform(0, 255, (2, 160, 160, 3))
    images = images.astype("float32")
    wanted = tf.image.resize(images, (size, size), antialias=True)
    np.testing.assert_allclose(scale_images(images, size), wanted, atol=0.01)


def test_what_fits_is_not_touched():
    images = np.zeros((1, 64, 64, 3), "float32")
    assert scale_images(images, 64) is images


def test_pixel_loss_is_summed_per_image_and_averaged_over_images():
    photos = np.zeros((2, 64, 64, 3), "float32")
    reconstructions = photos.copy()
    reconstructions[1] += 2
    loss = float(fv.PixelLoss()(photos, reconstructions))
    assert loss == pytest.approx(4 * 64 * 64 * 3 / 2)


def test_pixel_loss_compares_at_the_reconstructions_size():
    photos = np.full((1, 160, 160, 3), 100, "uint8")
    loss = fv.PixelLoss()(photos, np.full((1, 64, 64, 3), 101, "float32"))
    assert float(loss) == pytest.approx(64 * 64 * 3, rel=1e-3)


def test_perceptual_loss_adds_its_layers(seeded_facenet, faces):
    loss = fv.PerceptualLoss(seeded_facenet, image_size=96)
    photos, reconstructions = faces[:8], faces[8:16]
    layers = loss.layer_losses(photos, reconstructions)
    assert list(layers) == list(fv.WIKI_LAYERS)
    total = sum(ops.convert_to_numpy(value) for value in layers.values())
    assert total.shape == (8,)
    np.testing.assert_allclose(
        float(loss(photos, reconstructions)), total.mean(), rtol=1e-5
    )
    assert float(loss(photos, photos)) == 0


def test_perceptual_loss_sees_the_photos_fine_detail(seeded_facenet, drawn):
    path = fv.find_images(drawn)["path"].iloc[0]
    photo = fv.read_photo(path, 160, crop=0.8)[None]
    small = scale_images(photo.astype("float32"), 64)
    loss = fv.PerceptualLoss(seeded_facenet, image_size=160)
    # A perfect 64x64 reconstruction still lacks what 160x160 shows.
    assert float(loss(photo, small)) > 0
