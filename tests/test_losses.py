import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import facevae_keras as fv
from facevae_keras import backends
from facevae_keras.layers import scale_images


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


def test_layers_are_weighted_and_pixels_are_one_of_them(seeded_facenet, faces):
    layers = ["pixels", "Conv2d_1a_3x3"]
    photos, others = faces[:8].astype("float32"), faces[8:16].astype("float32")
    plain = fv.PerceptualLoss(seeded_facenet, layers, 64)
    weighted = fv.PerceptualLoss(seeded_facenet, layers, 64, weights=[1, 3])
    found = weighted.layer_losses(photos, others)
    wanted = plain.layer_losses(photos, others)
    pixels = np.square(photos - others).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found["pixels"], pixels, rtol=1e-4)
    np.testing.assert_allclose(
        found["Conv2d_1a_3x3"], 3 * wanted["Conv2d_1a_3x3"], rtol=1e-4
    )
    with pytest.raises(ValueError, match="each of 2 layers, found 1"):
        fv.PerceptualLoss(seeded_facenet, layers, 64, weights=[1])


@pytest.mark.slow
def test_equalized_layers_cost_the_share_of_variance_they_lack(
    seeded_facenet, faces
):
    layers = ["pixels", "Conv2d_1a_3x3", "Conv2d_4b_3x3"]
    loss = fv.PerceptualLoss(
        seeded_facenet, layers, 64, "float32", weights=[1, 1, 2]
    )
    loss.equalize(faces)
    # Two faces drawn at random differ by twice the variance.
    pairs = [loss.layer_losses(faces, np.roll(faces, k, 0)) for k in range(32)]
    costs = {
        layer: np.mean([ops.convert_to_numpy(pair[layer]) for pair in pairs])
        for layer in layers
    }
    np.testing.assert_allclose(list(costs.values()), [2, 2, 4], rtol=1e-3)


def test_perceptual_loss_sees_the_photos_fine_detail(seeded_facenet, drawn):
    path = fv.find_images(drawn)["path"].iloc[0]
    photo = fv.read_photo(path, 160, crop=0.8)[None]
    small = scale_images(photo.astype("float32"), 64)
    loss = fv.PerceptualLoss(seeded_facenet, image_size=160)
    # A perfect 64x64 reconstruction still lacks what 160x160 shows.
    assert float(loss(photo, small)) > 0


def test_the_gradient_is_that_of_the_plain_sum(seeded_facenet, faces):
    loss = fv.PerceptualLoss(seeded_facenet, image_size=35, precision="float32")
    photos = tf.constant(faces[:4], "float32")
    found = tf.Variable(photos[::-1])
    with tf.GradientTape() as tape:
        value = loss(photos, found)
    gradient = tape.gradient(value, found)
    with tf.GradientTape() as tape:
        features = loss._features(photos), loss._features(found)
        plain = sum(
            tf.reduce_sum(tf.square(a - b)) / 4
            for a, b in zip(*features, strict=True)
        )
    assert float(value) == pytest.approx(float(plain), rel=1e-5)
    wanted = tape.gradient(plain, found).numpy()
    error = np.abs(gradient.numpy() - wanted).max()
    assert error < 1e-4 * np.abs(wanted).max()


def test_nothing_is_learnt_from_the_photos_own_features(seeded_facenet, faces):
    loss = fv.PerceptualLoss(seeded_facenet, image_size=35)
    photos = tf.Variable(faces[:2], dtype="float32")
    with tf.GradientTape() as tape:
        value = loss(photos, faces[2:4])
    assert tape.gradient(value, photos) is None or not np.any(
        tape.gradient(value, photos)
    )


def test_lower_precision_hardly_changes_the_loss(seeded_facenet, faces):
    exact, rounded = (
        fv.PerceptualLoss(seeded_facenet, image_size=67, precision=precision)
        for precision in ("float32", "mixed_bfloat16")
    )
    photos, others = faces[:8], faces[8:16].astype("float32")
    assert float(rounded(photos, others)) == pytest.approx(
        float(exact(photos, others)), rel=1e-3
    )
    # The sum is one of float32, of a float32 first layer and bfloat16 others.
    first, *rest = rounded.feature_extractor.layers[2:]
    assert first.compute_dtype == "float32"
    assert {layer.compute_dtype for layer in rest} == {"bfloat16"}


@pytest.mark.parametrize(
    "gpu, processor, wanted",
    [
        (True, False, "mixed_bfloat16"),
        (False, True, "float32"),  # where there is a GPU, it computes
        (None, True, "mixed_bfloat16"),
        (None, False, "float32"),
    ],
)
def test_the_fastest_precision_is_that_of_what_computes(
    gpu, processor, wanted, monkeypatch
):
    monkeypatch.setattr(
        backends._own, "gpu_has_bfloat16", staticmethod(lambda: gpu)
    )
    monkeypatch.setattr(backends, "_processor_has_bfloat16", lambda: processor)
    assert backends.fastest_precision.__wrapped__() == wanted
