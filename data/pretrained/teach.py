"""Teaches a VAE's encoder who is on a photo.

    python data/pretrained/teach.py run/vae.keras CELEBA FACENET taught.keras

FaceNet's embedding of a photo says who it is. Here the encoder learns to put
that into the latent means, so that a linear layer on top of them, which is
thrown away afterwards, can tell the embedding (distillation, Hinton et al.
2015, arXiv 1503.02531). No face is decoded and FaceNet sees every photo of the
folder CELEBA once, so that a step takes a fraction of one with the perceptual
loss, by which the decoder then has to learn to use what is new.
"""

import sys

import keras
import numpy as np
from keras import layers

import facevae_keras as fv

CROP, HELD_OUT, SEED = 0.8, 0.15, 666  # as in the VAEs' training
BATCH_SIZE, EPOCHS, LEARNING_RATE = 64, 45, 2e-3
# Weight of what the latent means move by, squared, against 1 - cosine: they are
# to stay what the decoder knows.
STAY = 0.3


def embeddings(facenet, paths):
    """Who is on the photos: (n, 512)."""
    photos, _ = fv.load_photos(paths, 160, CROP)
    return facenet.predict(photos, batch_size=128, verbose=2)


def jitter():
    """Other photos of the same person, nearly."""
    return keras.Sequential(
        [
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.015, "reflect"),
            layers.RandomZoom((-0.1, 0.1), (-0.1, 0.1), "reflect"),
            layers.RandomTranslation(0.03, 0.03, "reflect"),
            layers.RandomBrightness(0.08),
            layers.RandomContrast(0.12, value_range=(0, 255)),
        ]
    )


def teach(vae, photos, targets):
    """Changes the weights of the encoder; see the top of this file."""
    means_of = keras.Model(
        vae.encoder.input, vae.encoder.outputs[0], name="means_of"
    )
    before = keras.models.clone_model(vae.encoder)
    before.set_weights(vae.encoder.get_weights())
    before.trainable = False

    images = keras.Input(photos.shape[1:])
    jittered = jitter()(images)
    means = means_of(jittered)
    means_before, _ = before(jittered, training=False)
    student = keras.Model(
        images,
        {
            "who": layers.Dense(targets.shape[1], name="who")(means),
            "moved": layers.Subtract(name="moved")([means, means_before]),
        },
    )
    steps = EPOCHS * -(-len(photos) // BATCH_SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE / 100,
        steps - steps // 30,
        warmup_target=LEARNING_RATE,
        warmup_steps=steps // 30,
    )
    student.compile(
        keras.optimizers.Adam(schedule),
        loss={"who": "cosine_similarity", "moved": "mean_squared_error"},
        loss_weights={"who": 1.0, "moved": STAY},
    )
    still = np.zeros((len(photos), vae.latent_dim), "float32")
    student.fit(
        photos,
        {"who": targets, "moved": still},
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        verbose=2,
    )


if __name__ == "__main__":
    source, celeba, facenet, target = sys.argv[1:]
    keras.utils.set_random_seed(SEED)
    vae = fv.load_vae(source)
    facenet = fv.load_facenet(facenet)
    training, _ = fv.split_images(fv.find_images(celeba), HELD_OUT, SEED)
    photos, names = fv.load_photos(training["path"], vae.image_size, CROP)
    teach(vae, photos, embeddings(facenet, training.loc[names, "path"]))
    vae.save(target)
