import keras
import numpy as np
import pytest
from PIL import Image

import facevae_keras as fv


@pytest.fixture
def vae():
    vae = fv.FaceVAE(latent_dim=4)
    vae.compile(keras.optimizers.Adam(2e-4), loss=fv.PixelLoss())
    return vae


@pytest.mark.slow
def test_pictures_every_so_many_steps(vae, faces, tmp_path):
    photos = np.concatenate([faces] * 4)  # 128 faces
    pictures = fv.ReconstructionPictures(photos, tmp_path / "p", every=3)
    vae.fit(faces, batch_size=8, epochs=2, verbose=0, callbacks=[pictures])
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "photos.png",
        "reconstructed_000003.png",
        "reconstructed_000006.png",
        "reconstructed_000008.png",
    ]
    picture = Image.open(tmp_path / "p" / "reconstructed_000008.png")
    assert picture.size == (16 * 67 + 3, 8 * 67 + 3)  # 16x8, 3-pixel borders
    first = np.asarray(Image.open(tmp_path / "p" / "photos.png"))
    np.testing.assert_array_equal(first[3:67, 3:67], faces[0])


def test_nan_stops_with_a_clear_message(vae, faces):
    vae.compile(keras.optimizers.SGD(1e30), loss=fv.PixelLoss())
    with pytest.raises(FloatingPointError, match="stopped at step.*lower lear"):
        vae.fit(faces, epochs=5, verbose=0, callbacks=[fv.StopOnNaN()])


def test_infinite_held_out_losses_do_not_stop_a_training(vae, faces):
    """Batch norm's running averages lag behind in the first steps."""
    vae.compile(keras.optimizers.Adam(1e-4), loss=fv.PixelLoss())
    callback = fv.StopOnNaN()
    callback.set_model(vae)
    callback.on_epoch_end(0, {"loss": 1.0, "val_loss": np.inf})
    with pytest.raises(FloatingPointError, match="val_loss nan"):
        callback.on_epoch_end(0, {"loss": 1.0, "val_loss": np.nan})
    with pytest.raises(FloatingPointError, match="loss inf"):
        callback.on_train_batch_end(0, {"loss": np.inf})


@pytest.mark.slow
def test_keras_own_callbacks_work_with_it(vae, faces, tmp_path):
    callbacks = [
        keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
        keras.callbacks.TensorBoard(tmp_path / "tensorboard"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", save_best_only=True
        ),
    ]
    vae.fit(
        faces, epochs=2, verbose=0, validation_data=faces, callbacks=callbacks
    )
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == 2 and "val_reconstruction_loss" in header
    assert list((tmp_path / "tensorboard").rglob("events*"))
    assert fv.load_vae(tmp_path / "best.keras").latent_dim == 4


@pytest.mark.slow
def test_launches_of_several_steps_count_as_steps(faces, tmp_path):
    vae = fv.FaceVAE(latent_dim=4)
    vae.compile(keras.optimizers.Adam(1e-5), loss=fv.PixelLoss())
    vae.keep_on_device(faces)
    pictures = fv.ReconstructionPictures(faces[:4], tmp_path, every=4)
    launches = fv.index_batches(len(faces), 8, steps_per_launch=3)
    vae.fit(
        launches,
        steps_per_epoch=4,
        shuffle=False,
        verbose=0,
        callbacks=[pictures],
    )
    names = sorted(path.name for path in tmp_path.glob("reconstructed_*"))
    assert names == [f"reconstructed_0000{n}.png" for n in ("06", "09", "12")]


def test_the_learning_rate_rises_and_falls():
    schedule = fv.warm_up_cosine(1e-2, steps=1000)
    rates = [float(schedule(step)) for step in (0, 50, 100, 550, 1000)]
    np.testing.assert_allclose(
        rates, [1e-4, 5.05e-3, 1e-2, 5e-3, 0], rtol=1e-3, atol=1e-7
    )


@pytest.mark.parametrize(
    ("yours", "expected", "verdict"),
    [
        (3.1, 3.14, "yours 3.1, expected 3.14 ± 0.05: correct"),
        (3.2, 3.14, "yours 3.2, expected 3.14 ± 0.05: not correct yet"),
        (float("nan"), 3.14, "expected 3.14 ± 0.05: not correct yet"),
        (None, 3.14, "no answer yet"),
        ([1.0, 2.04], [1.0, 2.0], "at most 0.04 (allowed 0.05): correct"),
        ([1.0, 2.1], [1.0, 2.0], "(allowed 0.05): not correct yet"),
        ([1.0], [1.0, 2.0], "shape (1,), expected (2,): not correct yet"),
    ],
)
def test_an_answer_is_compared_within_its_tolerance(
    yours, expected, verdict, capsys
):
    fv.check_answer(yours, expected, tolerance=0.05)
    assert verdict in capsys.readouterr().out
