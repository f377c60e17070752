"""The programs in recipes/ and benchmarks/, with tiny settings."""

import importlib
import pathlib

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import facevae_keras as fv

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def program(monkeypatch):
    """Function of a program's name: its module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(ROOT / "recipes")
    yield importlib.import_module
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """120 drawn faces in CelebA's layout, two of each person."""
    folder = tmp_path_factory.mktemp("people")
    fv.write_synthetic_dataset(folder, count=120, seed=5)
    names = fv.find_images(folder).index
    lines = [f"{name} {i // 2}" for i, name in enumerate(names)]
    (folder / "identity_CelebA.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_shipped_weights_are_small_and_nearly_the_same(
    program, faces, tmp_path
):
    ship = program("ship")
    vae = fv.FaceVAE(latent_dim=20)
    vae.compile("adam", loss=fv.PixelLoss())
    # A value beyond half precision, as training leaves where nothing varies.
    layer = vae.encoder.get_layer("Conv2d_1-BatchNorm")
    beta, mean, variance = layer.get_weights()
    variance[0] = 1e6
    layer.set_weights([beta, mean, variance])
    means, _ = vae.encode(faces)
    vae.save(tmp_path / "whole.keras")
    ship.write_compressed(vae, tmp_path / "small.keras")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"whole.keras", "small.keras"}
    whole, small = (
        (tmp_path / f"{name}.keras").stat().st_size
        for name in ("whole", "small")
    )
    assert small < 0.6 * whole
    loaded = fv.load_vae(tmp_path / "small.keras")
    layer = loaded.encoder.get_layer("Conv2d_1-BatchNorm")
    assert layer.get_weights()[2][0] == 1e6
    error = np.abs(loaded.encode(faces)[0] - means).max()
    assert 0 < error < 0.01 * np.abs(means).max()


def test_shipped_attributes_are_rounded_and_have_identities(
    program, people, tmp_path
):
    images = fv.find_images(people)
    labels = fv.read_attributes(people / "list_attr_celeba.txt")
    random = np.random.default_rng(0)
    latents = pd.DataFrame(random.normal(size=(120, 5)), index=images.index)
    vectors = fv.attribute_vectors(latents, labels[["Smiling"]])
    fv.save_attributes(
        tmp_path / "run.h5", latents, labels[["Smiling"]], vectors
    )
    program("ship").ship_attributes(
        tmp_path / "run.h5", tmp_path / "shipped.h5", images
    )
    found, people_and_labels, _ = fv.load_attributes(tmp_path / "shipped.h5")
    error = np.abs(found.to_numpy() - latents.loc[found.index]).max(axis=None)
    assert 0.003 < error <= 1 / 256 + 1e-6
    assert list(people_and_labels["identity"]) == list(
        images.loc[found.index, "identity"]
    )


@pytest.mark.exhaustive
def test_the_table_of_notebook_05_grows_by_rows(
    program, people, tmp_path, monkeypatch
):
    table = program("which_features")
    monkeypatch.setattr(table, "RESULTS", tmp_path / "table.csv")
    monkeypatch.setattr(table, "STEPS", 2)
    monkeypatch.setattr(table, "BATCH_SIZE", 8)
    table.main(people, "seeded", ["wiki's recipe"])
    table.main(people, "seeded", ["pixels"])
    found = pd.read_csv(tmp_path / "table.csv")
    assert list(found["row"]) == ["pixels", "wiki's recipe"]  # as in ROWS
    numbers = found.select_dtypes("number")
    assert {"identity", "kid_prior", "smile_1_seen"} <= set(numbers)
    assert np.isfinite(numbers).all(axis=None)
    for picture in found["picture"]:
        assert plt.imread(tmp_path / "table" / picture).std() > 0


@pytest.mark.exhaustive
def test_the_card_of_a_vae_is_measured(program, people):
    evaluate = program("evaluate")
    training, held_out, native = program("common").split(people)
    assert len(held_out) == len(native) == 18
    vae = fv.load_vae("drawn_faces")
    facenet = fv.load_facenet("seeded")
    labels = fv.read_attributes(people / "list_attr_celeba.txt")
    latents = fv.encode_images(vae, training["path"], crop=evaluate.CROP)
    with pytest.warns(UserWarning, match="everybody|nobody"):
        vectors = fv.attribute_vectors(latents, labels)
    curves = evaluate.edits(
        vae, facenet, training, held_out, native, labels, latents, vectors
    )
    kinds = {"difference of means", "balanced", "same person", "projected"}
    found = set(curves.index.get_level_values("vector"))
    assert found == kinds | {"classifier"}
    assert len(curves) == 5 * len(evaluate.AMOUNTS)
    assert np.isfinite(curves).all(axis=None)
    assert curves["identity"].between(-1, 1).all()


def test_reports_of_convolutions_are_summed_for_each_step(program):
    original_step = program("original_step")
    report = "onednn_verbose,v1,primitive,exec,cpu,{},jit:avx2,{},,,shape,{}"
    lines = [
        report.format("convolution", "forward_training", 100),  # before
        f"{original_step.START} 2",
        report.format("convolution", "forward_training", 3),
        report.format("convolution", "forward_training", 4.5),
        report.format("matmul", "undef", 1),
        original_step.STOP,
        report.format("matmul", "undef", 100),  # of the 2017 programs
    ]
    assert original_step.profile(lines) == {
        "convolution forward_training": 3.75,
        "matmul undef": 0.5,
    }


@pytest.mark.slow
def test_the_recipe_from_nothing(program, people, tmp_path, monkeypatch):
    recipe = program("celeba_128")
    small = {
        "VAE": {"architecture": "dfc_vae", "latent_dim": 8, "beta": 1500.0},
        "IMAGE_SIZE": 64,
        "LOSS_SIZE": 64,
        "LAYERS": {"pixels": 4, "Conv2d_1a_3x3": 1},
        "CRITICS": {
            "detail": {"share": 0.5, "warm_up_steps": 5},
            "fine": {"warm_up_steps": 5, "judged_layers": "Conv2d_4"},
        },
        "LAUNCHES": 20,
    }
    for name, value in small.items():
        monkeypatch.setattr(recipe, name, value)
    steps = {"features": 20, "detail": 40, "fine": 20}
    for name, stage in recipe.STAGES.items():
        short = {"batch_size": 4, "steps": steps[name], "steps_per_epoch": 20}
        monkeypatch.setitem(recipe.STAGES, name, {**stage, **short})

    def train():
        recipe.train(people, "seeded", tmp_path, [people])
        recipe.report(people, tmp_path)

    train()
    features, detail, mixed, fine, ships = vaes = [
        fv.load_vae(tmp_path / stage / "vae.keras")
        for stage in ("features", "detail", "mean", "fine", "final")
    ]
    z = np.random.default_rng(0).normal(size=(2, 8))
    photos = features.decode(z)
    # One encoder, and a decoder between two.
    for vae in vaes:
        np.testing.assert_array_equal(
            vae.encode(photos), features.encode(photos)
        )
    for name, share in {
        "Fc_1": 0.3,
        "Conv2d_3": 0.3,
        "Conv2d_4": 0.8,
    }.items():
        smooth, sharp, first_mean, again, found = (
            vae.decoder.get_layer(name).get_weights()[0] for vae in vaes
        )
        for before, after, part, mean in (
            (smooth, sharp, share, first_mean),
            (first_mean, again, 0.75, found),
        ):
            np.testing.assert_allclose(
                mean, before + part * (after - before), atol=1e-5
            )
    for before, after in ((features, detail), (mixed, fine)):
        assert np.abs(before.decode(z) - after.decode(z)).max() > 1
    losses = pd.read_csv(tmp_path / "losses.csv", index_col="stage")
    stages = ["features", "detail", "detail", "mean", "fine", "final"]
    assert list(losses.index) == stages
    figures = ["psnr", "weave", "power_0.02"]
    assert np.isfinite(losses[figures]).all(axis=None)
    assert np.isfinite(losses.loc["detail", "score_loss"]).all()

    before = (tmp_path / "final" / "vae.keras").stat().st_mtime_ns
    train()  # complete: nothing is done anew
    assert (tmp_path / "final" / "vae.keras").stat().st_mtime_ns == before

    recipe.write_vectors(people, tmp_path / "final")
    latents, _, vectors = fv.load_attributes(
        tmp_path / "final" / "attribute_vectors.h5"
    )
    training, _, _ = recipe.split(people)
    assert list(latents.index) == list(training.index)
    assert vectors.shape == (40, 8)
