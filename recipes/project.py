"""What projection does for people whom no training here has seen.

    python recipes/project.py celeba 20180402-114759 data/projection.csv

Identity is measured by a network that is in no loss, `independent_identity`
(the extra [evaluate]); whether a smile is seen, by a classifier of the VAE's
faces.
"""

import pathlib
import sys

import keras
import numpy as np
import pandas as pd
from common import LAYERS, STEM

import facevae_keras as fv

PEOPLE = 60
AMOUNT = 1.2  # of the smile, as in notebook 03


def main():
    celeba, facenet, target = sys.argv[1:]
    keras.utils.set_random_seed(666)
    images = fv.find_images(celeba)
    smiling = fv.read_attributes(
        pathlib.Path(celeba) / "list_attr_celeba.txt"
    ).loc[images.index, "Smiling"]
    rows = []
    for name in ("celeba_dfc_vae", "celeba_residual_vae"):
        vae = fv.load_vae(name)
        latents, labels, vectors = fv.load_attributes(name)
        unseen = images[~images["identity"].isin(set(labels["identity"]))]
        unseen = unseen[smiling[unseen.index] == -1]
        unseen = unseen.groupby("identity").sample(1, random_state=666)
        unseen = unseen.sample(PEOPLE, random_state=666)
        photos, _ = fv.load_photos(unseen["path"], 160, crop=0.8)
        evaluator = fv.train_probe(
            None,
            vae.decode(latents[:4000]),
            labels[:4000],
            vae.decode(latents[4000:5000]),
            labels[4000:5000],
        )
        drawn = vae.decode(latents.sample(256, random_state=666))
        encoded, _ = vae.encode(photos)
        found = {"encoder": encoded}
        for network, layers, size in (
            ("built-in", STEM, vae.image_size),
            (facenet, list(LAYERS), 127),
        ):
            loss = fv.PerceptualLoss(
                fv.load_facenet(network),
                layers,
                image_size=size,
                weights=[LAYERS[layer] for layer in layers],
            )
            loss.equalize(drawn)
            key = "built-in" if network == "built-in" else "FaceNet"
            found[key] = fv.project_photo(vae, photos, loss)
        first = None
        for key, z in found.items():
            faces, smiles = vae.decode(
                fv.add_attribute(z, vectors.loc["Smiling"], [0, AMOUNT])
            ).swapaxes(0, 1)
            identity = fv.independent_identity(photos, faces)
            first = identity if first is None else first
            seen = fv.edit_figures(
                evaluator, faces, smiles, vectors.index, "Smiling"
            ).loc["Smiling"]
            rows.append(
                {
                    "vae": name,
                    "latents": key,
                    "identity": identity.mean(),
                    "gain": (identity - first).mean(),
                    # Of the same people, hence smaller than of identity.
                    "gain_standard_error": (identity - first).std()
                    / np.sqrt(PEOPLE),
                    "smile_seen_before": seen["before"],
                    "smile_seen_after": seen["after"],
                    "smile_standard_error": seen["after_standard_error"],
                }
            )
            table = pd.DataFrame(rows)
            table.to_csv(target, index=False, float_format="%.3f")
            print(table.to_string(), flush=True)


if __name__ == "__main__":
    main()
