"""Attribute vectors in latent space: computed, saved, added to faces."""

import functools
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pandas as pd
from keras import ops

from facevae_keras.backends import (
    default_jit_compile,
    losses_and_gradients,
    step,
)
from facevae_keras.batches import file_names, read_batches
from facevae_keras.files import (
    clear_errors,
    find_pretrained,
    is_as_shipped,
    written_whole,
)
from facevae_keras.hdf5 import check_hdf5

# Bytes: of 1,000 attributes and 1,000 latent variables.
_LARGEST_SUMS = 2**24

# Photos that `project_photo` takes at a time: more fill the memory.
_PROJECTED_TOGETHER = 16


def encode_images(vae, paths, crop=1.0, batch_size=128):
    """The latent variables (posterior means) of photos.

    Args:
        vae: a `FaceVAE`. Its encoder runs in inference mode.
        paths: paths of image files. A pandas Series (the `path` column of
            `find_images`) keeps its index; else the files' own names serve.
        crop: see `read_photo`; the same as in training.
        batch_size: photos per batch; it does not change the result.

    Returns:
        `pandas.DataFrame` indexed by file name, `vae.latent_dim` float32
        columns. A file that can't be read is left out, and a warning gives
        their number and names.

    Raises:
        ValueError: no paths, or two files of the same name.

    Example:

    >>> latents = fv.encode_images(vae, fv.find_images("celeba")["path"])
    """
    batches = list(_encoded_batches(vae, paths, crop, batch_size))
    names, means = zip(*batches, strict=True)
    index = names[0].append(list(names[1:]))
    return pd.DataFrame(np.concatenate(means), index=index.rename("filename"))


def _encoded_batches(vae, paths, crop, batch_size):
    """Names and posterior means of the photos that can be read, in order."""
    names, paths = file_names(paths)
    if not names.is_unique:
        raise ValueError(
            "file names must be unique to be joined with attributes, found "
            f"{names[names.duplicated()][0]} twice"
        )
    progress = keras.utils.Progbar(len(paths), unit_name="photo")
    for places, photos in read_batches(paths, vae.image_size, crop, batch_size):
        yield names[places], vae.encode(photos)[0]
        progress.add(len(places))


class AttributeSums:
    """Running sums for attribute vectors, of data sets of any size.

    For each attribute the number of faces with it and the sum of their latent
    variables, and both for all faces. Sums of two shards of a data set, from
    two machines for example, add up to those of the whole, to the last bit
    and in any order: latent variables are rounded to multiples of 2^-24,
    which is finer than float32 for values above 1.

    Args:
        attributes: names of the attributes.
        latent_dim: number of latent variables.

    Example:

    >>> first = fv.sum_attributes(vae, paths[:100_000], attributes, crop=0.8)
    >>> second = fv.sum_attributes(vae, paths[100_000:], attributes, crop=0.8)
    >>> vectors = (first + second).vectors()
    """

    _UNIT = 2.0**-24
    _KEYS = ("attributes", "count", "total", "with_count", "with_total")

    def __init__(self, attributes, latent_dim):
        self.attributes = pd.Index(attributes, name="attribute")
        self.count = 0
        self.total = np.zeros(latent_dim, "int64")
        self.with_count = np.zeros(len(self.attributes), "int64")
        self.with_total = np.zeros((len(self.attributes), latent_dim), "int64")

    def update(self, latents, labels):
        """Adds faces.

        Args:
            latents: (n, latent_dim), of size 100,000 at most.
            labels: (n, attributes), 1 where a face has the attribute.

        Raises:
            ValueError: latent variables that are not finite or larger, or
                labels of another number of faces.
        """
        latents = np.asarray(latents, "float64")
        if len(latents) != len(labels):
            raise ValueError(
                f"{len(latents)} faces and labels of {len(labels)}: a face has "
                "its labels once"
            )
        if not (np.abs(latents) <= 100_000).all():  # nor NaN
            raise ValueError(
                "there are latent variables that are not finite or beyond "
                "100,000"
            )
        # Whole numbers below 2^53 are exact in float64, whose matrix product
        # is the fast one.
        units = np.rint(latents / self._UNIT)
        present = (np.asarray(labels) == 1).astype("float64")
        for start in range(0, len(units), 1024):
            part, has = units[start : start + 1024], present[start:][:1024]
            self.count += len(part)
            self.total += part.sum(axis=0).astype("int64")
            self.with_count += has.sum(axis=0).astype("int64")
            self.with_total += (has.T @ part).astype("int64")

    def __add__(self, other):
        if not self.attributes.equals(other.attributes):
            raise ValueError("these sums are of other attributes")
        merged = AttributeSums(self.attributes, len(self.total))
        for name in ("count", "total", "with_count", "with_total"):
            setattr(merged, name, getattr(self, name) + getattr(other, name))
        return merged

    def vectors(self):
        """The attribute vectors, as from `attribute_vectors`."""
        without_count = self.count - self.with_count
        without_total = self.total - self.with_total
        with np.errstate(invalid="ignore"):  # 0 / 0 is the promised NaN
            vectors = self._UNIT * (
                self.with_total / self.with_count[:, None]
                - without_total / without_count[:, None]
            )
        undefined = np.isnan(vectors).any(axis=1)
        if undefined.any():
            warnings.warn(
                "no vector for attributes that nobody or everybody has: "
                + ", ".join(self.attributes[undefined]),
                stacklevel=2,
            )
        return pd.DataFrame(vectors.astype("float32"), index=self.attributes)

    def save(self, path):
        """Writes the sums to a NumPy archive, `NAME.npz`."""
        with written_whole(path) as unfinished:
            np.savez(
                unfinished,
                attributes=self.attributes.to_numpy("str"),
                count=self.count,
                total=self.total,
                with_count=self.with_count,
                with_total=self.with_total,
            )

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote.

        Raises:
            ValueError: a damaged file, or another one; names it.
        """
        with clear_errors(path), zipfile.ZipFile(path) as archive:
            if sum(x.file_size for x in archive.infolist()) > _LARGEST_SUMS:
                raise ValueError("larger than any sums of attributes")
            with np.load(path) as file:
                found = {name: file[name] for name in cls._KEYS}
            sums = cls(found["attributes"], *found["total"].shape)
            for name in cls._KEYS[1:]:
                own, value = np.asarray(getattr(sums, name)), found[name]
                if value.shape != own.shape or value.dtype.kind != "i":
                    raise ValueError(
                        f"expected whole numbers {own.shape} as {name}, found "
                        f"{value.dtype} {value.shape}"
                    )
                setattr(sums, name, value if value.shape else int(value))
            if (
                not (0 <= sums.with_count).all()
                or (sums.with_count > sums.count).any()
            ):
                raise ValueError("more faces with an attribute than faces")
        return sums


def sum_attributes(vae, paths, attributes, crop=1.0, batch_size=128):
    """Encodes photos and keeps only sums: no more memory than a few batches.

    For data sets whose latent variables don't fit into memory, or that are on
    several machines. `encode_images` and `attribute_vectors` give the same
    vectors, and the latent variables too.

    Args:
        vae, paths, crop, batch_size: see `encode_images`.
        attributes: DataFrame from `read_attributes`; photos without labels are
            left out.

    Returns:
        `AttributeSums`.
    """
    attributes = _without_identity(attributes)
    sums = AttributeSums(attributes.columns, vae.latent_dim)
    for names, latents in _encoded_batches(vae, paths, crop, batch_size):
        labelled = names.isin(attributes.index)
        sums.update(latents[labelled], attributes.loc[names[labelled]])
    return sums


def attribute_vectors(latents, attributes):
    """The attribute vectors: a difference of two means for each attribute.

    The mean latent variables of the faces that have it less the mean of those
    that don't.

    Args:
        latents: DataFrame from `encode_images`, indexed by file name.
        attributes: DataFrame from `read_attributes`, indexed by file name;
            joined on the name, whatever the order. A column `identity` is no
            attribute and is left out.

    Returns:
        `pandas.DataFrame` indexed by attribute, one row of float32 each. An
        attribute that nobody or everybody has gets a row of NaN and is named
        in a warning, as is the number of faces without labels.

    Raises:
        ValueError: no file name occurs in both.

    Example:

    >>> vectors = fv.attribute_vectors(latents, attributes)
    >>> vectors.loc["Smiling"]
    """
    names = _labelled_names(latents, attributes)
    attributes = _without_identity(attributes)
    sums = AttributeSums(attributes.columns, latents.shape[1])
    sums.update(latents.loc[names], attributes.loc[names])
    return sums.vectors()


def add_attribute(latents, vector, amounts):
    """Moves faces along an attribute vector, by several amounts each.

    Args:
        latents: array or DataFrame (n, latent_dim).
        vector: (latent_dim,), such as `vectors.loc["Smiling"]`; a sum of
            vectors changes several attributes at a time.
        amounts: how many times the vector to add, such as `[0, 0.5, 1]`;
            negative takes the attribute away.

    Returns:
        float32 array (n, len(amounts), latent_dim). Latents of more
        dimensions are moved likewise, so that two calls in a row give
        (n, len(first amounts), len(second amounts), latent_dim).

    Raises:
        ValueError: sizes that do not fit, or a vector with NaN.

    Example:

    >>> smiles = fv.add_attribute(latents, vectors.loc["Smiling"], [0, 1, 2])
    >>> faces = vae.decode(smiles)  # (n, 3, 64, 64, 3)
    """
    latents = np.asarray(latents, dtype="float32")
    vector = np.asarray(vector, dtype="float32")
    amounts = np.asarray(amounts, dtype="float32")
    if vector.ndim != 1 or vector.shape[-1:] != latents.shape[-1:]:
        raise ValueError(
            f"latents of shape {latents.shape} need a vector of shape "
            f"{latents.shape[-1:]}, found {vector.shape}"
        )
    if not np.isfinite(vector).all():
        raise ValueError(
            "the attribute vector holds NaN: nobody or everybody in the data "
            "set that it was computed on has the attribute"
        )
    return latents[..., None, :] + amounts[:, None] * vector


def balanced_vector(latents, attributes, attribute, by):
    """An attribute vector that leaves other attributes unchanged.

    Faces with glasses are older on average, so the plain difference of means
    ages the face too. Here faces are compared only with faces that agree with
    them in the attributes `by`: the means of the young with glasses and the
    young without, of the old with and the old without. The differences of
    these groups are averaged, each weighted by the inverse of its variance (`n1
    n0 / (n1 + n0)` for n1 faces with the attribute and n0 without). White
    2016 (arXiv 1609.04468) balances classes to the same end, by replication.

    Args:
        latents: DataFrame from `encode_images`, indexed by file name.
        attributes: DataFrame from `read_attributes`; joined on the name.
        attribute: name of the attribute.
        by: name or names of the attributes to hold constant. Two or three will
            do: every further one halves the groups. `"identity"` compares
            photos of the same person only; people with photos of one kind
            don't count.

    Returns:
        float32 array (latent_dim,), for `add_attribute`.

    Raises:
        ValueError: an unknown attribute, or no group with faces of both kinds.

    Example:

    >>> glasses = fv.balanced_vector(
    ...     latents, attributes, "Eyeglasses", by=["Young", "Male"]
    ... )
    """
    by = [by] if isinstance(by, str) else list(by)
    labels = _columns(attributes, sorted({attribute, *by}))
    labels = labels.loc[_labelled_names(latents, attributes)]
    total, weights = np.zeros(latents.shape[1]), 0.0
    for _, group in labels.groupby(by):
        has = (group[attribute] == 1).to_numpy()
        weight = has.mean() * (~has).sum()
        if weight > 0:  # else one class is missing and nothing to compare
            values = latents.loc[group.index].to_numpy("float64")
            difference = values[has].mean(axis=0) - values[~has].mean(axis=0)
            total += weight * difference
            weights += weight
    if weights == 0:
        raise ValueError(
            f"among faces that agree in {', '.join(by)}, nobody or everybody "
            f"has {attribute}: nothing to compare"
        )
    return (total / weights).astype("float32")


def classifier_direction(latents, attributes, attribute):
    """The normal of a linear classifier's boundary.

    The plane that best separates the faces with and without the attribute, as
    in InterFaceGAN (Shen et al. 2020, arXiv 1907.10786), here by logistic
    regression. It weighs latent variables by how well they separate, so it
    tends to change less than the difference of means, wanted or not.

    Args:
        latents: DataFrame from `encode_images`, indexed by file name.
        attributes: DataFrame from `read_attributes`; joined on the name.
        attribute: name of the attribute.

    Returns:
        float32 array (latent_dim,), for `add_attribute`. Its length is that of
        the difference of means projected on it: one step takes the mean face
        without the attribute as far across as the mean face with it.

    Raises:
        ValueError: an unknown attribute, or one that nobody or everybody has.

    Example:

    >>> smile = fv.classifier_direction(latents, attributes, "Smiling")
    """
    # Not at the top: it takes seconds to import, and only this needs it.
    from sklearn.linear_model import LogisticRegression

    labels = _columns(attributes, [attribute])
    labels = labels.loc[_labelled_names(latents, attributes)]
    values = latents.loc[labels.index].to_numpy("float64")
    has = (labels[attribute] == 1).to_numpy()
    if has.all() or not has.any():
        raise ValueError(f"nobody or everybody has {attribute}")
    normal = LogisticRegression(max_iter=1000).fit(values, has).coef_[0]
    difference = values[has].mean(axis=0) - values[~has].mean(axis=0)
    vector = normal * (normal @ difference) / (normal @ normal)
    return vector.astype("float32")


def project_out(vector, others):
    """Removes a vector's projection on other vectors.

    InterFaceGAN's conditional manipulation (Shen et al. 2020, arXiv
    1907.10786): a smile less its projection on `Mouth_Slightly_Open` goes at a
    right angle to it.

    Args:
        vector: (latent_dim,), such as `vectors.loc["Smiling"]`.
        others: (latent_dim,), or several: (k, latent_dim).

    Returns:
        float32 array (latent_dim,), its dot product with each of `others` 0.

    Raises:
        ValueError: sizes that do not fit.

    Example:

    >>> kept = ["Mouth_Slightly_Open", "High_Cheekbones"]
    >>> smile = fv.project_out(vectors.loc["Smiling"], vectors.loc[kept])
    """
    vector = np.asarray(vector, dtype="float64")
    others = np.atleast_2d(np.asarray(others, dtype="float64"))
    if vector.ndim != 1 or others.shape[1:] != vector.shape:
        raise ValueError(
            f"a vector of shape {vector.shape} cannot be projected on vectors "
            f"of shape {others.shape}"
        )
    # Least squares, since the others need not be at right angles themselves.
    shares = np.linalg.lstsq(others.T, vector, rcond=None)[0]
    return (vector - shares @ others).astype("float32")


def project_photo(vae, photos, loss, steps=40):
    """Finds latent variables that draw a photo better than the encoder's.

    The encoder answers at once and about right. This starts from its answer
    and changes the latent variables, not the networks, by gradient steps, so
    that the decoder's picture comes closer to the photo. Two terms are
    minimized: the reconstruction loss, divided by that of the encoder's
    answer; and a tenth of the mean of the squared latent variables, the share
    of the prior, which is about 1 for a face like those of the training. The
    less likely a face is under the prior, the less an attribute vector does
    what it should.

    Args:
        vae: a `FaceVAE`.
        photos: array (n, height, width, 3), RGB 0..255, square, cropped as in
            training. The result for one does not depend on the others.
        loss: `fv.PerceptualLoss`, `fv.PixelLoss`, or another loss that
            `FaceVAE.compile` takes. FaceNet's deep layers are needed to keep
            more of the person. `"built-in"` has none: with it the pixels come
            closer and the person does not, so 10 steps are enough.
        steps: number of gradient steps.

    Returns:
        float32 array (n, latent_dim), for `vae.decode` and `add_attribute`.

    Example:

    >>> layers = ["pixels", "Conv2d_4b_3x3", "Mixed_6b", "PreLogitsFlatten"]
    >>> loss = fv.PerceptualLoss(facenet, layers, image_size=127)
    >>> loss.equalize(vae.decode(known_latents[:256]))
    >>> latents = fv.project_photo(vae, photos, loss)
    """
    photos = np.asarray(photos, dtype="float32")
    projected = []
    for start in range(0, len(photos), _PROJECTED_TOGETHER):
        part = photos[start : start + _PROJECTED_TOGETHER]
        model = _LatentVariables(vae, part, loss)
        # The step sizes fall to 0, so that the last ones settle.
        rates = keras.optimizers.schedules.CosineDecay(0.05, steps)
        model.compile(
            keras.optimizers.Adam(rates, beta_2=0.99),
            jit_compile=default_jit_compile(),
        )
        # The same batch again and again, for the progress bar of `fit`.
        batches = ((part,) for _ in range(steps))
        model.fit(batches, steps_per_epoch=steps, shuffle=False)
        projected.append(ops.convert_to_numpy(model.latents.value))
    return np.concatenate(projected)


class _LatentVariables(keras.Model):
    """The latent variables of some photos, as weights to be trained."""

    def __init__(self, vae, photos, loss):
        super().__init__()
        start, _ = vae.encode(photos)
        self.latents = self.add_weight(shape=start.shape, name="latents")
        self.latents.assign(start)
        # Keras trains the layers that it finds among the attributes. It does
        # not find these.
        self._decode = functools.partial(vae.decoder, training=False)
        self._loss_per_image = loss.call
        pictures = ops.convert_to_tensor(vae.decode(start))
        unit = loss.call(ops.convert_to_tensor(photos), pictures)
        self._unit = ops.convert_to_numpy(unit)
        self.built = True

    @step
    def train_step(self, photos):
        losses, gradients = losses_and_gradients(self, photos)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"relative_loss": losses[1]}

    def compute_losses(self, photos, training):
        """What is minimized, and the reconstruction loss; see `FaceVAE`."""
        latents = self.latents.value
        relative = self._loss_per_image(photos, self._decode(latents))
        relative = relative / ops.convert_to_tensor(self._unit)
        prior = ops.mean(ops.square(latents), axis=-1)
        # A sum, since each photo is a problem of its own.
        return ops.sum(relative + 0.1 * prior), ops.mean(relative)


def save_attributes(path, latents, attributes, vectors):
    """Writes latent variables, labels and attribute vectors to HDF5.

    The layout of the original programs: `latent_vars` (n x latent_dim),
    `attributes` (n x 40), `fields` (40 names), `attribute_vectors` (40 x
    latent_dim, float32); and two that they did not keep: `filenames` (n names)
    and, where the labels have a column `identity`, `identities` (n names).

    Args:
        path: the file to write.
        latents: DataFrame from `encode_images`.
        attributes: DataFrame from `read_attributes`; photos that are in only
            one of the two are left out.
        vectors: DataFrame from `attribute_vectors`.
    """
    names = latents.index.intersection(attributes.index, sort=False)
    fields = list(vectors.index)
    arrays = {
        "latent_vars": latents.loc[names].to_numpy("float32"),
        "attributes": attributes.loc[names, fields].to_numpy("int8"),
        "attribute_vectors": vectors.to_numpy("float32"),
        "fields": _to_bytes(fields),
        "filenames": _to_bytes(names),
    }
    if "identity" in attributes:
        arrays["identities"] = _to_bytes(attributes.loc[names, "identity"])
    with (
        written_whole(path) as unfinished,
        # This version of the format has checksums of its own.
        h5py.File(unfinished, "w", libver=("v108", "v108")) as file,
    ):
        for key, data in arrays.items():
            file.create_dataset(
                key, data=data, compression="gzip", shuffle=True
            )


def load_attributes(source):
    """Reads what `save_attributes` or the original programs wrote.

    Args:
        source: the HDF5 file, or the name of a VAE that ships, as for
            `load_vae`.

    Returns:
        Three DataFrames: latents, attributes and vectors, as they are given to
        `save_attributes`. Where the file says who is on each photo, attributes
        end with a column of strings, `identity`. Files of the original have no
        file names; their photos are numbered from 0.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no HDF5 file, a damaged one, one that claims more than its
            size can hold, or not the keys, shapes and values described.

    Example:

    >>> latents, attributes, vectors = fv.load_attributes("celeba_dfc_vae")
    """
    path = find_pretrained(source, ".h5")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with clear_errors(path):
        if not is_as_shipped(path):
            check_hdf5(path)
        with h5py.File(path, "r") as file:
            return _read_arrays(file)


def _read_arrays(file):
    keys = ("latent_vars", "attributes", "fields", "attribute_vectors")
    missing = [key for key in keys if key not in file]
    if missing:
        raise ValueError(
            f"expected the keys {', '.join(keys)}; {', '.join(missing)} "
            f"missing, found {', '.join(file)}"
        )
    count, size = (*file["latent_vars"].shape, 0, 0)[:2]
    attributes = file["fields"].size
    expected = {
        "latent_vars": (count, size),
        "attributes": (count, attributes),
        "fields": (attributes,),
        "attribute_vectors": (attributes, size),
        "filenames": (count,),
        "identities": (count,),
    }
    found = {}
    for key in filter(file.__contains__, expected):
        if file[key].shape != expected[key]:
            raise ValueError(
                f"expected {key} of shape {expected[key]}, found "
                f"{file[key].shape}"
            )
        found[key] = file[key][()]
    for key in ("latent_vars", "attribute_vectors"):
        with np.errstate(over="ignore"):  # too large ones become infinite
            found[key] = found[key].astype("float32")
    if not np.isfinite(found["latent_vars"]).all():
        raise ValueError("latent_vars holds values that are not finite")
    if np.isinf(found["attribute_vectors"]).any():
        raise ValueError("attribute_vectors holds values that are infinite")
    if not np.isin(found["attributes"], (-1, 1)).all():
        raise ValueError("attributes holds other values than -1 and 1")
    fields = _to_text(found["fields"])
    if "filenames" in found:
        index = pd.Index(_to_text(found["filenames"]), name="filename")
    else:
        index = pd.RangeIndex(count, name="filename")
    labels = pd.DataFrame(
        found["attributes"].astype("int8"), index=index, columns=fields
    )
    if "identities" in found:
        labels["identity"] = _to_text(found["identities"])
    return (
        pd.DataFrame(found["latent_vars"], index=index),
        labels,
        pd.DataFrame(
            found["attribute_vectors"],
            index=pd.Index(fields, name="attribute"),
        ),
    )


def _labelled_names(latents, attributes):
    """Names of the photos with latent variables and labels; warns of others."""
    names = latents.index.intersection(attributes.index, sort=False)
    if names.empty:
        raise ValueError(
            "no photo has both latent variables and labels: the first names "
            f"are {latents.index[0]!r} and {attributes.index[0]!r}"
        )
    unlabelled = latents.index.difference(attributes.index)
    if len(unlabelled):
        warnings.warn(
            f"{len(unlabelled)} of {len(latents)} photos have no labels and "
            f"are left out, such as {', '.join(unlabelled[:5])}",
            stacklevel=3,
        )
    return names


def _without_identity(attributes):
    """Labels alone, without the column that says who is on each photo."""
    return attributes.drop(columns="identity", errors="ignore")


def _columns(attributes, names):
    unknown = [name for name in names if name not in attributes.columns]
    if unknown:
        raise ValueError(
            f"no attribute {', '.join(unknown)}; known are "
            + ", ".join(attributes.columns)
        )
    return attributes[names]


def _to_bytes(texts):
    # Of one length: HDF5's strings of any length are in a heap of their own,
    # and a damaged heap can keep its library busy for ever.
    return np.char.encode(np.asarray(texts, "str"), "utf-8")


def _to_text(values):
    return [
        value.decode() if isinstance(value, bytes) else str(value)
        for value in values
    ]
