"""Gives a network the weights that were read from a file."""

import dataclasses

import numpy as np

from facevae_keras.files import clear_errors
from facevae_keras.weights.open import first_few


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """Which variables of a file were used; `print` shows it.

    A variable that the network needs and the file lacks, or has in another
    shape, is an error and in no report.

    Attributes:
        source: where the weights come from.
        form: what kind of file that is.
        read: number of variables in it.
        matched: number of the network's variables, all filled from it.
        values: number of single values in those.
        left_over: names of the file's variables that the network doesn't have.
    """

    source: str
    form: str
    read: int
    matched: int
    values: int
    left_over: tuple

    def __str__(self):
        left_over = f"{len(self.left_over)} left over"
        if self.left_over:
            left_over += f" ({first_few(self.left_over)})"
        return (
            f"{self.source}: {self.form}\n"
            f"{self.read} variables read, {left_over}\n"
            f"{self.matched} variables of the network filled, none missing, "
            f"all shapes equal, {self.values:,} values"
        )


def assign_arrays(variables, arrays, source):
    """Gives Keras variables the values that are stored under the same names.

    Args:
        variables: dictionary from `open.original_names`.
        arrays: dictionary of original variable name to `StoredArray`; may
            hold more, which are never read.
        source: where the arrays come from, for the error message.

    Raises:
        ValueError: a variable is missing, or has another shape; all of them
            are counted and the first few named, and nothing is read. Or the
            values of one are damaged or not finite, or a variance is negative.
            No variable is changed.
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
            if name.endswith("/moving_variance") and (values[name] < 0).any():
                raise ValueError("a batch norm with a negative variance")
    for name, variable in variables.items():
        variable.assign(values[name])


def conversion_report(file, variables, used):
    """Sums up a conversion.

    Args:
        file: the `open.WeightFile`.
        variables: dictionary from `open.original_names`.
        used: names of the file's variables that were used.

    Returns:
        `ConversionReport`.
    """
    return ConversionReport(
        source=str(file.source),
        form=file.form,
        read=len(file.arrays),
        matched=len(variables),
        values=sum(int(np.prod(v.shape)) for v in variables.values()),
        left_over=tuple(sorted(set(file.arrays) - set(used))),
    )
