import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile

import keras
import numpy as np
import pytest

import facevae_keras as fv
from facevae_keras.layers import (
    BRIGHTNESS,
    ColorFilter,
    HalfBandFilter,
    UpsamplingConv2D,
    fine_brightness,
)

SIZES = {
    "dfc_vae": (64, 2_312_817),
    "dfc_vae_resnet": (64, 7_078_041),
    "dfc_vae_large": (128, 5_230_795),
    "residual_vae": (128, 9_057_419),
}


@pytest.mark.parametrize("architecture", SIZES)
def test_architectures_have_their_size(architecture):
    image_size, parameters = SIZES[architecture]
    vae = fv.FaceVAE(architecture)
    assert vae.image_size == image_size
    halves = vae.encoder.count_params() + vae.decoder.count_params()
    assert halves == parameters
    assert vae.decode(np.zeros((2, 100))).shape == (
        2,
        image_size,
        image_size,
        3,
    )
    mean, log_variance = vae.encode(np.zeros((3, 160, 160, 3), "uint8"))
    assert mean.shape == log_variance.shape == (3, 100)


def test_a_fast_encoder_finds_the_same_means(drawn):
    paths = fv.find_images(drawn)["path"]
    vae = fv.load_vae("celeba_dfc_vae")
    wanted = fv.encode_images(vae, paths, crop=0.8)
    exact = fv.encode_images(fv.FastEncoder(vae, "float32"), paths, crop=0.8)
    np.testing.assert_allclose(exact, wanted, atol=1e-4)
    rounded = fv.FastEncoder(vae, "mixed_bfloat16")
    found = fv.encode_images(rounded, paths, crop=0.8)
    difference = np.sqrt(np.square(found - wanted).mean(axis=None))
    assert 1e-4 < difference / wanted.std(axis=None) < 0.01
    # The VAE's own encoder is as it was.
    again = fv.encode_images(vae, paths, crop=0.8)
    np.testing.assert_array_equal(again, wanted)


def test_resnet_layers_carry_the_originals_names():
    from facevae_keras.weights.open import original_names

    vae = fv.FaceVAE("dfc_vae_resnet")
    names = original_names(vae.encoder, "encoder")
    assert "encoder/Conv2d_1a/weights" in names
    assert "encoder/Conv2d_4b/Conv2d_4b_3/BatchNorm/moving_mean" in names
    names = original_names(vae.decoder, "decoder")
    assert "decoder/Conv2d_4b/Conv2d_4b_1/weights" in names
    assert names["decoder/Conv2d_4c/weights"].shape == (3, 3, 3, 3)


def test_checkpoint_of_the_original(vae_checkpoint, vae_golden):
    vae = fv.load_vae(vae_checkpoint, architecture="dfc_vae")
    mean, log_variance = vae.encode(vae_golden["images"])
    decoded = vae.decode(vae_golden["z"])
    assert np.abs(mean - vae_golden["mean"]).max() < 1e-4
    assert np.abs(log_variance - vae_golden["log_variance"]).max() < 1e-4
    # The golden values are 1.4e-4 from the same network in float64, ours
    # between 0.7e-4 and that, as the processor adds up.
    assert np.abs(decoded - vae_golden["decoded"]).max() < 2e-4


@pytest.mark.parametrize("kind", ["perceptual", "plain"])
def test_three_steps_of_the_original(
    vae_checkpoint, vae_golden, kind, monkeypatch
):
    if kind == "perceptual":
        facenet = fv.load_facenet("seeded", standardization="vae")
        loss = fv.PerceptualLoss(facenet, image_size=64)
    else:
        loss = fv.PixelLoss()
    vae = fv.load_vae(vae_checkpoint, architecture="dfc_vae")
    vae.beta = 0.5 * 8  # the original sums over its batch of 8
    noise = iter(vae_golden["noise"])
    monkeypatch.setattr(
        keras.random,
        "normal",
        lambda shape, seed: keras.ops.convert_to_tensor(next(noise)),
    )
    optimizer = keras.optimizers.Adam(0.0002, epsilon=1e-8)
    vae.compile(optimizer, loss=loss, run_eagerly=True)
    for wanted in vae_golden[f"trajectory_{kind}"]:
        found = vae.train_on_batch(vae_golden["images"], return_dict=True)
        vae.reset_metrics()
        found = [
            found["loss"],
            found["reconstruction_loss"] * 8,
            found["kl_loss"],
        ]
        np.testing.assert_allclose(found, wanted, rtol=2e-3)


def test_bad_checkpoints(vae_checkpoint, facenet_checkpoint):
    with pytest.raises(ValueError, match="say which model"):
        fv.load_vae(vae_checkpoint)
    with pytest.raises(ValueError, match="another architecture"):
        fv.load_vae(vae_checkpoint, architecture="dfc_vae_large")
    with pytest.raises(ValueError, match="another architecture"):
        fv.load_vae(vae_checkpoint, architecture="dfc_vae_resnet")
    with pytest.raises(ValueError, match="there are dfc_vae, dfc_vae_resnet"):
        fv.load_vae(vae_checkpoint, architecture="vgg")
    with pytest.raises(ValueError, match="expected the variables of a VAE"):
        fv.load_vae(facenet_checkpoint, architecture="dfc_vae")


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        fv.load_vae(tmp_path / "nowhere.keras")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match="expected a .keras file"):
        fv.load_vae(tmp_path / "text.keras")
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="expected a FaceVAE, found Seq"):
        fv.load_vae(tmp_path / "other.keras")


def test_bad_arguments(faces):
    with pytest.raises(ValueError, match="no architecture 'vgg'; there are"):
        fv.FaceVAE("vgg")
    with pytest.raises(ValueError, match="latent_dim must be"):
        fv.FaceVAE(latent_dim=0)
    vae = fv.FaceVAE(latent_dim=8)
    with pytest.raises(ValueError, match="8 latent variables.*(3, 100)"):
        vae.decode(np.zeros((3, 100)))
    with pytest.raises(ValueError, match="RGB images.*(64, 64, 3)"):
        vae.encode(faces[0])
    with pytest.raises(ValueError, match="needs a reconstruction loss"):
        vae.compile("adam")


@pytest.fixture(scope="module")
def trained(faces, seeded_facenet):
    keras.utils.set_random_seed(1)
    vae = fv.FaceVAE(latent_dim=16, alpha=2.0, beta=3.0)
    loss = fv.PerceptualLoss(seeded_facenet, image_size=64)
    vae.compile(keras.optimizers.Adam(1e-3), loss=loss)
    history = vae.fit(
        faces, batch_size=16, epochs=8, validation_data=faces[:20], verbose=0
    )
    return vae, history.history


@pytest.mark.slow
def test_training_lowers_the_loss(trained):
    _, history = trained
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert set(history) == {
        name + metric
        for name in ("", "val_")
        for metric in ("loss", "reconstruction_loss", "kl_loss")
    }


@pytest.mark.slow
def test_the_loss_is_the_weighted_sum(trained):
    vae, history = trained
    total = 2 * np.array(history["kl_loss"])
    total += 3 * np.array(history["reconstruction_loss"])
    np.testing.assert_allclose(history["loss"], total, rtol=1e-4)


def test_a_small_last_batch_counts_by_its_size(faces, monkeypatch):
    monkeypatch.setattr(  # no noise: batches can be compared
        keras.random, "normal", lambda shape, seed: keras.ops.zeros(shape)
    )
    vae = fv.FaceVAE()
    vae.compile(loss=fv.PixelLoss(), run_eagerly=True)
    whole = vae.evaluate(faces[:20], batch_size=20, verbose=0)
    parts = vae.evaluate(faces[:20], batch_size=16, verbose=0)
    np.testing.assert_allclose(whole, parts, rtol=1e-4)


@pytest.mark.slow
def test_photos_of_other_sizes_are_scaled_for_the_encoder(trained, drawn):
    vae, _ = trained
    path = fv.find_images(drawn)["path"].iloc[0]
    small, large = (
        vae.encode(fv.read_photo(path, size, crop=0.8)[None])[0]
        for size in (64, 160)
    )
    assert np.abs(small - large).max() < 0.3 * np.abs(small).max()


@pytest.mark.slow
def test_decode_takes_latents_of_any_rank(trained):
    vae, _ = trained
    z = np.random.default_rng(0).normal(size=(2, 3, 16))
    images = vae.decode(z)
    assert images.shape == (2, 3, 64, 64, 3)
    np.testing.assert_allclose(images[1], vae.decode(z[1]), atol=1e-3)


@pytest.mark.slow
def test_one_seed_repeats_a_training(faces):
    def train():
        keras.utils.set_random_seed(7)
        vae = fv.FaceVAE(latent_dim=4)
        vae.compile(loss=fv.PixelLoss())
        return vae.fit(faces, epochs=2, verbose=0).history["loss"]

    np.testing.assert_allclose(train(), train(), rtol=1e-5)


@pytest.mark.slow
def test_a_saved_vae_needs_only_its_file(trained, faces, tmp_path):
    vae, _ = trained
    path = tmp_path / "faces.keras"
    vae.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["faces.keras"]
    # No FaceNet and no optimizer in it: 4 bytes a value, and a little more.
    weights = 4 * (vae.encoder.count_params() + vae.decoder.count_params())
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("model.weights.h5").file_size < 1.2 * weights
    np.save(tmp_path / "faces.npy", faces[:4])
    program = f"""
        import numpy as np
        import facevae_keras as fv
        vae = fv.load_vae({str(path)!r})
        faces = np.load({str(tmp_path / "faces.npy")!r})
        np.save({str(tmp_path / "found.npy")!r}, vae.reconstruct(faces))
        assert (vae.alpha, vae.beta, vae.latent_dim) == (2.0, 3.0, 16)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
    np.testing.assert_array_equal(
        np.load(tmp_path / "found.npy"), vae.reconstruct(faces[:4])
    )


@pytest.mark.slow
def test_a_loaded_vae_can_be_trained_further(trained, faces, tmp_path):
    vae, history = trained
    vae.save(tmp_path / "faces.keras")
    loaded = fv.load_vae(tmp_path / "faces.keras")
    loaded.compile("adam", loss=fv.PixelLoss())
    assert np.isfinite(loaded.train_on_batch(faces)).all()


TRAINING = """
    import keras, numpy as np, time
    import facevae_keras as fv
    keras.utils.set_random_seed(1)
    vae = fv.FaceVAE(latent_dim=4)
    vae.compile(loss=fv.PixelLoss())
    slowly = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: print("epoch", epoch, flush=True),
        on_epoch_end=lambda epoch, logs: time.sleep(0.5),
    )
    backup = keras.callbacks.BackupAndRestore("backup", double_checkpoint=True)
    faces = np.zeros((8, 64, 64, 3), "uint8")
    vae.fit(faces, epochs=6, verbose=0, callbacks=[backup, slowly])
    print("steps", int(vae.optimizer.iterations))
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_at_the_saved_epoch(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(TRAINING)]
    options = {"stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    with subprocess.Popen(command, **options) as process:
        deadline = time.monotonic() + 120
        while process.stdout.readline() != "epoch 3\n":
            assert time.monotonic() < deadline
        os.kill(process.pid, signal.SIGKILL)
    resumed = subprocess.run(command, check=True, **options).stdout.split("\n")
    assert resumed[0] == "epoch 3"
    assert "steps 6" in resumed  # the optimizer counted on as well


@pytest.mark.parametrize("size", [4, 5])
def test_upsampling_and_convolution_are_one_operation(size):
    layer = UpsamplingConv2D(6)
    inputs = np.random.default_rng(0).normal(size=(2, size, size, 3))
    apart, together = (
        keras.ops.convert_to_numpy(layer(inputs, training=training))
        for training in (False, True)
    )
    assert together.shape == (2, 2 * size, 2 * size, 6)
    np.testing.assert_allclose(together, apart, atol=1e-5)
    plain = keras.layers.Conv2D(6, 3, padding="same", use_bias=False)
    doubled = keras.layers.UpSampling2D(2)(inputs)
    plain.build(doubled.shape)
    plain.set_weights(layer.get_weights())
    np.testing.assert_allclose(apart, plain(doubled), atol=1e-5)


@pytest.mark.slow
def test_standardized_latents_change_no_reconstruction(faces):
    vae = fv.FaceVAE(latent_dim=7)
    vae.compile("adam", loss=fv.PixelLoss())
    vae.fit(faces, epochs=3, verbose=0)
    reconstructions = vae.reconstruct(faces)
    random = np.random.default_rng(0)

    def noisy_faces():
        mean, log_variance = vae.encode(faces[:1])
        noise = random.normal(size=(500, 7))
        return vae.decode(mean + noise * np.exp(log_variance / 2))

    def covariance():
        mean, log_variance = vae.encode(faces)
        between = np.cov(mean.T, bias=True)
        return between + np.diag(np.exp(log_variance).mean(axis=0))

    spread = noisy_faces().std(axis=0).mean()
    deviations = np.sqrt(np.diag(covariance()))
    correlation = covariance() / np.outer(deviations, deviations)
    vae.standardize_latents(faces)
    np.testing.assert_allclose(
        vae.reconstruct(faces), reconstructions, rtol=1e-3, atol=0.1
    )
    np.testing.assert_allclose(vae.encode(faces)[0].mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.diag(covariance()), 1, atol=0.05)
    # What correlation remains is that of single posteriors.
    remaining = np.abs(covariance() - np.eye(7)).sum()
    assert remaining < 0.1 * np.abs(correlation - np.eye(7)).sum()
    # The first says most; and the posteriors moved along: their samples vary as
    # much as they did.
    spreads = vae.encode(faces)[0].std(axis=0)
    assert (np.diff(spreads) < 0).all()
    assert noisy_faces().std(axis=0).mean() == pytest.approx(spread, rel=0.25)


@pytest.mark.slow
def test_a_vae_of_mixed_precision_hands_out_float32(faces, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        vae = fv.FaceVAE(latent_dim=4)
        vae.compile("adam", loss=fv.PixelLoss())
        losses = vae.train_on_batch(faces)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(losses).all()
    mean, _ = vae.encode(faces)
    assert mean.dtype == vae.decode(mean).dtype == "float32"
    # Loaded, it computes as the policy of that time says: exactly.
    vae.save(tmp_path / "vae.keras")
    loaded = fv.load_vae(tmp_path / "vae.keras")
    assert loaded.compute_dtype == "float32"
    exact, _ = loaded.encode(faces)
    assert 0 < np.abs(exact - mean).max() < 0.1 * np.abs(exact).max()


def test_the_half_band_filter_takes_away_the_highest_frequency():
    def filtered(frequency):
        wave = np.cos(2 * np.pi * frequency * np.arange(32))
        images = np.ones((1, 32, 32, 3)) * wave[:, None, None]
        return np.asarray(HalfBandFilter()(images.astype("float32"))), images

    for frequency, gain in [(0, 1), (0.25, 0.75), (0.5, 0)]:
        found, images = filtered(frequency)
        inner = (slice(None), slice(2, -2))
        np.testing.assert_allclose(
            found[inner], gain * images[inner], atol=1e-6
        )


def plain_and(**options):
    """Two VAEs with the same weights, the second with some options."""
    keras.utils.set_random_seed(0)
    plain, other = fv.FaceVAE(), fv.FaceVAE(**options)
    other.encoder.set_weights(plain.encoder.get_weights())
    weights = plain.decoder.get_weights()
    own = other.decoder.get_weights()[len(weights) :]
    other.decoder.set_weights([*weights, *own])
    return plain, other


def test_a_smooth_output_is_saved_with_the_vae(tmp_path, faces):
    plain, smooth = plain_and(smooth_output=True)
    smooth.save(tmp_path / "smooth.keras")
    loaded = fv.load_vae(tmp_path / "smooth.keras")
    wanted = HalfBandFilter()(plain.reconstruct(faces[:2]))
    np.testing.assert_allclose(
        loaded.reconstruct(faces[:2]), wanted, rtol=1e-4, atol=1e-2
    )
    # What was saved without it, by an earlier version too, has none.
    config = plain.get_config()
    options = "smooth_output", "smooth_colors", "pixel_bias"
    for option in options:
        del config[option]
    old = fv.FaceVAE.from_config(config)
    assert not any(getattr(old, option) for option in options)


def test_a_bias_for_each_pixel_corrects_the_average(tmp_path, faces):
    plain, corrected = plain_and(pixel_bias=True)
    with pytest.raises(ValueError, match="pixel_bias=True"):
        plain.correct_average(faces)
    corrected.correct_average(faces)
    corrected.save(tmp_path / "corrected.keras")
    found = fv.load_vae(tmp_path / "corrected.keras").reconstruct(faces)
    # All faces change alike: the average has the right colors, and the right
    # fine brightness.
    before = plain.reconstruct(faces)
    changes = found - before
    scale = np.abs(before).max()
    np.testing.assert_allclose(changes.std(axis=0), 0, atol=1e-5 * scale)
    missing = (faces - before).mean(axis=0, dtype="float32")
    left = missing - changes.mean(axis=0)
    np.testing.assert_allclose(left.std(axis=-1), 0, atol=1e-5 * scale)
    fine = fine_brightness(missing[None], 1.2)[0, :, :, 0]
    np.testing.assert_allclose(
        changes.mean(axis=0) @ np.float32(BRIGHTNESS), fine, atol=1e-5 * scale
    )
    # Training leaves it alone.
    bias = corrected.decoder.get_layer("pixel_bias").bias
    wanted = np.array(bias)
    corrected.compile("adam", loss=fv.PixelLoss())
    corrected.fit(faces, batch_size=16, verbose=0)
    np.testing.assert_array_equal(bias, wanted)


def test_smooth_colors_leave_brightness_as_it_is(tmp_path, faces):
    plain, smooth = plain_and(smooth_colors=True)
    smooth.save(tmp_path / "smooth.keras")
    before = plain.reconstruct(faces)
    after = fv.load_vae(tmp_path / "smooth.keras").reconstruct(faces)
    np.testing.assert_allclose(
        after @ BRIGHTNESS, before @ BRIGHTNESS, rtol=1e-4, atol=1e-2
    )
    assert fv.weave(before, after, color=True) < -0.1
    # (cos(pi / 4))^4 of the amplitude is left at a period of four pixels.
    line = np.cos(np.pi / 2 * np.arange(64))
    blue = np.zeros((1, 64, 64, 3), "float32")
    blue[..., 2] = line
    blue -= (blue @ np.float32(BRIGHTNESS))[..., None]
    found = np.asarray(ColorFilter()(blue))
    np.testing.assert_allclose(
        found[:, :, 2:-2], blue[:, :, 2:-2] / 4, atol=1e-6
    )
