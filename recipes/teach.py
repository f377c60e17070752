"""Teaches a VAE's encoder who is on a photo.

    python recipes/teach.py run/vae.keras CELEBA FACENET taught.keras

FaceNet's embedding of a photo says who it is. Here the encoder learns to put
that into the latent means, so that a linear layer on top of them, which is
thrown away afterwards, can tell the embedding (distillation, Hinton et al.
2015, arXiv 1503.02531). No face is decoded, so that a step takes a fraction of
one with the perceptual loss, by which the decoder then has to learn to use
what is new.

A few thousand people would be learnt by heart. So the photos of the folder
CELEBA are bent, and half of them are given parts of another face, and FaceNet
says of each what it has become (the patience is from Beyer et al. 2022, arXiv
2106.05237).
"""

import itertools
import sys

import keras
import numpy as np
from common import CROP, SEED, split
from keras import layers

import facevae_keras as fv

MARGIN = 9 / 8  # room around a photo, to be bent
VIEWS, STEPS, BATCH_SIZE, LEARNING_RATE = 60_000, 5000, 64, 2e-3
# Weight of what the latent means move by, squared, against 1 - cosine: they are
# to stay what the decoder knows.
STAY = 0.3


def view_and_judge(facenet, photos, image_size, batch_size=125):
    """Bent and blended photos, uint8, and FaceNet's embeddings of them."""
    bent_size = round(photos.shape[1] / MARGIN)
    batches = fv.photo_batches(
        photos, batch_size, True, SEED, bent_size, blend=True
    )
    views, targets = [], []
    for (batch,) in itertools.islice(batches, VIEWS // batch_size):
        targets.append(facenet.predict_on_batch(batch))
        small = fv.scale_images(batch.astype("float32"), image_size)
        views.append(np.uint8(np.round(small)))
    return np.concatenate(views), np.concatenate(targets)


def teach(vae, views, targets):
    """Changes the weights of the encoder; see the top of this file."""
    means_of = keras.Model(
        vae.encoder.input, vae.encoder.outputs[0], name="means_of"
    )
    before = keras.models.clone_model(vae.encoder)
    before.set_weights(vae.encoder.get_weights())
    before.trainable = False

    images = keras.Input(views.shape[1:])
    lit = layers.RandomBrightness(0.08)(images)
    lit = layers.RandomContrast(0.12, value_range=(0, 255))(lit)
    means = means_of(lit)
    means_before, _ = before(lit, training=False)
    student = keras.Model(
        images,
        {
            "who": layers.Dense(targets.shape[1], name="who")(means),
            "moved": layers.Subtract(name="moved")([means, means_before]),
        },
    )
    schedule = fv.warm_up_cosine(LEARNING_RATE, STEPS, STEPS // 30)
    student.compile(
        keras.optimizers.Adam(schedule),
        loss={"who": "cosine_similarity", "moved": "mean_squared_error"},
        loss_weights={"who": 1.0, "moved": STAY},
    )
    still = np.zeros((len(views), vae.latent_dim), "float32")
    student.fit(
        views,
        {"who": targets, "moved": still},
        batch_size=BATCH_SIZE,
        epochs=round(STEPS * BATCH_SIZE / len(views)),
        verbose=2,
    )


if __name__ == "__main__":
    source, celeba, facenet, target = sys.argv[1:]
    keras.utils.set_random_seed(SEED)
    vae = fv.load_vae(source)
    facenet = fv.load_facenet(facenet)
    training, _, _ = split(celeba)
    photos, _ = fv.load_photos(
        training["path"], round(160 * MARGIN), CROP * MARGIN
    )
    teach(vae, *view_and_judge(facenet, photos, vae.image_size))
    vae.save(target)
