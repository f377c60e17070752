"""Reads TensorFlow 1 checkpoints and frozen graphs, without TensorFlow.

A checkpoint is a table of named entries (PREFIX.index, in the format of
LevelDB's sorted tables) that say where in PREFIX.data-00000-of-00001 each
variable is stored; a frozen graph is one protocol buffer whose `Const` nodes
hold the variables. Both are read here as plain data. TensorFlow's own reader
would trust the sizes that a damaged file declares.
"""

import functools
import itertools
import struct

import numpy as np

from facevae_keras.weights.stored_arrays import MOST_ARRAYS, StoredArray

TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # the last bytes of an index

_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}
_FLOAT = 1
_FOOTER = 48
# FaceNet's index takes 22 KB and its longest name 70 letters; without a limit
# a small index could spell out names that fill the memory.
_LARGEST_INDEX = 2**20
_LONGEST_NAME = 512
# No message that is read here numbers its fields beyond 18.
_LARGEST_FIELD = 100


def read_checkpoint(index, shard_sizes, read_shard):
    """Reads the table of a TensorFlow 1 checkpoint.

    Args:
        index: bytes of PREFIX.index.
        shard_sizes: sizes in bytes of the data files.
        read_shard: function of a data file's number that returns its bytes.

    Returns:
        Dictionary of original variable name to `StoredArray`.

    Raises:
        ValueError: damaged, or a data file is too short.
    """
    if len(index) > _LARGEST_INDEX:
        raise ValueError(f"an index of {len(index)} bytes, too large to be one")
    arrays = {}
    for key, value in _table(index):
        if key:  # the entry without a name is a header
            arrays[key.decode()] = _variable(value, shard_sizes, read_shard)
    return arrays


def _variable(entry, shard_sizes, read_shard):
    """The `StoredArray` of a BundleEntryProto."""
    fields = dict(_fields(entry))
    dtype = np.dtype(_DTYPES.get(fields.get(1), "V1"))
    shape = _shape(fields.get(2, b""))
    shard, offset, size = (fields.get(number, 0) for number in (3, 4, 5))
    if shard >= len(shard_sizes) or offset + size > shard_sizes[shard]:
        raise ValueError(
            f"data cut short: a variable ends at byte {offset + size}, the "
            f"data files have {', '.join(map(str, shard_sizes))} bytes"
        )

    def load():
        data = memoryview(read_shard(shard))[offset : offset + size]
        if _masked(crc32c(data)) != int.from_bytes(fields[6], "little"):
            raise ValueError("the checksum of its values is wrong")
        return np.frombuffer(data, dtype).reshape(shape)

    return StoredArray(shape, load)


def read_graph(data):
    """Reads the floating-point constants of a frozen graph.

    Args:
        data: bytes of a GraphDef protocol buffer.

    Returns:
        Dictionary of node name to `StoredArray`.

    Raises:
        ValueError: no graph, or damaged.
    """
    arrays = {}
    for number, node in _fields(data):
        if number != 1:
            continue
        name = operation = tensor = b""
        for number, value in _fields(node):
            if number == 1:
                name = bytes(value).decode()
            elif number == 2:
                operation = bytes(value)
            elif number == 5:
                entry = dict(_fields(value))
                if entry.get(1) == b"value":
                    tensor = dict(_fields(entry[2])).get(8, b"")
        if operation == b"Const":
            fields = dict(_fields(tensor))
            if fields.get(1) == _FLOAT:
                shape = _shape(fields.get(2, b""))
                load = functools.partial(_tensor_values, tensor, shape)
                arrays[name] = StoredArray(shape, load)
        if len(arrays) > MOST_ARRAYS:
            raise ValueError("more constants than any network has")
    if not arrays:
        raise ValueError("no frozen graph: no constants in it")
    return arrays


def _tensor_values(tensor, shape):
    """The values of a TensorProto of floats."""
    content = dict(_fields(tensor)).get(4, b"")
    if len(content):
        return np.frombuffer(content, "<f4").reshape(shape)
    # Small tensors are lists; their last value is repeated to fill the shape.
    listed = b"".join(value for number, value in _fields(tensor) if number == 5)
    listed = np.frombuffer(listed, "<f4")
    values = np.full(int(np.prod(shape)), listed[-1])
    values[: len(listed)] = listed
    return values.reshape(shape)


def _shape(message):
    """The sizes of a TensorShapeProto."""
    sizes = tuple(
        dict(_fields(value)).get(1, 0)
        for number, value in itertools.islice(_fields(message), 8)
        if number == 2
    )
    if any(size >= 2**63 for size in sizes):
        raise ValueError("a variable of negative size")
    return sizes


def _fields(message):
    """The fields of a protocol buffer: (number, integer or bytes) each."""
    message = memoryview(message)
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if key >> 3 > _LARGEST_FIELD:
            raise ValueError("damaged, or no protocol buffer")
        if kind == 0:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("damaged, or no protocol buffer")
        if position + size > len(message):
            raise ValueError("cut short in the middle of a field")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(data, position):
    """The integer at a position, seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("damaged: an integer without an end")


def _table(table):
    """The entries of a sorted table: (key, value) each."""
    if len(table) < _FOOTER or table[-8:] != TABLE_MAGIC:
        raise ValueError("not a readable TensorFlow checkpoint: no index in it")
    footer = table[-_FOOTER:]
    position = 0
    for _ in range(2):  # where another table lies that no checkpoint uses
        _, position = _varint(footer, position)
    for _, handle in _block(table, footer[position:]):
        yield from _block(table, handle)


def _block(table, handle):
    offset, position = _varint(handle, 0)
    size, _ = _varint(handle, position)
    end = offset + size
    if size < 4 or end + 5 + _FOOTER > len(table):
        raise ValueError("damaged: an index block that is not in the file")
    compressed, checksum = struct.unpack_from("<BI", table, end)
    if _masked(crc32c(table[offset : end + 1])) != checksum:
        raise ValueError("damaged: the checksum of the index is wrong")
    if compressed:
        raise ValueError("a compressed index, which no checkpoint has")
    block = table[offset:end]
    (restarts,) = struct.unpack_from("<I", block, size - 4)
    key, position = b"", 0
    while position < size - 4 - 4 * restarts:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        if len(key) > _LONGEST_NAME:
            raise ValueError("damaged: a name without an end")
        position += unshared
        yield key, block[position : position + length]
        position += length


def _crc32c_table():
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), 0)
    return table.astype(np.uint32)


_CRC32C = _crc32c_table()


def crc32c(data):
    """The Castagnoli checksum of some bytes.

    Byte by byte this would take minutes for a network in Python. The checksum
    is linear, so many parts are summed side by side and then joined in pairs:
    the first part of a pair advances by the length of the second as if that
    were zeros, which maps each of its 32 bits to a constant.

    Args:
        data: bytes.

    Returns:
        The checksum, an integer.
    """
    data = np.frombuffer(data, np.uint8)
    if len(data) < 64:
        return _crc32c_bytewise(data)
    parts = min(1 << (len(data) // 64).bit_length() - 1, 8192)
    length = -(-len(data) // parts)
    padded = np.zeros(parts * length, np.uint8)
    start = len(padded) - len(data)  # leading zeros change nothing
    padded[start:] = data
    padded[start : start + 4] ^= 255  # the sum begins with all bits set
    columns = np.ascontiguousarray(padded.reshape(parts, length).T)
    sums = np.zeros(parts, np.uint32)
    for column in columns:
        sums = _CRC32C[(sums ^ column) & 255] ^ (sums >> 8)
    advance = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(length):
        advance = _CRC32C[advance & 255] ^ (advance >> 8)
    while len(sums) > 1:
        sums = _apply(advance, sums[::2]) ^ sums[1::2]
        advance = _apply(advance, advance)
    return int(sums[0]) ^ 0xFFFFFFFF


def _apply(advance, sums):
    """Maps every bit of the sums to its constant, and adds them up."""
    result = np.zeros_like(sums)
    for bit in range(32):
        result ^= advance[bit] * ((sums >> np.uint32(bit)) & 1)
    return result


def _crc32c_bytewise(data):
    value = 0xFFFFFFFF
    for byte in data:
        value = int(_CRC32C[(value ^ int(byte)) & 255]) ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _masked(checksum):
    """How TensorFlow stores a checksum: rotated, with a constant added."""
    rotated = checksum >> 15 | checksum << 17
    return (rotated + 0xA282EAD8) & 0xFFFFFFFF
