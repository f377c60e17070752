"""Reads other people's weights into plain arrays under their original names.

Nothing here executes what it reads: a TensorFlow 1 checkpoint is a table of
named tensors, and the graph in the `.meta` file beside it is never opened.

A Keras layer cannot have "/" in its name, so this project writes the scopes of
the original variables with "-" instead, and `-linear` marks the convolution or
dense layer of a scope whose plain name belongs to the scope's final output:
the variable `Repeat/block35_1/Conv2d_1x1/weights` is the kernel of the layer
`Repeat-block35_1-Conv2d_1x1-linear`. `original_names` is that rule.
"""

import pathlib
import re

import numpy as np

_ORIGINAL_VARIABLES = {"kernel": "weights", "bias": "biases"}


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
            f"{source}: no such checkpoint (expected {source.name}.index and "
            f"{source.name}.data-00000-of-00001 in {source.parent})"
        )
    if not list(source.parent.glob(source.name + ".data-*")):
        raise FileNotFoundError(
            f"{source}.index is there, but the weights themselves "
            f"({source.name}.data-00000-of-00001) are missing beside it"
        )
    return source


def _step(index_file):
    digits = re.search(r"-(\d+)\.index$", index_file.name)
    return (int(digits.group(1)) if digits else -1, index_file.name)


def read_checkpoint(source):
    """Reads all variables of a TensorFlow 1 checkpoint.

    Args:
        source: see `find_checkpoint`.

    Returns:
        Dictionary of original variable name to NumPy array.

    Raises:
        FileNotFoundError: see `find_checkpoint`.
        ValueError: the files are damaged or are no checkpoint.
    """
    import tensorflow as tf

    prefix = find_checkpoint(source)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        return {
            name: reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()
        }
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{prefix}: not a readable TensorFlow checkpoint ({error})"
        ) from error


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
        layer_scope = layer.name.removesuffix("-linear").replace("-", "/")
        for variable in layer.weights:
            kind = _ORIGINAL_VARIABLES.get(variable.name, variable.name)
            names[f"{scope}/{layer_scope}/{kind}"] = variable
    return names


def assign_arrays(variables, arrays, source):
    """Gives Keras variables the values that were read under the same names.

    Args:
        variables: dictionary from `original_names`.
        arrays: dictionary of original variable name to array; may hold more.
        source: where the arrays come from, for the error message.

    Raises:
        ValueError: a variable is missing, or has another shape; all of them
            are counted and the first few named, and no variable is changed.
    """
    missing = [name for name in variables if name not in arrays]
    misshapen = [
        f"{name} {arrays[name].shape}, expected {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name in arrays and arrays[name].shape != tuple(variable.shape)
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing: {_first_few(missing)}")
    if misshapen:
        problems.append(
            f"{len(misshapen)} of another shape: {_first_few(misshapen)}"
        )
    if problems:
        raise ValueError(
            f"{source}: expected {len(variables)} variables of this network, "
            f"found {'; '.join(problems)}. Is it a checkpoint of another "
            "architecture?"
        )
    for name, variable in variables.items():
        variable.assign(np.asarray(arrays[name], dtype="float32"))


def _first_few(names, count=4):
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
