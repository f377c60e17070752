"""What a run of a notebook needs around `fit`.

Its parameters checked, pictures of progress, a stop on NaN; and the check of
an exercise's answer.
"""

import ast
import math
import pathlib

import keras
import numpy as np
from keras import ops

from facevae_keras.plotting import face_grid, save_picture


class ReconstructionPictures(keras.callbacks.Callback):
    """Writes a picture of the same faces, reconstructed, every so many steps.

    The original's `reconstructed_NNNNNN.png`: a grid of 16 columns, for 128
    photos 16x8. At the start the photos themselves go to `photos.png`, in the
    same order.

    Args:
        photos: array (n, height, width, 3), RGB 0..255: held-out faces.
        folder: where the pictures go; it is made.
        every: steps between two pictures. The last step gets one too.

    Example:

    >>> pictures = fv.ReconstructionPictures(faces, "run/pictures", every=500)
    >>> vae.fit(dataset, callbacks=[pictures])
    """

    def __init__(self, photos, folder, every=500):
        super().__init__()
        self.photos = photos
        self.folder = pathlib.Path(folder)
        self.every = every

    def on_train_begin(self, logs=None):
        # The optimizer counts on when a stopped run is resumed.
        self._written = int(self.model.optimizer.iterations)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_picture(
            self.folder / "photos.png", face_grid(self.photos, columns=16)
        )

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        # One batch of indices is several steps.
        if step // self.every > self._written // self.every:
            self._write(step)

    def on_train_end(self, logs=None):
        step = int(self.model.optimizer.iterations)
        if step != self._written:
            self._write(step)

    def _write(self, step):
        faces = self.model.reconstruct(self.photos)
        save_picture(
            self.folder / f"reconstructed_{step:06d}.png",
            face_grid(faces, columns=16),
        )
        self._written = step


class StopOnNaN(keras.callbacks.Callback):
    """Stops a training whose loss is no longer a number, and says so.

    Raises:
        FloatingPointError: from `fit`, at the first such step, before anything
            of it is saved.

    Example:

    >>> vae.fit(dataset, callbacks=[fv.StopOnNaN()])
    """

    def on_train_batch_end(self, batch, logs=None):
        values = {name: float(value) for name, value in (logs or {}).items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise FloatingPointError(
                f"training stopped at step "
                f"{int(self.model.optimizer.iterations)}: "
                + ", ".join(f"{name} {v:g}" for name, v in values.items())
                + ". A lower learning rate or smaller beta usually helps; "
                "resume from the last backup."
            )


def warm_up_cosine(learning_rate, steps, warm_up_steps=None):
    """A learning rate that rises at first and then falls along a cosine.

    Without the rise, the first steps of Adam can move log variances so far
    that their exponentials overflow.

    Args:
        learning_rate: the highest, after the rise.
        steps: steps of the whole training.
        warm_up_steps: steps of the rise; None: a tenth of all, at most 200.

    Returns:
        A Keras learning rate schedule, from a hundredth of `learning_rate` to
        0 at the last step.

    Example:

    >>> schedule = fv.warm_up_cosine(3e-3, steps=2400)
    >>> optimizer = keras.optimizers.Adam(schedule)
    """
    if warm_up_steps is None:
        warm_up_steps = min(200, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        learning_rate / 100,
        steps - warm_up_steps,
        warmup_target=learning_rate,
        warmup_steps=warm_up_steps,
    )


def check_parameters(cells):
    """Raises an error if papermill was given a parameter of unknown name.

    `papermill notebook.ipynb out.ipynb -p stepz 500` inserts a cell
    `# Parameters` that sets `stepz` after the notebook's own parameters, and
    trains with the default of `steps`. This looks for names in that cell that
    the cell before it does not set. In JupyterLab, where papermill inserts
    nothing, it does nothing.

    Args:
        cells: the sources of the cells run so far: IPython's own list `In`.

    Raises:
        NameError: a parameter that the notebook does not have; names those
            that it has.

    Example:

    >>> fv.check_parameters(In)
    """
    for own, inserted in zip(cells, cells[1:], strict=False):
        if not inserted.startswith("# Parameters\n"):
            continue
        known = _assigned_names(own)
        unknown = _assigned_names(inserted) - known
        if unknown:
            raise NameError(
                f"this notebook has no parameter {', '.join(sorted(unknown))}; "
                f"it has {', '.join(sorted(known))}"
            )


def _assigned_names(cell):
    return {
        node.id
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def check_answer(yours, expected, tolerance):
    """Compares the answer of an exercise with the expected one, and prints it.

    It raises nothing where the answer is wrong or missing, so that a notebook
    with open exercises still runs from top to bottom.

    Args:
        yours: a number, an array or a tensor; None: not answered yet.
        expected: likewise, of the same shape.
        tolerance: the largest difference that counts as correct, in the unit
            of the answer.

    Example:

    >>> fv.check_answer(3.1, expected=3.14, tolerance=0.05)
    yours 3.1, expected 3.14 ± 0.05: correct
    """
    if yours is None:
        print("no answer yet")
        return
    yours, expected = (
        ops.convert_to_numpy(value).astype("float64")
        for value in (yours, expected)
    )
    if yours.shape != expected.shape:
        print(
            f"yours has shape {yours.shape}, expected {expected.shape}: "
            "not correct yet"
        )
        return
    difference = np.abs(yours - expected).max()
    verdict = "correct" if difference <= tolerance else "not correct yet"
    if expected.ndim == 0:
        print(
            f"yours {yours:g}, expected {expected:g} ± {tolerance:g}: {verdict}"
        )
    else:
        print(
            f"yours differs from the expected array by at most "
            f"{difference:.3g} (allowed {tolerance:g}): {verdict}"
        )
