import sys

import keras
import numpy as np
import pandas as pd
import pytest

import facevae_keras as fv


def test_active_dimensions_vary_from_face_to_face():
    random = np.random.default_rng(0)
    means = random.normal(scale=[1.0, 0.2, 0.05, 0.0], size=(5000, 4)) + 3
    assert fv.active_dimensions(means).tolist() == [True, True, False, False]


@pytest.mark.slow
def test_an_independent_network_recognizes_people(celeba):
    pytest.importorskip("dlib", reason="needs the extra [evaluate]")
    images = fv.find_images(celeba)
    images = images[images["path"].str.contains("img_align_celeba/")]
    pairs = images.groupby("identity").head(2)
    pairs = pairs[pairs["identity"].duplicated(keep=False)]
    pairs = pairs.sort_values("identity")[:8]
    photos, _ = fv.load_photos(pairs["path"], 160, crop=0.8)
    same = fv.independent_identity(photos[::2], photos[1::2])
    strangers = fv.independent_identity(
        photos[::2], np.roll(photos[1::2], 1, axis=0)
    )
    assert same.mean() > 0.5 and abs(strangers.mean()) < 0.25
    np.testing.assert_allclose(
        fv.independent_identity(photos[:1], photos[:1]), 1
    )


def test_the_independent_network_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(ImportError, match=r"facevae-keras\[evaluate\]"):
        fv.independent_identity(np.zeros((1, 9, 9, 3)), np.zeros((1, 9, 9, 3)))


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
    shares = figures[["before", "after", "unchanged"]]
    assert shares.loc["bright"].tolist() == [0.25, 0.75, 0.5]
    assert figures.loc["red", "unchanged"] == 0.5
    # Four 0s and 1s, a quarter or half of them 1: sqrt(p (1 - p) / 3).
    errors = figures[[f"{name}_standard_error" for name in shares]]
    np.testing.assert_allclose(errors.loc["bright"], [0.25, 0.25, 12**-0.5])
    assert "probe_accuracy" not in figures  # nobody has measured it
    # If it is two faces of each of two people, two are all there are.
    figures = fv.edit_figures(
        BrightnessClassifier(),
        before,
        after,
        ["bright", "red"],
        "bright",
        identities=["she", "she", "he", "he"],
    )
    assert figures.loc["bright", "unchanged_standard_error"] == 0.5
    with pytest.raises(ValueError, match="predicts bright, red; not Smiling"):
        fv.edit_figures(
            BrightnessClassifier(), before, after, ["bright", "red"], "Smiling"
        )


class ShiftedVAE:
    """Reconstructs 16x16 photos but for a shift; decodes noise as noise."""

    image_size = 16

    def __init__(self, shift):
        self.shift = shift

    def encode(self, photos):
        means = photos.reshape(len(photos), -1)[:, :192] / 255.0
        self.photos = photos.astype("float32")
        return means, np.zeros_like(means)

    def decode(self, z):
        pictures, self.photos = self.photos + self.shift, self.photos[:0]
        if len(pictures) == 0:
            pictures = 255 * np.resize(np.asarray(z), (len(z), 16, 16, 3))
        return pictures.astype("float32")


@pytest.fixture
def patches():
    """Patches of colour, large enough to be seen by any FaceNet."""
    random = np.random.default_rng(0)
    colours = random.integers(10, 240, (6, 4, 4, 3)).astype("uint8")
    return colours.repeat(4, axis=1).repeat(4, axis=2)


@pytest.mark.slow
def test_figures_of_a_known_shift(seeded_facenet, patches):
    figures = fv.reconstruction_figures(ShiftedVAE(5), seeded_facenet, patches)
    assert list(figures.columns) == ["mean", "standard_error"]
    assert set(figures.index) == {
        "psnr",
        "perceptual_distance",
        "identity",
        "identity_of_others",
        "kl",
        "kid_reconstructions",
        "kid_prior",
        "kid_fitted",
        "active_dimensions",
        "weave",
        "color_weave",
        *[name for name in figures.index if name.startswith("power_0.")],
    }
    assert len(figures) == 21
    mean, error = figures["mean"], figures["standard_error"]
    # A mean squared error of 5^2 for every photo.
    np.testing.assert_allclose(mean["psnr"], 20 * np.log10(255 / 5), rtol=1e-5)
    np.testing.assert_allclose(error["psnr"], 0, atol=1e-5)
    # Log variances of 0 leave half the squared means.
    halves = (patches.reshape(6, -1)[:, :192] / 255.0) ** 2 / 2
    kl = halves.sum(axis=1)
    np.testing.assert_allclose(mean["kl"], kl.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        error["kl"], kl.std(ddof=1) / np.sqrt(6), rtol=1e-4
    )
    assert mean["active_dimensions"] == 192
    assert np.isnan(error["active_dimensions"])
    assert mean["identity_of_others"] < mean["identity"] < 1
    assert 0 < mean["perceptual_distance"] < 0.1
    assert mean["kid_reconstructions"] < mean["kid_prior"]
    # A constant shift is no pattern, and changes no frequency above 0.
    weaves = mean[["weave", "color_weave"]]
    np.testing.assert_allclose(weaves, 0, atol=1e-3)
    np.testing.assert_allclose(mean["power_0.48"], 1, atol=1e-3)
    assert error.drop(["active_dimensions", *weaves.index])[:8].notna().all()


@pytest.mark.parametrize(
    "measure, wanted", [("identity_similarity", 1), ("perceptual_distances", 0)]
)
def test_a_perfect_reconstruction(seeded_facenet, patches, measure, wanted):
    pictures = patches.astype("float32")
    found = getattr(fv, measure)(
        seeded_facenet,
        np.concatenate([patches, patches]),
        np.concatenate([pictures, pictures[::-1]]),
    )
    assert found.shape == (12,)
    np.testing.assert_allclose(found[:6], wanted, atol=1e-6)
    # To random weights all embeddings look much the same.
    assert (np.abs(found[6:] - wanted) > 1e-4).all()


@pytest.mark.slow
def test_identity_of_real_people(facenet_checkpoint, celeba):
    facenet = fv.load_facenet(facenet_checkpoint)
    images = fv.find_images(celeba)
    person = images[images["identity"].duplicated(keep=False)].iloc[0]
    same = images[images["identity"] == person["identity"]]
    other = images[images["identity"] != person["identity"]]
    first, second, stranger = (
        fv.read_photo(path, 160, crop=0.8)
        for path in (*same["path"][:2], other["path"].iloc[0])
    )
    own, others = fv.identity_similarity(
        facenet, np.stack([first, first]), np.stack([second, stranger])
    )
    assert others < 0.4 < own


def test_kernel_distance_of_equal_and_shifted_gaussians():
    random = np.random.default_rng(0)
    z = []
    for _ in range(200):
        a, b = random.standard_normal((2, 60, 8))
        distance, error = fv.kernel_distance(a, b)
        z.append(distance / error)
    assert abs(np.mean(z)) < 0.25  # unbiased
    assert np.mean(np.abs(z) > 2) < 0.05  # and not surer than it should be
    shifted = random.standard_normal((500, 8)) + 1
    distance, error = fv.kernel_distance(
        random.standard_normal((500, 8)), shifted
    )
    assert distance > 10 * error > 0


def test_kernel_distance_by_definition():
    """Gretton et al. 2012, equation 4, pair by pair."""
    random = np.random.default_rng(0)
    a = random.standard_normal((300, 4))  # more than one part
    b = a + random.standard_normal((300, 4))  # each with its own partner
    people = random.integers(0, 100, 300)

    def kernel(x, y):
        return (x @ y / 4 + 1) ** 3

    def distance(rows):
        terms = [
            kernel(a[i], a[j])
            + kernel(b[i], b[j])
            - kernel(a[i], b[j])
            - kernel(a[j], b[i])
            for i in rows
            for j in rows
            if people[i] != people[j]
        ]
        return np.mean(terms)

    found, error = fv.kernel_distance(a, b, people)
    np.testing.assert_allclose(found, distance(range(300)))
    # The jackknife leaves out one person after the other.
    keep = np.arange(300) < 40
    found, error = fv.kernel_distance(a[keep], b[keep], people[keep])
    without = np.array(
        [
            distance(np.flatnonzero(keep & (people != person)))
            for person in np.unique(people[keep])
        ]
    )
    np.testing.assert_allclose(
        error, np.sqrt((len(without) - 1) * without.var())
    )


def test_kernel_distance_of_what_cannot_be_compared():
    with pytest.raises(ValueError, match=r"found \(5, 4\) and \(6, 4\)"):
        fv.kernel_distance(np.zeros((5, 4)), np.zeros((6, 4)))
    with pytest.raises(ValueError, match="three people"):
        fv.kernel_distance(np.zeros((5, 4)), np.zeros((5, 4)), list("aabbb"))
    with pytest.raises(ValueError, match="2 identities of 5 faces"):
        fv.kernel_distance(np.zeros((5, 4)), np.zeros((5, 4)), ["a", "b"])


def test_photos_of_unknown_people_count_as_people():
    random = np.random.default_rng(0)
    a, b = random.standard_normal((2, 4, 3))
    assert fv.kernel_distance(a, b, ["x", None, None, "y"]) == (
        fv.kernel_distance(a, b)
    )


class LinearVAE:
    """Two latent variables: the brightness of red and of everything else."""

    image_size = 16

    def decode(self, z):
        colours = 80 + 20 * np.asarray(z)[:, [0, 1, 1]]
        pictures = np.tile(colours[:, None, None, :], (1, 16, 16, 1))
        pictures[:, :8] /= 2  # or FaceNet would have nothing to see
        return pictures

    def reconstruct(self, photos):
        return photos[:, ::2, ::2].astype("float32")


class ColourProbe:
    held_out_accuracy = pd.DataFrame(
        {"accuracy": [0.9, 0.8]}, index=["Red", "Bright"]
    )

    def predict(self, images, verbose):
        red = images[:, 8:, :, 0].mean(axis=(1, 2)) > 100
        bright = images[:, 8:, :, 1].mean(axis=(1, 2)) > 100
        return np.stack([red, bright], axis=1).astype("float32")


def test_a_dose_curve_of_a_linear_decoder(seeded_facenet):
    latents = np.zeros((6, 2))
    latents[:, 0] = np.linspace(-3, 0.5, 6)  # red above 1
    latents[:, 1] = np.linspace(-1, 0.75, 6)  # bright above 1
    amounts = [0, 1, 2, 4]
    curve = fv.dose_curve(
        LinearVAE(),
        seeded_facenet,
        ColourProbe(),
        latents,
        [1.0, 0.25],
        amounts,
        "Red",
    )
    assert list(curve.index) == amounts
    assert curve.loc[0, "seen"] == 0
    assert curve.loc[4, "seen"] == (latents[:, 0] + 4 > 1).mean()
    assert curve["seen"].is_monotonic_increasing
    np.testing.assert_allclose(curve.loc[0, "identity"], 1, atol=1e-6)
    assert curve["identity"].is_monotonic_decreasing
    assert curve.loc[0, "identity_of_others"] < 1
    assert curve.loc[0, "others_unchanged"] == 1
    assert curve.loc[4, "others_unchanged"] == (latents[:, 1] <= 0).mean()
    # With one other attribute, it is all the others.
    assert (curve["Bright_unchanged"] == curve["others_unchanged"]).all()
    share = curve.loc[2, "seen"]
    np.testing.assert_allclose(
        curve.loc[2, "seen_standard_error"], np.sqrt(share * (1 - share) / 5)
    )
    assert (curve["probe_accuracy"] == 0.9).all()
    # Without FaceNet: the same but for identity.
    without = fv.dose_curve(
        LinearVAE(), None, ColourProbe(), latents, [1.0, 0.25], amounts, "Red"
    )
    identity = [name for name in curve if name.startswith("identity")]
    pd.testing.assert_frame_equal(without, curve.drop(columns=identity))
    with pytest.raises(ValueError, match="predicts Red, Bright; not Smiling"):
        fv.dose_curve(None, None, ColourProbe(), [], [], [], "Smiling")


@pytest.mark.slow
def test_a_probe_learns_from_reconstructions_and_says_how_well():
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    labels = pd.DataFrame(
        random.choice([-1, 1], (224, 2), p=[0.8, 0.2]), columns=["Dark", "Odd"]
    )
    photos = 150 + 20 * random.standard_normal((224, 128, 128, 3))
    photos -= 80 * (labels["Dark"] == 1).to_numpy()[:, None, None, None]
    photos = photos.astype("uint8")

    class HalvingVAE(LinearVAE):
        image_size = 64

    probe = fv.train_probe(
        HalvingVAE(),
        photos[:160],
        labels[:160],
        photos[160:],
        labels[160:],
        epochs=4,
    )
    accuracy = probe.held_out_accuracy
    assert list(accuracy.index) == ["Dark", "Odd"]
    assert accuracy.loc["Dark", "accuracy"] > 0.95
    share = (labels["Odd"][160:] == -1).mean()
    np.testing.assert_allclose(accuracy.loc["Odd", "most_common"], share)
    assert (accuracy["standard_error"] < 0.1).all()
    faces = photos[160:, ::2, ::2]
    figures = fv.edit_figures(probe, faces, faces, labels.columns, "Dark")
    assert (figures["unchanged"] == 1).all()
    assert (figures["probe_accuracy"] == accuracy["accuracy"]).all()


def test_an_evaluator_of_faces_that_are_decoded_already():
    random = np.random.default_rng(0)
    labels = pd.DataFrame({"Dark": np.resize([-1, 1], 64)})
    labels["identity"] = "somebody"  # no attribute
    faces = 150 + 20 * random.standard_normal((64, 64, 64, 3))
    faces -= 80 * (labels["Dark"] == 1).to_numpy()[:, None, None, None]
    keras.utils.set_random_seed(0)
    evaluator = fv.train_probe(
        None, faces[:48], labels[:48], faces[48:], labels[48:], epochs=6
    )
    assert list(evaluator.held_out_accuracy.index) == ["Dark"]
    assert evaluator.held_out_accuracy.loc["Dark", "accuracy"] > 0.9


def waves(frequency, amplitude, size=64):
    """Noise, and waves of one frequency (cycles a pixel) along x and y."""
    random = np.random.default_rng(0)
    images = 128 + 10 * random.standard_normal((16, size, size, 3))
    wave = amplitude * np.cos(2 * np.pi * frequency * np.arange(size))
    return images + (wave[:, None] + wave)[..., None]


@pytest.mark.parametrize("size", [64, 128])
def test_a_spectrum_shows_a_wave_at_its_frequency(size):
    ratio = fv.radial_power(waves(0.25, 5, size)) / fv.radial_power(
        waves(0.25, 0, size)
    )
    assert len(ratio) == 32
    assert abs(ratio.idxmax() - 0.25) < 1 / 64
    far = np.abs(ratio.index - 0.25) > 4 / 64
    np.testing.assert_allclose(ratio[far], 1, atol=0.1)


def test_the_weave_of_a_pattern():
    photos = waves(0.45, 0)
    assert fv.weave(photos, photos) == 0
    assert fv.weave(photos, waves(0.45, 20)) > 1
    assert fv.weave(photos, waves(0.05, 20)) < 0.1  # too coarse to count
    assert fv.weave(photos, 128 + 0.1 * (photos - 128)) == pytest.approx(
        -2, abs=1e-3
    )


def test_colored_stripes_are_a_weave_of_colors_alone():
    photos = waves(0.3, 0)
    stripes = photos.copy()
    wave = 10 * np.cos(2 * np.pi * 0.3 * np.arange(64))
    # As much less blue as there is more green, for the eye.
    stripes[..., 1] += 0.114 * wave
    stripes[..., 2] -= 0.587 * wave
    assert fv.weave(photos, stripes) == pytest.approx(0, abs=1e-3)
    assert fv.weave(photos, stripes, color=True) > 0.5
