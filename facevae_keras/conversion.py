"""Gives a network the weights that were read, and tests that it has them."""

import dataclasses
import functools

import keras
import numpy as np

from facevae_keras.checkpoints import first_few
from facevae_keras.stored_arrays import StoredArray, clear_errors


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """What became of the variables of a file; `print` shows it.

    A variable that the network needs and the file lacks, or has in another
    shape, is an error and in no report.

    Attributes:
        source: where the weights come from.
        form: what kind of file that is.
        read: number of variables in it.
        matched: number of the network's variables, all filled from it.
        values: number of single values in those.
        left_over: names of the file's variables that the network doesn't have.
        largest_difference: of a self-test, relative: what every convolution
            with batch norm makes of the same noise, computed from the file's
            numbers in the file's own way and from the network's variables.
    """

    source: str
    form: str
    read: int
    matched: int
    values: int
    left_over: tuple
    largest_difference: float

    def __str__(self):
        left_over = f"{len(self.left_over)} left over"
        if self.left_over:
            left_over += f" ({first_few(self.left_over)})"
        return (
            f"{self.source}: {self.form}\n"
            f"{self.read} variables read, {left_over}\n"
            f"{self.matched} variables of the network filled, none missing, "
            f"all shapes equal, {self.values:,} values\n"
            f"largest difference of the self-test: "
            f"{self.largest_difference:.1e}"
        )


def assign_arrays(variables, arrays, source):
    """Gives Keras variables the values that are stored under the same names.

    Args:
        variables: dictionary from `checkpoints.original_names`.
        arrays: dictionary of original variable name to `StoredArray`; may
            hold more, which are never read.
        source: where the arrays come from, for the error message.

    Raises:
        ValueError: a variable is missing, or has another shape; all of them
            are counted and the first few named, and nothing is read. Or the
            values of one are damaged or not finite. No variable is changed.
    """
    missing = [name for name in variables if name not in arrays]
    misshapen = [
        f"{name} {arrays[name].shape}, expected {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name in arrays and arrays[name].shape != tuple(variable.shape)
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing: {first_few(missing)}")
    if misshapen:
        problems.append(
            f"{len(misshapen)} of another shape: {first_few(misshapen)}"
        )
    if problems:
        raise ValueError(
            f"{source}: expected {len(variables)} variables of this network, "
            f"found {'; '.join(problems)}. Is it a checkpoint of another "
            "architecture?"
        )
    values = {}
    for name in variables:
        with clear_errors(f"{source}: {name}"):
            values[name] = arrays[name].read()
    for name, variable in variables.items():
        variable.assign(values[name])


def conversion_report(file, variables, used, response):
    """Tests a conversion and sums it up.

    Args:
        file: the `checkpoints.WeightFile`.
        variables: dictionary from `checkpoints.original_names`; they have
            their values by now.
        used: names of the file's variables that were used.
        response: function of a layer's scope that computes its
            `convolution_response` from the file's numbers, in the file's own
            way.

    Returns:
        `ConversionReport`.

    Raises:
        ValueError: the network fails the test.
    """
    converted = {
        name: StoredArray(
            tuple(variable.shape),
            functools.partial(keras.ops.convert_to_numpy, variable.value),
        )
        for name, variable in variables.items()
    }
    largest = 0.0
    for name in variables:
        if name.endswith("/BatchNorm/beta"):
            scope = name.removesuffix("/BatchNorm/beta")
            with clear_errors(f"{file.source}: {scope}"):
                expected = response(scope)
                found = convolution_response(converted, scope)
                difference = np.abs(found - expected) / np.abs(expected).max()
                if not difference.max() < 1e-3:
                    raise ValueError(
                        "the converted layer computes something else than the "
                        f"file says: {found[0]}, expected {expected[0]}"
                    )
            largest = max(largest, float(difference.max()))
    return ConversionReport(
        source=str(file.source),
        form=file.form,
        read=len(file.arrays),
        matched=len(variables),
        values=sum(int(np.prod(array.shape)) for array in converted.values()),
        left_over=tuple(sorted(set(file.arrays) - set(used))),
        largest_difference=largest,
    )


def convolution_response(arrays, scope):
    """What a convolution with batch norm makes of one window full of noise.

    Args:
        arrays: dictionary of original variable name to `StoredArray`.
        scope: scope of the layer, such as `encoder/Conv2d_1`.

    Returns:
        float64 array, one value for each filter.

    Raises:
        ValueError: a variance is negative, so that there is no answer.
    """
    kernel = arrays[f"{scope}/weights"].read().astype("float64")
    norm = f"{scope}/BatchNorm"
    beta, mean, variance = (
        arrays[f"{norm}/{name}"].read().astype("float64")
        for name in ("beta", "moving_mean", "moving_variance")
    )
    if (variance < 0).any():
        raise ValueError("a batch norm with a negative variance")
    window = noise_window(kernel.shape[:-1])
    product = np.tensordot(window, kernel, axes=window.ndim)
    return (product - mean) / np.sqrt(variance + 1e-3) + beta


def noise_window(shape):
    """The same noise for every convolution of one shape."""
    return np.random.RandomState(0).standard_normal(shape)
