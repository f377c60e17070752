"""Face grids, and the figures that the notebooks share."""

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from facevae_keras.files import written_whole

_CELL = 128  # pixels of a figure for a face, at least half of it


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
