"""Trains celeba_residual_vae, from nothing to what ships.

    python recipes/celeba_128.py CELEBA FACENET run/celeba_128 [ALIGNED ...]

1. `features`: encoder and decoder, with pixels and FaceNet's features, on the
   training photos of the folder CELEBA and of ALIGNED, folders that
   `fv.align_folder` wrote. They are warped and blended, differently each time.
2. `detail`: the decoder alone, with a patch critic besides, on the full-size
   photos; enlarged photos have no detail to learn from. Latent variables stay
   those of the first stage.
3. A mean of both decoders; the latent variables and attribute vectors of
   CELEBA's training photos; what ships.

A stage that was stopped goes on where it was, and one that is complete is
skipped. So the first two can run on a machine with a GPU, where they took seven
minutes, and the third elsewhere, on a copy of `run/celeba_128`. `losses.csv`
and the folder `pictures` in the folder of a stage show how far it is.
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
IMAGE_SIZE, BATCH_SIZE = 128, 128
LOSS_SIZE = 127  # pixels; at 95, FaceNet can't recognize people
MARGIN = 9 / 8  # room around a photo, to be warped
STEPS, LEARNING_RATE = 6000, 1e-3
DETAIL_STEPS, DETAIL_RATE = 1500, 4e-4
CRITIC = {"share": 0.5, "warm_up_steps": 150}
# How far to go from the first stage's decoder to the second's: in the layers
# below 64 pixels, which draw outlines along cheeks, and in those that follow.
COARSE_SHARE, FINE_SHARE = 0.3, 0.8
FINE_LAYERS = "Conv2d_4", "Conv2d_5", "Conv2d_6"
PER_LAUNCH, PER_EPOCH = 50, 500


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
    drawn = np.clip(vae.reconstruct(photos), 0, 255)
    error = np.square(drawn - photos).mean()
    psnr = 10 * np.log10(255**2 / error)
    return {"psnr": psnr, **spectral_figures(photos, drawn)}


def held_out_photos(celeba):
    _, _, native = split(celeba)
    few = native["path"].sample(min(160, len(native)), random_state=SEED)
    return fv.load_photos(few, IMAGE_SIZE, CROP)[0]


def training_paths(celeba, folders):
    """Paths of the training photos, a Series; nobody's who is held out.

    Of each folder besides, 5 % of the people are held out, too.
    """
    training, held_out, _ = split(celeba)
    paths = [training["path"]]
    for folder in folders:
        more, _ = fv.split_images(fv.find_images(folder), 0.05, SEED)
        known = more["identity"].isin(held_out["identity"])
        paths.append(more.loc[~known, "path"])
    return pd.concat(paths)


def fit(vae, photos, steps, run, held_out):
    run.fit(
        vae,
        fv.index_batches(len(photos), BATCH_SIZE, True, PER_LAUNCH, SEED),
        steps,
        PER_EPOCH,
        callbacks=[
            fv.ReconstructionPictures(
                held_out[:16], run.run_dir / "pictures", PER_EPOCH
            ),
            Figures(held_out),
        ],
    )


def train_features(paths, sharp, loss, held_out, run_dir):
    """The first stage; returns the VAE.

    Args:
        paths: of the photos to train on.
        sharp: array of those that aren't enlarged.
        loss: a `fv.PerceptualLoss`.
        held_out: array of photos to show and measure.
        run_dir: folder of this stage.
    """
    vae = fv.FaceVAE(**VAE)
    schedule = fv.warm_up_cosine(LEARNING_RATE, STEPS, STEPS // 20)
    vae.compile(keras.optimizers.Adam(schedule), loss=loss)
    photos, _ = fv.load_photos(paths, round(MARGIN * IMAGE_SIZE), MARGIN * CROP)
    vae.keep_on_device(photos, warped_size=IMAGE_SIZE, blend=True)
    run = fv.TrainingRun(
        run_dir,
        {
            **VAE,
            "steps": STEPS,
            "learning_rate": LEARNING_RATE,
            "photos": len(photos),
        },
    )
    fit(vae, photos, STEPS, run, held_out)
    if not run.finished:
        vae.standardize_latents(sharp)
        run.finish(vae)
    return vae


def train_detail(trained, sharp, loss, held_out, run_dir):
    """The second stage, which starts from the VAE of the first."""
    vae = fv.PatchCriticVAE(**VAE, **CRITIC)
    vae.encoder.set_weights(trained.encoder.get_weights())
    vae.decoder.set_weights(trained.decoder.get_weights())
    vae.encoder.trainable = False
    schedule = fv.warm_up_cosine(DETAIL_RATE, DETAIL_STEPS, DETAIL_STEPS // 40)
    vae.compile(keras.optimizers.Adam(schedule, beta_1=0.5), loss=loss)
    vae.keep_on_device(sharp)
    first_stage = run_dir.with_name("features") / "vae.keras"
    run = fv.TrainingRun(
        run_dir,
        {
            **CRITIC,
            "steps": DETAIL_STEPS,
            "learning_rate": DETAIL_RATE,
            "photos": len(sharp),
            "from": hashlib.sha256(first_stage.read_bytes()).hexdigest(),
        },
    )
    fit(vae, sharp, DETAIL_STEPS, run, held_out)
    run.finish(vae)


def train(celeba, facenet, run_dir, folders):
    """The first two stages, each in its own folder in `run_dir`."""
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
    vae = train_features(paths, sharp, loss, held_out, run_dir / "features")
    train_detail(vae, sharp, loss, held_out, run_dir / "detail")


def mix(celeba, run_dir):
    """Goes a part of the way from one decoder to the other.

    Each weight for itself, as in Wang et al. 2018 (arXiv 1809.00219), section
    3.4: the second decoder started from the first, so that all between them
    are decoders, too. `losses.csv` in `run_dir` gets what all stages wrote,
    and the figures of the mean; `features_faces.png` shows the first decoder.
    """
    vae, detailed = (
        fv.load_vae(run_dir / stage / "vae.keras")
        for stage in ("features", "detail")
    )
    _, _, native = split(celeba)
    people = native.loc[~native["identity"].duplicated()][:8]
    photos, names = fv.load_photos(people["path"], IMAGE_SIZE, CROP)
    fv.save_picture(
        run_dir / "features_faces.png",
        draw(vae, photos, people.loc[names, "identity"]),
    )
    for layer in vae.decoder.layers:
        fine = layer.name.startswith(FINE_LAYERS)
        share = FINE_SHARE if fine else COARSE_SHARE
        pairs = zip(
            layer.get_weights(),
            detailed.decoder.get_layer(layer.name).get_weights(),
            strict=True,
        )
        layer.set_weights([(1 - share) * a + share * b for a, b in pairs])
    vae.save(run_dir / "vae.keras")
    losses = [
        pd.read_csv(run_dir / stage / "losses.csv").assign(stage=stage)
        for stage in ("features", "detail")
    ]
    of_mean = {"stage": "mean", **figures(vae, held_out_photos(celeba))}
    pd.concat([*losses, pd.DataFrame([of_mean])]).set_index("stage").to_csv(
        run_dir / "losses.csv", float_format="%.5g"
    )


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
    if not (run_dir / "detail" / "vae.keras").exists():
        train(celeba, facenet, run_dir, folders)
    keras.config.set_dtype_policy("float32")
    mix(celeba, run_dir)
    write_vectors(celeba, run_dir)
    ship(run_dir, NAME, celeba)
