"""What ships is small and works, without any data set."""

import importlib
import pathlib

import keras
import numpy as np
import pytest

import facevae_keras as fv

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "facevae_keras" / "pretrained"
RECIPES = ROOT / "recipes"


def test_together_at_most_40_megabytes():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    names = {file.name for file in files}
    for name in ("drawn_faces", "celeba_dfc_vae", "celeba_residual_vae"):
        assert {f"{name}.keras", f"{name}.h5"} <= names
    assert sum(file.stat().st_size for file in files) <= 40e6


def test_names_win_over_what_is_called_alike(tmp_path, monkeypatch):
    """Such as a notebook, or the folder of photos of notebook 00."""
    (tmp_path / "drawn_faces").mkdir()
    (tmp_path / "drawn_faces.ipynb").touch()
    monkeypatch.chdir(tmp_path)
    assert fv.load_vae("drawn_faces").latent_dim == 100
    assert len(fv.load_attributes("drawn_faces")) == 3
    with pytest.raises(FileNotFoundError, match="no .index file"):
        fv.load_vae("./drawn_faces")


def test_the_drawn_face_vae_smiles(drawn):
    vae = fv.load_vae("drawn_faces")
    latents, attributes, vectors = fv.load_attributes("drawn_faces")
    assert latents.shape[1] == vectors.shape[1] == vae.latent_dim
    assert latents.index[0].endswith(".jpg")
    # People that it was not trained on: the fixture draws with another seed.
    images = fv.find_images(drawn)
    labels = fv.read_attributes(drawn / "list_attr_celeba.txt")
    serious = labels.index[labels["Smiling"] == -1]
    paths = images.loc[serious, "path"]
    photos = np.stack([fv.read_photo(p, 64, crop=0.8) for p in paths])
    error = np.abs(vae.reconstruct(photos) - photos).mean()
    assert error < 0.7 * np.abs(photos.mean(axis=0) - photos).mean()
    # Along the vector the lower face gets lighter: teeth.
    smile = vectors.loc["Smiling"]
    z = fv.encode_images(vae, paths, crop=0.8)
    before, after = vae.decode(fv.add_attribute(z, smile, [0, 2])).swapaxes(
        0, 1
    )
    change = (after - before)[:, 48:58, 24:40].mean()
    elsewhere = np.abs((after - before)[:, :16]).mean()
    assert change > 2 * elsewhere


def test_the_celeba_vae_draws_faces_and_smiles():
    vae = fv.load_vae("celeba_dfc_vae")
    latents, attributes, vectors = fv.load_attributes("celeba_dfc_vae")
    assert len(latents) > 12_000
    assert vectors.shape == (40, vae.latent_dim)
    # Where the faces lie is where the prior says, up to the posteriors' width.
    assert np.abs(latents.mean()).max() < 0.1
    # (2,048 photos for 200 variables tell these widths to about a tenth.)
    assert (latents.std() < 1.15).all()
    faces = np.clip(vae.decode(latents[:64]), 0, 255)
    random = np.random.default_rng(0)
    invented = vae.decode(random.normal(size=(64, vae.latent_dim)))
    noise = random.uniform(0, 255, faces.shape)
    average = faces.mean(axis=0)

    def distance(images):
        return np.square(images - average).mean()

    assert distance(invented) < 1.5 * distance(faces) < distance(noise)
    # A smile shows teeth: brighter between the lips, hardly so elsewhere.
    serious = latents[attributes["Smiling"] == -1][:64]
    before, after = vae.decode(
        fv.add_attribute(serious, vectors.loc["Smiling"], [0, 2])
    ).swapaxes(0, 1)
    change = np.abs(after - before).mean(axis=(0, 3))
    assert change[40:52, 22:42].mean() > 1.5 * change[:16].mean()


@pytest.mark.slow
def test_a_taught_encoder_tells_who_it_is(faces, monkeypatch):
    monkeypatch.syspath_prepend(RECIPES)
    teach = importlib.import_module("teach")
    monkeypatch.setattr(teach, "STEPS", 45)
    monkeypatch.setattr(teach, "BATCH_SIZE", 32)
    keras.utils.set_random_seed(0)
    vae = fv.load_vae("drawn_faces")
    decoder = vae.decoder.get_weights()
    # Eight "embeddings", which have nothing to do with the 32 faces.
    random = np.random.default_rng(0)
    who = np.repeat(random.normal(size=(8, 16)), 4, axis=0)
    who /= np.linalg.norm(who, axis=1, keepdims=True)

    def told():
        """Cosine with what ridge regression on the other faces tells."""
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

    before, means_before = told(), vae.encode(faces)[0]
    teach.teach(vae, faces, who)
    moved = np.square(vae.encode(faces)[0] - means_before).mean()
    assert told() > before + 0.3
    assert moved < np.square(means_before).mean()
    for old, new in zip(decoder, vae.decoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_teaching_asks_facenet_about_the_photos_as_they_became(
    faces, monkeypatch
):
    monkeypatch.syspath_prepend(RECIPES)
    teach = importlib.import_module("teach")
    monkeypatch.setattr(teach, "VIEWS", 36)
    colours = keras.Sequential(
        [keras.Input((57, 57, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    views, targets = teach.view_and_judge(colours, faces[:18], 32, 18)
    assert views.shape == (36, 32, 32, 3) and views.dtype == "uint8"
    np.testing.assert_allclose(views.mean((1, 2)), targets, atol=1)
    assert len(np.unique(views.reshape(36, -1), axis=0)) == 36


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, least", [("celeba_dfc_vae", 0.62), ("celeba_residual_vae", 0.77)]
)
def test_the_celeba_vaes_keep_people_they_have_not_seen(
    celeba, facenet_checkpoint, name, least
):
    vae = fv.load_vae(name)
    latents, _, _ = fv.load_attributes(name)
    images = fv.find_images(celeba)
    held_out = images.drop(latents.index)
    # Nobody of the held-out people is among those it was trained on.
    known = images.loc[latents.index, "identity"]
    assert not held_out["identity"].isin(known).any()
    native = held_out[held_out["path"].str.contains("img_align_celeba/")]
    assert native["identity"].nunique() >= 20
    photos, _ = fv.load_photos(native["path"][::8], 160, crop=0.8)
    facenet = fv.load_facenet(facenet_checkpoint)
    kept = fv.identity_similarity(
        facenet, photos, np.clip(vae.reconstruct(photos), 0, 255)
    )
    assert kept.mean() > least
