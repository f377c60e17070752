"""Trains a dfc_vae on photos of people, from nothing, in one program.

    python recipes/celeba_64.py CELEBA FACENET run/celeba_64 [ALIGNED ...]

`celeba_dfc_vae`, which ships, is from older trainings; the card,
`facevae_keras/pretrained/README.md`, compares both. FACENET is what
`fv.load_facenet` takes, such as 20180402-114759.

1. `shallow`: encoder and decoder, with pixels and FaceNet's shallow features,
   on the training photos of the folder CELEBA and of ALIGNED, folders that
   `fv.align_folder` wrote. They are warped and blended, differently each time.
2. `taught`: the encoder alone, by `teach.py`.
3. `features`: encoder and decoder, with all features.

Then come the latent variables and attribute vectors of CELEBA's training
photos; `ship.py` makes of them what could ship. A stage that is complete is
skipped, and the first and the third go on where they were stopped. `losses.csv`
and the folder `pictures` in the folder of a stage show how far it is.
"""

import pathlib
import sys

import common
import keras
from common import CROP, SEED, STEM, split
from teach import teach_from
from training import (
    LOSS_SIZE,
    MARGIN,
    PHOTO_SIZE,
    figures,
    fit,
    held_out_photos,
    is_complete,
    perceptual_loss,
    report,
    start_from,
    training_paths,
    write_vectors,
)

import facevae_keras as fv

VAE = {
    "architecture": "dfc_vae",
    "latent_dim": 200,
    "beta": 1500.0,
    "smooth_output": True,
    "smooth_colors": True,
    "pixel_bias": True,
}
IMAGE_SIZE = 64
# Pixels and shallow features weigh more than in `common.LAYERS`: with deep ones
# this small decoder draws a plaid over every face.
LAYERS = {
    "pixels": 8,
    "Conv2d_1a_3x3": 3,
    "Conv2d_2b_3x3": 3,
    "Conv2d_4a_3x3": 2,
    "Conv2d_4b_3x3": 2,
    "Mixed_6a": 1,
    "Mixed_6b": 1,
    "Mixed_8a": 4,
    "PreLogitsFlatten": 10,
}
SHALLOW = {layer: common.LAYERS[layer] for layer in STEM}
SHALLOW_SIZE = 95  # pixels; enough for the shallow features
STAGES = {
    "shallow": {
        "steps": 2000,
        "steps_per_epoch": 250,
        "batch_size": 64,
        "learning_rate": 1e-3,
    },
    "features": {
        "steps": 3500,
        "steps_per_epoch": 250,
        "batch_size": 64,
        "learning_rate": 1e-3,
    },
}
ALL_STAGES = "shallow", "taught", "features"


def train_taught(celeba, paths, facenet, start, held_out, run_dir):
    """The second stage; it is not resumed, since it takes minutes."""
    vae = fv.load_vae(start / "vae.keras")
    _, _, native = split(celeba)
    losses = teach_from(paths, native["path"], facenet, vae)
    run_dir.mkdir(exist_ok=True)
    losses.iloc[[-1]].assign(**figures(vae, held_out)).to_csv(
        run_dir / "losses.csv", index=False, float_format="%.5g"
    )
    vae.save(run_dir / "vae.keras")


def train(celeba, facenet, run_dir, folders):
    """All stages, each in its own folder in `run_dir`."""
    keras.utils.set_random_seed(SEED)
    keras.config.set_dtype_policy(fv.fastest_precision())
    paths = training_paths(celeba, folders)
    held_out = held_out_photos(celeba, IMAGE_SIZE)
    shallow, taught, features = (run_dir / stage for stage in ALL_STAGES)
    photos, _ = fv.load_photos(paths, round(MARGIN * PHOTO_SIZE), MARGIN * CROP)

    def fit_all(run_dir, layers, size, start=None):
        vae = fv.FaceVAE(**VAE)
        vae.keep_on_device(photos, warped_size=PHOTO_SIZE, blend=True)
        digest = start_from(vae, start / "vae.keras") if start else None
        loss = perceptual_loss(facenet, layers, size, photos)
        stage = STAGES[run_dir.name]
        return vae, fit(
            vae, photos, loss, held_out, run_dir, stage, **VAE, start=digest
        )

    if not is_complete(shallow):
        vae, run = fit_all(shallow, SHALLOW, SHALLOW_SIZE)
        run.finish(vae)
    if not is_complete(taught):
        train_taught(celeba, paths, facenet, shallow, held_out, taught)
    if not is_complete(features):
        vae, run = fit_all(features, LAYERS, LOSS_SIZE, start=taught)
        # Read at this size as those that are encoded later.
        small, _ = fv.load_photos(paths, IMAGE_SIZE, CROP)
        vae.standardize_latents(small)
        vae.correct_average(small)
        run.finish(vae)


if __name__ == "__main__":
    celeba, facenet, run_dir, *folders = sys.argv[1:]
    run_dir = pathlib.Path(run_dir)
    last = run_dir / ALL_STAGES[-1]
    if not is_complete(last):
        train(celeba, facenet, run_dir, folders)
    keras.config.set_dtype_policy("float32")
    report(celeba, [run_dir / stage for stage in ALL_STAGES], IMAGE_SIZE)
    write_vectors(celeba, last)
