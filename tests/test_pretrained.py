"""What ships is small and works, without any data set."""

import pathlib

import numpy as np

import facevae_keras as fv

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "data" / "pretrained"


def test_together_at_most_40_megabytes():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert {"drawn_faces.keras", "drawn_faces.h5"} <= {f.name for f in files}
    assert sum(file.stat().st_size for file in files) <= 40e6


def test_the_drawn_face_vae_smiles(drawn):
    vae = fv.load_vae(FOLDER / "drawn_faces.keras")
    latents, attributes, vectors = fv.load_attributes(FOLDER / "drawn_faces.h5")
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
