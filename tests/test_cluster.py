"""Recipes for a cluster, on two worker processes, of which some are killed."""

import importlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import distributed
import keras
import matplotlib.cbook
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_align import write_data_set

import facevae_keras as fv

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def recipes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "recipes")
        yield
    # Here the workers' functions also run in this process, and silence it.
    keras.config.enable_interactive_logging()


@pytest.fixture(scope="module")
def cluster(recipes):
    return importlib.import_module("cluster")


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """Address of a cluster as one starts it by hand, in another folder."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    commands = [
        ["scheduler", "--host", "127.0.0.1", "--port", "0", *common],
        ["worker", "--nthreads", "1", "--nworkers", "2", *common],
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{name}", *options],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"{name}.log").open("w"),
        )
        for name, *options in commands
    ]
    with distributed.Client(scheduler_file=str(file), timeout=120) as client:
        client.wait_for_workers(2, timeout=120)
        yield client.scheduler.address
    for process in reversed(processes):
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def photos(drawn, tmp_path_factory):
    """Drawn faces under 700 names, with labels of their own; one damaged."""
    folder = tmp_path_factory.mktemp("photos")
    sources = list(fv.find_images(drawn)["path"])
    random = np.random.default_rng(1)
    lines = ["699", "A B C"]
    for number in range(700):
        name = f"{number:06d}.jpg"
        shutil.copy(sources[number * 7 % len(sources)], folder / name)
        labels = random.choice([-1, 1], 3)
        lines.append(" ".join([name, *map(str, labels)]))
    del lines[-1]  # one has no labels
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    (folder / "000300.jpg").write_text("no photo")
    return folder


def kills_its_worker_once(function, marker):
    """The function; but the worker that calls it first is killed with it."""

    def call(*arguments):
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return call


def assert_equal_sums(found, wanted):
    assert found.count == wanted.count
    for name in ("total", "with_count", "with_total"):
        np.testing.assert_array_equal(
            getattr(found, name), getattr(wanted, name)
        )


def written_times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.slow
def test_more_jobs_than_workers_on_this_machine(cluster, tmp_path):
    def tenfold(number):
        with (tmp_path / f"tries_of_{number}").open("a") as tries:
            tries.write("x")
        if number == 5 and len((tmp_path / "tries_of_5").read_text()) == 1:
            raise OSError("the network is slow")
        if number == 99:
            raise OSError("no such disk")
        return 10 * number

    killing = kills_its_worker_once(tenfold, tmp_path / "killed")
    with cluster.connect(workers=2) as client:
        jobs = ((number,) for number in range(30))
        found = sorted(cluster.results(client, killing, jobs))
        assert found == [10 * number for number in range(30)]
        assert (tmp_path / "killed").exists()
        assert (tmp_path / "tries_of_5").read_text() == "xx"
        short = [(number,) for number in range(300)]
        with pytest.raises(OSError, match="no such disk"):
            list(cluster.results_by_shards(client, tenfold, short))
        assert (tmp_path / "tries_of_99").read_text() == "xxx"


@pytest.mark.slow
def test_sums_equal_those_of_one_process(
    cluster, scheduler, photos, tmp_path, monkeypatch
):
    program = importlib.import_module("attribute_vectors_dask")
    monkeypatch.chdir(tmp_path)
    vae = fv.load_vae("drawn_faces")
    images = fv.find_images(photos)["path"]
    labels = fv.read_attributes(photos / "list_attr_celeba.txt")
    with pytest.warns(UserWarning, match="000300"):
        wanted = fv.sum_attributes(vae, images, labels, crop=0.8)

    marker = tmp_path / "killed"
    with monkeypatch.context() as patch, cluster.connect(scheduler) as client:
        killing = kills_its_worker_once(cluster.sum_shard, marker)
        patch.setattr(cluster, "sum_shard", killing)
        with pytest.warns(UserWarning, match="1 of 699 photos"):
            found = program.sum_attributes(
                client, photos, "sums.npz", vae, shard=128
            )
    assert marker.exists()
    assert_equal_sums(found, wanted)
    assert_equal_sums(fv.AttributeSums.load("sums.npz"), wanted)
    shards = written_times(tmp_path / "sums_shards")
    assert len(shards) == 1 + 5  # the VAE, and 128, 128, 128, 128, 188 photos

    # Started again, it does only what is missing.
    lost = next((tmp_path / "sums_shards").glob("[!v]*.npz"))
    lost.unlink()
    with cluster.connect(scheduler) as client, pytest.warns(UserWarning):
        found = program.sum_attributes(
            client, photos, "sums.npz", vae, shard=128
        )
    assert_equal_sums(found, wanted)
    again = written_times(tmp_path / "sums_shards")
    changed = {name for name in again if again[name] != shards[name]}
    assert again.keys() == shards.keys() and changed == {lost.name}

    # As a program, in shards of 4,096.
    with pytest.warns(UserWarning):
        program.main(
            [str(photos), "more.npz", "--vae", "drawn_faces"]
            + ["--scheduler", scheduler]
        )
    assert_equal_sums(fv.AttributeSums.load("more.npz"), wanted)


def test_what_has_changed_is_summed_anew(cluster, photos, tmp_path):
    program = importlib.import_module("attribute_vectors_dask")
    vae = fv.load_vae("drawn_faces")
    file = program._save_vae(vae, tmp_path / "shards")
    paths = fv.find_images(photos)["path"].iloc[:8].copy()
    for number, path in enumerate(paths):
        paths.iloc[number] = shutil.copy(path, tmp_path)
    labels = fv.read_attributes(photos / "list_attr_celeba.txt").iloc[:8]

    def sums(file=file, paths=paths, labels=labels, crop=0.8):
        """Whether they were computed; and they are what they should be."""
        before = written_times(tmp_path / "shards")
        count, found = cluster.sum_shard(str(file), paths, labels, crop)
        assert count == len(paths)
        wanted = fv.sum_attributes(
            cluster.load_vae(str(file)), paths, labels, crop
        )
        assert_equal_sums(found, wanted)
        return written_times(tmp_path / "shards") != before

    assert sums() and not sums()
    assert sums(crop=0.7) and not sums(crop=0.7)
    assert sums(labels=-labels)
    assert sums(labels=labels.iloc[:7])
    assert sums(labels=labels.rename(columns={"A": "D"}))
    assert sums(paths=paths.iloc[:7])
    assert not sums()
    shutil.copy(paths.iloc[1], paths.iloc[0])
    assert sums() and not sums()

    assert program._save_vae(vae, tmp_path / "shards") == file
    weights = vae.encoder.get_weights()
    weights[-1] = weights[-1] + 1
    vae.encoder.set_weights(weights)
    other = program._save_vae(vae, tmp_path / "shards")
    assert other != file
    assert sums(file=other) and not sums()


def test_what_is_refused(cluster, photos, drawn, tmp_path):
    program = importlib.import_module("attribute_vectors_dask")
    vae = fv.load_vae("drawn_faces")
    with pytest.raises(ValueError, match="sums.h5: expected .* NAME.npz"):
        program.sum_attributes(None, photos, tmp_path / "sums.h5", vae)
    (tmp_path / "list_attr_celeba.txt").write_text("1\nA\nother.jpg 1\n")
    shutil.copy(fv.find_images(drawn)["path"].iloc[0], tmp_path)
    with pytest.raises(ValueError, match="expected labels of its photos"):
        program.sum_attributes(None, tmp_path, tmp_path / "sums.npz", vae)


@pytest.mark.exhaustive
def test_a_folder_is_aligned_as_by_one_process(
    cluster, scheduler, tmp_path, monkeypatch
):
    program = importlib.import_module("align_dask")
    hopper = matplotlib.cbook.get_sample_data("grace_hopper.jpg")
    with hopper, Image.open(hopper) as photo:
        portrait = photo.convert("RGB")
    source = write_data_set(tmp_path / "source", portrait, 20)
    with pytest.warns(UserWarning, match="2 of 23"):
        wanted = fv.align_folder(source, tmp_path / "wanted")
    marker = tmp_path / "killed"
    killing = kills_its_worker_once(cluster.call_for_each, marker)
    monkeypatch.setattr(cluster, "call_for_each", killing)
    monkeypatch.setattr(cluster, "SHARD", 4)
    with pytest.warns(UserWarning, match="2 of 23"):
        program.main(
            [str(source), str(tmp_path / "found"), "--scheduler", scheduler]
        )
    assert marker.exists()
    files = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in (tmp_path / "wanted", tmp_path / "found")
    ]
    assert files[0] == files[1]
    table = pd.read_csv(tmp_path / "found" / "alignment.csv")
    assert len(table) == len(wanted) == 23
