"""Adds fine detail to a trained dfc_vae_large, with a patch critic.

    python recipes/add_detail.py run/celeba_dfc_vae_large_3/vae.keras CELEBA \
        FACENET run/detail [ALIGNED ...]

makes a `dfc_vae_detailed` of the trained VAE and trains the branch that is new;
the rest stays as it is, so that latent variables and attribute vectors stay
those of the trained VAE. It trains on the full-size photos of the folder
CELEBA, those in `img_align_celeba/`, and on those of ALIGNED, a folder that
`fv.align_folder` wrote; enlarged photos have no detail to learn from. Writes
`run/detail/vae.keras`; `losses.csv` and the folder `pictures` there show how
far it is. Stopped, it goes on where it was. The card says how the training of
what ships differed.
"""

import sys

import keras
import numpy as np
import pandas as pd
from common import CROP, LAYERS, SEED, split

import facevae_keras as fv
from facevae_keras.metrics import spectral_figures

# (BETA is that of the other recipes. The encoder is not trained, so it changes
# the losses that are printed and nothing else.)
BETA, STEPS, BATCH_SIZE, LEARNING_RATE, SHARE = 1500.0, 2400, 32, 4e-4, 0.5


class Spectra(keras.callbacks.Callback):
    """Adds figures of held-out faces to the losses of each epoch.

    The weave, and the power of the reconstructions over that of the photos at
    some frequencies. `TrainingRun` writes what it finds in `logs` to
    `losses.csv`.
    """

    def __init__(self, photos):
        super().__init__()
        self.photos = photos

    def on_epoch_end(self, epoch, logs=None):
        drawn = np.clip(self.model.reconstruct(self.photos), 0, 255)
        logs.update(spectral_figures(self.photos, drawn))


def detailed(trained):
    """A `PatchCriticVAE` that draws as `trained` does, with a new branch."""
    vae = fv.PatchCriticVAE(
        "dfc_vae_detailed",
        trained.latent_dim,
        beta=BETA,
        smooth_output=True,
        share=SHARE,
    )
    vae.encoder.set_weights(trained.encoder.get_weights())
    vae.encoder.trainable = False
    for layer in vae.decoder.layers:
        if not layer.name.startswith("Detail"):
            layer.trainable = False
            if layer.weights:
                own = trained.decoder.get_layer(layer.name)
                layer.set_weights(own.get_weights())
    return vae


if __name__ == "__main__":
    source, celeba, facenet, run_dir = sys.argv[1:5]
    keras.utils.set_random_seed(SEED)
    keras.config.set_dtype_policy(fv.fastest_precision())
    training, held_out, native = split(celeba)
    full_size = training["path"].str.contains("img_align_celeba/")
    paths = [training.loc[full_size, "path"]]
    for folder in sys.argv[5:]:
        more, _ = fv.split_images(fv.find_images(folder), 0.05, SEED)
        paths.append(more["path"])
    vae = detailed(fv.load_vae(source))
    photos, _ = fv.load_photos(pd.concat(paths), vae.image_size, CROP)
    held_out_photos, _ = fv.load_photos(
        native["path"].sample(160, random_state=SEED), vae.image_size, CROP
    )
    loss = fv.PerceptualLoss(
        fv.load_facenet(facenet),
        LAYERS,
        image_size=vae.image_size,
        weights=LAYERS.values(),
    )
    loss.equalize(photos[:: max(1, len(photos) // 500)])
    schedule = fv.warm_up_cosine(LEARNING_RATE, STEPS, 50)
    vae.compile(keras.optimizers.Adam(schedule, beta_1=0.5), loss=loss)
    run = fv.TrainingRun(
        run_dir, {"source": source, "steps": STEPS, "photos": len(photos)}
    )
    run.fit(
        vae,
        fv.photo_batches(photos, BATCH_SIZE, flip=True, seed=SEED),
        STEPS,
        100,
        callbacks=[
            fv.ReconstructionPictures(
                held_out_photos[:16], f"{run_dir}/pictures", 100
            ),
            Spectra(held_out_photos),
        ],
    )
    run.finish(vae)
