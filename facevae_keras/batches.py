"""Photos decoded, kept, augmented and fed to `fit`."""

import collections
import concurrent.futures
import functools
import hashlib
import os
import pathlib
import shutil
import warnings

import filelock
import keras
import numpy as np
import pandas as pd
from keras import ops
from PIL import Image, ImageOps

from facevae_keras.augment import check_room, vary_photos
from facevae_keras.layers import warn_of_range

# Bytes: all of CelebA at 64x64 pixels fits, at 160x160 it doesn't.
LARGEST_IN_MEMORY = 4 * 1024**3
# A file of some kilobytes may claim any number; this many take 300 MB.
MOST_PIXELS = 100_000_000
# Pillow decodes these by itself; others start programs or load plug-ins.
FORMATS = "JPEG", "PNG", "BMP", "WEBP"
_MOST_CACHES = 3


def read_photo(path, image_size, crop=1.0):
    """Reads one photo: its central square, scaled with anti-aliasing.

    Args:
        path: path of the image file, of any size and color mode, or an open
            binary file.
        image_size: height and width of the result, in pixels.
        crop: side of the square as a fraction of the photo's shorter side, so
            that it means the same for photos of every size.

    Returns:
        uint8 array (image_size, image_size, 3), RGB.

    Raises:
        OSError: the file is missing, damaged, of none of the `FORMATS`, of
            more than `MOST_PIXELS`, or of pixels whose range is unknown; names
            the file.
    """
    is_path = isinstance(path, str | os.PathLike)
    # To open a pipe would wait for its writer.
    if is_path and not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with Image.open(path, formats=FORMATS) as photo:
            return np.asarray(_central_square(photo, image_size, crop))
    except Exception as error:
        # Decoders of damaged files fail in too many ways to list.
        raise OSError(f"{path}: {error}") from error


def _central_square(photo, image_size, crop):
    width, height = photo.size
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels, expected at most {MOST_PIXELS:,}"
        )
    # Lets JPEG decode large photos at a half, a quarter, ... of their size; at
    # twice the final size the difference can't be seen.
    photo.draft("RGB", 2 * (round(2 * image_size / crop),))
    ImageOps.exif_transpose(photo, in_place=True)
    if photo.mode.startswith("I;16"):
        grey = np.asarray(photo).astype("float32") / 257
        photo = Image.fromarray(np.rint(grey).astype("uint8"))
    if photo.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits, expected 8 or 16")
    if photo.mode != "RGB":
        photo = photo.convert("RGB")
    width, height = photo.size
    side = crop * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return photo.resize(
        (image_size, image_size),
        Image.Resampling.BILINEAR,  # Pillow's is anti-aliased
        box=(left, top, left + side, top + side),
    )


def read_batches(paths, image_size, crop=1.0, batch_size=128):
    """Reads photos in order, batch by batch, on all processor cores.

    The next two batches are read while the caller is busy with one, and no
    more than these are in memory.

    Args:
        paths: list of paths of image files.
        image_size, crop: see `read_photo`.
        batch_size: files per batch.

    Yields:
        Pairs: the places in `paths` of the photos that could be read, and
        those photos, a uint8 array (1 to batch_size, image_size, image_size,
        3). At the end a warning gives the number and names of
        those that couldn't.

    Raises:
        ValueError: no paths, a crop that is no fraction, or not one of the
            files can be read.
    """
    paths = [str(path) for path in paths]
    _check_request(paths, crop)
    unreadable = {}

    def read(place):
        return place, _try_photo(paths[place], image_size, crop, unreadable)

    def batches(futures):
        found = [future.result() for future in futures]
        found = [(place, photo) for place, photo in found if photo is not None]
        if not found:
            return
        places = np.array([place for place, _ in found], dtype="int64")
        photos = np.empty((len(found), image_size, image_size, 3), "uint8")
        for row, (_, photo) in enumerate(found):
            photos[row] = photo
        yield places, photos

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead = collections.deque()
        for start in range(0, len(paths), batch_size):
            places = range(start, min(start + batch_size, len(paths)))
            ahead.append([pool.submit(read, place) for place in places])
            if len(ahead) > 2:
                yield from batches(ahead.popleft())
        while ahead:
            yield from batches(ahead.popleft())
    _warn_unreadable(unreadable, len(paths))


def load_photos(paths, image_size, crop=1.0, cache_folder=None):
    """Reads photos once, for a training that passes over them many times.

    Args:
        paths: paths of image files. A pandas Series (the `path` column of
            `find_images`) keeps its index; else the files' own names serve.
        image_size, crop: see `read_photo`.
        cache_folder: where photos that take more than `LARGEST_IN_MEMORY` go,
            a file that is mapped into memory, not read. The next call with the
            same files, size and crop finds it there; another process waits
            until it is written. The last three are kept. None: always in
            memory.

    Returns:
        Two things: the photos that could be read, a uint8 array or memory map
        (n, image_size, image_size, 3), RGB, and their names, a `pandas.Index`.
        A warning gives the number and names of those that couldn't.

    Raises:
        ValueError: no paths, or not one of the files can be read.
        OSError: no room for the cache.

    Example:

    >>> photos, names = fv.load_photos(training["path"], 160, crop=0.8)
    >>> vae.fit(fv.photo_batches(photos, 128), epochs=10, steps_per_epoch=100)
    """
    names, paths = file_names(paths)
    shape = (len(paths), image_size, image_size, 3)
    if cache_folder is None or np.prod(shape) <= LARGEST_IN_MEMORY:
        photos = np.empty(shape, "uint8")
        places = _read_into(photos, paths, image_size, crop)
        return photos[: len(places)], names[places]
    cache_folder = pathlib.Path(cache_folder)
    cache_folder.mkdir(parents=True, exist_ok=True)
    cache = cache_folder / f"photos_{_fingerprint(paths, image_size, crop)}"
    with filelock.FileLock(cache_folder / "photos.lock"):
        if not _is_complete(cache, paths, image_size, crop):
            _write_cache(cache, paths, image_size, crop)
        os.utime(cache)
        photos = np.load(cache / "photos.npy", mmap_mode="r")
        places = np.load(cache / "places.npy")
    return photos[: len(places)], names[places]


def _is_complete(cache, paths, image_size, crop):
    """Whether a cache is there and lacks only what still can't be read."""
    if not cache.exists():
        return False
    missing = set(range(len(paths))) - set(np.load(cache / "places.npy"))
    unreadable = {}
    for place in sorted(missing):
        photo = _try_photo(paths[place], image_size, crop, unreadable)
        if photo is not None:
            return False
    _warn_unreadable(unreadable, len(paths))
    return True


def _write_cache(cache, paths, image_size, crop):
    """Writes photos beside their place, moves them there, removes old ones."""
    unfinished = cache.with_name("unfinished_photos")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process
    unfinished.mkdir()
    try:
        photos = np.lib.format.open_memmap(
            unfinished / "photos.npy",
            "w+",
            "uint8",
            (len(paths), image_size, image_size, 3),
        )
        _allocate(unfinished / "photos.npy", photos.nbytes)
        places = _read_into(photos, paths, image_size, crop)
        photos.flush()
        np.save(unfinished / "places.npy", places)
        _remove_cache(cache)
        os.replace(unfinished, cache)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    caches = sorted(cache.parent.glob("photos_*/"), key=os.path.getmtime)
    for old in caches[:-_MOST_CACHES]:
        _remove_cache(old)


def _remove_cache(cache):
    """Removes a cache that may be there; a stop leaves no half of one."""
    if cache.exists():
        removed = cache.with_name("unfinished_removal")
        shutil.rmtree(removed, ignore_errors=True)
        os.replace(cache, removed)
        shutil.rmtree(removed, ignore_errors=True)


def _allocate(path, size):
    """Takes the room on the disk that a mapped file otherwise takes later.

    Where there is none, writing to the map would end the process.
    """
    try:
        with open(path, "rb+") as file:
            if hasattr(os, "posix_fallocate"):  # not on macOS or Windows
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise OSError(
            f"{path.parent.parent}: no room for {size / 1000:,.0f} kB of "
            f"photos ({error})"
        ) from error


def file_names(paths):
    """Names for paths: the index of a pandas Series, or the files' own."""
    if isinstance(paths, pd.Series):
        return paths.index, [str(path) for path in paths]
    paths = [str(path) for path in paths]
    return pd.Index([pathlib.Path(path).name for path in paths]), paths


def _read_into(photos, paths, image_size, crop):
    """Fills the first rows of an array; the places in `paths` of these."""
    progress = keras.utils.Progbar(len(paths), unit_name="photo")
    found = []
    row = 0
    for places, batch in read_batches(paths, image_size, crop):
        photos[row : row + len(batch)] = batch
        row += len(batch)
        found.append(places)
        progress.add(len(batch))
    return np.concatenate(found)


def _fingerprint(paths, image_size, crop):
    """Changes when a file, its size or time, or what is made of it does."""
    digest = hashlib.sha256(f"{image_size} {crop}".encode())
    for path in paths:
        status = os.stat(path) if os.path.exists(path) else None
        stamp = (status.st_size, status.st_mtime_ns) if status else None
        digest.update(f"{path} {stamp}".encode())
    return digest.hexdigest()[:16]


class Batches(keras.utils.PyDataset):
    """Batches for `fit`, without end; each follows from its number alone.

    They can be passed to `fit`, looped over, or asked for with `next`.

    Args:
        batch: function of a number, from 0, that returns that batch's array.
        steps_per_launch: how many steps of training a batch holds.

    Example:

    >>> batches = fv.photo_batches(photos, 128)
    >>> (first,) = next(batches)
    >>> vae.fit(batches.skip(1000), steps_per_epoch=100)
    """

    num_batches = None  # without end

    def __init__(self, batch, steps_per_launch=1, first=0):
        super().__init__()
        self.steps_per_launch = steps_per_launch
        self._batch = batch
        self._first = first

    def __getitem__(self, number):
        return (self._batch(self._first + number),)

    def __iter__(self):
        return self

    def __next__(self):
        self._first += 1
        return self[-1]

    def skip(self, count):
        """The same batches from number `count` on; none is read in vain."""
        return Batches(self._batch, self.steps_per_launch, self._first + count)

    def part(self, process, processes):
        """One process's equal part of every batch.

        Args:
            process: number of the process, from 0.
            processes: how many there are, see `join_processes`.

        Returns:
            `Batches`.

        Raises:
            ValueError: a batch can't be divided equally.
        """

        def batch(number):
            whole = self._batch(number)
            count, rest = divmod(len(whole), processes)
            if rest or self.steps_per_launch > 1:
                raise ValueError(
                    f"{processes} processes: expected batches of photos that "
                    f"can be divided equally, found {whole.shape}"
                )
            return whole[process * count :][:count]

        return Batches(batch, first=self._first)


def index_batches(count, batch_size, flip=False, steps_per_launch=1, seed=666):
    """Draws batches without end: every photo once in each pass.

    Args:
        count: number of photos.
        batch_size: photos per step of training.
        flip: mirrors half of the photos.
        steps_per_launch: how many steps one batch for `fit` is to hold.
        seed: the same seed draws the same batches.

    Returns:
        `Batches` of one int32 array (steps_per_launch, batch_size). Index i is
        photo i; index i + count is photo i, mirrored.

    Raises:
        ValueError: a batch is larger than the data set.
    """
    draw = _drawn_indices(count, batch_size, flip, seed)

    def batch(number):
        first = number * steps_per_launch
        return np.stack([draw(first + i) for i in range(steps_per_launch)])

    return Batches(batch, steps_per_launch)


def _drawn_indices(count, batch_size, flip, seed):
    """A function of the number of a step: its indices, as `index_batches`."""
    _check_batch_size(batch_size, count)

    @functools.lru_cache(maxsize=2)
    def indices_of_pass(number):
        random = np.random.default_rng([seed, number])
        order = random.permutation(count)
        if flip:
            order = order + count * random.integers(2, size=count)
        return order.astype("int32")

    def draw(step):
        number, place = divmod(step, count // batch_size)
        return indices_of_pass(number)[place * batch_size :][:batch_size]

    return draw


def training_batches(
    paths,
    image_size,
    batch_size,
    crop=1.0,
    flip=False,
    warp=False,
    blend=False,
    color_jitter=False,
    cache_folder=None,
    seed=666,
):
    """Reads photos and feeds them to `fit`, augmented, without end.

    Args:
        paths: paths of image files, such as the `path` column of
            `find_images`.
        image_size: height and width of the batches' photos, in pixels.
        batch_size: photos per batch.
        crop: see `read_photo`.
        flip: mirrors half of the photos.
        warp: warps every photo at random, differently each time. The photos
            are read an eighth larger for that, so that `crop` is at most 8/9.
        blend, color_jitter, seed: see `photo_batches`.
        cache_folder: see `load_photos`.

    Returns:
        `Batches` of one uint8 array (batch_size, image_size, image_size, 3).

    Raises:
        ValueError: as `load_photos` and `photo_batches`; or `warp` with too
            large a crop.

    Example:

    >>> batches = fv.training_batches(training["path"], 64, 128, crop=0.8)
    >>> vae.fit(batches, epochs=10, steps_per_epoch=100)
    """
    margin = 9 / 8 if warp else 1
    if margin * crop > 1:
        raise ValueError(
            f"warp needs room around the crop: at most {8 / 9:.3f} of the "
            f"photo's shorter side, found a crop of {crop}"
        )
    photos, _ = load_photos(
        paths, round(margin * image_size), margin * crop, cache_folder
    )
    return photo_batches(
        photos,
        batch_size,
        flip,
        seed,
        warped_size=image_size if warp else None,
        blend=blend,
        color_jitter=color_jitter,
    )


def photo_batches(
    photos,
    batch_size,
    flip=False,
    seed=666,
    warped_size=None,
    blend=False,
    color_jitter=False,
):
    """Batches of photos for `fit`, without end, on every Keras backend.

    Args:
        photos: uint8 array (n, height, width, 3), as from `load_photos`.
        batch_size, flip, seed: see `index_batches`, which draws the photos.
        warped_size: output size in pixels, smaller than the photos by a tenth
            or so. Photos are warped at random and cropped to it; this reduces
            overfitting to few people. None: photos as they are.
        blend: blends every second photo with the next one, in spots that are
            drawn anew every time; this reduces overfitting, too.
        color_jitter: varies brightness, saturation and hue a little.

    Returns:
        `Batches` of one uint8 array (batch_size, height, width, 3).

    Raises:
        ValueError: a batch is larger than the data set, or warped photos
            larger than the photos.

    Example:

    >>> batches = fv.photo_batches(photos, 128, flip=True)
    >>> vae.fit(batches, epochs=10, steps_per_epoch=100)
    """
    warn_of_range(photos)
    if warped_size is not None:
        check_room(photos, warped_size)
    draw = _drawn_indices(len(photos), batch_size, flip, seed)

    jitter = _color_jitter_layers(seed) if color_jitter else []

    def batch(step):
        drawn = _take(photos, draw(step))
        # What is drawn depends on the step alone: a resumed training goes on
        # with the same photos.
        first = 8 * step % 2**32
        if warped_size is not None or blend:
            random = keras.random.SeedGenerator(seed)
            random.state.assign([seed, first])
            drawn = vary_photos(drawn, warped_size, blend, random)
        if jitter:
            drawn = ops.cast(drawn, "float32")
        for layer in jitter:
            layer.generator.state.assign([layer.seed, first])
            drawn = layer(drawn, training=True)
        return drawn if isinstance(drawn, np.ndarray) else _to_uint8(drawn)

    return Batches(batch)


def _take(photos, indices):
    batch = photos[indices % len(photos)]
    mirrored = indices >= len(photos)
    batch[mirrored] = batch[mirrored, :, ::-1]
    return batch


def image_dataset(
    paths,
    image_size,
    batch_size=128,
    crop=1.0,
    shuffle=False,
    flip=False,
    color_jitter=False,
    seed=666,
):
    """Batches of photos for `fit`, `evaluate` and `predict`.

    Args:
        paths: paths of image files, such as the `path` column of
            `find_images`.
        image_size: height and width of the batches' photos, in pixels.
        batch_size: photos per batch.
        crop: see `read_photo`.
        shuffle: draws the photos in another order at every pass, over the
            whole set, and leaves out the last batch when it isn't full.
        flip: mirrors half of the photos.
        color_jitter: varies brightness, saturation and hue a little, with
            layers of Keras; `"keras-cv"`: with those of keras-cv.
        seed: one seed gives the same batches every time.

    Returns:
        `tf.data.Dataset` of uint8 tensors (batch_size, image_size, image_size,
        3), RGB. A file that can't be read is skipped; at the end of the pass a
        warning gives their number and names.

    Raises:
        ValueError: no paths, or, with `shuffle`, fewer than `batch_size`.

    Example:

    >>> training, validation = fv.split_images(fv.find_images("celeba"))
    >>> dataset = fv.image_dataset(training["path"], 160, shuffle=True)
    >>> vae.fit(dataset, epochs=10)
    """
    import tensorflow as tf

    paths = [str(path) for path in paths]
    if shuffle:
        _check_batch_size(batch_size, len(paths))
    dataset = _photo_dataset(paths, image_size, crop, shuffle, seed)
    dataset = dataset.batch(batch_size, drop_remainder=shuffle)
    if flip or color_jitter:
        augment = _augmentation(flip, color_jitter, seed)
        dataset = dataset.map(augment)  # not parallel: it would not repeat
    return dataset.prefetch(tf.data.AUTOTUNE)


def _photo_dataset(paths, image_size, crop, shuffle, seed):
    """The photos that can be read, one by one; it warns of the others."""
    import tensorflow as tf

    _check_request(paths, crop)
    unreadable = {}

    def read(index):
        photo = _try_photo(paths[index], image_size, crop, unreadable)
        if photo is None:
            return np.zeros((image_size, image_size, 3), "uint8"), False
        return photo, True

    def read_in_graph(index):
        photo, readable = tf.numpy_function(read, [index], (tf.uint8, tf.bool))
        photo.set_shape((image_size, image_size, 3))
        readable.set_shape(())
        return photo, readable

    def report():  # an empty tail of the data set, which only warns
        _warn_unreadable(unreadable, len(paths))
        unreadable.clear()
        yield from ()

    dataset = tf.data.Dataset.range(len(paths))
    if shuffle:
        dataset = dataset.shuffle(len(paths), seed=seed)
    dataset = dataset.map(read_in_graph, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.filter(lambda photo, readable: readable)
    dataset = dataset.map(lambda photo, readable: photo)
    tail = tf.data.Dataset.from_generator(
        report, output_signature=dataset.element_spec
    )
    return dataset.concatenate(tail)


def _try_photo(path, image_size, crop, unreadable):
    """As `read_photo`; None for a file that it can't read, and notes why."""
    try:
        return read_photo(path, image_size, crop)
    except OSError as error:
        unreadable[path] = str(error)
        return None


def _check_batch_size(batch_size, count):
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, is {batch_size}")
    if batch_size > count:
        raise ValueError(
            f"a batch of {batch_size} is larger than the data set of "
            f"{count} photos"
        )


def _check_request(paths, crop):
    if not paths:
        raise ValueError("expected the paths of photos, found none")
    if not 0 < crop <= 1:
        raise ValueError(f"crop is a fraction, 0 < crop <= 1, found {crop}")


def _warn_unreadable(unreadable, count):
    """Warns of files that were skipped.

    Args:
        unreadable: dictionary of path to what `read_photo` said; nothing
            happens if empty.
        count: number of files in all.

    Raises:
        ValueError: not one of the files could be read.
    """
    if not unreadable:
        return
    listing = "; ".join(sorted(unreadable.values())[:10])
    message = (
        f"{len(unreadable)} of {count} images could not be read and were "
        f"skipped: {listing}{'; ...' if len(unreadable) > 10 else ''}"
    )
    if len(unreadable) == count:
        raise ValueError(message)
    warnings.warn(message, stacklevel=2)


def _color_jitter_layers(seed):
    layers = keras.layers
    return [
        layers.RandomBrightness(0.1, (0, 255), seed=seed, dtype="float32"),
        layers.RandomSaturation((0.4, 0.6), seed=seed + 1, dtype="float32"),
        layers.RandomHue((0, 0.02), seed=seed + 2, dtype="float32"),
    ]


def _keras_cv_jitter_layers(seed):
    import keras_cv

    def between(low, high):
        # The layers' own plain factors ignore the seed.
        return keras_cv.core.UniformFactorSampler(low, high, seed=seed)

    layers = keras_cv.layers
    range_ = {"value_range": (0, 255)}
    return [
        layers.RandomBrightness(between(-0.1, 0.1), **range_, seed=seed),
        layers.RandomSaturation(between(0.4, 0.6), seed=seed),
        layers.RandomHue(between(0, 0.02), **range_, seed=seed),
    ]


def _to_uint8(images):
    images = keras.ops.convert_to_numpy(images)
    return np.clip(images, 0, 255).astype("uint8")


def _augmentation(flip, color_jitter, seed):
    import tensorflow as tf

    augmentations = []
    if flip:
        augmentations.append(keras.layers.RandomFlip("horizontal", seed=seed))
    if color_jitter == "keras-cv":
        augmentations += _keras_cv_jitter_layers(seed)
    elif color_jitter:
        augmentations += _color_jitter_layers(seed)

    def augment(photos):
        photos = tf.cast(photos, tf.float32)
        for augmentation in augmentations:
            photos = augmentation(photos, training=True)
        return tf.cast(tf.clip_by_value(photos, 0, 255), tf.uint8)

    return augment
