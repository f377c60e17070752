"""Reads other people's weights into plain arrays.

`open_weights` recognises a file by its content and says which arrays it
declares, without reading them; `conversion` compares those with a network and
reads what fits. Nothing here executes anything from a file, or writes one. The
single formats are in `tensorflow_files`, `torch_files` and `keras_files`.

A Keras layer cannot have "/" in its name, so this project writes the scopes of
the original variables with "-" instead, and `-linear` marks the convolution or
dense layer of a scope whose plain name belongs to the scope's final output:
the variable `Repeat/block35_1/Conv2d_1x1/weights` is the kernel of the layer
`Repeat-block35_1-Conv2d_1x1-linear`. `original_names` is that rule.
"""

import dataclasses
import functools
import io
import pathlib
import re
import zipfile

import h5py

from facevae_keras.files import clear_errors
from facevae_keras.hdf5 import check_hdf5
from facevae_keras.weights import keras_files, tensorflow_files, torch_files
from facevae_keras.weights.stored_arrays import map_file

CHECKPOINT = "TensorFlow 1 checkpoint"
GRAPH = "frozen TensorFlow graph"
KERAS2 = "Keras 2 weights"
ARRAYS = "folder of .npy files"
TORCH = "PyTorch state dictionary"
KERAS3 = "Keras 3 model"

_ORIGINAL_VARIABLES = {"kernel": "weights", "bias": "biases"}

# A whole FaceNet takes 95 MB.
_LARGEST_MEMBER = 2**28


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """The arrays that a file, a folder or an archive of weights declares.

    Attributes:
        source: where it is, as the user named it.
        form: what kind it is, one of this module's constants.
        arrays: dictionary of each variable's name there to `StoredArray`.
        layers: names of all layers, of a Keras 3 model.
    """

    source: object
    form: str
    arrays: dict
    layers: tuple = ()


def open_weights(source):
    """Recognises weights by their content and lists the arrays they declare.

    Args:
        source: a TensorFlow 1 checkpoint (its prefix, its folder, or a zip of
            that folder), a frozen graph, a Keras 2 HDF5 file, a folder of
            `.npy` files, a PyTorch state dictionary, or a `.keras` file.

    Returns:
        `WeightFile`.

    Raises:
        FileNotFoundError: nothing there, or part of a checkpoint is missing.
        ValueError: damaged, or of no known kind; names the file.
    """
    path = pathlib.Path(source)
    with clear_errors(source):
        if path.is_file():
            return _open_file(source, path)
        if path.is_dir() and not list(path.glob("*.index")):
            if list(path.glob("*.npy")):
                arrays = keras_files.read_folder(path)
                return WeightFile(source, ARRAYS, arrays)
            graphs = list(path.glob("*.pb"))
            if len(graphs) == 1:
                return _open_file(source, graphs[0])
        return _open_checkpoint(source, find_checkpoint(path))


def _open_file(source, path):
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    data = map_file(path)
    if data[:8] == keras_files.HDF5_MAGIC:
        check_hdf5(path, strict=False)
        file = h5py.File(path, "r")
        if "layers" in file:
            return _open_keras3(source, file)
        return WeightFile(source, KERAS2, keras_files.read_keras2(file))
    if data[:4] == b"PK\x03\x04":
        return _open_archive(source, zipfile.ZipFile(path))
    if data[: len(torch_files.LEGACY_MAGIC)] == torch_files.LEGACY_MAGIC:
        return WeightFile(source, TORCH, torch_files.read_legacy(data))
    if data[-8:] == tensorflow_files.TABLE_MAGIC:
        return _open_checkpoint(source, find_checkpoint(path.with_suffix("")))
    if data[:1] == b"\n":  # the first field of a protocol buffer
        return WeightFile(source, GRAPH, tensorflow_files.read_graph(data))
    found = "bytes of no known kind"
    if data[:1] == b"\x80":
        found = "a pickle that torch.save did not write, and was not opened"
    raise ValueError(
        "expected a .keras file, a TensorFlow 1 checkpoint or a zip of one, a "
        "frozen graph (.pb), a Keras 2 file (.h5) or a PyTorch state "
        f"dictionary (.pt); found {found}"
    )


def _open_checkpoint(source, prefix):
    shards = sorted(prefix.parent.glob(prefix.name + ".data-*"))
    _check_shards(shards)
    arrays = tensorflow_files.read_checkpoint(
        prefix.with_name(prefix.name + ".index").read_bytes(),
        [shard.stat().st_size for shard in shards],
        lambda number: map_file(shards[number]),
    )
    return WeightFile(source, CHECKPOINT, arrays)


def _check_shards(names):
    """Checks that none of NAME.data-00000-of-00001 (or more) is missing."""
    count = int(str(names[0])[-5:]) if names else 1
    if len(names) != count:
        raise ValueError(
            f"{count} data files (NAME.data-00000-of-{count:05d}) belong "
            f"beside NAME.index, found {len(names)}"
        )


def _open_archive(source, archive):
    members = archive.infolist()
    for member in members:
        parts = re.split(r"[/\\]", member.filename)
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise ValueError(
                f"an archive with a path that leads out of it "
                f"({member.filename}); nothing of it was unpacked"
            )
        if member.file_size > _LARGEST_MEMBER:
            raise ValueError(
                f"an archive whose {member.filename} unpacks to "
                f"{member.file_size:,} bytes, expected at most "
                f"{_LARGEST_MEMBER:,}; nothing of it was unpacked"
            )
    # A zip made on a Mac has a shadow of every file in a folder of its own.
    names = [
        name for name in archive.namelist() if not name.startswith("__MACOSX/")
    ]
    if "model.weights.h5" in names:
        content = archive.read("model.weights.h5")
        check_hdf5(content, strict=False)
        return _open_keras3(source, h5py.File(io.BytesIO(content), "r"))
    if any(name.endswith("/data.pkl") for name in names):
        return WeightFile(source, TORCH, torch_files.read_archive(archive))
    indices = [name for name in names if name.endswith(".index")]
    if indices:
        return _open_zipped_checkpoint(source, archive, max(indices, key=_step))
    graphs = [name for name in names if name.endswith(".pb")]
    if len(graphs) == 1:
        data = archive.read(graphs[0])
        return WeightFile(source, GRAPH, tensorflow_files.read_graph(data))
    raise ValueError(
        "expected an archive of a TensorFlow 1 checkpoint, a PyTorch state "
        f"dictionary or a Keras model, found {first_few(names)}"
    )


def _open_zipped_checkpoint(source, archive, index):
    prefix = index.removesuffix(".index")
    shards = sorted(
        name
        for name in archive.namelist()
        if name.startswith(prefix + ".data-")
    )
    _check_shards(shards)
    arrays = tensorflow_files.read_checkpoint(
        archive.read(index),
        [archive.getinfo(shard).file_size for shard in shards],
        # Unpacked once and only when the first array is read.
        functools.cache(lambda number: archive.read(shards[number])),
    )
    return WeightFile(source, CHECKPOINT, arrays)


def _open_keras3(source, file):
    layers = keras_files.read_keras3(file)
    arrays = {}
    for layer, variables in layers.items():
        scope = _original_scope(layer)
        # Keras 3 numbers a layer's variables; this project has only these.
        kinds = ("weights", "biases")
        if layer.endswith("BatchNorm"):
            kinds = ("beta", "moving_mean", "moving_variance")
        for number, variable in enumerate(variables):
            kind = kinds[number] if number < len(kinds) else number
            arrays[f"{scope}/{kind}"] = variable
    return WeightFile(source, KERAS3, arrays, tuple(layers))


def find_checkpoint(source):
    """The prefix of a TensorFlow 1 checkpoint, given the prefix or its folder.

    Args:
        source: path prefix as TensorFlow writes it (`model.ckpt-50000`), or a
            folder; of several checkpoints in a folder the last step counts.

    Returns:
        The prefix as `pathlib.Path`; `PREFIX.index` and one or more
        `PREFIX.data-?????-of-?????` exist.

    Raises:
        FileNotFoundError: no checkpoint there, or its data file is missing.
    """
    source = pathlib.Path(source)
    if source.is_dir():
        indices = sorted(source.glob("*.index"), key=_step)
        if not indices:
            raise FileNotFoundError(
                f"{source}: expected a TensorFlow 1 checkpoint (NAME.index "
                "and NAME.data-00000-of-00001), found no .index file"
            )
        source = indices[-1].with_suffix("")
    if not source.with_name(source.name + ".index").exists():
        raise FileNotFoundError(
            f"{source}: no such file or folder, and no such checkpoint "
            f"(expected {source.name}.index and "
            f"{source.name}.data-00000-of-00001 in {source.parent})"
        )
    if not list(source.parent.glob(source.name + ".data-*")):
        raise FileNotFoundError(
            f"{source}.index is there, but the weights themselves "
            f"({source.name}.data-00000-of-00001) are missing beside it"
        )
    return source


def _step(index_file):
    name = str(index_file)
    digits = re.search(r"-(\d+)\.index$", name)
    return (int(digits.group(1)) if digits else -1, name)


def original_names(model, scope):
    """The original's names for the variables of a Keras model.

    Args:
        model: a `keras.Model` whose layers are named as this module says.
        scope: the scope that all names begin with, such as `"encoder"`.

    Returns:
        Dictionary of original variable name to `keras.Variable`.

    Example:

    >>> list(original_names(vae.encoder, "encoder"))[0]
    'encoder/Conv2d_1/weights'
    """
    names = {}
    for layer in model.layers:
        for variable in layer.weights:
            kind = _ORIGINAL_VARIABLES.get(variable.name, variable.name)
            names[f"{scope}/{_original_scope(layer.name)}/{kind}"] = variable
    return names


def _original_scope(layer_name):
    return layer_name.removesuffix("-linear").replace("-", "/")


def first_few(names, count=4):
    """Names in a sentence: the first few, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
