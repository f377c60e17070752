"""Reads the weights in Keras' HDF5 files, and folders of `.npy` files.

Only numbers are read. The description of a network that a Keras file may
hold, which Keras would build and which may hold program code, is not opened.
"""

import itertools

import h5py
import numpy as np

from facevae_keras.weights.stored_arrays import MOST_ARRAYS, StoredArray

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def read_keras2(file):
    """Reads a whole model or the weights that Keras 1 or 2 saved.

    Args:
        file: the opened `h5py.File`.

    Returns:
        Dictionary of `LAYER_VARIABLE`, such as `Conv2d_1a_3x3_kernel`, to
        `StoredArray`.

    Raises:
        ValueError: damaged, or no such file.
    """
    layers = _child(file, "model_weights") or file
    arrays = {}
    for layer in layers:
        for path, dataset in _datasets(_child(layers, layer)):
            variable = path.split("/")[-1].split(":")[0]
            arrays[f"{layer}_{variable}"] = _stored(dataset)
            if len(arrays) > MOST_ARRAYS:
                raise ValueError("more arrays than any network has")
    if not arrays:
        raise ValueError("no weights of Keras layers in it")
    return arrays


def read_keras3(file):
    """Reads the weights that Keras 3 saved.

    Args:
        file: the opened `h5py.File`, `model.weights.h5` of a `.keras` file.

    Returns:
        Dictionary of the name of each layer to the list of its variables, as
        `StoredArray`, in the layer's own order; the list may be empty.

    Raises:
        ValueError: damaged, or no such file.
    """
    layers = _child(file, "layers")
    result = {}
    for key in layers or ():
        variables = _child(_child(layers, key), "vars")
        if variables is not None and "name" in variables.attrs:
            found = {
                path.strip("/"): dataset
                for path, dataset in itertools.islice(_datasets(variables), 8)
            }
            result[str(variables.attrs["name"])] = [
                _stored(found[str(number)]) for number in range(len(found))
            ]
    return result


def read_folder(folder):
    """Reads a folder of `.npy` files, one for each variable.

    Args:
        folder: `pathlib.Path` of the folder.

    Returns:
        Dictionary of file name, without `.npy`, to `StoredArray`.

    Raises:
        ValueError: a file is damaged; names it.
    """
    arrays = {}
    for path in sorted(folder.glob("*.npy")):
        try:
            # Mapped only to learn the shape: hundreds of maps kept open would
            # be more open files than some systems allow.
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        except Exception as error:
            raise ValueError(f"{path.name}: damaged ({error})") from error
        arrays[path.stem] = StoredArray(
            shape, lambda path=path: np.load(path, allow_pickle=False)
        )
    return arrays


def _child(group, name):
    """A member of the file itself: links into other files are not followed."""
    link = group.get(name, getlink=True)
    return group.get(name) if isinstance(link, h5py.HardLink) else None


def _datasets(group):
    """The arrays in a group and the groups in it: (path, dataset) each."""
    waiting, seen = [("", group)], set()
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, h5py.Dataset):
            yield path, item
        elif isinstance(item, h5py.Group):
            address = h5py.h5o.get_info(item.id).addr
            if address not in seen:  # a group may be linked into itself
                seen.add(address)
                for name in item:
                    waiting.append((f"{path}/{name}", _child(item, name)))


def _stored(dataset):
    # External files and virtual datasets would read other files; filters
    # would load plug-ins or unpack a little into much. Keras uses none.
    plain = dataset.chunks is None and not dataset.is_virtual
    if not plain or dataset.external:
        raise ValueError(f"{dataset.name}: stored as Keras stores no weights")
    return StoredArray(tuple(dataset.shape), lambda: dataset[()])
