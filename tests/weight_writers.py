"""Writes one set of arrays in every form in which FaceNet is passed on.

The names are spelled out here as the other programs give them, so that they
check those in `facenet_names` rather than repeat them.
"""

import json
import re
import struct
import zipfile

import h5py
import numpy as np
import tensorflow as tf

_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3", "4b_3x3")

_BLOCK35 = {
    "branch0": "Branch_0/Conv2d_1x1",
    "branch1.0": "Branch_1/Conv2d_0a_1x1",
    "branch1.1": "Branch_1/Conv2d_0b_3x3",
    "branch2.0": "Branch_2/Conv2d_0a_1x1",
    "branch2.1": "Branch_2/Conv2d_0b_3x3",
    "branch2.2": "Branch_2/Conv2d_0c_3x3",
}
_BLOCK17 = {
    "branch0": "Branch_0/Conv2d_1x1",
    "branch1.0": "Branch_1/Conv2d_0a_1x1",
    "branch1.1": "Branch_1/Conv2d_0b_1x7",
    "branch1.2": "Branch_1/Conv2d_0c_7x1",
}
_BLOCK8 = {
    "branch0": "Branch_0/Conv2d_1x1",
    "branch1.0": "Branch_1/Conv2d_0a_1x1",
    "branch1.1": "Branch_1/Conv2d_0b_1x3",
    "branch1.2": "Branch_1/Conv2d_0c_3x1",
}
_MIXED_6A = {
    "branch0": "Branch_0/Conv2d_1a_3x3",
    "branch1.0": "Branch_1/Conv2d_0a_1x1",
    "branch1.1": "Branch_1/Conv2d_0b_3x3",
    "branch1.2": "Branch_1/Conv2d_1a_3x3",
}
_MIXED_7A = {
    "branch0.0": "Branch_0/Conv2d_0a_1x1",
    "branch0.1": "Branch_0/Conv2d_1a_3x3",
    "branch1.0": "Branch_1/Conv2d_0a_1x1",
    "branch1.1": "Branch_1/Conv2d_1a_3x3",
    "branch2.0": "Branch_2/Conv2d_0a_1x1",
    "branch2.1": "Branch_2/Conv2d_0b_3x3",
    "branch2.2": "Branch_2/Conv2d_1a_3x3",
}
_BLOCKS = {
    **{
        f"repeat_1.{i}": (f"Repeat/block35_{i + 1}", _BLOCK35) for i in range(5)
    },
    "mixed_6a": ("Mixed_6a", _MIXED_6A),
    **{
        f"repeat_2.{i}": (f"Repeat_1/block17_{i + 1}", _BLOCK17)
        for i in range(10)
    },
    "mixed_7a": ("Mixed_7a", _MIXED_7A),
    **{
        f"repeat_3.{i}": (f"Repeat_2/block8_{i + 1}", _BLOCK8) for i in range(5)
    },
    "block8": ("Block8", _BLOCK8),
}


def torch_layers():
    """facenet-pytorch's modules: (weights, batch norm, original scope) each."""
    for name in _STEM:
        module = f"conv2d_{name[:2]}"
        yield f"{module}.conv", f"{module}.bn", f"Conv2d_{name}"
    for module, (scope, branches) in _BLOCKS.items():
        for branch, layer in branches.items():
            branch = f"{module}.{branch}"
            yield f"{branch}.conv", f"{branch}.bn", f"{scope}/{layer}"
        if not scope.startswith("Mixed"):
            yield f"{module}.conv2d", None, f"{scope}/Conv2d_1x1"
    yield "last_linear", "last_bn", "Bottleneck"


def torch_state(arrays):
    """facenet-pytorch's state dictionary, its batch norms with a scale."""
    random = np.random.default_rng(0)
    state = {}
    for weights, norm, scope in torch_layers():
        scope = f"InceptionResnetV1/{scope}"
        if f"{scope}/weights" not in arrays:
            continue
        kernel = arrays[f"{scope}/weights"]
        kernel = np.moveaxis(kernel, (-1, -2), (0, 1))
        if norm is None:
            state[f"{weights}.bias"] = arrays[f"{scope}/biases"]
        else:
            gamma = random.uniform(0.5, 1.5, len(kernel))
            gamma = (gamma * random.choice([-1, 1], len(kernel))).astype("f4")
            kernel = kernel / gamma.reshape(-1, *[1] * (kernel.ndim - 1))
            mean = arrays[f"{scope}/BatchNorm/moving_mean"]
            state[f"{norm}.weight"] = gamma
            state[f"{norm}.bias"] = arrays[f"{scope}/BatchNorm/beta"]
            state[f"{norm}.running_mean"] = mean / gamma
            state[f"{norm}.running_var"] = arrays[
                f"{scope}/BatchNorm/moving_variance"
            ]
            state[f"{norm}.num_batches_tracked"] = np.array(7, "int64")
        state[f"{weights}.weight"] = np.ascontiguousarray(kernel)
    return state


def write_checkpoint(prefix, arrays):
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=list(arrays.values()),
    )
    return prefix


def write_published_zip(path, arrays, compression=zipfile.ZIP_STORED):
    """A checkpoint in a folder of its name, as the originals were published."""
    name = path.stem
    prefix = write_checkpoint(path.parent / f"model-{name}.ckpt-275", arrays)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{name}/model-{name}.meta", b"never opened")
        archive.writestr(f"__MACOSX/{name}/._model.index", b"nor this")
        for suffix in (".index", ".data-00000-of-00001"):
            file = prefix.with_name(prefix.name + suffix)
            archive.write(file, f"{name}/{file.name}")
            file.unlink()
    return path


def write_graph(path, arrays):
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="input", op="Placeholder")
    for name, array in arrays.items():
        node = graph.node.add(name=name, op="Const")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
        graph.node.add(name=f"{name}/read", op="Identity", input=[name])
    path.write_bytes(graph.SerializeToString())
    return path


def keras2_name(name):
    name = name.replace("InceptionResnetV1/", "").replace("/", "_")
    name = re.sub(r"^Repeat(_\d)?_b", "B", name)
    name = re.sub(r"^Block8_(?=[BC])", "Block8_6_", name)
    return name.replace("_weights", "_kernel").replace("_biases", "_bias")


def write_keras2(path, arrays, whole=True):
    """As `model.save` (whole) or `model.save_weights` of Keras 2 wrote."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if whole else file
        if whole:
            file.attrs["model_config"] = json.dumps({"class_name": "Lambda"})
        group.create_group("Conv2d_1a_3x3_Activation")
        for name, array in arrays.items():
            layer, variable = re.fullmatch(
                "(.*)_(kernel|bias|beta|moving_mean|moving_variance)",
                keras2_name(name),
            ).groups()
            group[f"{layer}/{layer}/{variable}:0"] = array
    return path


def write_folder(path, arrays):
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{keras2_name(name)}.npy", array)
    return path


def write_torch(path, state):
    """What `torch.save` writes, spelled out for want of PyTorch."""
    root = path.stem
    with zipfile.ZipFile(path, "w") as archive:
        keys = {name: str(number) for number, name in enumerate(state)}
        archive.writestr(f"{root}/data.pkl", pickled_state(state, keys))
        archive.writestr(f"{root}/byteorder", b"little")
        for name, array in state.items():
            archive.writestr(f"{root}/data/{keys[name]}", array.tobytes())
        archive.writestr(f"{root}/version", b"3\n")
    return path


def write_torch_legacy(path, state):
    """The same as PyTorch wrote it before version 1.6."""
    keys = {name: f"9441{number}" for number, name in enumerate(state)}
    system = b"}" + _text("little_endian") + b"\x88s"
    with path.open("wb") as file:
        file.write(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
        file.write(b"\x80\x02M\xe9\x03.")
        file.write(b"\x80\x02" + system + b".")
        file.write(pickled_state(state, keys, b"N"))
        listed = b"".join(map(_text, sorted(keys.values())))
        file.write(b"\x80\x02](" + listed + b"e.")
        for name in sorted(state, key=keys.get):
            file.write(struct.pack("<q", state[name].size))
            file.write(state[name].tobytes())
    return path


def pickled_state(state, keys, view=b""):
    storages = {"float32": "FloatStorage", "int64": "LongStorage"}
    items = b""
    for name, array in state.items():
        strides = [stride // array.itemsize for stride in array.strides]
        storage = (
            _text("storage")
            + _global("torch", storages[array.dtype.name])
            + _text(keys[name])
            + _text("cpu")
            + _integer(array.size)
            + view
        )
        items += _text(name) + _global("torch._utils", "_rebuild_tensor_v2")
        items += b"((" + storage + b"tQ" + _integer(0)
        items += _tuple(array.shape) + _tuple(strides)
        items += b"\x89" + _global("collections", "OrderedDict") + b")RtR"
    dictionary = _global("collections", "OrderedDict") + b")R"
    return b"\x80\x02" + dictionary + b"(" + items + b"u."


def _text(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _integer(number):
    return b"J" + struct.pack("<i", number)


def _tuple(numbers):
    return b"(" + b"".join(map(_integer, numbers)) + b"t"


def _global(module, name):
    return f"c{module}\n{name}\n".encode()
