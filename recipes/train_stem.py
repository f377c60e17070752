"""Trains FaceNet's stem on CelebA: the perceptual network that ships.

    python recipes/train_stem.py CELEBA [epochs]

The layers through Conv2d_4b_3x3 learn to tell two things of a photo of the
folder CELEBA: its 40 attributes, and who it is, among the people with ten
photos or more. What sits on top of the stem is thrown away afterwards. Writes
`facevae_keras/pretrained/facenet_stem.keras`, which
`fv.load_facenet("built-in")` loads.
"""

import pathlib
import sys

import keras
import numpy as np
import pandas as pd
from common import CROP, SEED, split
from ship import write_compressed

import facevae_keras as fv
from facevae_keras.files import pretrained_file

SIZE, BATCH_SIZE, LEARNING_RATE = 95, 64, 2e-3
LEAST_PHOTOS = 10  # of a person, to be learnt


def network(attributes, people):
    """The stem, and the classifier that it is trained in."""
    facenet = fv.load_facenet("seeded")
    stem = keras.Model(facenet.input, facenet.get_layer("Conv2d_4b_3x3").output)
    x = keras.layers.Conv2D(256, 3, strides=2, use_bias=False)(stem.output)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    x = keras.layers.Dropout(0.3)(x)
    outputs = {
        "attributes": keras.layers.Dense(
            attributes, "sigmoid", name="attributes"
        )(x),
        "people": keras.layers.Dense(people, "softmax", name="people")(x),
    }
    return stem, keras.Model(stem.input, outputs)


def batches(photos, labels, numbers):
    """Shuffled batches without end, half of them mirrored.

    Someone with too few photos has number -1, and weight 0 among the people.
    """
    random = np.random.default_rng(SEED)
    while True:
        order = random.permutation(len(photos))
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            rows = np.sort(order[start : start + BATCH_SIZE])
            x = photos[rows]
            mirrored = random.random(len(x)) < 0.5
            x[mirrored] = x[mirrored, :, ::-1]
            known = (numbers[rows] >= 0).astype("float32")
            yield (
                x,
                {
                    "attributes": labels[rows],
                    "people": np.maximum(numbers[rows], 0),
                },
                {"attributes": np.ones_like(known), "people": known},
            )


def train(celeba, epochs):
    keras.utils.set_random_seed(SEED)
    training, held_out, _ = split(celeba)
    attributes = fv.read_attributes(celeba / "list_attr_celeba.txt")
    counts = training["identity"].value_counts()
    people = pd.Index(counts.index[counts >= LEAST_PHOTOS])
    print(f"{len(training)} photos, {len(people)} people to be learnt")

    photos, names = fv.load_photos(training["path"], SIZE, CROP)
    labels = (attributes.loc[names] == 1).to_numpy("float32")
    numbers = people.get_indexer(training.loc[names, "identity"])
    held_out_photos, names = fv.load_photos(held_out["path"], SIZE, CROP)
    held_out_labels = (attributes.loc[names] == 1).to_numpy("float32")

    stem, classifier = network(labels.shape[1], len(people))
    steps = len(photos) // BATCH_SIZE
    schedule = fv.warm_up_cosine(LEARNING_RATE, epochs * steps, steps)
    classifier.compile(
        keras.optimizers.Adam(schedule),
        loss={
            "attributes": "binary_crossentropy",
            "people": "sparse_categorical_crossentropy",
        },
        # The people's loss is a mean over all photos, of which a third counts.
        loss_weights={"attributes": 4.0, "people": 1.0},
        weighted_metrics={
            "attributes": "binary_accuracy",
            "people": "sparse_categorical_accuracy",
        },
        jit_compile=False,
    )
    classifier.fit(
        batches(photos, labels, numbers),
        epochs=epochs,
        steps_per_epoch=steps,
        verbose=2,
    )
    seen = classifier.predict(held_out_photos, verbose=0)["attributes"] > 0.5
    share = held_out_labels.mean(axis=0)
    print(
        "attributes of held-out people, accuracy: "
        f"{(seen == held_out_labels).mean():.4f}; always the more frequent "
        f"answer: {np.maximum(share, 1 - share).mean():.4f}"
    )
    return stem


if __name__ == "__main__":
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    stem = train(pathlib.Path(sys.argv[1]), epochs)
    write_compressed(stem, pretrained_file("facenet_stem.keras"))
