"""The patch critic."""

import keras
import numpy as np
import pytest
from keras import ops

import facevae_keras as fv
from facevae_keras.backends import several_gradients
from facevae_keras.critic import BORDER, DETAIL_DEVIATION, patch_critic
from facevae_keras.layers import fine_brightness


@pytest.fixture
def photos(drawn):
    paths = fv.find_images(drawn)["path"].iloc[:16]
    return fv.load_photos(paths, 64, crop=0.8)[0]


@pytest.fixture
def vae():
    keras.utils.set_random_seed(1)
    vae = fv.PatchCriticVAE(latent_dim=8, share=0.5, warm_up_steps=2)
    vae.compile(keras.optimizers.Adam(1e-3, beta_1=0.5), loss=fv.PixelLoss())
    return vae


def test_detail_is_what_is_finer_than_the_blur():
    gray = np.full((1, 64, 64, 3), 100.0, "float32")
    np.testing.assert_allclose(fine_brightness(gray, 2.5), 0, atol=1e-3)
    pattern = np.indices((64, 64)).sum(axis=0) % 2 * 2.0 - 1
    pattern = np.tile(pattern[None, :, :, None], (1, 1, 1, 3))
    found = np.array(
        fine_brightness(ops.convert_to_tensor(pattern, "float32"), 2.5)
    )
    np.testing.assert_allclose(
        found[:, 8:-8, 8:-8], pattern[:, 8:-8, 8:-8, :1], atol=1e-3
    )


def test_a_critic_scores_patches():
    critic = patch_critic(128)
    assert critic.output_shape == (None, 16, 16, 1)
    assert critic.count_params() < 300_000


@pytest.mark.slow
def test_the_score_counts_after_the_warm_up(vae, photos):
    weights = [
        vae.train_on_batch(photos, return_dict=True)["score_weight"]
        for _ in range(4)
    ]
    assert weights[:2] == [0, 0]
    assert min(weights[2:]) > 0


def test_the_scores_gradient_is_a_share_of_the_others(vae, photos):
    # The first step's norms are not averaged with older ones.
    networks = vae.decoder.trainable_variables
    vae.warm_up_steps = 0
    vae.optimizer.build(vae.trainable_variables)
    photos = ops.cast(photos, "float32")
    _, (of_others, of_score) = several_gradients(
        vae, photos, [(0, networks), (3, networks)]
    )
    weight = vae._score_weight(of_others, of_score)
    last = max(n for n, x in enumerate(networks) if len(x.shape) == 4)
    norms = [
        np.linalg.norm(ops.convert_to_numpy(gradients[last]))
        for gradients in (of_others, of_score)
    ]
    np.testing.assert_allclose(weight * norms[1] / norms[0], 0.5, rtol=1e-4)


def decoder_after_a_step(photos, **kwargs):
    """By layer: the decoder's kernels after one step, of gradient descent."""
    keras.utils.set_random_seed(1)
    vae = fv.PatchCriticVAE(latent_dim=8, **kwargs)
    vae.compile(keras.optimizers.SGD(1e-4), loss=fv.PixelLoss())
    before = vae.critic.get_weights()
    vae.train_on_batch(photos)
    assert not np.array_equal(before[0], vae.critic.get_weights()[0])
    return {
        layer.name: layer.get_weights()[0]
        for layer in vae.decoder.layers
        if layer.weights
    }


def test_the_scores_weight_has_a_limit(vae, photos):
    vae.warm_up_steps, vae.largest_weight = 0, 1e-3
    losses = vae.train_on_batch(photos, return_dict=True)
    assert losses["score_weight"] == pytest.approx(1e-3)


@pytest.mark.slow
def test_the_score_changes_only_the_judged_layers(photos):
    judged = decoder_after_a_step(
        photos, warm_up_steps=0, judged_layers=("Conv2d_3", "Conv2d_4")
    )
    without = decoder_after_a_step(photos, warm_up_steps=1)
    for name, kernel in judged.items():
        unchanged = np.allclose(kernel, without[name], rtol=0, atol=1e-9)
        is_judged = name in ("Conv2d_3", "Conv2d_4")
        assert unchanged != is_judged or "BatchNorm" in name, name


def test_judged_layers_that_do_not_exist():
    with pytest.raises(ValueError, match="begins with 'Conv2d_9'.*Conv2d_4"):
        fv.PatchCriticVAE(latent_dim=8, judged_layers="Conv2d_9")


@pytest.mark.slow
def test_the_decoder_takes_smaller_steps_than_the_critic(photos):
    stays, slow, fast = (
        decoder_after_a_step(photos, warm_up_steps=0, decoder_rate=rate)
        for rate in (0.0, 0.25, 1.0)
    )
    whole = fast["Conv2d_4"] - stays["Conv2d_4"]
    assert np.abs(whole).max() > 1e-5
    np.testing.assert_allclose(
        slow["Conv2d_4"] - stays["Conv2d_4"], whole / 4, rtol=0.01, atol=1e-7
    )


@pytest.mark.slow
def test_a_critic_learns_to_tell_photos_from_reconstructions(vae, photos):
    vae.warm_up_steps = 1000  # the score never counts
    before = [np.array(x) for x in vae.critic.trainable_variables]
    history = vae.fit(
        fv.photo_batches(photos, 16), steps_per_epoch=20, epochs=2, verbose=0
    ).history
    assert history["critic_loss"][1] < min(1.5, history["critic_loss"][0])
    assert any(
        np.abs(old - new).max() > 0
        for old, new in zip(before, vae.critic.trainable_variables, strict=True)
    )
    inner = slice(BORDER, -BORDER)
    images = ops.cast(photos, "float32")[:, inner, inner]
    drawn = ops.convert_to_tensor(vae.reconstruct(photos)[:, inner, inner])
    assert np.mean(vae.critic(images)) > np.mean(vae.critic(drawn)) + 0.5


def test_light_and_color_do_not_change_the_detail(photos):
    """Brightness all over is not fine; green for red can be as bright."""
    reconstructions = ops.cast(photos, "float32")
    detail = fine_brightness(reconstructions, DETAIL_DEVIATION)
    brighter = fine_brightness(reconstructions + 10.0, DETAIL_DEVIATION)
    np.testing.assert_allclose(detail, brighter, atol=1e-3)
    color = np.array([5.87, -2.99, 0], "float32")
    dots = np.indices((64, 64)).sum(axis=0) % 2
    colored = fine_brightness(
        reconstructions + dots[..., None] * color, DETAIL_DEVIATION
    )
    np.testing.assert_allclose(detail, colored, atol=1e-3)


def test_the_critic_does_not_see_the_edges(vae, photos):
    changed = photos.copy()
    for start, stop in ((0, BORDER), (-BORDER, None)):
        changed[:, start:stop] = 0
        changed[:, :, start:stop] = 0
    inner = slice(BORDER, -BORDER)
    seen = []
    vae.critic = lambda images, training: seen.append(images) or images
    for images in (photos, changed):
        vae.compute_losses(ops.cast(images, "float32"), training=False)
    of_photos, of_changed = (np.array(x)[: len(photos)] for x in seen)
    np.testing.assert_array_equal(of_photos, of_changed)
    np.testing.assert_array_equal(of_photos, photos[:, inner, inner])


@pytest.mark.slow
def test_what_is_saved_has_no_critic(vae, photos, tmp_path):
    vae.fit(fv.photo_batches(photos, 8), steps_per_epoch=2, verbose=0)
    vae.save(tmp_path / "vae.keras")
    saved = fv.load_vae(tmp_path / "vae.keras")
    assert type(saved) is fv.FaceVAE
    np.testing.assert_allclose(
        saved.reconstruct(photos), vae.reconstruct(photos), atol=1e-3
    )


def test_evaluation_reports_the_critics_losses(vae, photos):
    found = vae.evaluate(photos, verbose=0, return_dict=True)
    assert {"loss", "score_loss", "critic_loss"} <= set(found)


@pytest.mark.slow
def test_a_training_with_a_critic_goes_on_where_it_was(photos, tmp_path):
    def train(steps):
        keras.utils.set_random_seed(3)
        vae = fv.PatchCriticVAE(latent_dim=8, warm_up_steps=1)
        vae.compile(keras.optimizers.Adam(1e-3), loss=fv.PixelLoss())
        run = fv.TrainingRun(tmp_path / "run", {})
        run.fit(vae, fv.photo_batches(photos, 8, seed=2), steps, 2)
        return vae

    stopped = train(2)
    resumed = train(4)
    assert int(resumed.optimizer.iterations) == 4
    assert np.abs(np.array(resumed.norms)).min() > 0
    # The critic went on, too: it is not the one of the first two steps.
    old, new = (x.critic.get_weights()[0] for x in (stopped, resumed))
    assert 0 < np.abs(old - new).max() < 0.1
