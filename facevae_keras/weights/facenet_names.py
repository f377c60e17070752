"""FaceNet's variables under the names that other programs give them.

The original's `InceptionResnetV1/Repeat/block35_1/Branch_0/Conv2d_1x1/weights`
is `Block35_1_Branch_0_Conv2d_1x1_kernel` in keras-facenet, and in
facenet-pytorch `repeat_1.0.branch0.conv.weight` with its axes in another
order.
"""

import re

import numpy as np

from facevae_keras.weights import open as weight_files
from facevae_keras.weights.stored_arrays import StoredArray

SCOPE = "InceptionResnetV1"

_KERAS2_VARIABLES = {"weights": "kernel", "biases": "bias"}
_TORCH_VARIABLES = {
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def original_arrays(file, names):
    """Finds FaceNet's variables in a file of weights.

    Args:
        file: `weight_files.WeightFile`.
        names: the original names of all variables to be found.

    Returns:
        Dictionary of original name to `StoredArray`, of those that are there,
        and the list of the names that these have in the file.
    """
    if file.form == weight_files.TORCH:
        return _from_torch(file.arrays, names)
    rename = {
        weight_files.KERAS2: _keras2_name,
        weight_files.ARRAYS: _keras2_name,
        weight_files.KERAS3: lambda name: name.removeprefix(f"{SCOPE}/"),
    }.get(file.form, lambda name: name)
    found = {
        name: rename(name) for name in names if rename(name) in file.arrays
    }
    arrays = {name: file.arrays[other] for name, other in found.items()}
    return arrays, list(found.values())


def _keras2_name(name):
    *scopes, variable = name.removeprefix(f"{SCOPE}/").split("/")
    if scopes[0].startswith("Repeat"):
        scopes = [scopes[1].capitalize(), *scopes[2:]]
    elif scopes[0] == "Block8":
        scopes[0] = "Block8_6"  # the last one follows the five in Repeat_2
    return "_".join([*scopes, _KERAS2_VARIABLES.get(variable, variable)])


def _from_torch(stored, names):
    arrays, used = {}, []
    modules = _torch_names(names)
    for name in names:
        scope, variable = name.rsplit("/", 1)
        if variable == "biases":
            others = [modules[scope][0].removesuffix("weight") + "bias"]
        elif variable == "weights":
            others = [modules[scope][0]]
            if modules[scope][1] is not None:
                others.append(modules[scope][1] + ".weight")
        else:
            norm = modules[scope.removesuffix("/BatchNorm")][1]
            others = [f"{norm}.{_TORCH_VARIABLES[variable]}"]
            if variable == "moving_mean":
                others.append(f"{norm}.weight")
        if all(other in stored for other in others):
            used += others
            arrays[name] = _converted([stored[other] for other in others])
    return arrays, used


def _converted(parts):
    """A PyTorch array with its axes in Keras' order, times the scale if any.

    PyTorch's batch norm multiplies by a scale, gamma; the original's has none:
    `gamma * (W x - mean) / sqrt(variance + epsilon) + beta` is the same with
    gamma times the weights W and gamma times the mean, whatever its sign, and
    with the variance as it is, because both programs take epsilon as 0.001.
    """
    array = parts[0]
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(array.shape), (0,))
    axes = axes if len(axes) == len(array.shape) else range(len(array.shape))
    shape = tuple(array.shape[axis] for axis in axes)
    for scale in parts[1:]:
        if scale.shape != shape[-1:]:
            raise ValueError(
                f"a batch norm with a scale of shape {scale.shape}, expected "
                f"{shape[-1:]}"
            )

    def load():
        values = np.transpose(array.read(), axes)
        for scale in parts[1:]:
            values = values * scale.read()
        return values

    return StoredArray(shape, load)


def _torch_names(names):
    """PyTorch's name of the weights and of the batch norm of each scope.

    Args:
        names: the original names of all variables.

    Returns:
        Dictionary of original scope to `("conv2d_1a.conv.weight",
        "conv2d_1a.bn")`; without batch norm the second is None.
    """
    scopes = sorted(
        {name.rsplit("/", 1)[0].removesuffix("/BatchNorm") for name in names}
    )
    result = {}
    for scope in scopes:
        block, _, layer = scope.removeprefix(f"{SCOPE}/").rpartition("/")
        branch, _, number = block.rpartition("/Branch_")
        if layer == "Bottleneck":
            result[scope] = ("last_linear.weight", "last_bn")
        elif not block:  # the first layers, such as Conv2d_1a_3x3
            module = layer.lower()[: len("conv2d_1a")]
            result[scope] = (f"{module}.conv.weight", f"{module}.bn")
        elif not branch:
            result[scope] = (f"{_torch_block(block)}.conv2d.weight", None)
        else:
            module = f"{_torch_block(branch)}.branch{number}"
            # A branch of several convolutions numbers them in their order,
            # which is that of their names: 0a, 0b, 0c, 1a.
            parent = scope.removesuffix(layer)
            chain = [other for other in scopes if other.startswith(parent)]
            if len(chain) > 1:
                module += f".{chain.index(scope)}"
            result[scope] = (f"{module}.conv.weight", f"{module}.bn")
    return result


def _torch_block(block):
    repeated = re.fullmatch(r"Repeat_?(\d?)/\w+_(\d+)", block)
    if not repeated:
        return block.lower()
    return f"repeat_{int(repeated[1] or 0) + 1}.{int(repeated[2]) - 1}"
