"""What celeba_64.py and celeba_128.py share: the stages of a training."""

import hashlib
import pathlib

import keras
import numpy as np
import pandas as pd
from common import CROP, SEED, draw, split

import facevae_keras as fv
from facevae_keras.metrics import spectral_figures

PHOTO_SIZE = 128  # of the photos that the loss compares, in pixels
LOSS_SIZE = 127  # at 95 pixels, FaceNet can't recognize people
MARGIN = 9 / 8  # room around a photo, to be warped
LAUNCHES = 10  # in each epoch; 50 steps, or 10, are one launch


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


def held_out_photos(celeba, image_size):
    _, _, native = split(celeba)
    few = native["path"].sample(min(160, len(native)), random_state=SEED)
    return fv.load_photos(few, image_size, CROP)[0]


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


def perceptual_loss(facenet, layers, image_size, photos):
    """The loss of FaceNet's layers, each divided by its variance.

    Args:
        facenet: what `fv.load_facenet` takes.
        layers: dictionary of layer names to their weights.
        image_size: see `fv.PerceptualLoss`.
        photos: array; 512 of them show the variances.
    """
    loss = fv.PerceptualLoss(
        fv.load_facenet(facenet),
        layers,
        image_size=image_size,
        weights=layers.values(),
    )
    loss.equalize(photos[:: max(1, len(photos) // 512)][:512])
    return loss


def start_from(vae, file):
    """Takes over the weights of a VAE that was saved.

    Returns:
        The file's digest, a parameter of the training that follows.
    """
    saved = fv.load_vae(file)
    vae.encoder.set_weights(saved.encoder.get_weights())
    vae.decoder.set_weights(saved.decoder.get_weights())
    return hashlib.sha256(file.read_bytes()).hexdigest()


def fit(vae, photos, loss, held_out, run_dir, stage, **parameters):
    """Trains a VAE in one of the stages.

    Args:
        vae: a `fv.FaceVAE`, not compiled.
        photos: uint8 array of those to train on, which are on the device.
        loss: a `fv.PerceptualLoss`.
        held_out: array of photos to show and measure.
        run_dir: folder of the stage.
        stage: dictionary of its `steps`, `steps_per_epoch`, `batch_size` and
            `learning_rate`.
        **parameters: what the training depends on besides.

    Returns:
        The `fv.TrainingRun`, to be finished.
    """
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


def train_decoder(vae, critic, start, photos, loss, held_out, run_dir, stage):
    """A stage that trains the decoder alone, with a patch critic.

    Args:
        vae: dictionary of the arguments of `fv.FaceVAE`.
        critic: those that `fv.PatchCriticVAE` has besides.
        start: folder of the stage to start from.
        photos, loss, held_out, run_dir, stage: as for `fit`.
    """
    vae = fv.PatchCriticVAE(**vae, **critic)
    digest = start_from(vae, start / "vae.keras")
    vae.encoder.trainable = False
    vae.keep_on_device(photos)
    run = fit(
        vae, photos, loss, held_out, run_dir, stage, **critic, start=digest
    )
    run.finish(vae)


def is_complete(folder):
    return (folder / "vae.keras").exists()


def report(celeba, folders, image_size):
    """One table of the figures of all stages, and faces as each draws them.

    Args:
        celeba: folder of the photos.
        folders: of the stages, in order.
        image_size: of the VAE.
    """
    _, _, native = split(celeba)
    people = native.loc[~native["identity"].duplicated()][:8]
    photos, names = fv.load_photos(people["path"], image_size, CROP)
    losses = []
    for folder in folders:
        vae = fv.load_vae(folder / "vae.keras")
        fv.save_picture(
            folder / "faces.png",
            draw(vae, photos, people.loc[names, "identity"]),
        )
        table = pd.read_csv(folder / "losses.csv")
        losses.append(table.assign(stage=folder.name))
    table = pd.concat(losses).set_index("stage")
    table.to_csv(folder.parent / "losses.csv", float_format="%.5g")


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
