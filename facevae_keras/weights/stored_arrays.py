"""Arrays in files, whose declared sizes are checked before they are read."""

import dataclasses
import mmap
from collections.abc import Callable

import numpy as np

# FaceNet has 490 variables; a graph or a training adds a few times as many.
MOST_ARRAYS = 20_000


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in a weight file.

    Declared sizes aren't trusted: the shape is compared with what the network
    expects first, and only an array that fits is read. So reading allocates no
    more memory than the network itself.

    Attributes:
        shape: tuple of sizes, as the file declares it.
        load: function without arguments that reads the values.
    """

    shape: tuple
    load: Callable[[], np.ndarray]

    def read(self):
        """Reads the values.

        Returns:
            float32 array of this shape.

        Raises:
            ValueError: the file holds another number of values than it
                declares, or a value that is not finite.
        """
        values = np.asarray(self.load())
        if values.shape != self.shape or values.dtype.kind not in "fiu":
            raise ValueError(
                f"declared as {self.shape}, found {values.shape} {values.dtype}"
            )
        # A float64 beyond float32's range becomes infinite, and is caught.
        with np.errstate(over="ignore"):
            values = values.astype("float32")
        if not np.isfinite(values).all():
            raise ValueError("there are values that are not finite")
        return values


def map_file(path):
    """The bytes of a file, read into memory only where they are accessed.

    Args:
        path: path of a file that is not empty.

    Returns:
        `mmap.mmap`: bytes that can be sliced and a file that can be read.
    """
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
