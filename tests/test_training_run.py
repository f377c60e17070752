"""A training that is stopped, at any moment and in any way, goes on."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pandas as pd
import pytest

import facevae_keras as fv

pytestmark = pytest.mark.slow

PARAMETERS = {"learning_rate": 2e-4, "batch_size": 4, "folder": "a/b"}


def train(run_dir, faces, steps=6, finish=True, vae=None, **options):
    """What a notebook does: six steps, two in an epoch, with everything."""
    run = fv.TrainingRun(run_dir, options.pop("parameters", PARAMETERS))
    if vae is None:
        vae = new_vae()
    batches = options.pop("batches", fv.photo_batches(faces, 4, flip=True))
    pictures = fv.ReconstructionPictures(faces[:2], run_dir / "pictures", 3)
    run.fit(
        vae,
        batches,
        steps,
        steps_per_epoch=2,
        validation_data=faces[:4],
        callbacks=[pictures, *options.pop("callbacks", [])],
    )
    if finish:
        run.finish(vae)
    return vae


def new_vae(**options):
    keras.utils.set_random_seed(1)
    vae = fv.FaceVAE(latent_dim=4, **options)
    # Eager: no trace, which would take longer than the few steps.
    vae.compile(keras.optimizers.Adam(2e-4), fv.PixelLoss(), run_eagerly=True)
    return vae


@pytest.fixture(scope="module")
def uninterrupted(faces, tmp_path_factory):
    """Folder and weights of a training that nothing stopped."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    return run_dir, train(run_dir, faces)


def check(run_dir, uninterrupted):
    """A finished training is what the uninterrupted one is."""
    wanted_dir, wanted = uninterrupted
    losses, wanted_losses = (
        pd.read_csv(folder / "losses.csv") for folder in (run_dir, wanted_dir)
    )
    assert losses["epoch"].tolist() == list(range(len(wanted_losses)))
    assert losses["step"].tolist() == wanted_losses["step"].tolist()
    pd.testing.assert_frame_equal(losses, wanted_losses, rtol=1e-4)
    vae = fv.load_vae(run_dir / "vae.keras")
    for a, b in zip(vae.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert names(run_dir) == names(wanted_dir)
    assert (run_dir / "training_state.npz").stat().st_size < 10_000


def names(folder):
    return sorted(str(x.relative_to(folder)) for x in folder.rglob("*"))


class StopAt(keras.callbacks.Callback):
    """Stops a training in the middle of an epoch, as Ctrl-C does."""

    def __init__(self, step, error=KeyboardInterrupt):
        super().__init__()
        self.step, self.error = step, error

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            raise self.error


def test_each_epoch_is_a_line_that_fits_a_page(faces, tmp_path, capsys):
    train(tmp_path, faces)
    lines = re.split(r"[\r\n]", capsys.readouterr().out)
    assert max(map(len, lines)) < 110
    losses = pd.read_csv(tmp_path / "losses.csv").iloc[-1]
    *_, last = [line for line in lines if re.match(r"step +6 .*KL", line)]
    assert f"reconstruction {losses['reconstruction_loss']:,.0f} " in last
    assert f"KL {losses['kl_loss']:,.0f} (held out " in last


@pytest.mark.parametrize("step", [1, 5])
@pytest.mark.parametrize("same_vae", [True, False])
def test_an_interrupted_cell_goes_on(
    step, same_vae, faces, tmp_path, uninterrupted, capsys
):
    vae = new_vae()
    with pytest.raises(KeyboardInterrupt, match="run it again") as error:
        train(tmp_path, faces, vae=vae, callbacks=[StopAt(step)])
    assert error.value.__suppress_context__  # no traceback through Keras
    train(tmp_path, faces, vae=vae if same_vae else None)
    check(tmp_path, uninterrupted)
    if step == 5:
        assert f"{tmp_path}: goes on at step 4 of 6" in capsys.readouterr().out


def test_a_finished_training_says_so_and_is_loaded(
    faces, tmp_path, uninterrupted, capsys
):
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted[0], run_dir)
    before = (run_dir / "vae.keras").read_bytes()
    assert fv.TrainingRun(run_dir, PARAMETERS).finished
    vae = train(run_dir, faces)
    assert f"{run_dir}: this training is finished" in capsys.readouterr().out
    np.testing.assert_array_equal(
        vae.reconstruct(faces[:2]), uninterrupted[1].reconstruct(faces[:2])
    )
    assert (run_dir / "vae.keras").read_bytes() == before
    # Without its result it is none, and starts anew.
    (run_dir / "vae.keras").unlink()
    assert not fv.TrainingRun(run_dir, PARAMETERS).finished
    train(run_dir, faces)
    check(run_dir, uninterrupted)


def test_between_the_last_step_and_the_file_nothing_is_lost(
    faces, tmp_path, uninterrupted
):
    train(tmp_path, faces, finish=False)
    run = fv.TrainingRun(tmp_path, PARAMETERS)
    assert not run.finished
    with pytest.raises(RuntimeError, match="not complete; run fit again"):
        run.finish(new_vae())
    callbacks = [StopAt(6, AssertionError("trains"))]
    train(tmp_path, faces, callbacks=callbacks)
    check(tmp_path, uninterrupted)


def test_other_parameters_are_refused_with_both_values(faces, tmp_path):
    train(tmp_path, faces, steps=2, finish=False)
    changed = {**PARAMETERS, "learning_rate": 0.1, "seed": 3}
    message = (
        "holds a training with other parameters: learning_rate was 0.0002, is "
        "0.1; seed was 'nothing', is 3. To start anew, .*delete .*state.npz"
    )
    with pytest.raises(ValueError, match=message):
        fv.TrainingRun(tmp_path, changed)
    # The folder may have moved, and paths may be objects.
    same = {**PARAMETERS, "folder": pathlib.Path("a/b"), "run_dir": "there"}
    fv.TrainingRun(tmp_path, same)
    (tmp_path / "training_state.npz").unlink()
    fv.TrainingRun(tmp_path, changed)


def test_before_the_first_epoch_parameters_may_change(faces, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, faces, callbacks=[StopAt(1)])
    other = {**PARAMETERS, "batch_size": 2}
    train(tmp_path, faces, 2, parameters=other)
    assert fv.TrainingRun(tmp_path, other).finished


def test_another_network_in_the_state_is_named(faces, tmp_path):
    train(tmp_path, faces, steps=2, finish=False)
    vae = new_vae(architecture="dfc_vae_resnet")
    with pytest.raises(ValueError, match="state.npz: the state of another net"):
        train(tmp_path, faces, vae=vae)


@pytest.mark.parametrize("damage", ["cut", "changed", "text"])
def test_a_damaged_state_is_named(damage, faces, tmp_path):
    train(tmp_path, faces, steps=2, finish=False)
    path = tmp_path / "training_state.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"cut": content[:-100], "changed": content, "text": b"text"}
    path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match="state.npz: damaged .*start anew"):
        train(tmp_path, faces)


def test_nan_stops_before_it_is_saved(faces, tmp_path, uninterrupted):
    class Spoil(keras.callbacks.Callback):
        """Makes a weight infinite after the last step of an epoch."""

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                bias = self.model.encoder.get_layer("Fc_1").bias
                bias.assign(bias + np.inf)

    with pytest.raises(FloatingPointError, match="weights that are not finite"):
        train(tmp_path, faces, callbacks=[Spoil()])
    train(tmp_path, faces)
    check(tmp_path, uninterrupted)


def test_steps_that_are_no_multiple_of_an_epoch(faces, tmp_path):
    vae = train(tmp_path, faces, steps=3)
    assert int(vae.optimizer.iterations) == 3
    assert pd.read_csv(tmp_path / "losses.csv")["step"].tolist() == [2, 3]
    assert "pictures/reconstructed_000003.png" in names(tmp_path)


def test_launches_of_several_steps(faces, tmp_path, uninterrupted):
    def launches(callbacks=()):
        vae = new_vae()
        vae.keep_on_device(faces)
        batches = fv.index_batches(len(faces), 4, True, steps_per_launch=2)
        options = {"vae": vae, "batches": batches, "callbacks": callbacks}
        return train(tmp_path, faces, **options)

    with pytest.raises(KeyboardInterrupt):
        launches([StopAt(4)])
    vae = launches()
    assert int(vae.optimizer.iterations) == 6
    losses = pd.read_csv(tmp_path / "losses.csv")
    wanted = pd.read_csv(uninterrupted[0] / "losses.csv")
    pd.testing.assert_frame_equal(losses, wanted, rtol=1e-3)
    assert (tmp_path / "training_state.npz").stat().st_size < 10_000


def test_pictures_of_an_older_training_are_gone(faces, tmp_path):
    old = tmp_path / "pictures" / "reconstructed_000900.png"
    old.parent.mkdir()
    old.write_bytes(b"old")
    train(tmp_path, faces, steps=2)
    assert names(old.parent) == ["photos.png", "reconstructed_000002.png"]


SECOND = """
    import sys
    import facevae_keras as fv
    try:
        fv.TrainingRun(sys.argv[1], {})
    except RuntimeError as error:
        print(error)
"""


def test_a_second_process_says_so_and_stops(tmp_path):
    first = [fv.TrainingRun(tmp_path, {}), fv.TrainingRun(tmp_path, {})]
    command = [sys.executable, "-c", textwrap.dedent(SECOND), str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{tmp_path}: another process trains in this folder" in found.stdout
    first.clear()
    fv.TrainingRun(tmp_path, {})


def test_what_a_killed_process_left_is_removed(tmp_path):
    with subprocess.Popen(["true"]) as process:
        pass
    prefix = fv.files._PREFIX
    left = tmp_path / f"{prefix}{process.pid}_vae.keras"
    ours = tmp_path / f"{prefix}{os.getpid()}_vae.keras"
    others = tmp_path / "unfinished_elsewhere_1_vae.keras"
    for file in (left, ours, others):
        file.write_bytes(b"half")
    fv.TrainingRun(tmp_path, {})
    assert [x.exists() for x in (left, ours, others)] == [False, True, True]
