"""What happens during `fit`: pictures of progress, and a stop on NaN."""

import math
import pathlib

import keras

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
