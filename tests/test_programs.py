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
def test_a_taught_encoder_predicts_who_it_is(program, faces, monkeypatch):
    teach = program("teach")
    monkeypatch.setattr(teach, "EPOCHS", 45)
    monkeypatch.setattr(teach, "BATCH_SIZE", 32)
    keras.utils.set_random_seed(0)
    vae = fv.load_vae("drawn_faces")
    decoder = vae.decoder.get_weights()
    # Eight "embeddings", which have nothing to do with the 32 faces.
    random = np.random.default_rng(0)
    who = np.repeat(random.normal(size=(8, 16)), 4, axis=0)
    who /= np.linalg.norm(who, axis=1, keepdims=True)

    def cosine():
        """With what ridge regression on the other faces predicts."""
        means = vae.encode(faces)[0].reshape(8, 4, -1)
        cosines = []
        for face in range(4):
            others = np.delete(means, face, axis=1).reshape(24, -1)
            known = others @ others.T + np.eye(24)
            weights = np.linalg.solve(known, np.repeat(who[::4], 3, axis=0))
            guess = means[:, face] @ others.T @ weights
            guess /= np.linalg.norm(guess, axis=1, keepdims=True)
            cosines.append((guess * who[::4]).sum(axis=1))
        return np.mean(cosines)

    before, means_before = cosine(), vae.encode(faces)[0]
    room = ((0, 0), (4, 4), (4, 4), (0, 0))
    pair = np.pad(faces, room, mode="edge"), who
    losses = teach.teach(vae, pair, pair)
    change = np.square(vae.encode(faces)[0] - means_before).mean()
    assert cosine() > before + 0.3
    assert change < np.square(means_before).mean()
    assert losses["val_embedding_loss"].iloc[-1] < -0.5
    for old, new in zip(decoder, vae.decoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_embeddings_are_of_the_photos_as_they_became(program, faces):
    colors = keras.Sequential(
        [keras.Input((57, 57, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    views, embeddings = program("teach").views_and_embeddings(
        colors, faces[:18], 57, 36, blend=True
    )
    assert views.shape == (36, 64, 64, 3) and views.dtype == "uint8"
    middle = views[:, 3:60, 3:60]
    np.testing.assert_allclose(middle.mean((1, 2)), embeddings, atol=1)
    assert len(np.unique(views.reshape(36, -1), axis=0)) == 36


@pytest.fixture
def short_recipe(program, monkeypatch):
    """Function of a recipe's name and what to set in it: the module, tiny."""

    def tiny(name, steps, **values):
        recipe = program(name)
        monkeypatch.setattr(program("training"), "LAUNCHES", 20)
        vae = {**recipe.VAE, "architecture": "dfc_vae", "latent_dim": 8}
        layers = {"pixels": 4, "Conv2d_1a_3x3": 1}
        values |= {"VAE": vae, "LAYERS": layers, "LOSS_SIZE": 64}
        for key, value in values.items():
            monkeypatch.setattr(recipe, key, value)
        for stage, count in steps.items():
            short = {"batch_size": 4, "steps": count, "steps_per_epoch": 20}
            whole = recipe.STAGES[stage]
            monkeypatch.setitem(recipe.STAGES, stage, {**whole, **short})
        return recipe

    return tiny


@pytest.mark.slow
def test_the_recipe_of_64_pixels(
    program, short_recipe, people, tmp_path, monkeypatch
):
    recipe = short_recipe(
        "celeba_64",
        {"shallow": 20, "features": 40},
        SHALLOW={"pixels": 4},
        SHALLOW_SIZE=64,
    )
    for name, value in {"VIEWS": 64, "EPOCHS": 2, "BATCH_SIZE": 8}.items():
        monkeypatch.setattr(program("teach"), name, value)
    folders = [tmp_path / stage for stage in recipe.ALL_STAGES]

    def train():
        recipe.train(people, "seeded", tmp_path, [people])
        recipe.report(people, folders, 64)

    train()
    shallow, taught, ships = (
        fv.load_vae(folder / "vae.keras") for folder in folders
    )
    assert ships.smooth_output and ships.smooth_colors
    z = np.random.default_rng(0).normal(size=(2, 8))
    photos = shallow.decode(z)
    # The second stage changes the encoder alone.
    np.testing.assert_array_equal(taught.decode(z), photos)
    for before, after in ((shallow, taught), (taught, ships)):
        assert np.abs(before.encode(photos)[0] - after.encode(photos)[0]).max()
    losses = pd.read_csv(tmp_path / "losses.csv", index_col="stage")
    assert list(losses.index) == ["shallow", "taught", "features", "features"]
    figures = ["psnr", "weave", "color_weave", "power_0.02"]
    assert np.isfinite(losses[figures]).all(axis=None)
    assert np.isfinite(losses.loc["taught", "val_embedding_loss"])
    for folder in folders:
        assert plt.imread(folder / "faces.png").std() > 0
    # Of the held-out ones nobody is in the training.
    _, held_out, _ = recipe.split(people)
    paths = recipe.training_paths(people, [people])
    assert not set(paths) & set(held_out["path"])

    before = (folders[-1] / "vae.keras").stat().st_mtime_ns
    train()  # complete: nothing is done anew
    assert (folders[-1] / "vae.keras").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_recipe_of_128_pixels(program, short_recipe, people, tmp_path):
    recipe = short_recipe(
        "celeba_128",
        {"features": 20, "detail": 40, "fine": 20},
        IMAGE_SIZE=64,
        CRITICS={
            "detail": {"share": 0.5, "warm_up_steps": 5},
            "fine": {"warm_up_steps": 5, "judged_layers": "Conv2d_4"},
        },
    )

    def train():
        recipe.train(people, "seeded", tmp_path, [people])
        folders = [tmp_path / stage for stage in recipe.ALL_STAGES]
        recipe.report(people, folders, 64)

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
    training, _, _ = program("common").split(people)
    assert list(latents.index) == list(training.index)
    assert vectors.shape == (40, 8)
