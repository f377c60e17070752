"""Trains celeba_residual_vae, from nothing to what ships.

    python recipes/celeba_128.py CELEBA FACENET run/celeba_128 [ALIGNED ...]

FACENET is what `fv.load_facenet` takes, such as 20180402-114759.

1. `features`: encoder and decoder, with pixels and FaceNet's features, on the
   training photos of the folder CELEBA and of ALIGNED, folders that
   `fv.align_folder` wrote. They are warped and blended, differently each time.
2. `detail`: the decoder alone, with a patch critic besides, on the full-size
   photos; enlarged photos have no detail to learn from. Latent variables stay
   those of the first stage.
3. `mean`: a part of the way from the first decoder to the second, whose layers
   below 64 pixels draw outlines along cheeks: of these little is taken.
4. `fine`: the decoder alone again. The score of a new critic changes only the
   layers from 64 pixels on, and the critic learns faster than the decoder.
5. `final`: a part of the way from the third decoder to the fourth, which is a
   little too sharp.

Then come the latent variables and attribute vectors of CELEBA's training
photos, and what ships. A stage that was stopped goes on where it was, and one
that is complete is skipped. So the first two can run on a machine with a GPU,
where they took seven minutes, and the others elsewhere, on a copy of
`run/celeba_128`: 20 minutes on two cores with bfloat16. `losses.csv` and the
folder `pictures` in the folder of a stage show how far it is.
"""

import pathlib
import sys

import keras
import pandas as pd
from common import CROP, LAYERS, SEED
from ship import ship
from training import (
    LOSS_SIZE,
    MARGIN,
    figures,
    fit,
    held_out_photos,
    is_complete,
    perceptual_loss,
    report,
    train_decoder,
    training_paths,
    write_vectors,
)

import facevae_keras as fv

NAME = "celeba_residual_vae"
VAE = {"architecture": "residual_vae", "latent_dim": 200, "beta": 1500.0}
IMAGE_SIZE = 128
STAGES = {
    "features": {
        "steps": 6000,
        "steps_per_epoch": 500,
        "batch_size": 128,
        "learning_rate": 1e-3,
    },
    "detail": {
        "steps": 1500,
        "steps_per_epoch": 500,
        "batch_size": 128,
        "learning_rate": 4e-4,
    },
    "fine": {
        "steps": 700,
        "steps_per_epoch": 100,
        "batch_size": 32,
        "learning_rate": 4e-4,
    },
}
FINE_LAYERS = "Conv2d_4", "Conv2d_5", "Conv2d_6"  # 64 pixels and more
CRITICS = {
    "detail": {"share": 0.5, "warm_up_steps": 150},
    "fine": {
        "share": 0.4,
        "warm_up_steps": 200,
        "largest_weight": 4000.0,
        "decoder_rate": 0.25,
        "judged_layers": FINE_LAYERS,
    },
}
# How far to go from one decoder to the next: in the layers below 64 pixels, and
# in those that follow.
SHARES = {"mean": (0.3, 0.8), "final": (0.75, 0.75)}
ALL_STAGES = "features", "detail", "mean", "fine", "final"


def train_features(paths, sharp, loss, held_out, run_dir):
    """The first stage.

    Args:
        paths: of the photos to train on.
        sharp: array of those that aren't enlarged.
        loss, held_out, run_dir: as for `fit`.
    """
    vae = fv.FaceVAE(**VAE)
    photos, _ = fv.load_photos(paths, round(MARGIN * IMAGE_SIZE), MARGIN * CROP)
    vae.keep_on_device(photos, warped_size=IMAGE_SIZE, blend=True)
    stage = STAGES[run_dir.name]
    run = fit(vae, photos, loss, held_out, run_dir, stage, **VAE)
    vae.standardize_latents(sharp)
    run.finish(vae)


def train(celeba, facenet, run_dir, folders):
    """All stages, each in its own folder in `run_dir`."""
    keras.utils.set_random_seed(SEED)
    keras.config.set_dtype_policy(fv.fastest_precision())
    paths = training_paths(celeba, folders)
    enlarged = paths.str.contains("img_align_celeba_half/")
    sharp, _ = fv.load_photos(paths[~enlarged], IMAGE_SIZE, CROP)
    held_out = held_out_photos(celeba, IMAGE_SIZE)
    loss = perceptual_loss(facenet, LAYERS, LOSS_SIZE, sharp)
    features, detail, mean, fine, final = (
        run_dir / stage for stage in ALL_STAGES
    )

    def train_with_critic(start, run_dir):
        name = run_dir.name
        critic, stage = CRITICS[name], STAGES[name]
        train_decoder(VAE, critic, start, sharp, loss, held_out, run_dir, stage)

    if not is_complete(features):
        train_features(paths, sharp, loss, held_out, features)
    if not is_complete(detail):
        train_with_critic(features, detail)
    if not is_complete(mean):
        mix(features, detail, held_out, mean)
    if not is_complete(fine):
        train_with_critic(mean, fine)
    if not is_complete(final):
        mix(mean, fine, held_out, final)


def mix(first, second, held_out, run_dir):
    """The third stage and the fifth.

    A part of the way from one decoder to the other, each weight for itself, as
    in Wang et al. 2018 (arXiv 1809.00219), section 3.4: the second decoder
    started from the first, so that all between them are decoders, too.
    """
    vae, other = (
        fv.load_vae(folder / "vae.keras") for folder in (first, second)
    )
    coarse, fine = SHARES[run_dir.name]
    for layer in vae.decoder.layers:
        share = fine if layer.name.startswith(FINE_LAYERS) else coarse
        pairs = zip(
            layer.get_weights(),
            other.decoder.get_layer(layer.name).get_weights(),
            strict=True,
        )
        layer.set_weights([(1 - share) * a + share * b for a, b in pairs])
    run_dir.mkdir(exist_ok=True)
    pd.DataFrame([figures(vae, held_out)]).to_csv(
        run_dir / "losses.csv", index=False, float_format="%.5g"
    )
    vae.save(run_dir / "vae.keras")


if __name__ == "__main__":
    celeba, facenet, run_dir, *folders = sys.argv[1:]
    run_dir = pathlib.Path(run_dir)
    if not is_complete(run_dir / "final"):
        train(celeba, facenet, run_dir, folders)
    keras.config.set_dtype_policy("float32")
    report(celeba, [run_dir / stage for stage in ALL_STAGES], IMAGE_SIZE)
    write_vectors(celeba, run_dir / "final")
    ship(run_dir / "final", NAME, celeba)
