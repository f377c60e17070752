"""Two processes train one VAE together, as on two hosts; one is killed."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import facevae_keras as fv

pytestmark = pytest.mark.slow

# What notebook 01 does, with as little as possible around it.
PROGRAM = """
import sys
import keras
import facevae_keras as fv

process, _ = fv.join_processes()
keras.utils.set_random_seed(1)
photos, _ = fv.load_photos(fv.find_images(sys.argv[1])["path"], 64, 0.8)
vae = fv.FaceVAE(latent_dim=8)
steps = int(sys.argv[2])
vae.compile(keras.optimizers.Adam(1e-4), fv.PixelLoss())
run = fv.TrainingRun("run", {"steps": steps})
pictures = fv.ReconstructionPictures(photos[:4], "run/pictures", every=4)
run.fit(
    vae,
    fv.photo_batches(photos, 16, flip=True),
    steps,
    steps_per_epoch=4,
    callbacks=[pictures],
)
run.finish(vae)
print("finished", process)
"""


def start(folder, drawn, steps, processes):
    """One `subprocess.Popen` for each process of a training."""
    pytest.importorskip("jax", reason="several processes need JAX")
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for number in range(processes):
        environment = {**os.environ, "KERAS_BACKEND": "jax"}
        if processes > 1:
            environment |= {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
                "KERAS_DISTRIBUTION_NUM_PROCESSES": str(processes),
                "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
            }
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(drawn), str(steps)],
                cwd=folder,
                env=environment,
                stdout=(folder / f"out_{number}.txt").open("w"),
                stderr=subprocess.STDOUT,
            )
        )
    return started


def end(started, folder):
    for number, process in enumerate(started):
        text = (folder / f"out_{number}.txt").read_text
        assert process.wait(timeout=300) == 0, text()
        assert f"finished {number}" in text()


@pytest.fixture(scope="module")
def alone(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    end(start(folder, drawn, 12, 1), folder)
    return folder / "run"


def check_same(run_dir, wanted):
    found, expected = (
        pd.read_csv(folder / "losses.csv") for folder in (run_dir, wanted)
    )
    assert found["step"].tolist() == expected["step"].tolist() == [4, 8, 12]
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3)
    weights = [
        fv.load_vae(folder / "vae.keras").get_weights()
        for folder in (run_dir, wanted)
    ]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        for folder in (run_dir, wanted)
    ]
    assert names[0] == names[1]


def test_two_processes_train_as_one(drawn, alone, tmp_path):
    end(start(tmp_path, drawn, 12, 2), tmp_path)
    check_same(tmp_path / "run", alone)


def test_a_killed_process_stops_the_other_and_both_go_on(
    drawn, alone, tmp_path
):
    first, second = start(tmp_path, drawn, 12, 2)
    losses = tmp_path / "run/losses.csv"
    while not losses.exists():
        assert first.poll() is None and second.poll() is None
        time.sleep(0.01)
    second.kill()
    second.wait()
    out = tmp_path / "out_0.txt"
    message = "process 0 of 2: training stopped, perhaps because another"
    while message not in out.read_text():
        assert first.poll() is None, out.read_text()
        time.sleep(0.1)
    first.kill()  # JAX ends it by itself when a minute has passed
    first.wait()
    kept = json.loads(
        str(np.load(tmp_path / "run/training_state.npz")["state"])
    )
    assert 0 < len(kept["losses"]) < 3
    end(start(tmp_path, drawn, 12, 2), tmp_path)
    assert "goes on at step" in (tmp_path / "out_0.txt").read_text()
    check_same(tmp_path / "run", alone)
