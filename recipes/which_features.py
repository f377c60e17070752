"""Trains a VAE for every row of notebook 05's table, and measures it.

    python recipes/which_features.py CELEBA FACENET          # missing rows
    python recipes/which_features.py CELEBA FACENET "pixels" # one row again

CELEBA is a folder of photos, FACENET the real FaceNet's weights, which compare
photo and reconstruction in the training and measure the result. Every row has
the same photos, steps and seed; the results go to `data/which_features.csv`,
each with its command, and to `data/which_features/` a picture of each:
faces of held-out people as this VAE draws them, and samples of the prior.
"""

import pathlib
import re
import sys
import time

import keras
import numpy as np
import pandas as pd
from common import CROP, SEED, draw, split

import facevae_keras as fv

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "which_features.csv"
STEPS, BATCH_SIZE, LEARNING_RATE = 800, 32, 1e-3
PHOTOS_OF_A_PERSON = 10  # held out, to measure with
PHOTOS_OF_THE_EVALUATOR = 5000
SIZE = 95  # pixels at which photo and reconstruction are compared
BETA = 7500.0  # 1 of the loss is the variance of a layer over photos
EDITED, AMOUNTS = "Smiling", [1.0, 2.0]

SINGLE = fv.ENDPOINTS[: fv.ENDPOINTS.index("Mixed_6a") + 1]
FIVE = (
    "pixels",
    "Conv2d_1a_3x3",
    "Conv2d_2b_3x3",
    "Conv2d_4a_3x3",
    "Conv2d_4b_3x3",
)
NINE = (*FIVE, "Mixed_6a", "Mixed_6b", "Mixed_8a", "PreLogitsFlatten")
ROWS = {
    "pixels": {"layers": ("pixels",), "size": 64},
    **{layer: {"layers": (layer,)} for layer in SINGLE},
    "wiki's three": {"layers": fv.WIKI_LAYERS},
    "wiki's recipe": {
        "layers": fv.WIKI_LAYERS,
        "equalize": False,
        "size": 160,
        "beta": 64.0,  # 0.5 for the sum over a batch of 128
        "learning_rate": 2e-4,
    },
    "five": {},
    "nine": {  # the layers of the VAEs that ship
        "layers": NINE,
        "weights": (1, 1, 1, 1, 1, 1, 1, 3, 4),
        "size": 127,
    },
    "five (built-in stem)": {"facenet": "built-in"},
    "five (beta / 10)": {"beta": BETA / 10},
    "five (beta x 10)": {"beta": BETA * 10},
    "five (dfc_vae_resnet)": {"architecture": "dfc_vae_resnet"},
    "five (dfc_vae_large)": {"architecture": "dfc_vae_large"},
}


def train(row, photos, facenet):
    """Trains the VAE of a row.

    Returns the VAE and what it cost: seconds of processor time, of all cores
    together, for 1,000 photos.
    """
    keras.utils.set_random_seed(SEED)
    keras.config.set_dtype_policy(fv.fastest_precision())
    layers = row.get("layers", FIVE)
    vae = fv.FaceVAE(
        row.get("architecture", "dfc_vae"), beta=row.get("beta", BETA)
    )
    equal = row.get("equalize", True)
    weights = np.array(row.get("weights", [1] * len(layers)))
    loss = fv.PerceptualLoss(
        facenet,
        layers,
        row.get("size", SIZE),
        weights=weights / weights.sum() if equal else weights,
    )
    if equal:
        loss.equalize(photos[:512])
    schedule = fv.warm_up_cosine(LEARNING_RATE, STEPS)
    learning_rate = row.get("learning_rate", schedule)
    vae.compile(keras.optimizers.Adam(learning_rate), loss=loss)
    batches = fv.photo_batches(photos, BATCH_SIZE, flip=True, seed=SEED)
    start = time.process_time()
    vae.fit(batches, steps_per_epoch=STEPS, shuffle=False, verbose=2)
    cost = (time.process_time() - start) * 1000 / (STEPS * BATCH_SIZE)
    vae.standardize_latents(photos[:2048])
    return in_float32(vae), cost


def in_float32(vae):
    keras.config.set_dtype_policy("float32")
    exact = fv.FaceVAE.from_config(vae.get_config())
    exact.encoder.set_weights(vae.encoder.get_weights())
    exact.decoder.set_weights(vae.decoder.get_weights())
    return exact


def measure(vae, facenet, photos, labels, held_out):
    """The figures of a VAE and of the smile that it can add: one row."""
    held_out_photos, held_out_labels, people = held_out
    figures = fv.reconstruction_figures(vae, facenet, held_out_photos, people)
    row = {}
    for name, (mean, error) in figures.iterrows():
        row[name] = mean
        if not np.isnan(error):  # a number that is no mean has none
            row[f"{name}_standard_error"] = error
    evaluator = fv.train_probe(
        vae,
        photos[:PHOTOS_OF_THE_EVALUATOR],
        labels[:PHOTOS_OF_THE_EVALUATOR],
        held_out_photos,
        held_out_labels,
        people,
        epochs=4,
    )
    means, _ = vae.encode(photos)
    vectors = fv.attribute_vectors(
        pd.DataFrame(means, index=labels.index), labels[[EDITED]]
    )
    serious = held_out_labels[EDITED].to_numpy() == -1
    means, _ = vae.encode(held_out_photos[serious])
    curve = fv.dose_curve(
        vae,
        facenet,
        evaluator,
        means,
        vectors.loc[EDITED],
        AMOUNTS,
        EDITED,
        people[serious],
    )
    # Not what happened to each of the other 39 attributes alone.
    curve = curve.drop(
        columns=[f"{name}_unchanged" for name in labels if name != EDITED]
    )
    for amount, of_amount in curve.iterrows():
        for name, value in of_amount.items():
            row[f"smile_{amount:g}_{name}"] = value
    return row


def picture(name):
    return RESULTS.with_suffix("") / (
        re.sub(r"\W+", "_", name).strip("_") + ".png"
    )


def main(celeba, facenet_path, wanted):
    facenet = fv.load_facenet(facenet_path)
    images, _, held_out = split(celeba)
    held_out = held_out.groupby("identity").head(PHOTOS_OF_A_PERSON)
    labels = fv.read_attributes(pathlib.Path(celeba) / "list_attr_celeba.txt")
    held_out_photos, names = fv.load_photos(held_out["path"], 160, CROP)
    held_out = (
        held_out_photos,
        labels.loc[names],
        held_out.loc[names, "identity"],
    )
    done = pd.read_csv(RESULTS)["row"] if RESULTS.exists() else []
    for name in wanted or [name for name in ROWS if name not in set(done)]:
        row = ROWS[name]
        size = row.get("size", SIZE)
        if row.get("architecture") == "dfc_vae_large":
            size = 128
        photos, names = fv.load_photos(images["path"], size, CROP)
        network = (
            fv.load_facenet(row["facenet"]) if "facenet" in row else facenet
        )
        vae, cost = train(row, photos, network)
        fv.save_picture(picture(name), draw(vae, held_out[0], held_out[2]))
        result = {
            "row": name,
            **measure(vae, facenet, photos, labels.loc[names], held_out),
            "seconds_per_1000_photos": cost,
            "command": (
                f'python recipes/which_features.py CELEBA FACENET "{name}"'
            ),
        }
        result["picture"] = picture(name).name
        table = pd.DataFrame([result])
        if RESULTS.exists():
            old = pd.read_csv(RESULTS)
            table = pd.concat([old[old["row"] != name], table])
        order = {row: number for number, row in enumerate(ROWS)}
        table = table.sort_values("row", key=lambda rows: rows.map(order))
        table.to_csv(RESULTS, index=False, float_format="%.5g")
        print(pd.Series(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
