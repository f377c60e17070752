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


def test_detail_is_added_to_a_trained_vae(program, people):
    add_detail = program("add_detail")
    trained = fv.FaceVAE("dfc_vae_large", 8)
    detailed = add_detail.detailed(trained)
    photos, _ = fv.load_photos(fv.find_images(people)["path"][:4], 128, 0.8)
    # It starts where the trained one is, up to the filter of its output.
    smooth = fv.FaceVAE("dfc_vae_large", 8, smooth_output=True)
    smooth.encoder.set_weights(trained.encoder.get_weights())
    smooth.decoder.set_weights(trained.decoder.get_weights())
    np.testing.assert_allclose(
        detailed.reconstruct(photos), smooth.reconstruct(photos), atol=1e-3
    )
    # Only the branch is trained.
    assert not detailed.encoder.trainable_variables
    assert all(
        "Detail" in variable.path
        for variable in detailed.decoder.trainable_variables
    )
    assert len(detailed.decoder.trainable_variables) > 10

    spectra, logs = add_detail.Spectra(photos), {}
    spectra.set_model(detailed)
    spectra.on_epoch_end(0, logs)
    names = list(logs)
    assert names[:3] == ["weave", "power_0.02", "power_0.05"]
    assert len(names) == 1 + 10
    assert np.isfinite(list(logs.values())).all()
