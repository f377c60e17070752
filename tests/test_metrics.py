import keras
import numpy as np
import pytest

import facevae_keras as fv


def test_active_dimensions_vary_from_face_to_face():
    random = np.random.default_rng(0)
    means = random.normal(scale=[1.0, 0.2, 0.05, 0.0], size=(5000, 4)) + 3
    assert fv.active_dimensions(means).tolist() == [True, True, False, False]


def test_a_classifier_learns_what_is_drawn():
    """Bright or dark, red or blue: the two labels of made-up images."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (256, 2)).astype("float32")
    images = 60 + 20 * random.standard_normal((256, 64, 64, 3))
    images += 80 * labels[:, 0, None, None, None]
    images[..., 0] += 60 * labels[:, 1, None, None]
    classifier = fv.attribute_classifier(64, 2)
    classifier.fit(images[:192], labels[:192], epochs=4, verbose=0)
    found = classifier.predict(images[192:], verbose=0) > 0.5
    assert (found == labels[192:]).mean() > 0.95


class BrightnessClassifier:
    """Sees "bright" in images above 100, and "red" where red is above 100."""

    def predict(self, images, verbose):
        bright = images.mean(axis=(1, 2, 3)) > 100
        red = images[..., 0].mean(axis=(1, 2)) > 100
        return np.stack([bright, red], axis=1).astype("float32")


def test_edit_figures_count_verdicts():
    before = np.zeros((4, 2, 2, 3))
    before[3] = 200
    after = before.copy()
    after[:2] = 150  # two become bright, and red with it
    figures = fv.edit_figures(
        BrightnessClassifier(), before, after, ["bright", "red"], "bright"
    )
    assert figures.loc["bright"].tolist() == [0.25, 0.75, 0.5]
    assert figures.loc["red", "unchanged"] == 0.5
    with pytest.raises(ValueError, match="knows bright, red; not Smiling"):
        fv.edit_figures(
            BrightnessClassifier(), before, after, ["bright", "red"], "Smiling"
        )
