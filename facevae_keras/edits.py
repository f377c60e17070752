"""Evaluation of edits: attribute classifiers, dose curves."""

import keras
import numpy as np
import pandas as pd

from facevae_keras.attributes import add_attribute
from facevae_keras.backends import default_jit_compile
from facevae_keras.facenet import feature_extractor
from facevae_keras.metrics import (
    FEATURES,
    cosines,
    embed,
    facenet_features,
    number_people,
    parts,
    standard_error,
)


def attribute_classifier(image_size, attribute_count):
    """A small convolutional network that predicts attributes of faces.

    Args:
        image_size: height and width of the faces, in pixels.
        attribute_count: number of attributes to predict.

    Returns:
        A compiled `keras.Model`: RGB 0..255 images to probabilities
        (n, attribute_count). Fit it on labels of 0 and 1.

    Example:

    >>> classifier = fv.attribute_classifier(64, labels.shape[1])
    >>> classifier.fit(faces, labels, epochs=5)
    """
    layers = [
        keras.Input((image_size, image_size, 3)),
        keras.layers.Rescaling(1 / 128, offset=-1),
    ]
    for filters in (32, 64, 128):
        layers += [
            keras.layers.Conv2D(filters, 5, strides=2, use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    layers += [
        keras.layers.Flatten(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(attribute_count, activation="sigmoid"),
    ]
    classifier = keras.Sequential(layers, name="attribute_classifier")
    classifier.compile(
        keras.optimizers.Adam(1e-3),
        loss="binary_crossentropy",
        metrics=["binary_accuracy"],
        jit_compile=default_jit_compile(),
    )
    return classifier


def train_probe(
    vae,
    photos,
    labels,
    held_out_photos,
    held_out_labels,
    identities=None,
    epochs=6,
):
    """Trains an `attribute_classifier` as the evaluator of a VAE's edits.

    It is trained on reconstructions, since it is applied to decoded faces:
    these are blurred beside photos, and a network trained on photos would be
    less accurate on them.

    Args:
        vae: a `FaceVAE`, trained. None: `photos` and `held_out_photos` are
            faces that it has decoded already.
        photos: array (n, height, width, 3), RGB 0..255, of people whom the VAE
            was trained on.
        labels: DataFrame (n, attributes) of -1 / 1, as from
            `read_attributes`, its rows in the order of the photos. A column
            `identity` is left out.
        held_out_photos: photos of other people.
        held_out_labels: their labels.
        identities: who is on each held-out photo, for the standard error.
        epochs: times that each reconstruction is shown.

    Returns:
        The evaluator, a compiled `keras.Model`. Its attribute
        `held_out_accuracy` is a DataFrame indexed by attribute, columns in
        0..1: `accuracy` on the reconstructions of the held-out photos, its
        `standard_error`, and `most_common`, the accuracy of always predicting
        the more frequent value.

    Example:

    >>> evaluator = fv.train_probe(
    ...     vae,
    ...     photos,
    ...     attributes.loc[training.index],
    ...     held_out_photos,
    ...     attributes.loc[validation.index],
    ... )
    >>> evaluator.held_out_accuracy.loc["Smiling"]
    """
    people = number_people(identities, len(held_out_photos))
    labels = labels.drop(columns="identity", errors="ignore")
    if vae is not None:
        photos = _reconstructions(vae, photos)
        held_out_photos = _reconstructions(vae, held_out_photos)
    evaluator = attribute_classifier(photos.shape[1], labels.shape[1])
    evaluator.fit(
        photos,
        (labels == 1).to_numpy("float32"),
        batch_size=64,
        epochs=epochs,
        verbose=2,
    )
    seen = evaluator.predict(held_out_photos, verbose=0)
    true = (held_out_labels[labels.columns] == 1).to_numpy()
    right = (seen > 0.5) == true
    evaluator.held_out_accuracy = pd.DataFrame(
        {
            "accuracy": right.mean(axis=0),
            "standard_error": standard_error(right, people),
            "most_common": np.maximum(true.mean(axis=0), 1 - true.mean(axis=0)),
        },
        index=pd.Index(labels.columns, name="attribute"),
    )
    return evaluator


def edit_figures(evaluator, before, after, attributes, edited, identities=None):
    """Which attributes an evaluator predicts before and after an edit.

    Args:
        evaluator: model from `train_probe`, or from `attribute_classifier`,
            trained.
        before: unedited faces as the VAE decodes them (n, size, size, 3).
        after: the same faces after the edit.
        attributes: names of the evaluator's outputs.
        edited: name of the attribute that the edit adds.
        identities: who is on each face (n,), for the standard errors.

    Returns:
        `pandas.DataFrame` indexed by attribute, columns in 0..1: `before` and
        `after`, the share of faces predicted to have the attribute, and
        `unchanged`, the share with the same prediction before and after; each
        with its `_standard_error`. For the edited attribute `after` is the
        rate of success. With a model from `train_probe` also
        `probe_accuracy`, the share of its predictions that are right.

    Raises:
        ValueError: `edited` is not among the attributes.
    """
    people = number_people(identities, len(before))
    attributes = list(attributes)
    if edited not in attributes:
        raise ValueError(
            f"the evaluator predicts {', '.join(attributes)}; not {edited}"
        )
    seen_before = evaluator.predict(before, verbose=0) > 0.5
    seen_after = evaluator.predict(after, verbose=0) > 0.5
    shares = {
        "before": seen_before,
        "after": seen_after,
        "unchanged": seen_before == seen_after,
    }
    figures = pd.DataFrame(
        {name: values.mean(axis=0) for name, values in shares.items()},
        index=pd.Index(attributes, name="attribute"),
    )
    for name, values in shares.items():
        figures[f"{name}_standard_error"] = standard_error(values, people)
    if hasattr(evaluator, "held_out_accuracy"):
        figures["probe_accuracy"] = evaluator.held_out_accuracy["accuracy"]
    return figures


def dose_curve(
    vae, facenet, evaluator, latents, vector, amounts, edited, identities=None
):
    """Measures faces while more and more of an attribute is added.

    To compare two vectors, compare how far the rest is kept where the
    attribute is seen as often, not at the same amount.

    Args:
        vae: a `FaceVAE`.
        facenet: the model from `load_facenet`, trained. None: nothing about
            identity is measured.
        evaluator: model from `train_probe`.
        latents: array or DataFrame (n, latent_dim) of faces, such as held-out
            ones without the attribute.
        vector: (latent_dim,), what `add_attribute` adds.
        amounts: how many times to add it.
        edited: name of the attribute that the vector adds.
        identities: who is on each face (n,), for the standard errors.

    Returns:
        `pandas.DataFrame`, one row per amount (its index). Each of four
        columns is a mean over the faces and has its `_standard_error`:

        - `seen`: the share predicted to have the attribute;
        - `identity`: cosine of FaceNet's embeddings of the unedited face and
          the edited, both as the VAE decodes them;
        - `identity_of_others`: the same with another person's unedited face;
          where `identity` falls to this, the person is lost;
        - `others_unchanged`: the share of the other attributes with the same
          prediction as for the unedited face.

        Then `NAME_unchanged`, the same for each of the others alone. And
        `probe_accuracy`: the evaluator's accuracy for the edited attribute,
        see `train_probe`.

    Raises:
        ValueError: the evaluator does not predict the attribute.

    Example:

    >>> curve = fv.dose_curve(
    ...     vae, facenet, evaluator, latents, smile, [0, 1, 2, 3], "Smiling"
    ... )
    >>> curve[["seen", "identity"]].plot()
    """
    attributes = list(evaluator.held_out_accuracy.index)
    if edited not in attributes:
        raise ValueError(
            f"the evaluator predicts {', '.join(attributes)}; not {edited}"
        )
    place = attributes.index(edited)
    others_unchanged = [
        f"{name}_unchanged" for name in attributes if name != edited
    ]
    latents = np.asarray(latents, dtype="float32")
    people = number_people(identities, len(latents))
    extractor = facenet and feature_extractor(facenet, [FEATURES])
    progress = keras.utils.Progbar(1 + len(amounts), unit_name="amount")

    def measure(amount):
        """Predictions (n, attributes), and embeddings if there is FaceNet."""
        seen, features = [], []
        # Large parts: each call of `predict` costs 50 ms, however few faces.
        for part in parts(len(latents), 512):
            moved = add_attribute(latents[part], vector, [amount])[:, 0]
            faces = np.clip(vae.decode(moved), 0, 255)
            seen.append(evaluator.predict(faces, verbose=0) > 0.5)
            if extractor:
                features.append(facenet_features(extractor, faces))
        progress.add(1)
        embeddings = embed(facenet, np.concatenate(features)) if facenet else 0
        return np.concatenate(seen), embeddings

    seen_before, embeddings_before = measure(0)
    rows = []
    for amount in amounts:
        seen, embeddings = measure(amount)
        unchanged = np.delete(seen == seen_before, place, axis=1)
        figures = {
            "seen": seen[:, place],
            "others_unchanged": unchanged.mean(axis=1),
        }
        if facenet:
            figures["identity"], figures["identity_of_others"] = cosines(
                embeddings, embeddings_before, people
            )
        row = {}
        for name, values in figures.items():
            row[name] = values.mean()
            row[f"{name}_standard_error"] = standard_error(values, people)
        row.update(zip(others_unchanged, unchanged.mean(axis=0), strict=True))
        rows.append(row)
    curve = pd.DataFrame(rows, index=pd.Index(amounts, name="amount"))
    accuracy = evaluator.held_out_accuracy
    curve["probe_accuracy"] = accuracy.loc[edited, "accuracy"]
    return curve


def _reconstructions(vae, photos):
    """As uint8, since there may be many: an image of 64 pixels is 12 KB."""
    return np.concatenate(
        [
            np.clip(vae.reconstruct(photos[part]).round(), 0, 255).astype(
                "uint8"
            )
            for part in parts(len(photos))
        ]
    )
