"""Teaches a VAE's encoder who is on a photo.

    python recipes/teach.py run/vae.keras CELEBA FACENET taught.keras

FaceNet's embedding of a photo says who it is. Here the encoder learns to put
that into the latent means: a linear layer on top of them, which is thrown away
afterwards, learns to predict the embedding (distillation, Hinton et al. 2015,
arXiv 1503.02531). No face is decoded, so a step takes a fraction of one with
the perceptual loss, by which the decoder then has to learn to use what is new.

The encoder would overfit to a few thousand people. So half of the photos are
given parts of another face, and FaceNet computes the embeddings of the results
(the patience is from Beyer et al. 2022, arXiv 2106.05237); they are warped,
differently at each step.
"""

import itertools
import sys

import keras
import numpy as np
import pandas as pd
from common import CROP, SEED, split
from keras import layers
from training import MARGIN

import facevae_keras as fv
from facevae_keras.augment import warp_photos

FACENET_SIZE = 160  # pixels, of the photos whose embeddings are taught
VIEWS, EPOCHS, BATCH_SIZE, LEARNING_RATE = 60_000, 8, 64, 2e-3
# Weight of the squared change of the latent means against 1 - cosine: the
# decoder has to understand them still.
STAY = 0.3


class Warp(layers.Layer):
    """Warps photos, each differently at each step."""

    def __init__(self, size, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.size = size
        self.seed_generator = keras.random.SeedGenerator(SEED)

    def call(self, photos):
        return warp_photos(photos, self.size, self.seed_generator)


def views_and_embeddings(facenet, photos, image_size, count, blend):
    """Photos with room around them, and FaceNet's embeddings of their middle.

    Args:
        facenet: the model.
        photos: uint8 array (n, size, size, 3), with the room.
        image_size: of the VAE.
        count: how many views; photos are mirrored and, if `blend`, blended
            differently each time.
        blend: see `fv.photo_batches`.

    Returns:
        uint8 array (count, ...) of views that are `MARGIN` times as large as
        the VAE's images, and the embeddings (count, 512).
    """
    size = round(photos.shape[1] / MARGIN)
    room = (photos.shape[1] - size) // 2
    batch_size = min(125, len(photos))
    batches = fv.photo_batches(photos, batch_size, True, SEED, blend=blend)
    views, embeddings = [], []
    for (batch,) in itertools.islice(batches, -(-count // batch_size)):
        middle = batch[:, room : room + size, room : room + size]
        embeddings.append(facenet.predict_on_batch(middle))
        small = fv.scale_images(
            batch.astype("float32"), round(MARGIN * image_size)
        )
        views.append(np.uint8(np.round(small)))
    return np.concatenate(views)[:count], np.concatenate(embeddings)[:count]


def teach(vae, training, held_out):
    """Changes the weights of the encoder; see the top of this file.

    Args:
        vae: a `fv.FaceVAE`.
        training, held_out: each a pair from `views_and_embeddings`.

    Returns:
        DataFrame of the losses of each epoch, of training and held-out photos.
    """
    means_of = keras.Model(vae.encoder.input, vae.encoder.outputs[0])
    before = keras.models.clone_model(vae.encoder)
    before.set_weights(vae.encoder.get_weights())
    before.trainable = False

    views, embeddings = training
    photos = keras.Input(views.shape[1:], name="photos")
    images = Warp(vae.image_size)(photos)
    images = layers.RandomFlip("horizontal", dtype="float32")(images)
    images = layers.RandomBrightness(0.08, dtype="float32")(images)
    images = layers.RandomContrast(0.12, value_range=(0, 255), dtype="float32")(
        images
    )
    means = means_of(images)
    means_before, _ = before(images, training=False)
    student = keras.Model(
        photos,
        {
            "embedding": layers.Dense(
                embeddings.shape[1], dtype="float32", name="embedding"
            )(means),
            "change": layers.Subtract(dtype="float32", name="change")(
                [means, means_before]
            ),
        },
    )
    steps = EPOCHS * len(views) // BATCH_SIZE
    schedule = fv.warm_up_cosine(LEARNING_RATE, steps, steps // 30)
    student.compile(
        keras.optimizers.Adam(schedule),
        loss={"embedding": "cosine_similarity", "change": "mean_squared_error"},
        loss_weights={"embedding": 1.0, "change": STAY},
    )

    def targets(embeddings):
        change = np.zeros((len(embeddings), vae.latent_dim), "float32")
        return {"embedding": embeddings, "change": change}

    history = student.fit(
        views,
        targets(embeddings),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        validation_data=(held_out[0], targets(held_out[1])),
        verbose=2,
    )
    return pd.DataFrame(history.history)


def teach_from(paths, held_out_paths, facenet, vae):
    """Loads photos, asks FaceNet about them, and teaches.

    Args:
        paths: Series of those to teach with.
        held_out_paths: Series of those that measure what was learnt.
        facenet: what `fv.load_facenet` takes.
        vae: a `fv.FaceVAE`, whose encoder changes.

    Returns:
        As `teach`.
    """
    facenet = fv.load_facenet(facenet)
    size = round(MARGIN * FACENET_SIZE)
    pairs = []
    for some, count, blend in (
        (paths, VIEWS, True),
        (held_out_paths, len(held_out_paths), False),
    ):
        photos, _ = fv.load_photos(some, size, MARGIN * CROP)
        pairs.append(
            views_and_embeddings(facenet, photos, vae.image_size, count, blend)
        )
    return teach(vae, *pairs)


if __name__ == "__main__":
    source, celeba, facenet, target = sys.argv[1:]
    keras.utils.set_random_seed(SEED)
    vae = fv.load_vae(source)
    training, _, native = split(celeba)
    teach_from(training["path"], native["path"], facenet, vae)
    vae.save(target)
