"""Reconstruction, identity and sample quality, with standard errors.

Photos of one person are not independent of each other, so standard errors are
computed over people where identities are known (Liang and Zeger 1986, doi
10.1093/biomet/73.1.13): 30 photos of one person count as one observation.
"""

import collections
import importlib.util
import pathlib

import keras
import numpy as np
import pandas as pd
from keras import ops
from PIL import Image

from facevae_keras.backends import infer
from facevae_keras.facenet import feature_extractor
from facevae_keras.layers import brightness, scale_images
from facevae_keras.losses import kl_divergence

# FaceNet's last layer before the image shrinks again, at each of its five
# sizes: 77, 36, 17, 8 and 3 pixels.
PERCEPTUAL_LAYERS = (
    "Conv2d_2b_3x3",
    "Conv2d_4a_3x3",
    "Mixed_5a",
    "Mixed_6b",
    "Mixed_8a",
)
FEATURES = "PreLogitsFlatten"
_FACENET_SIZE = 160  # pixels; what FaceNet was trained on
_BATCH_SIZE = 32
# Mean squared distance of dlib's descriptors of two people, over CelebA.
_STRANGERS = 0.69
_REPORTED_RINGS = [1, 3, 5, 7, 10, 14, 18, 22, 26, 30]  # of `radial_power`


def reconstruction_figures(vae, facenet, photos, identities=None, seed=666):
    """Reconstruction, identity and sample quality of a VAE.

    Args:
        vae: a `FaceVAE`.
        facenet: the model from `load_facenet`, trained on identities, not
            `"seeded"`.
        photos: array (n, height, width, 3), RGB 0..255, of people who are
            not in the VAE's training data. FaceNet compares at 160 pixels:
            photos of that size measure all the detail it uses.
        identities: who is on each photo (n,), such as the `identity` column
            of `find_images`; a photo without counts as a person.
        seed: of the samples.

    Returns:
        `pandas.DataFrame` with columns `mean` and `standard_error`, indexed by
        figure:

        - `psnr`: peak signal-to-noise ratio of reconstructions, in decibels,
          at the VAE's size; higher is better.
        - `perceptual_distance`: of photo and reconstruction, see
          `perceptual_distances`; 0 is equal.
        - `identity`: cosine of FaceNet's embeddings of photo and
          reconstruction; 1 is the same.
        - `identity_of_others`: the same for a photo and the reconstruction of
          another person: the baseline that all reconstructions have in
          common.
        - `kl`: KL divergence from the prior per image, in nats.
        - `kid_reconstructions`, `kid_prior`, `kid_fitted`: `kernel_distance`
          of photos from their reconstructions, from as many faces decoded
          from N(0, 1), and from as many decoded from the Gaussian with mean
          and covariance of the photos' latent means; 0 is as good as photos.
        - `active_dimensions`: how many, see `active_dimensions`; no error.
        - `weave` and `color_weave`: see `weave`, at the VAE's size; no error.
        - `power_0.02` to `power_0.48`: `radial_power` of reconstructions over
          that of photos, at ten frequencies in cycles a pixel of the VAE's
          images; 1 is as much detail as in photos; no error.

    Raises:
        ValueError: identities of another number, or fewer than three people.

    Example:

    >>> figures = fv.reconstruction_figures(
    ...     vae, facenet, photos, validation["identity"]
    ... )
    >>> figures.loc["identity", "mean"]
    """
    people = number_people(identities, len(photos))
    progress = keras.utils.Progbar(3 * len(photos), unit_name="image")
    extractor = feature_extractor(facenet, [*PERCEPTUAL_LAYERS, FEATURES])
    found = _compare(vae, extractor, photos, progress)
    means = found["means"].astype("float64")
    own, others = cosines(
        embed(facenet, found["features"]),
        embed(facenet, found["features_of_pictures"]),
        people,
    )
    values = {
        "psnr": found["psnr"],
        "perceptual_distance": found["perceptual_distance"],
        "identity": own,
        "identity_of_others": others,
        "kl": found["kl"],
    }
    random = np.random.default_rng(seed)
    prior = random.standard_normal(means.shape)
    fitted = random.multivariate_normal(
        means.mean(axis=0),
        np.atleast_2d(np.cov(means, rowvar=False)),
        size=len(means),
    )
    features = {
        "kid_reconstructions": found["features_of_pictures"],
        "kid_prior": _decoded_features(vae, extractor, prior, progress),
        "kid_fitted": _decoded_features(vae, extractor, fitted, progress),
    }
    rows = {
        **{
            name: (of_photos.mean(), standard_error(of_photos, people))
            for name, of_photos in values.items()
        },
        **{
            name: kernel_distance(found["features"], of_pictures, people)
            for name, of_pictures in features.items()
        },
        "active_dimensions": (active_dimensions(means).sum(), np.nan),
    }
    spectrum = spectral_figures(found["photos"], found["pictures"])
    rows |= {name: (value, np.nan) for name, value in spectrum.items()}
    return pd.DataFrame(
        rows.values(),
        index=pd.Index(rows, name="figure"),
        columns=["mean", "standard_error"],
        dtype="float64",
    )


def perceptual_distances(facenet, images, others):
    """Perceptual distance of two pictures, pair by pair.

    LPIPS (Zhang et al. 2018, arXiv 1801.03924) without its learned weights, on
    FaceNet's features: at each place of a layer the features are scaled to
    length 1; the squared difference is averaged over the places, then over
    `PERCEPTUAL_LAYERS`. Unlike `PerceptualLoss` it weighs coarse and fine
    layers alike, so that it can compare VAEs trained with different losses.
    LPIPS itself is kept up only for PyTorch.

    Args:
        facenet: the model from `load_facenet`.
        images: (n, height, width, 3), RGB 0..255, of any size.
        others: as many, of any size.

    Returns:
        Array (n,), from 0 (equal) to 2.

    Example:

    >>> fv.perceptual_distances(facenet, photos, vae.reconstruct(photos))
    """
    extractor = feature_extractor(facenet, PERCEPTUAL_LAYERS)
    return np.concatenate(
        [
            ops.convert_to_numpy(
                _distances(
                    _look(extractor, images[part]),
                    _look(extractor, others[part]),
                )
            )
            for part in parts(len(images))
        ]
    )


def identity_similarity(facenet, images, others):
    """Similarity of the identities of two pictures, pair by pair.

    The cosine of FaceNet's embeddings, which it was trained to make close for
    photos of one person (Schroff et al. 2015, arXiv 1503.03832).

    Args:
        facenet: the model from `load_facenet`, trained.
        images: (n, height, width, 3), RGB 0..255, of any size.
        others: as many, of any size.

    Returns:
        Array (n,): 1 is the same, about 0 are two strangers.

    Example:

    >>> fv.identity_similarity(facenet, photos, vae.reconstruct(photos))
    """
    extractor = feature_extractor(facenet, [FEATURES])
    own, _ = cosines(
        *(
            embed(facenet, facenet_features(extractor, pictures))
            for pictures in (images, others)
        )
    )
    return own


def independent_identity(images, others):
    """Similarity of identities, by a network that no training here used.

    FaceNet is part of the loss of these VAEs, so its own similarity may
    overestimate theirs. dlib's face recognition is a ResNet of another family,
    trained on other photos, with 128-d descriptors. Their squared distances
    are scaled here to the range of `identity_similarity`.

    Args:
        images: (n, size, size, 3), RGB 0..255, faces as this course crops
            them: aligned as CelebA's, `crop=0.8`.
        others: as many, of any size.

    Returns:
        Array (n,): 1 is the same, 0 the average of two strangers, 0.63 that of
        two photos of one person (all on CelebA).

    Raises:
        ImportError: the extra `[evaluate]` is not installed.

    Example:

    >>> fv.independent_identity(photos, vae.reconstruct(photos))
    """
    a, b = (_dlib_descriptors(pictures) for pictures in (images, others))
    return 1 - np.square(a - b).sum(axis=1) / _STRANGERS


def _dlib_descriptors(images):
    try:
        import dlib
    except ImportError as error:
        raise ImportError(
            "independent_identity needs dlib and its networks: "
            "pip install 'facevae-keras[evaluate]'"
        ) from error
    # Not imported: it needs pkg_resources, which setuptools has no more.
    package = importlib.util.find_spec("face_recognition_models").origin
    folder = pathlib.Path(package).parent / "models"
    find_points = dlib.shape_predictor(
        str(folder / "shape_predictor_5_face_landmarks.dat")
    )
    network = dlib.face_recognition_model_v1(
        str(folder / "dlib_face_recognition_resnet_model_v1.dat")
    )
    # Where dlib's own detector finds the faces of CelebA, at 256 pixels.
    box = dlib.rectangle(43, 86, 206, 248)
    descriptors = []
    for image in images:
        image = np.clip(np.rint(image), 0, 255).astype("uint8")
        image = np.asarray(Image.fromarray(image).resize((256, 256)))
        face = dlib.get_face_chip(image, find_points(image, box))
        descriptors.append(network.compute_face_descriptor(face))
    return np.array(descriptors)


def kernel_distance(features_a, features_b, identities=None):
    """KID: the distance between the distributions of two sets of pictures.

    The squared maximum mean discrepancy with the kernel `(x . y / d + 1)^3` of
    Binkowski et al. 2018 (arXiv 1801.01401), as the unbiased U-statistic of
    Gretton et al. 2012 (equation 4, jmlr.org/papers/v13/gretton12a.html): it
    compares only pictures at different places of the two arrays, so that it
    also holds for photos and their own reconstructions. The paper averages
    over random subsets; all pairs at a time have the same expectation and a
    smaller error, which is the jackknife's here. It is a little too large
    where the sets don't differ. Libraries have KID (torchmetrics,
    torch-fidelity), but for PyTorch; none for Keras 3.

    Args:
        features_a: (n, d), such as FaceNet's PreLogitsFlatten.
        features_b: (n, d).
        identities: who is on row i of either set (n,); pairs of the same
            person are left out. None: n people.

    Returns:
        Distance and its standard error. The distance is 0 on average for two
        samples of one distribution, hence at times below 0.

    Raises:
        ValueError: sets of different shape, or fewer than three people.

    Example:

    >>> distance, standard_error = fv.kernel_distance(features_a, features_b)
    """
    a = np.asarray(features_a, dtype="float64")
    b = np.asarray(features_b, dtype="float64")
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            "expected two sets of features of one shape (n, d), found "
            f"{a.shape} and {b.shape}"
        )
    people = number_people(identities, len(a))
    if people.max(initial=-1) < 2:
        raise ValueError("needs at least three people for a standard error")

    def kernel(x, y):
        return (x @ y.T / a.shape[1] + 1) ** 3

    sums, pairs = np.zeros(len(a)), np.zeros(len(a))
    for part in parts(len(a), 256):  # n x n kernels would fill the memory
        terms = kernel(a[part], a) + kernel(b[part], b)
        terms -= kernel(a[part], b) + kernel(b[part], a)
        different = people[part, None] != people
        sums[part] = np.sum(terms, axis=1, where=different)
        pairs[part] = different.sum(axis=1)
    # Leaving out a person takes away a row and a column for each picture.
    sum_without = sums.sum() - 2 * np.bincount(people, sums)
    without = sum_without / (pairs.sum() - 2 * np.bincount(people, pairs))
    variance = np.square(without - without.mean()).sum()
    variance *= (len(without) - 1) / len(without)
    return sums.sum() / pairs.sum(), np.sqrt(variance)


def active_dimensions(means, threshold=0.01):
    """Finds the latent variables that carry information about the face.

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


def number_people(identities, count):
    """Numbers the people from 0: an integer for each photo."""
    if identities is None:
        return np.arange(count)
    people, known = pd.factorize(np.asarray(identities, dtype=object))
    if len(people) != count:
        raise ValueError(f"{len(people)} identities of {count} faces")
    unknown = people < 0
    people[unknown] = len(known) + np.arange(unknown.sum())
    return people


def standard_error(values, people):
    """Of the mean over the first axis, by people: `s / sqrt(n)` if all differ.

    NaN for a single person, of whom nothing can be said.
    """
    count = people.max() + 1
    sums = np.zeros((count, *values.shape[1:]))
    np.add.at(sums, people, values - values.mean(axis=0))
    correction = count / (count - 1) if count > 1 else np.nan
    return np.sqrt(correction * np.square(sums).sum(axis=0)) / len(values)


def parts(count, size=_BATCH_SIZE):
    return [slice(start, start + size) for start in range(0, count, size)]


def _look(extractor, images):
    images = ops.convert_to_tensor(images, dtype="float32")
    return infer(extractor, scale_images(images, _FACENET_SIZE))


def facenet_features(extractor, images):
    """The last layer's features (n, d), in NumPy."""
    return np.concatenate(
        [
            ops.convert_to_numpy(_look(extractor, images[part])[-1])
            for part in parts(len(images))
        ]
    )


def embed(facenet, features):
    """The rest of FaceNet, from PreLogitsFlatten to the embedding."""
    linear = facenet.get_layer("Bottleneck-linear")
    batch_norm = facenet.get_layer("Bottleneck-BatchNorm")
    return ops.convert_to_numpy(batch_norm(linear(features), training=False))


def spectral_figures(photos, reconstructions):
    """How the spectrum of reconstructions differs from that of photos.

    Args:
        photos: (n, size, size, 3), RGB 0..255.
        reconstructions: likewise, of the same size.

    Returns:
        Dictionary: `weave`, `color_weave` (the same of colors), and
        `power_0.02` to `power_0.48`, the ratio of their `radial_power` at some
        frequencies.
    """
    ratio = radial_power(reconstructions) / radial_power(photos)
    power = ratio.iloc[_REPORTED_RINGS].items()
    return {
        "weave": weave(photos, reconstructions),
        "color_weave": weave(photos, reconstructions, color=True),
        **{f"power_{frequency:.2f}": value for frequency, value in power},
    }


def radial_power(images):
    """Power spectrum of images by frequency, without direction.

    Brightness less its mean, times a Hann window; the squared Fourier
    transform, averaged over the images and over rings of equal frequency.

    Args:
        images: (n, size, size, 3), RGB 0..255.

    Returns:
        `pandas.Series` of 32 values; its index is each ring's frequency in
        cycles a pixel, 1/128 to 63/128. Images of 64 pixels have the same
        rings as those of 128.

    Example:

    >>> ratio = fv.radial_power(vae.reconstruct(photos)) / fv.radial_power(
    ...     photos
    ... )
    >>> ratio.plot(logy=True)  # 1: as much detail as in photos
    """
    frequency, power = _mean_spectrum(_brightness(images))
    ring = np.minimum((frequency * 64).astype(int), 32)  # 32: the corners
    totals = np.bincount(ring.ravel(), power.ravel(), minlength=33)[:32]
    counts = np.bincount(ring.ravel(), minlength=33)[:32]
    with np.errstate(invalid="ignore"):  # small images leave rings empty: NaN
        means = totals / counts
    return pd.Series(
        means,
        index=pd.Index((np.arange(32) + 0.5) / 64, name="cycles a pixel"),
        name="power",
    )


def weave(photos, reconstructions, count=20, color=False):
    """How far a regular pattern on reconstructions exceeds photos.

    A pattern such as a grid is a few frequencies with more power than photos
    have there. The figure is the mean, over the `count` largest of all
    frequencies above 0.1 cycles a pixel, of log10 of the reconstructions' mean
    power over the photos'.

    Args:
        photos: (n, size, size, 3), RGB 0..255.
        reconstructions: likewise, of the same size.
        count: how many frequencies.
        color: compare colors (red, green and blue less brightness), not
            brightness: stripes may have one and not the other. Photos have
            little fine color; JPEG stores it at half the resolution.

    Returns:
        A number: at most 0 where no frequency is stronger than in photos; 2
        where the strongest have a hundred times the power.

    Example:

    >>> fv.weave(photos, vae.reconstruct(photos))
    """
    planes = _colors if color else _brightness
    frequency, wanted = _mean_spectrum(planes(photos))
    _, found = _mean_spectrum(planes(reconstructions))
    ratio = np.log10(found / wanted)[frequency > 0.1]
    return float(np.sort(ratio)[-count:].mean())


def _brightness(images):
    """(n, size, size, 1)."""
    images = np.asarray(images, dtype="float32")
    return ops.convert_to_numpy(brightness(images))


def _colors(images):
    """Red, green and blue less brightness, (n, size, size, 3)."""
    return np.asarray(images, dtype="float32") - _brightness(images)


def _mean_spectrum(images):
    """Frequencies in cycles a pixel, and mean power at each, (size, size).

    Args:
        images: (n, size, size, channels); their powers are added.
    """
    size = images.shape[1]
    line = np.hanning(size)
    window = np.float32(np.outer(line, line))[..., None]
    power = np.zeros((size, size))
    for image in images:
        image = (image - image.mean(axis=(0, 1))) * window
        power += np.square(np.abs(np.fft.fft2(image, axes=(0, 1)))).sum(axis=2)
    axis = np.fft.fftfreq(size)
    return np.hypot(axis[:, None], axis), power / len(images)


def _compare(vae, extractor, photos, progress):
    """What `reconstruction_figures` needs of photos and reconstructions.

    Returns:
        Dictionary of name to array, one row per photo.
    """
    found = collections.defaultdict(list)
    for part in parts(len(photos)):
        means, log_variances = vae.encode(photos[part])
        pictures = np.clip(vae.decode(means), 0, 255)
        *layers, features = _look(extractor, photos[part])
        *layers_of_pictures, features_of_pictures = _look(extractor, pictures)
        small = ops.cast(photos[part], "float32")
        small = ops.convert_to_numpy(scale_images(small, vae.image_size))
        error = np.square(small - pictures).mean(axis=(1, 2, 3))
        batch = {
            "psnr": 10 * np.log10(255**2 / error),
            "perceptual_distance": _distances(layers, layers_of_pictures),
            "photos": small,
            "pictures": pictures,
            "kl": kl_divergence(means, log_variances),
            "means": means,
            "features": features,
            "features_of_pictures": features_of_pictures,
        }
        for name, values in batch.items():
            found[name].append(ops.convert_to_numpy(values))
        progress.add(len(means))
    return {name: np.concatenate(values) for name, values in found.items()}


def _decoded_features(vae, extractor, z, progress):
    features = []
    for part in parts(len(z)):
        pictures = np.clip(vae.decode(z[part]), 0, 255)
        features.append(facenet_features(extractor, pictures))
        progress.add(len(pictures))
    return np.concatenate(features)


def cosines(embeddings, others, people=None):
    """Of each row with the same row of the others, and with other people's.

    Returns:
        Two arrays (n,); the second holds means over all other people.
    """
    a, b = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (embeddings.astype("float64"), others.astype("float64"))
    )
    people = np.arange(len(a)) if people is None else people
    # The mean of the cosines is the cosine with the mean: no n x n matrix.
    of_person = np.zeros((people.max() + 1, b.shape[1]))
    np.add.at(of_person, people, b)
    counts = len(b) - np.bincount(people)[people]
    counts = np.where(counts > 0, counts, np.nan)  # NaN: no other person
    means = (b.sum(axis=0) - of_person[people]) / counts[:, None]
    return (a * b).sum(axis=1), (a * means).sum(axis=1)


def _distances(layers, layers_of_others):
    """Of lists of layers' outputs: see `perceptual_distances`."""

    def unit(features):
        return features / (ops.norm(features, axis=-1, keepdims=True) + 1e-10)

    return sum(
        ops.mean(ops.sum(ops.square(unit(a) - unit(b)), axis=-1), axis=(1, 2))
        for a, b in zip(layers, layers_of_others, strict=True)
    ) / len(layers)
