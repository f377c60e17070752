"""Reads the tensors that `torch.save` wrote, without PyTorch.

Such a file holds a pickle: a program that Python's own reader runs, and that
may call any function. The reader here implements only the few instructions
that dictionaries of tensors need, and calls nothing: a function that is not on
a short list is an error, the others are only recorded by name. (Python's
`pickle.Unpickler` can be kept from calling functions, too, but not from
allocating whatever memory a damaged file declares.)
"""

import dataclasses
import io
import pickletools
import struct

import numpy as np

from facevae_keras.weights.stored_arrays import StoredArray

# How a file begins that PyTorch before 1.6 wrote: a pickled number.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

_DTYPES = {
    "torch FloatStorage": "<f4",
    "torch DoubleStorage": "<f8",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
}
_DICTIONARY = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"

# FaceNet takes some 30,000 instructions in 200 KB.
_MOST_INSTRUCTIONS = 1_000_000
_LARGEST_PICKLE = 2**24


@dataclasses.dataclass(frozen=True)
class _Function:
    """The name of a function in a pickle; the function is never imported."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A block of numbers that tensors are parts of."""

    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


def read_archive(archive):
    """Reads a state dictionary that PyTorch 1.6 or later saved.

    Args:
        archive: the opened `zipfile.ZipFile`.

    Returns:
        Dictionary of name to `StoredArray`.

    Raises:
        ValueError: damaged, or it holds more than tensors in dictionaries.
    """
    (program,) = (
        name for name in archive.namelist() if name.endswith("/data.pkl")
    )
    root = program.removesuffix("data.pkl")
    if archive.getinfo(program).file_size > _LARGEST_PICKLE:
        raise ValueError("its table of tensors is too large to be one")
    if f"{root}byteorder" in archive.namelist():
        if archive.read(f"{root}byteorder") != b"little":
            raise ValueError("saved on a big-endian machine")
    state = _run(io.BytesIO(archive.read(program)))

    def read_storage(storage):
        member = archive.getinfo(f"{root}data/{storage.key}")
        if member.file_size != storage.count * storage.dtype.itemsize:
            raise ValueError(
                f"{member.filename} has {member.file_size} bytes, expected "
                f"{storage.count} values {storage.dtype}"
            )
        return archive.read(member)

    return _stored_arrays(state, read_storage)


def read_legacy(file):
    """Reads a state dictionary that PyTorch before 1.6 saved.

    Args:
        file: `mmap.mmap` of the file.

    Returns:
        Dictionary of name to `StoredArray`.

    Raises:
        ValueError: damaged, or it holds more than tensors in dictionaries.
    """
    file.seek(len(LEGACY_MAGIC))
    version, system = _run(file), _run(file)
    if version != 1001 or system.get("little_endian") is not True:
        raise ValueError("saved by an unknown PyTorch or a big-endian machine")
    storages = {}
    state = _run(file, storages)
    starts = {}
    position = None
    for key in _run(file):
        position = file.tell() if position is None else position
        (count,) = struct.unpack_from("<q", file, position)
        storage = storages[key]
        starts[key] = position + 8
        position += 8 + storage.count * storage.dtype.itemsize
        if count < 0 or count != storage.count or position > len(file):
            raise ValueError(
                f"data cut short or damaged: {storage.count} values expected "
                f"at byte {starts[key]} of {len(file)}"
            )

    def read_storage(storage):
        start = starts[storage.key]
        size = storage.count * storage.dtype.itemsize
        return memoryview(file)[start : start + size]

    return _stored_arrays(state, read_storage)


def _stored_arrays(state, read_storage):
    if not isinstance(state, dict):
        raise ValueError("no dictionary of tensors in it")
    arrays = {
        name: StoredArray(
            tensor.shape,
            lambda tensor=tensor: _values(tensor, read_storage(tensor.storage)),
        )
        for name, tensor in state.items()
        if isinstance(tensor, _Tensor)
    }
    if not arrays:
        raise ValueError("no tensors in its dictionary")
    return arrays


def _values(tensor, data):
    values = np.frombuffer(data, tensor.storage.dtype)
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, values.dtype)
    last = tensor.offset + sum(
        (size - 1) * stride
        for size, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    smallest = min((tensor.offset, *tensor.shape, *tensor.strides))
    if smallest < 0 or last >= len(values):
        raise ValueError("a tensor reaches beyond its values")
    return np.lib.stride_tricks.as_strided(
        values[tensor.offset :],
        tensor.shape,
        [stride * values.itemsize for stride in tensor.strides],
    )


def _run(file, storages=None):
    """What a pickle describes: tensors, dictionaries, lists, plain values.

    Args:
        file: an opened file, positioned at a pickle; afterwards behind it.
        storages: dictionary that receives the storages that are met, by key.
    """
    stack, marks, memo = [], [], {}
    storages = {} if storages is None else storages

    def pop(count):
        items = stack[len(stack) - count :]
        if len(items) < count or (marks and len(stack) - count < marks[-1]):
            raise ValueError("damaged: its pickle takes more than it has")
        del stack[len(stack) - count :]
        return items

    def pop_mark():
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for step, (instruction, value, _) in enumerate(pickletools.genops(file)):
        if step >= _MOST_INSTRUCTIONS:
            raise ValueError("its pickle is too long for a network")
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(instruction.name == "NEWTRUE")
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT"
                | "BINUNICODE" | "SHORT_BINUNICODE"
            ):  # fmt: skip
                stack.append(value)
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(int(instruction.name[-1]))))
            case "TUPLE":
                stack.append(tuple(pop_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                _list(stack[-2]).append(*pop(1))
            case "APPENDS":
                items = pop_mark()
                _list(stack[-1]).extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                items = pop(2)
                _dictionary(stack[-1]).update(_pairs(items))
            case "SETITEMS":
                items = pop_mark()
                _dictionary(stack[-1]).update(_pairs(items))
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "GLOBAL":
                stack.append(_function(value))
            case "STACK_GLOBAL":
                stack.append(_function(" ".join(pop(2))))
            case "BINPERSID":
                storage = _storage(*pop(1))
                storages[storage.key] = storage
                stack.append(storage)
            case "REDUCE":
                stack.append(_result(*pop(2)))
            case "BUILD":  # notes about the network's modules
                pop(1)
            case "STOP":
                return stack.pop()
            case name:
                raise ValueError(
                    f"its pickle uses {name}, which no tensor needs"
                )


def _function(name):
    if name not in (_DICTIONARY, _TENSOR, _PARAMETER, *_DTYPES):
        raise ValueError(
            f"its pickle asks for {name.replace(' ', '.')}; only tensors and "
            "dictionaries are admitted, and nothing was executed"
        )
    return _Function(name)


def _result(function, arguments):
    """The result that a call is recorded as."""
    if function == _Function(_DICTIONARY) and arguments == ():
        return {}
    if function == _Function(_PARAMETER):
        return _checked(arguments[0], _Tensor)
    if function == _Function(_TENSOR):
        storage, offset, shape, strides, *_ = arguments
        for number in (offset, *shape, *strides):
            _checked(number, int)
        return _Tensor(
            _checked(storage, _Storage), offset, tuple(shape), tuple(strides)
        )
    raise ValueError("its pickle calls something that makes no tensor")


def _storage(description):
    _, function, key, _, count, *view = description
    if any(part is not None for part in view):
        raise ValueError("a storage that is a view of another, as of 2017")
    return _Storage(
        _checked(key, str),
        np.dtype(_DTYPES[function.name]),
        _checked(count, int),
    )


def _pairs(items):
    return {
        _checked(key, str): value
        for key, value in zip(items[::2], items[1::2], strict=True)
    }


def _list(value):
    return _checked(value, list)


def _dictionary(value):
    return _checked(value, dict)


def _checked(value, kind):
    if not isinstance(value, kind):
        raise ValueError(
            f"damaged: {kind.__name__} expected in its pickle, found "
            f"{type(value).__name__}"
        )
    return value
