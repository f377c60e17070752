"""How good a VAE and an edit are, in numbers."""

import keras
import numpy as np
import pandas as pd

from facevae_keras.vae import default_jit_compile


def active_dimensions(means, threshold=0.01):
    """Which latent variables carry information about the face.

    A variable is active when its posterior mean varies from face to face:
    variance above 0.01 (Burda et al. 2015, arXiv 1509.00519). The others have
    collapsed to the prior.

    Args:
        means: array or DataFrame (n, latent_dim), as from `encode_images`.
        threshold: least variance.

    Returns:
        Boolean array (latent_dim,).

    Example:

    >>> fv.active_dimensions(latents).sum()
    """
    return np.asarray(means).var(axis=0) > threshold


def attribute_classifier(image_size, attribute_count):
    """A small convolutional network that sees attributes in faces.

    Args:
        image_size: height and width of the faces, in pixels.
        attribute_count: number of attributes to tell.

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


def edit_figures(classifier, before, after, attributes, edited):
    """What a classifier sees change in an edit.

    Args:
        classifier: model from `attribute_classifier`, trained.
        before: unedited faces as the VAE decodes them (n, size, size, 3).
        after: the same faces after the edit.
        attributes: names of the classifier's outputs.
        edited: name of the attribute that the edit adds.

    Returns:
        `pandas.DataFrame` indexed by attribute, columns in 0..1: `before` and
        `after`, the share of faces seen with the attribute, and `unchanged`,
        the share whose verdict is the same before and after. For the edited
        attribute `after` is the rate of success.

    Raises:
        ValueError: `edited` is not among the attributes.
    """
    attributes = list(attributes)
    if edited not in attributes:
        raise ValueError(
            f"the classifier knows {', '.join(attributes)}; not {edited}"
        )
    seen_before = classifier.predict(before, verbose=0) > 0.5
    seen_after = classifier.predict(after, verbose=0) > 0.5
    return pd.DataFrame(
        {
            "before": seen_before.mean(axis=0),
            "after": seen_after.mean(axis=0),
            "unchanged": (seen_before == seen_after).mean(axis=0),
        },
        index=pd.Index(attributes, name="attribute"),
    )
