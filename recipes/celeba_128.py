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

import hashlib
import pathlib
import sys

import keras
import numpy as np
import pandas as pd
from common import CROP, LAYERS, SEED, draw, split
from ship import ship

import facevae_keras as fv
from facevae_keras.metrics import spectral_figures

NAME = "celeba_residual_vae"
VAE = {"architecture": "residual_vae", "latent_dim": 200, "beta": 1500.0}
IMAGE_SIZE = 128
LOSS_SIZE = 127  # pixels; at 95, FaceNet can't recognize people
MARGIN = 9 / 8  # room around a photo, to be warped
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
LAUNCHES = 10  # in each epoch; 50 steps, or 10, are one launch
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


class Figures(keras.callbacks.Callback):
    """Adds figures of held-out faces to the losses of each epoch.

    PSNR, the weave, and the power of the reconstructions over that of the
    photos at some frequencies. `TrainingRun` writes what it finds in `logs` to
    `losses.csv`.
    """

    def __init__(self, photos):
        super().__init__()
        self.photos = photos

    def on_epoch_end(self, epoch, logs=None):
        logs.update(figures(self.model, self.photos))


def figures(vae, photos):
    """Dictionary: `psnr` in dB, and what `spectral_figures` returns."""
    drawn = np.clip(vae.reconstruct(photos), 0, 255)
    error = np.square(drawn - photos).mean()
    psnr = 10 * np.log10(255**2 / error)
    return {"psnr": psnr, **spectral_figures(photos, drawn)}


def held_out_photos(celeba):
    _, _, native = split(celeba)
    few = native["path"].sample(min(160, len(native)), random_state=SEED)
    return fv.load_photos(few, IMAGE_SIZE, CROP)[0]


def training_paths(celeba, folders):
    """Paths of the training photos, a Series.

    Without the people of CELEBA who are held out, and without 5 % of the people
    of each of `folders`.
    """
    training, held_out, _ = split(celeba)
    paths = [training["path"]]
    for folder in folders:
        more, _ = fv.split_images(fv.find_images(folder), 0.05, SEED)
        is_held_out = more["identity"].isin(held_out["identity"])
        paths.append(more.loc[~is_held_out, "path"])
    return pd.concat(paths)


def fit(vae, photos, loss, held_out, run_dir, **parameters):
    """Trains a VAE in one of the stages.

    Args:
        vae: a `fv.FaceVAE`, not compiled.
        photos: uint8 array of those to train on, which are on the device.
        loss: a `fv.PerceptualLoss`.
        held_out: array of photos to show and measure.
        run_dir: folder of the stage, which has its name.
        **parameters: what the training depends on besides.

    Returns:
        The `fv.TrainingRun`, to be finished.
    """
    stage = STAGES[run_dir.name]
    steps, per_epoch = stage["steps"], stage["steps_per_epoch"]
    critic = isinstance(vae, fv.PatchCriticVAE)
    schedule = fv.warm_up_cosine(
        stage["learning_rate"], steps, steps // (40 if critic else 20)
    )
    adam = keras.optimizers.Adam(schedule, beta_1=0.5 if critic else 0.9)
    vae.compile(adam, loss=loss)
    run = fv.TrainingRun(
        run_dir, {**stage, "photos": len(photos), **parameters}
    )
    run.fit(
        vae,
        fv.index_batches(
            len(photos),
            stage["batch_size"],
            True,
            per_epoch // LAUNCHES,
            SEED,
        ),
        steps,
        per_epoch,
        callbacks=[
            fv.ReconstructionPictures(
                held_out[:16], run_dir / "pictures", per_epoch
            ),
            Figures(held_out),
        ],
    )
    return run


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
    run = fit(vae, photos, loss, held_out, run_dir, **VAE)
    vae.standardize_latents(sharp)
    run.finish(vae)


def train_with_critic(start, sharp, loss, held_out, run_dir):
    """The second stage and the fourth.

    Args:
        start: folder of the stage to start from.
        sharp, loss, held_out, run_dir: as for `train_features`.
    """
    first = start / "vae.keras"
    trained = fv.load_vae(first)
    critic = CRITICS[run_dir.name]
    vae = fv.PatchCriticVAE(**VAE, **critic)
    vae.encoder.set_weights(trained.encoder.get_weights())
    vae.decoder.set_weights(trained.decoder.get_weights())
    vae.encoder.trainable = False
    vae.keep_on_device(sharp)
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    run = fit(vae, sharp, loss, held_out, run_dir, **critic, start=digest)
    run.finish(vae)


def train(celeba, facenet, run_dir, folders):
    """All stages, each in its own folder in `run_dir`."""
    keras.utils.set_random_seed(SEED)
    keras.config.set_dtype_policy(fv.fastest_precision())
    paths = training_paths(celeba, folders)
    enlarged = paths.str.contains("img_align_celeba_half/")
    sharp, _ = fv.load_photos(paths[~enlarged], IMAGE_SIZE, CROP)
    held_out = held_out_photos(celeba)
    loss = fv.PerceptualLoss(
        fv.load_facenet(facenet),
        LAYERS,
        image_size=LOSS_SIZE,
        weights=LAYERS.values(),
    )
    loss.equalize(sharp[:: max(1, len(sharp) // 512)][:512])
    features, detail, mean, fine, final = (
        run_dir / stage for stage in ALL_STAGES
    )
    if not is_complete(features):
        train_features(paths, sharp, loss, held_out, features)
    if not is_complete(detail):
        train_with_critic(features, sharp, loss, held_out, detail)
    if not is_complete(mean):
        mix(features, detail, held_out, mean)
    if not is_complete(fine):
        train_with_critic(mean, sharp, loss, held_out, fine)
    if not is_complete(final):
        mix(mean, fine, held_out, final)


def is_complete(folder):
    return (folder / "vae.keras").exists()


def report(celeba, run_dir):
    """One table of the figures of all stages, and faces as each draws them."""
    _, _, native = split(celeba)
    people = native.loc[~native["identity"].duplicated()][:8]
    photos, names = fv.load_photos(people["path"], IMAGE_SIZE, CROP)
    losses = []
    for stage in ALL_STAGES:
        vae = fv.load_vae(run_dir / stage / "vae.keras")
        fv.save_picture(
            run_dir / stage / "faces.png",
            draw(vae, photos, people.loc[names, "identity"]),
        )
        figures_of_stage = pd.read_csv(run_dir / stage / "losses.csv")
        losses.append(figures_of_stage.assign(stage=stage))
    table = pd.concat(losses).set_index("stage")
    table.to_csv(run_dir / "losses.csv", float_format="%.5g")


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


def write_vectors(celeba, run_dir):
    """The latent variables, labels and vectors of CELEBA's training photos."""
    training, _, _ = split(celeba)
    labels = fv.read_attributes(pathlib.Path(celeba) / "list_attr_celeba.txt")
    vae = fv.load_vae(run_dir / "vae.keras")
    latents = fv.encode_images(vae, training["path"], CROP)
    fv.save_attributes(
        run_dir / "attribute_vectors.h5",
        latents,
        labels.loc[latents.index],
        fv.attribute_vectors(latents, labels),
    )


if __name__ == "__main__":
    celeba, facenet, run_dir, *folders = sys.argv[1:]
    run_dir = pathlib.Path(run_dir)
    if not is_complete(run_dir / "final"):
        train(celeba, facenet, run_dir, folders)
    keras.config.set_dtype_policy("float32")
    report(celeba, run_dir)
    write_vectors(celeba, run_dir / "final")
    ship(run_dir / "final", NAME, celeba)
