"""Measures a VAE that ships, on people whom it has not seen.

    python recipes/evaluate.py celeba_dfc_vae CELEBA FACENET

reads the photos of the folder CELEBA and FaceNet's weights, and writes to
`data/pretrained/`

- `celeba_dfc_vae_figures.csv`: `fv.reconstruction_figures` on the held-out
  people of CELEBA's full-size photos;
- `celeba_dfc_vae_edits.csv`: `fv.dose_curve` for several vectors that all add
  a smile;
- `celeba_dfc_vae_faces.png`: eight of these people as the VAE draws them, and
  eight samples of the prior.
"""

import pathlib
import sys

import keras
import numpy as np
import pandas as pd
from common import CROP, SEED, draw, split

import facevae_keras as fv
from facevae_keras.metrics import number_people, standard_error

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "data" / "pretrained"
EDITED = "Smiling"
KEPT = ["Male", "Eyeglasses", "Blond_Hair", "Young"]
AMOUNTS = [0.5, 1, 1.25, 1.5, 2]


def smiles(latents, attributes, vectors, identities):
    """Several vectors that add a smile, by what they are called."""
    people = attributes.assign(identity=identities.loc[attributes.index])
    return {
        "difference of means": vectors.loc[EDITED],
        "balanced": fv.balanced_vector(
            latents, attributes, EDITED, by=["Male", "Mouth_Slightly_Open"]
        ),
        "same person": fv.balanced_vector(latents, people, EDITED, "identity"),
        "projected": fv.project_out(vectors.loc[EDITED], vectors.loc[KEPT]),
        "classifier": fv.classifier_direction(latents, attributes, EDITED),
    }


def edits(vae, facenet, training, held_out, native, labels, latents, vectors):
    """A table with one row per vector and amount."""

    def photos(images):
        return fv.load_photos(images["path"], vae.image_size, CROP)

    training_photos, names = photos(training)
    held_out_photos, held_out_names = photos(held_out)
    identities = pd.concat([training, held_out])["identity"]
    evaluator = fv.train_probe(
        vae,
        training_photos,
        labels.loc[names],
        held_out_photos,
        labels.loc[held_out_names],
        identities.loc[held_out_names],
    )
    accuracy = evaluator.held_out_accuracy
    print(accuracy.loc[[EDITED, *KEPT]].round(3))
    without = labels.loc[held_out_names, EDITED].to_numpy() == -1
    without &= held_out_names.isin(native.index)
    people = identities.loc[held_out_names[without]]
    means, _ = vae.encode(held_out_photos[without])
    curves = {}
    directions = smiles(latents, labels.loc[latents.index], vectors, identities)
    for kind, vector in directions.items():
        print(kind)
        curve = fv.dose_curve(
            vae, facenet, evaluator, means, vector, AMOUNTS, EDITED, people
        )
        for name in KEPT:
            curve[f"{name}_probe_accuracy"] = accuracy.loc[name, "accuracy"]
        curves[kind] = curve.drop(
            columns=[
                f"{name}_unchanged"
                for name in accuracy.index.difference([EDITED, *KEPT])
            ]
        )
    return pd.concat(curves, names=["vector"])


def independent(photos, reconstructions, people):
    """`fv.independent_identity` of the same people, and of two people.

    Of every third photo: dlib takes 0.15 seconds of a core for each picture.
    """
    photos, reconstructions = photos[::3], reconstructions[::3]
    people = people[::3].to_numpy()
    others = np.random.default_rng(SEED).permutation(len(photos))
    different = people[others] != people
    for figure, own, pictures, who in (
        ("independent_identity", photos, reconstructions, people),
        (
            "independent_identity_of_others",
            photos[different],
            reconstructions[others][different],
            people[different],
        ),
    ):
        similarity = fv.independent_identity(own, pictures)
        error = standard_error(similarity, number_people(who, len(own)))
        yield figure, (similarity.mean(), error)


if __name__ == "__main__":
    name, celeba, facenet = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
    keras.utils.set_random_seed(SEED)
    vae = fv.load_vae(name)
    latents, labels, vectors = fv.load_attributes(name)
    facenet = fv.load_facenet(facenet)
    training, held_out, native = split(celeba)
    assert not held_out.index.isin(latents.index).any()
    photos, names = fv.load_photos(native["path"], 160, CROP)
    people = native.loc[names, "identity"]
    fv.save_picture(RESULTS / f"{name}_faces.png", draw(vae, photos, people))
    figures = fv.reconstruction_figures(vae, facenet, photos, people)
    reconstructions = np.clip(vae.reconstruct(photos), 0, 255)
    for figure, mean_and_error in independent(photos, reconstructions, people):
        figures.loc[figure] = mean_and_error
    figures.to_csv(RESULTS / f"{name}_figures.csv", float_format="%.5g")
    print(figures.round(4))
    labels = fv.read_attributes(celeba / "list_attr_celeba.txt")
    edits(
        vae, facenet, training, held_out, native, labels, latents, vectors
    ).to_csv(RESULTS / f"{name}_edits.csv", float_format="%.4g")
