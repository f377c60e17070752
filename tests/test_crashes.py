"""A training that is killed anywhere resumes, and ends as if it had not been.

Two tools. One replays crash states: what lies in the folder before each change
that a training makes to its files. The other kills notebook 01, run by
papermill, at random moments, and runs it again.
"""

import contextlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import keras
import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest

import facevae_keras as fv

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[1] / "notebooks"

# ------------------------------------------------------------- crash states


class States:
    """Copies of a folder before every change that Python makes to it.

    Whole files are copied as hard links: they are replaced, never changed.
    """

    def __init__(self, folder, copies):
        self.folder, self.copies = folder, copies
        self.count, self.active = 0, False
        sys.addaudithook(self.hear)  # for good: hooks can't be removed

    def hear(self, event, arguments):
        if self.active and self.is_change(event, arguments):
            self.active = False
            self.copy()
            self.active = True

    def is_change(self, event, arguments):
        if event == "open" and isinstance(arguments[2], int):
            if not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return False
        elif event not in ("os.rename", "os.remove", "os.mkdir"):
            return False
        return str(arguments[0]).startswith(str(self.folder))

    def copy(self):
        target = self.copies / f"{self.count:04d}"
        for file in sorted(self.folder.rglob("*")):
            to = target / file.relative_to(self.folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            if file.name.startswith("unfinished"):
                content = file.read_bytes()
                half = content[: len(content) // 2]
                zeros = bytes(len(content))
                to.write_bytes((half, zeros, content)[self.count % 3])
            elif file.is_file() and not file.name.endswith(".lock"):
                os.link(file, to)
        target.mkdir(parents=True, exist_ok=True)
        self.count += 1


class Training:
    """A training of a few steps, made anew as by a new process."""

    def __init__(self, faces, epochs):
        self.faces, self.steps = faces, 2 * epochs
        keras.utils.set_random_seed(1)
        self.vae = fv.FaceVAE(latent_dim=4)
        self.initial = [x.numpy() for x in self.vae.variables]

    def run(self, run_dir):
        # The network is the same one, to save time; its values are new.
        for variable, value in zip(
            self.vae.variables, self.initial, strict=True
        ):
            variable.assign(value)
        optimizer = keras.optimizers.Adam(fv.warm_up_cosine(1e-3, self.steps))
        self.vae.compile(optimizer, fv.PixelLoss(), run_eagerly=True)
        run = fv.TrainingRun(run_dir, {"steps": self.steps})
        run.fit(
            self.vae,
            fv.photo_batches(self.faces, 4, flip=True),
            self.steps,
            steps_per_epoch=2,
            callbacks=[
                fv.ReconstructionPictures(
                    self.faces[:2], run_dir / "pictures", every=3
                )
            ],
        )
        run.finish(self.vae)
        return run


def outcome(run_dir):
    """What a training leaves: weights, losses, names of files."""
    weights = fv.load_vae(run_dir / "vae.keras").get_weights()
    losses = pd.read_csv(run_dir / "losses.csv")
    names = {str(x.relative_to(run_dir)) for x in run_dir.rglob("*")}
    return weights, losses, names


def compare(found, wanted):
    for a, b in zip(found[0], wanted[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    pd.testing.assert_frame_equal(found[1], wanted[1], rtol=1e-3)
    assert found[2] == wanted[2]


@pytest.mark.parametrize(
    ("epochs", "every"),
    [
        pytest.param(3, 7, marks=pytest.mark.slow),
        pytest.param(12, 1, marks=pytest.mark.exhaustive),
    ],
)
def test_every_crash_state_resumes(epochs, every, faces, tmp_path):
    training = Training(faces, epochs)
    states = States(tmp_path / "run", tmp_path / "states")
    states.active = True
    training.run(tmp_path / "run")
    states.active = False
    wanted = outcome(tmp_path / "run")
    assert wanted[1]["epoch"].tolist() == list(range(epochs))
    assert wanted[1]["step"].iloc[-1] == training.steps
    if every == 1:
        assert states.count >= 100
    for state in sorted((tmp_path / "states").iterdir())[::every]:
        assert training.run(state).finished
        compare(outcome(state), wanted)
        shutil.rmtree(state)
    print(f"{states.count} crash states, every {every}th replayed")


# -------------------------------------------------------------------- kills

KILLS = 30
PARAMETERS = {
    "drawn_faces": 80,
    "latent_dim": 8,
    "steps": 24,
    "steps_per_epoch": 2,
    "picture_every": 3,
    "batch_size": 8,
    "reconstruction_loss": "plain",
}


def write_notebook(path):
    """Notebook 01 without what comes after `vae.keras`."""
    notebook = nbformat.read(NOTEBOOKS / "01_train_a_vae.ipynb", 4)
    cells = [x for x in notebook.cells if x.cell_type == "code"]
    (last,) = [i for i, x in enumerate(cells) if "run.finish(" in x.source]
    notebook.cells = cells[: last + 1]
    nbformat.write(notebook, path)


def start(folder):
    """The notebook, as a user starts it."""
    command = [sys.executable, "-m", "papermill", "--no-progress-bar"]
    command += ["../notebook.ipynb", "out.ipynb"]
    for name, value in PARAMETERS.items():
        command += ["-p", name, str(value)]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "errors.txt").open("a"),
    )


def kill(process):
    """Kills papermill and the kernel that it started."""
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended by itself
            one.kill()
    process.wait()


def epochs_kept(run_dir):
    path = run_dir / "losses.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def run_and_kill(folder, generator):
    """Runs the notebook; kills it after some epochs, or where it would end.

    Returns:
        Whether it was killed.
    """
    run_dir = folder / "build"
    # The last process was killed; this one makes the file anew.
    (run_dir / "training.lock").unlink(missing_ok=True)
    begin = epochs_kept(run_dir)
    target = begin + generator.choice([0, 1, 1, 2, 2, 3, 99])
    longest = 1.5 if begin < 12 else 20  # seconds; all epochs are done
    process = start(folder)
    while process.poll() is None:
        kept = epochs_kept(run_dir)
        if kept >= min(target, 12) and (run_dir / "training.lock").exists():
            # From here on at any moment of an epoch, or of what comes after.
            time.sleep(generator.uniform(0, longest))
            if process.poll() is None:
                kill(process)
                return True
            break
        time.sleep(0.02)
    assert process.wait() == 0, (folder / "errors.txt").read_text()
    return False


@pytest.mark.exhaustive
def test_kills_of_the_notebook_resume(tmp_path):
    reference = tmp_path / "reference"
    reference.mkdir()
    write_notebook(tmp_path / "notebook.ipynb")
    assert start(reference).wait() == 0
    wanted = outcome(reference / "build")
    generator = random.Random(1)
    kills = trainings = 0
    while kills < KILLS:
        folder = tmp_path / f"training_{trainings}"
        folder.mkdir()
        # Drawing is not what is tested.
        shutil.copytree(
            reference / "build/drawn_faces", folder / "build/drawn_faces"
        )
        here = 0
        while run_and_kill(folder, generator):
            here += 1
            print(f"kill {kills + here}", flush=True)
        # The last run may have had nothing left to train.
        compare(outcome(folder / "build"), wanted)
        kills += here
        trainings += 1
        shutil.rmtree(folder)
        print(f"training {trainings}: {here} kills, {kills} in all", flush=True)
    report = {"kills": kills, "trainings": trainings}
    print(json.dumps(report))
