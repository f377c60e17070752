"""Photos varied at random: warped, and blended with other faces.

Both reduce overfitting to few people. Written in Keras' operations, so that
they run on the device that trains, inside its compiled step too
(`FaceVAE.keep_on_device`), on every backend.
"""

import functools

import keras
import numpy as np
from keras import ops
from PIL import Image

CELLS = 4  # a warp pulls at the knots of a net of 4x4 cells
_MOST_SPOTS = 5  # along each side of a blended photo


def vary_photos(photos, warped_size, blend, seed):
    """Warps and blends photos, as far as is asked for.

    Args:
        photos: (n, size, size, 3), RGB 0..255.
        warped_size: see `warp_photos`; None: not warped.
        blend: whether to `blend_photos`.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        The photos; float32 where they were changed.
    """
    if warped_size is not None:
        photos = warp_photos(photos, warped_size, seed)
    if blend:
        photos = blend_photos(photos, seed)
    return photos


def warp_photos(photos, size, seed):
    """Bends photos as rubber, each at random, and crops them.

    Deviations: 3 % wider or longer, 3 % slanted, and, in parts of the size,
    1 % aside, 1.5 % by each knot of the net for itself.

    Args:
        photos: (n, old_size, old_size, 3), RGB 0..255.
        size: height and width of the result, smaller than `old_size` by a
            tenth or so.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        float32 tensor (n, size, size, 3), linear interpolation.
    """
    count, old_size = ops.shape(photos)[0], photos.shape[1]
    knots = np.linspace(-0.5, 0.5, CELLS + 1, dtype="float32")
    net = np.stack(np.meshgrid(knots, knots), axis=-1)  # (y, x, 2)

    def normal(deviation, *shape):
        shape = (count, *shape)
        return keras.random.normal(shape, stddev=deviation, seed=seed)

    slanted = ops.einsum("yxc,ncd->nyxd", net, normal(0.03, 2, 2))
    net = net + slanted + normal(0.01, 1, 1, 2)
    net = net + normal(0.015, CELLS + 1, CELLS + 1, 2)
    between = _between_knots(size)
    places = ops.einsum("yi,nijc,xj->nyxc", between, net, between)
    places = ops.clip(places * size + (old_size - 1) / 2, 0.0, old_size - 1.001)
    return _sample(photos, places)


def check_room(photos, size):
    """Raises a ValueError where photos can't be warped to `size`."""
    if photos.shape[1] != photos.shape[2]:
        raise ValueError(
            f"expected square photos to warp, found shape {photos.shape}"
        )
    if size > photos.shape[1]:
        raise ValueError(
            f"photos of {photos.shape[1]} pixels have no room for warped ones "
            f"of {size}"
        )


@functools.cache
def _between_knots(size):
    """Row i holds the weights of the knots in pixel i, (size, knots)."""
    places = (np.arange(size) + 0.5) * CELLS / size
    distance = np.abs(places[:, None] - np.arange(CELLS + 1))
    return np.maximum(0.0, 1.0 - distance).astype("float32")


def _sample(photos, places):
    """Values of photos between their pixels.

    Args:
        photos: (n, size, size, 3).
        places: (n, height, width, 2), x and y in pixels, in 0..size - 1.

    Returns:
        float32 tensor (n, height, width, 3).
    """
    count, size = ops.shape(photos)[0], photos.shape[1]
    pixels = ops.reshape(photos, (-1, 3))
    corner = ops.floor(places)
    right, down = ops.split(places - corner, 2, axis=-1)
    x, y = ops.unstack(ops.cast(corner, "int32"), 2, axis=-1)
    first = ops.reshape(ops.arange(count, dtype="int32"), (-1, 1, 1))
    index = (first * size + y) * size + x

    def at(offset):
        return ops.cast(ops.take(pixels, index + offset, axis=0), "float32")

    above = (1 - right) * at(0) + right * at(1)
    below = (1 - right) * at(size) + right * at(size + 1)
    return (1 - down) * above + down * below


def blend_photos(photos, seed):
    """Gives the first, third, ... photo soft-edged spots of the one after it.

    One's eyes and another's mouth make a third person. The spots take the
    colors of the face that they are put on.

    Args:
        photos: (n, size, size, 3), RGB 0..255, whose eyes and mouths are at
            the same places, as in CelebA's aligned photos.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        float32 tensor of the same shape; the second, fourth, ... photo is as
        it was. The last one of an odd number gets spots of the first.
    """
    photos = ops.cast(photos, "float32")
    count, size = ops.shape(photos)[0], photos.shape[1]
    mean, deviation = _colors(photos)
    normalized = (photos - mean) / deviation
    recolored = ops.roll(normalized, -1, axis=0) * deviation + mean
    # From halves of a face to an eye.
    cells = keras.random.randint((count,), 0, _MOST_SPOTS - 1, seed=seed)
    between = ops.take(_between_spots(size), cells, axis=0)
    shape = (count, _MOST_SPOTS, _MOST_SPOTS)
    heights = keras.random.normal(shape, seed=seed)
    heights = ops.einsum("nyi,nij,nxj->nyx", between, heights, between)
    shift = keras.random.normal((count, 1, 1), stddev=0.5, seed=seed)
    share = ops.sigmoid(6 * (heights + shift))[..., None]
    mixed = ops.clip(share * photos + (1 - share) * recolored, 0, 255)
    is_second = ops.reshape(ops.arange(count) % 2, (-1, 1, 1, 1)) == 1
    return ops.where(is_second, photos, mixed)


def _colors(photos):
    """Mean and deviation of the middle of each photo, (n, 1, 1, 3)."""
    size = photos.shape[1]
    middle = slice(size // 4, size - size // 4)
    middle = photos[:, middle, middle]
    mean = ops.mean(middle, axis=(1, 2), keepdims=True)
    return mean, ops.std(middle, axis=(1, 2), keepdims=True) + 1


@functools.cache
def _between_spots(size):
    """Weights of 2, 3, 4 or 5 heights along a line in each of its pixels.

    Returns:
        float32 array (4, size, 5); cubic interpolation.
    """
    matrices = np.zeros((_MOST_SPOTS - 1, size, _MOST_SPOTS), "float32")
    for number, cells in enumerate(range(2, _MOST_SPOTS + 1)):
        line = Image.fromarray(np.eye(cells, dtype="float32"))
        line = line.resize((cells, size), Image.Resampling.BICUBIC)
        matrices[number, :, :cells] = line
    return matrices
