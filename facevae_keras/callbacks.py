"""What a run of a notebook needs around `fit`.

Its parameters checked, a training that goes on where it was stopped, pictures
of progress, a stop on NaN; and the check of an exercise's answer.
"""

import ast
import contextlib
import json
import math
import pathlib
import re
import sys
import tempfile

import filelock
import keras
import numpy as np
import pandas as pd
from keras import ops
from tqdm import tqdm

from facevae_keras.backends import join_processes, wait_for_all
from facevae_keras.files import remove_leftovers, written_whole
from facevae_keras.plotting import face_grid, save_picture
from facevae_keras.vae import load_vae


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
        if join_processes()[0]:
            return  # the first of several processes writes
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        for picture in self.folder.glob("reconstructed_*.png"):
            number = picture.stem.removeprefix("reconstructed_")
            # Of steps that a stopped or an older training took from here on.
            if number.isdecimal() and int(number) > self._written:
                picture.unlink()
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
        if not join_processes()[0]:
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
        self._check(logs, math.isfinite)

    def on_epoch_end(self, epoch, logs=None):
        # The last step may have spoilt the weights, which only the held-out
        # losses show, as NaN. Infinite they may be early in a training, while
        # batch norm's running averages lag behind.
        self._check(logs, lambda value: not math.isnan(value))

    def _check(self, logs, is_right):
        values = {name: float(value) for name, value in (logs or {}).items()}
        if not all(map(is_right, values.values())):
            raise FloatingPointError(
                f"training stopped at step "
                f"{int(self.model.optimizer.iterations)}: "
                + ", ".join(f"{name} {v:g}" for name, v in values.items())
                + ". A lower learning rate or smaller beta usually helps"
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


class TrainingRun:
    """A training that may be stopped at any moment and then goes on.

    After every epoch the whole state of the training (weights, optimizer,
    random seeds, losses) replaces the one before in
    `run_dir/training_state.npz`. The same lines, run again in a new process
    after a kill or in the same one after an interrupt, continue from there and
    end where an uninterrupted training ends. When `vae.keras` is written, the
    file keeps only the parameters and the losses.

    Of several processes that train together (`join_processes`) the first
    writes; all need the same `run_dir`, and all photos. Where one of them ends,
    the others stop with an error. Start all again, and they go on.

    Args:
        run_dir: folder of this training; it is made if it isn't there.
        parameters: dictionary of all that the training depends on, in plain
            values, such as `check_parameters` returns. `run_dir` in it is
            ignored.

    Raises:
        ValueError: a training with other parameters is in this folder; names
            those that differ. Or its state can't be read.
        RuntimeError: another process trains in this folder.

    Example:

    >>> run = fv.TrainingRun("build", {"batch_size": 32, "seed": 1})
    >>> batches = fv.photo_batches(photos, 32, seed=1)
    >>> run.fit(vae, batches, steps=10_000, steps_per_epoch=500)
    >>> run.finish(vae)
    """

    def __init__(self, run_dir, parameters):
        self.run_dir = pathlib.Path(run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._process, self._processes = join_processes()
        # One for all objects of this process; the last one's end releases it.
        self._lock = filelock.FileLock(
            (self.run_dir / "training.lock").resolve(),
            timeout=5,  # for the end of a process that was just killed
            is_singleton=True,
        )
        if self._process == 0:  # the only one that writes
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise RuntimeError(
                    f"{self.run_dir}: another process trains in this folder; "
                    "wait for its end or choose another run_dir"
                ) from None
            remove_leftovers(self.run_dir)
        self._state_path = self.run_dir / "training_state.npz"
        self._vae_path = self.run_dir / "vae.keras"
        own = {k: v for k, v in parameters.items() if k != "run_dir"}
        self._parameters = own = json.loads(json.dumps(own, default=str))
        self._trained = False
        state = self._read_state()
        if not state or not state["losses"]:
            return  # there is no training to be mixed up with
        found, none = state["parameters"], "nothing"
        differences = [
            f"{name} was {found.get(name, none)!r}, is {own.get(name, none)!r}"
            for name in sorted(found.keys() | own.keys())
            if found.get(name, none) != own.get(name, none)
        ]
        if differences:
            raise ValueError(
                f"{self.run_dir} holds a training with other parameters: "
                f"{'; '.join(differences)}. To start anew, choose another "
                f"run_dir or delete {self._state_path}"
            )

    @property
    def finished(self):
        """Whether the training is complete and `vae.keras` written."""
        state = self._read_state()
        return bool(state and state["finished"])

    def fit(
        self,
        vae,
        batches,
        steps,
        steps_per_epoch,
        validation_data=None,
        callbacks=(),
    ):
        """Trains from the beginning, or from the last whole state.

        If the training is finished, it says so and loads the weights.

        Args:
            vae: a compiled `FaceVAE`, made by the same lines as before.
            batches: `photo_batches`, `index_batches`, or an endless
                `tf.data.Dataset`: `skip` takes them to where they were.
            steps: steps of training in all. With several steps in a launch,
                the last launch may go beyond.
            steps_per_epoch: steps between two states, and between two rows of
                `run_dir/losses.csv`.
            validation_data, callbacks: as for `keras.Model.fit`.

        Raises:
            FloatingPointError: a loss or a weight is no longer a number; the
                last whole state stays.
            ValueError: the state can't be read, or is that of another network.
        """
        self._trained = False
        state = self._read_state()
        if state and state["finished"]:
            print(
                f"{self.run_dir}: this training is finished; its weights are "
                "loaded. To start anew, choose another run_dir or delete "
                f"{self._state_path}"
            )
            trained = load_vae(self._vae_path)
            vae.encoder.set_weights(trained.encoder.get_weights())
            vae.decoder.set_weights(trained.decoder.get_weights())
            return
        strategy = getattr(vae, "distribute_strategy", None)  # TensorFlow's
        with strategy.scope() if strategy else contextlib.nullcontext():
            vae.optimizer.build(vae.trainable_variables)
        if state and state["parameters"] == self._parameters:
            self._restore(vae)
        else:
            # An interrupt in the first epoch needs the initial weights.
            state = {"parameters": self._parameters, "losses": []}
            self._write_state(state, vae)
        self._write_losses(state)
        step = int(vae.optimizer.iterations)
        if state["losses"]:
            print(f"{self.run_dir}: goes on at step {step} of {steps}")
        per_launch = getattr(batches, "steps_per_launch", 1)
        launches = max(1, min(steps_per_epoch, steps) // per_launch)
        batches = batches.skip(step // per_launch)
        if self._processes > 1:
            batches = batches.part(self._process, self._processes)
        if step < steps:
            keep = _KeepState(self, state, steps)
            try:
                vae.fit(
                    batches,
                    initial_epoch=len(state["losses"]),
                    epochs=math.ceil(steps / (launches * per_launch)),
                    steps_per_epoch=launches,
                    validation_data=validation_data,
                    callbacks=[StopOnNaN(), *callbacks, keep, _EpochLines()],
                    shuffle=False,  # the batches already are
                    verbose=0,
                )
            except KeyboardInterrupt:
                # Without a hundred lines of where in Keras that was.
                raise KeyboardInterrupt(
                    "training interrupted; run it again to go on"
                ) from None
            except FloatingPointError:
                raise
            except Exception as error:
                if self._processes == 1:
                    raise
                raise RuntimeError(
                    f"process {self._process} of {self._processes}: training "
                    "stopped, perhaps because another process ended. Start "
                    "all of them again to go on from the last whole state"
                ) from error
        self._trained = True

    def finish(self, vae):
        """Writes `run_dir/vae.keras`, and only then deletes the state.

        Args:
            vae: the trained `FaceVAE`.

        Raises:
            RuntimeError: `fit` has not come to its end.
        """
        if self.finished:
            return
        if not self._trained:
            raise RuntimeError(
                f"{self.run_dir}: the training is not complete; run fit again"
            )
        if self._process == 0:
            vae.save(self._vae_path)
            self._write_state(self._read_state())
        else:  # saving makes a copy, in which all processes have to take part
            with tempfile.TemporaryDirectory() as folder:
                vae.save(pathlib.Path(folder) / "vae.keras")
        wait_for_all("finished")

    def _read_state(self, with_values=False):
        if not self._state_path.exists():
            return None
        try:
            with np.load(self._state_path) as file:
                state = json.loads(str(file["state"]))
                if with_values:
                    names = range(len(file.files) - 1)
                    state["values"] = [file[str(name)] for name in names]
        except Exception as error:
            raise ValueError(
                f"{self._state_path}: damaged ({error}); delete it to start "
                "anew"
            ) from error
        if state["finished"] and not self._vae_path.exists():
            return None
        return state

    def _write_state(self, state, vae=None):
        """Keeps the state of `vae`; without it, that all is finished."""
        values = [_to_numpy(x) for x in _variables(vae)] if vae else []
        if not all(np.isfinite(value).all() for value in values):
            raise FloatingPointError(
                "training stopped: there are weights that are not finite. A "
                "lower learning rate or smaller beta usually helps"
            )
        if self._process:
            return
        state = json.dumps({**state, "finished": vae is None})
        values = {str(name): value for name, value in enumerate(values)}
        with written_whole(self._state_path) as unfinished:
            np.savez(unfinished, state=state, **values)

    def _restore(self, vae):
        variables = _variables(vae)
        values = self._read_state(with_values=True)["values"]
        if [value.shape for value in values] != [x.shape for x in variables]:
            raise ValueError(
                f"{self._state_path}: the state of another network or "
                "optimizer; delete it to start anew"
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def _write_losses(self, state):
        # Written from the state, so that a stop in between neither loses a
        # row nor doubles it.
        if self._process:
            return
        path = self.run_dir / "losses.csv"
        if not state["losses"]:
            path.unlink(missing_ok=True)  # an older training's
            return
        with written_whole(path) as unfinished:
            pd.DataFrame(state["losses"]).to_csv(unfinished, index=False)


class _KeepState(keras.callbacks.Callback):
    """Keeps the state of a `TrainingRun` after every epoch; ends it in time.

    It is the last of the callbacks: a state is kept when all that the others
    do in an epoch, such as the last picture, is done.
    """

    def __init__(self, run, state, steps):
        super().__init__()
        self._run, self._state, self._steps = run, state, steps

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) >= self._steps:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        step = int(self.model.optimizer.iterations)
        logs = {name: float(value) for name, value in logs.items()}
        self._state["losses"].append({"epoch": epoch, "step": step, **logs})
        if not self.model.stop_training:
            self._keep()

    def on_train_end(self, logs=None):
        self._keep()

    def _keep(self):
        self._run._write_state(self._state, self.model)
        self._run._write_losses(self._state)


class _EpochLines(keras.callbacks.Callback):
    """A progress bar that ends in a line of losses, short enough for a page."""

    def on_epoch_begin(self, epoch, logs=None):
        self._bar = tqdm(
            total=self.params["steps"],
            desc=self._step(),
            file=sys.stdout,
            mininterval=1,
            bar_format="{desc} {bar:10} {elapsed}{postfix}",
        )

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update()

    def on_epoch_end(self, epoch, logs=None):
        losses = []
        for name, key in (
            ("reconstruction", "reconstruction_loss"),
            ("KL", "kl_loss"),
        ):
            losses.append(f"{name} {logs[key]:,.0f}")
            if f"val_{key}" in logs:
                losses[-1] += f" (held out {logs[f'val_{key}']:,.0f})"
        self._bar.set_description_str(self._step(), refresh=False)
        self._bar.set_postfix_str(", ".join(losses))
        self._bar.close()

    def _step(self):
        return f"step {int(self.model.optimizer.iterations):6,}"


def _variables(vae):
    """All that a training changes, in the same order every time."""
    own = [x for x in vae.variables if x is not vae.resident_photos]
    return own + vae.optimizer.variables


def _to_numpy(variable):
    value = ops.convert_to_numpy(variable)
    # NumPy's files know no bfloat16.
    return value.astype("float32") if value.dtype == "bfloat16" else value


def check_parameters(cells, **ranges):
    """Checks the parameters of a notebook before anything long begins.

    `papermill notebook.ipynb out.ipynb -p steps 500` inserts a cell
    `# Parameters` after the notebook's own parameters. A name there that the
    notebook does not have would be ignored, and `-p flip false` is the text
    "false", which Python takes for true. So every value must be of the kind of
    the notebook's own: True or False, a whole number, a number, or text.
    Numbers must be finite, and whole numbers not negative where no range is
    given. A folder `run_dir` is made, and must be one to write to; `data_dir`,
    if not empty, must be a folder.

    Args:
        cells: the sources of the cells run so far: IPython's own list `In`.
            The first of them that only assigns plain values has the
            notebook's parameters.
        **ranges: for a parameter its least value, a pair of least and
            greatest, or a list of all possible texts.

    Returns:
        Dictionary of the parameters: their values by name.

    Raises:
        NameError: a parameter that the notebook does not have; names those
            that it has.
        ValueError: values of another kind or out of range; names all of them.
        OSError: a folder that can't be used.

    Example:

    >>> fv.check_parameters(In, steps=1, crop=(0.1, 1))
    """
    own, inserted = {}, {}
    for cell in cells:
        values = _assigned_values(cell)
        if cell.startswith("# Parameters\n"):
            inserted = values
        elif values and own.keys() <= values.keys():
            own, inserted = values, {}
    unknown = inserted.keys() - own.keys()
    if unknown:
        raise NameError(
            f"this notebook has no parameter {', '.join(sorted(unknown))}; "
            f"it has {', '.join(sorted(own))}"
        )
    found = {**own, **inserted}
    problems = [
        f"{name}: expected {expected}, found {found[name]!r}"
        for name in own
        if (expected := _other_kind(own[name], found[name]))
        or (expected := _out_of_range(found[name], ranges.get(name)))
    ]
    if problems:
        raise ValueError("; ".join(problems))
    _check_folders(found)
    return found


def _assigned_values(cell):
    """Names and values of a cell that only assigns values, else nothing."""
    # How papermill writes what is not finite, and is no literal.
    cell = re.sub(r"float\('-?(nan|inf)'\)", "1e999", cell)
    try:
        return {
            statement.targets[0].id: ast.literal_eval(statement.value)
            for statement in ast.parse(cell).body
        }
    except (SyntaxError, ValueError, AttributeError):
        return {}


def _other_kind(own, found):
    """What a value should be, if it is of another kind than the own one."""
    if type(found) is type(own) or (type(own), type(found)) == (float, int):
        return None
    if isinstance(own, str) and isinstance(found, int | float):
        return f"text (papermill -r NAME {found})"
    kinds = {bool: "True or False", int: "a whole number", float: "a number"}
    return kinds.get(type(own), "text")


def _out_of_range(value, wanted):
    """What a value should be, if it is out of the wanted range."""
    if isinstance(wanted, list):
        return None if value in wanted else f"one of {', '.join(wanted)}"
    if isinstance(value, str | bool):
        return None
    if wanted is None:
        wanted = 0 if isinstance(value, int) else -math.inf
    least, most = wanted if isinstance(wanted, tuple) else (wanted, math.inf)
    if math.isfinite(value) and least <= value <= most:
        return None
    if most < math.inf:
        return f"{least} to {most}"
    return "a number" if least == -math.inf else f"{least} or more"


def _check_folders(parameters):
    data_dir, run_dir = (parameters.get(x) for x in ("data_dir", "run_dir"))
    if data_dir and not pathlib.Path(data_dir).is_dir():
        raise NotADirectoryError(f"data_dir {data_dir}: no such folder")
    if run_dir:
        try:
            pathlib.Path(run_dir).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=run_dir).close()
        except OSError as error:
            raise OSError(
                f"run_dir {run_dir}: expected a folder to write to ({error})"
            ) from error


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
