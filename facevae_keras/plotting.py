"""Face grids, animations, and the figures that the notebooks share."""

import pathlib

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from facevae_keras.files import written_whole

_CELL = 128  # pixels of a figure for a face, at least half of it


# The ordered dither of Bayer 1973, in RGB steps.
_BAYER = np.array(
    [[-7, 1, -5, 3], [5, -3, 7, -1], [-4, 4, -6, 2], [8, 0, 6, -2]]
)


def face_grid(images, columns=16, border=3):
    """Puts images of one size side by side.

    Args:
        images: array (n, height, width, 3), or (rows, columns, height, width,
            3), which sets the columns; RGB 0..255, rounded and clipped.
        columns: images per row.
        border: black pixels between images and around them.

    Returns:
        uint8 array (rows * (height + border) + border, ..., 3).

    Example:

    >>> fv.save_picture("faces.png", fv.face_grid(vae.decode(z)))
    """
    images = np.asarray(images)
    if images.ndim == 5:
        columns = images.shape[1]
        images = images.reshape(-1, *images.shape[2:])
    images = np.clip(np.rint(images), 0, 255).astype("uint8")
    count, height, width, channels = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    cells = np.zeros(
        (rows * columns, height + border, width + border, channels), "uint8"
    )
    cells[:count, border:, border:] = images
    cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    grid = cells.reshape(
        rows * (height + border), columns * (width + border), channels
    )
    return np.pad(grid, ((0, border), (0, border), (0, 0)))


def split_grid(grid, size, border=3):
    """Cuts a picture of `face_grid` into its images again.

    Args:
        grid: uint8 array (height, width, 3), such as `face_grid` returns.
        size: height and width of the images, in pixels.
        border: as for `face_grid`.

    Returns:
        uint8 array (rows, columns, size, size, 3).

    Raises:
        ValueError: a picture of another size than such a grid has.

    Example:

    >>> fv.split_grid(fv.face_grid(photos, columns=4), 64).shape
    (2, 4, 64, 64, 3)
    """
    cell = size + border
    inner = np.asarray(grid)[border:, border:]
    height, width, channels = inner.shape
    if height % cell or width % cell:
        raise ValueError(
            f"a picture of {np.shape(grid)} is no grid of images of {size} "
            f"pixels with a border of {border}"
        )
    cells = inner.reshape(height // cell, cell, width // cell, cell, channels)
    return cells.swapaxes(1, 2)[:, :, :size, :size]


def save_picture(path, image):
    """Writes an image file; never leaves half of one.

    Args:
        path: where to; the ending sets the format (.png).
        image: uint8 array (height, width, 3), RGB.
    """
    with written_whole(path) as unfinished:
        Image.fromarray(image).save(unfinished)


def save_animation(path, frames, seconds=2.0):
    """Writes an animation that repeats without end; never leaves half of one.

    Args:
        path: where to; `.webp` or `.gif` sets the format. WebP is smaller and
            shows all colors. A GIF has 256, here the same for all frames, so
            that nothing flickers.
        frames: array (n, height, width, 3), RGB 0..255, rounded and clipped.
        seconds: how long the frames take together.

    Raises:
        ValueError: another ending, or frames of another shape.

    Example:

    >>> amounts = 0.6 * (1 - np.cos(np.linspace(0, 2 * np.pi, 24)))
    >>> faces = vae.decode(fv.add_attribute(latents[:1], smile, amounts))
    >>> fv.save_animation("smile.webp", faces[0])
    """
    frames = np.clip(np.rint(np.asarray(frames)), 0, 255).astype("uint8")
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(
            f"{path}: expected frames of shape (n, height, width, 3), found "
            f"{frames.shape}"
        )
    suffix = pathlib.Path(path).suffix.lower()
    if suffix == ".gif":
        images = _in_256_colors(frames)
        options = {}
    elif suffix == ".webp":
        images = [Image.fromarray(frame) for frame in frames]
        options = {"quality": 80}
    else:
        raise ValueError(f"{path}: expected the ending .webp or .gif")
    # GIF counts in hundredths of a second, so the ends are rounded, not the
    # durations: else 24 frames in 2 seconds would take 1.92.
    ends = np.rint(np.linspace(0, 100 * seconds, len(frames) + 1))
    with written_whole(path) as unfinished:
        images[0].save(
            unfinished,
            save_all=True,
            append_images=images[1:],
            duration=[int(10 * ticks) for ticks in np.diff(ends)],
            loop=0,
            **options,
        )


def _in_256_colors(frames):
    """Frames as images with one palette."""
    count, height, width, _ = frames.shape
    mosaic = Image.fromarray(frames.reshape(count * height, width, 3))
    palette = mosaic.quantize(256, Image.Quantize.MEDIANCUT)
    # No dithering: its dots would flicker, and double the file.
    return [
        Image.fromarray(frame).quantize(
            palette=palette, dither=Image.Dither.NONE
        )
        for frame in frames
    ]


def show_faces(images, columns=8, row_labels=(), column_labels=(), title=None):
    """Shows faces in a figure, about 128 pixels wide each.

    Labels are outside of the axes: notebooks make room for them, and
    `figure.savefig(path, bbox_inches="tight")` does.

    Args:
        images: see `face_grid`.
        columns: images per row.
        row_labels: text to the left of each row.
        column_labels: text above each column.
        title: text above the whole.

    Example:

    >>> fv.show_faces(
    ...     np.stack([photos, vae.reconstruct(photos)]),
    ...     row_labels=["photo", "reconstruction"],
    ... )
    """
    images = np.asarray(images)
    if images.ndim == 5:
        columns = images.shape[1]
    grid = face_grid(images, columns)
    height, cell_width = images.shape[-3] + 3, images.shape[-2] + 3
    # Every pixel of a face becomes a whole number of the figure's: sharp, and
    # large enough to see teeth.
    scale = max(1, _CELL // images.shape[-2])
    figure = plt.figure(
        figsize=np.array(grid.shape[1::-1]) * scale / plt.rcParams["figure.dpi"]
    )
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(grid, interpolation="nearest")
    axes.set_xticks(
        [(n + 0.5) * cell_width for n in range(len(column_labels))],
        column_labels,
    )
    axes.set_yticks(
        [(n + 0.5) * height for n in range(len(row_labels))], row_labels
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=11)
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title)
