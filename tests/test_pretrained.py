"""What ships is small and works, without any data set."""

import pathlib

import numpy as np
import pytest

import facevae_keras as fv

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "facevae_keras" / "pretrained"


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
@pytest.mark.parametrize(
    "name, least, most_stripes",
    [("celeba_dfc_vae", 0.62, 0.2), ("celeba_residual_vae", 0.77, 0.8)],
)
def test_the_celeba_vaes_keep_people_they_have_not_seen(
    celeba, facenet_checkpoint, name, least, most_stripes
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
    pictures = np.clip(vae.reconstruct(photos), 0, 255)
    kept = fv.identity_similarity(facenet, photos, pictures)
    assert kept.mean() > least
    small, _ = fv.load_photos(native["path"][::8], vae.image_size, crop=0.8)
    assert fv.weave(small, pictures) < 0.3
    assert fv.weave(small, pictures, color=True) < most_stripes
