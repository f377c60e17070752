"""The face VAE: encoder, decoder, training step; and how to load one."""

import json
import zipfile

import keras
import numpy as np
from keras import ops

from facevae_keras.architectures import get_architecture
from facevae_keras.augment import check_room, vary_photos
from facevae_keras.backends import (
    default_jit_compile,
    fastest_precision,
    infer,
    losses_and_gradients,
    standard_normal,
    step,
)
from facevae_keras.files import (
    clear_errors,
    find_pretrained,
    is_as_shipped,
    written_whole,
)
from facevae_keras.hdf5 import check_hdf5
from facevae_keras.layers import (
    ColorFilter,
    HalfBandFilter,
    PixelBias,
    brightness,
    fine_brightness,
    fold_batch_norm,
    scale_images,
    warn_of_range,
)
from facevae_keras.losses import kl_divergence
from facevae_keras.weights import conversion
from facevae_keras.weights import open as weight_files

# `correct_average` changes brightness that is finer than a Gaussian blur of
# this deviation, in pixels: a grid, but not eyes and mouths. With 2.5 or all
# brightness celeba_dfc_vae lost 0.02 to 0.04 of identity.
AVERAGE_DEVIATION = 1.2

# What a file may claim: bytes, and latent variables. The VAEs that ship have
# 29 MB and 200.
_LARGEST_WEIGHTS = 2**28
_LARGEST_CONFIG = 2**20
_MOST_LATENTS = 4096


class FaceVAE(keras.Model):
    """A variational autoencoder of face images (arXiv 1312.6114).

    Args:
        architecture: `"dfc_vae"`, `"dfc_vae_resnet"` (both 64x64) or
            `"dfc_vae_large"` and `"residual_vae"` (both 128x128).
        latent_dim: number of latent variables.
        alpha: weight of the KL divergence, in the loss per image.
        beta: weight of the reconstruction loss, in the loss per image. The
            default is the wiki's: its 0.5 multiplies a sum over a batch of
            128, which is 64 times the mean.
        smooth_output: ends the decoder with `layers.HalfBandFilter`, which
            takes the fine grid off that doubling pixels leaves. The wiki's
            decoders have none.
        smooth_colors: then comes `layers.ColorFilter`, which takes colored
            stripes off and leaves brightness as it is.
        pixel_bias: ends the decoder with `layers.PixelBias`, which
            `correct_average` sets.

    Attributes:
        encoder: functional model, images to (mean, log variance).
        decoder: functional model, latent variables to images.
        image_size: height and width of its own images, in pixels.

    Photos are RGB 0..255, channels last, of the VAE's own size or another
    (square) one: they are scaled for the encoder, while the loss sees them as
    they are.

    Example:

    >>> vae = fv.FaceVAE("dfc_vae", latent_dim=100)
    >>> vae.compile(keras.optimizers.Adam(2e-4), loss=fv.PixelLoss())
    >>> vae.fit(photos, epochs=2)  # array (n, 160, 160, 3) or a dataset
    >>> vae.save("faces.keras")
    """

    def __init__(
        self,
        architecture="dfc_vae",
        latent_dim=100,
        alpha=1.0,
        beta=64.0,
        smooth_output=False,
        smooth_colors=False,
        pixel_bias=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be 1 or more, is {latent_dim}")
        pair = get_architecture(architecture)
        self.architecture = architecture
        self.latent_dim = latent_dim
        self.alpha = alpha
        self.beta = beta
        self.image_size = pair.image_size
        self.encoder = pair.encoder(latent_dim)
        self.decoder = pair.decoder(latent_dim)
        self.smooth_output = smooth_output
        self.smooth_colors = smooth_colors
        self.pixel_bias = pixel_bias
        images = self.decoder.output
        for is_wanted, layer, name in (
            (smooth_output, HalfBandFilter, "smooth"),
            (smooth_colors, ColorFilter, "smooth_colors"),
            (pixel_bias, PixelBias, "pixel_bias"),
        ):
            if is_wanted:
                images = layer(name=name, dtype="float32")(images)
        self.decoder = keras.Model(self.decoder.input, images, name="decoder")
        self.seed_generator = keras.random.SeedGenerator()
        self.resident_photos = None
        self._trackers = [
            keras.metrics.Mean(name=name)
            for name in ("loss", "reconstruction_loss", "kl_loss")
        ]
        self.built = True  # both halves are functional, hence built

    def get_config(self):
        config = super().get_config()
        # Who loads a VAE chooses the precision, not who trained it.
        del config["dtype"]
        return {
            **config,
            "architecture": self.architecture,
            "latent_dim": self.latent_dim,
            "alpha": self.alpha,
            "beta": self.beta,
            "smooth_output": self.smooth_output,
            "smooth_colors": self.smooth_colors,
            "pixel_bias": self.pixel_bias,
        }

    def compile(self, optimizer="adam", loss=None, **kwargs):
        """Sets how to train.

        Args:
            optimizer: a Keras optimizer.
            loss: `fv.PerceptualLoss`, `fv.PixelLoss`, or any
                `keras.losses.Loss` of photos and reconstructions that is a
                mean over images.
            **kwargs: as for `keras.Model.compile` (`run_eagerly`, ...).
        """
        if loss is None:
            raise ValueError(
                "compile needs a reconstruction loss, such as "
                "fv.PerceptualLoss(fv.load_facenet(path)) or fv.PixelLoss()"
            )
        kwargs.setdefault("jit_compile", default_jit_compile())
        super().compile(optimizer=optimizer, **kwargs)
        # The bound method, since Keras saves the weights of any loss object
        # that it finds: FaceNet is large, and belongs to the loss. Its `call`,
        # since `__call__` divides by the number of devices under TensorFlow.
        self._loss_per_image = loss.call

    def get_compile_config(self):
        # A saved VAE is for encoding and decoding; whoever trains it further
        # compiles it with a loss again.
        return None

    def save(self, filepath, **kwargs):
        """Saves encoder and decoder; neither FaceNet nor the optimizer.

        Args:
            filepath: `NAME.keras`. Written beside its place and renamed.
            **kwargs: as for `keras.Model.save`.

        Raises:
            ValueError: another ending.
        """
        if not str(filepath).endswith(".keras"):
            raise ValueError(f"{filepath}: expected a name that ends in .keras")
        copy = FaceVAE.from_config(self.get_config())
        copy.encoder.set_weights(self.encoder.get_weights())
        copy.decoder.set_weights(self.decoder.get_weights())
        with written_whole(filepath) as unfinished:
            keras.saving.save_model(copy, unfinished, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`; warns of an array in 0..1."""
        if isinstance(x, np.ndarray):
            warn_of_range(x)
        return super().fit(x, *args, **kwargs)

    @property
    def metrics(self):
        return self._trackers

    def call(self, photos, training=False):
        """Reconstructs photos from the means of their latent variables."""
        mean, _ = self.encoder(self._images(photos), training=training)
        return self.decoder(mean, training=training)

    def _images(self, photos):
        """Photos as the encoder takes them."""
        if photos.shape[1] != photos.shape[2]:
            raise ValueError(
                "expected square photos (n, size, size, 3), found an array of "
                f"shape {tuple(photos.shape)}"
            )
        photos = ops.cast(photos, "float32")
        return scale_images(photos, self.image_size)

    @step
    def train_step(self, photos):
        """One step of training, which `fit` takes with every batch.

        Keras calls it with the batch; `backends.step` unpacks the photos.
        """
        losses, gradients = losses_and_gradients(self, photos)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.track_losses(losses, photos)
        return self.loss_results()

    @step
    def test_step(self, photos):
        """What `evaluate` does with every batch."""
        losses = self.compute_losses(photos, training=False)
        self.track_losses(losses, photos)
        return self.loss_results()

    def compute_losses(self, photos, training):
        """Encodes, draws latent variables, decodes, and computes the losses.

        Args:
            photos: (n, height, width, 3), RGB 0..255.
            training: whether batch norm uses the statistics of this batch.

        Returns:
            Three scalars: `alpha * KL + beta * reconstruction`, the
            reconstruction loss and the KL divergence, means over the images.
        """
        _, _, losses = self.reconstruct_drawn(photos, training)
        return losses

    def reconstruct_drawn(self, photos, training):
        """Decodes latent variables that are drawn from the posteriors.

        Args:
            photos, training: as for `compute_losses`.

        Returns:
            The photos at this VAE's size, their reconstructions, and the
            losses of `compute_losses`.
        """
        photos = ops.cast(photos, "float32")
        images = self._images(photos)
        mean, log_variance = self.encoder(images, training=training)
        noise = standard_normal(ops.shape(mean), self.seed_generator)
        z = mean + noise * ops.exp(0.5 * log_variance)
        reconstructions = self.decoder(z, training=training)
        reconstruction_loss = ops.mean(
            self._loss_per_image(photos, reconstructions)
        )
        kl_loss = ops.mean(kl_divergence(mean, log_variance))
        total = self.alpha * kl_loss + self.beta * reconstruction_loss
        losses = (total, reconstruction_loss, kl_loss)
        return images, reconstructions, losses

    def track_losses(self, losses, photos):
        """Adds the losses of a batch to the means of this epoch."""
        # Weighted by the number of images, or a small last batch would count
        # as much as a full one.
        count = ops.shape(photos)[0]
        for tracker, value in zip(self._trackers, losses, strict=True):
            tracker.update_state(value, sample_weight=count)

    def loss_results(self):
        """The means of this epoch so far, by name."""
        return {tracker.name: tracker.result() for tracker in self._trackers}

    def keep_on_device(self, photos, warped_size=None, blend=False):
        """Stores a data set on the device that computes, for `fit`.

        Then `fit` takes the indices that `fv.index_batches` draws instead of
        photos: little is sent to the device, and several steps are one launch.

        Args:
            photos: uint8 array (n, height, width, 3), such as `fv.load_photos`
                returns. It has to fit into the device's memory: 15,000 photos
                of 160x160 pixels take 1.2 GB.
            warped_size, blend: as for `fv.photo_batches`, but computed on the
                device.

        Raises:
            ValueError: photos too small to be warped to that size.

        Example:

        >>> vae.keep_on_device(photos)
        >>> indices = fv.index_batches(len(photos), 128, steps_per_launch=50)
        >>> vae.fit(indices, epochs=10, steps_per_epoch=20)  # 10,000 steps
        """
        warn_of_range(photos)
        if warped_size is not None:
            check_room(photos, warped_size)
        # A variable, since JAX would write a plain array into its program.
        if self.resident_photos is not None:
            del self.resident_photos
        self.resident_photos = keras.Variable(
            photos, dtype="uint8", trainable=False, name="photos"
        )
        self._warped_size, self._blend = warped_size, blend
        # A step that was compiled for other photos is of no use.
        self.train_function = self.test_function = None

    def save_own_variables(self, store):
        # Photos are not weights; encoder and decoder save their own.
        pass

    def load_own_variables(self, store):
        pass

    def photos_on_device(self, indices):
        """Photos by index, as in `fv.index_batches`; warped and blended."""
        count = self.resident_photos.shape[0]
        photos = ops.take(self.resident_photos, indices % count, axis=0)
        mirrored = ops.reshape(indices >= count, (-1, 1, 1, 1))
        photos = ops.where(mirrored, ops.flip(photos, axis=2), photos)
        return vary_photos(
            photos, self._warped_size, self._blend, self.seed_generator
        )

    def encode(self, images):
        """The posterior of the latent variables, in inference mode.

        Args:
            images: array (n, height, width, 3), RGB 0..255, square.

        Returns:
            Mean and log variance, float32 NumPy arrays (n, latent_dim).
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                "encode takes RGB images (n, height, width, 3), found an "
                f"array of shape {images.shape}"
            )
        warn_of_range(images)
        return _in_batches(
            lambda batch: infer(self.encoder, self._images(batch)), images
        )

    def decode(self, z):
        """Turns latent variables into images, in inference mode.

        Args:
            z: array (..., latent_dim), such as (n, latent_dim) or the
                (n, amounts, latent_dim) of `fv.add_attribute`.

        Returns:
            NumPy array (..., image_size, image_size, 3), float32 RGB, in
            0..255 but for a little overshoot.
        """
        z = np.asarray(z, dtype="float32")
        if z.ndim < 2 or z.shape[-1] != self.latent_dim:
            raise ValueError(
                f"this VAE has {self.latent_dim} latent variables: decode "
                f"takes (n, {self.latent_dim}), found shape {z.shape}"
            )
        (images,) = _in_batches(
            lambda batch: [infer(self.decoder, batch)],
            z.reshape(-1, self.latent_dim),
        )
        return images.reshape(*z.shape[:-1], *images.shape[1:])

    def reconstruct(self, images):
        """Decodes the mean of each image's latent variables.

        Args:
            images: array (n, height, width, 3), RGB 0..255, square.

        Returns:
            NumPy array (n, image_size, image_size, 3), RGB as `decode`.
        """
        mean, _ = self.encode(images)
        return self.decode(mean)

    def standardize_latents(self, photos):
        """Changes latent coordinates so that faces match the prior.

        With a large `beta` the aggregate posterior (the posteriors of all
        faces together) is far from the prior N(0, 1), and samples of the prior
        decode to no face. This applies a linear map to the latent variables,
        which the dense layers on both sides absorb. The new aggregate
        posterior has mean 0 and unit covariance; the first latent variable
        carries most information about a face, the last the least. (Both are
        possible since two covariance matrices, here of the means and of the
        average posterior, can be made diagonal together.)

        Every reconstruction stays as it is. The posteriors' widths change
        likewise: exact on average, to first order for a single face.

        Args:
            photos: training photos, array (n, height, width, 3), RGB
                0..255; several for each latent variable.

        Example:

        >>> vae.fit(photos, epochs=50)
        >>> vae.standardize_latents(photos)
        >>> vae.decode(np.random.normal(size=(8, vae.latent_dim)))  # faces
        """
        means, log_variances = self.encode(photos)
        shift = means.mean(axis=0)
        widths = np.sqrt(np.exp(log_variances).mean(axis=0))
        # In units of the average posterior's width, any rotation leaves that
        # posterior as it is: the one to the means' principal axes, too.
        covariance = np.atleast_2d(np.cov((means / widths).T, bias=True))
        signals, axes = np.linalg.eigh(covariance)
        signals, axes = signals[::-1], axes[:, ::-1]
        change = (axes / np.sqrt(signals + 1)).T / widths
        # The share of each old variance in each new one.
        shares = np.square(change * widths)
        shares /= shares.sum(axis=1, keepdims=True)
        offset = -np.log(signals + 1) - shares @ np.log(np.square(widths))
        for layer, matrix, constant in (
            (self.encoder.get_layer("Fc_1"), change, -change @ shift),
            (self.encoder.get_layer("Fc_2"), shares, offset),
        ):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel @ matrix.T, matrix @ bias + constant])
        layer = self.decoder.get_layer("Fc_1")
        kernel, bias = layer.get_weights()
        layer.set_weights(
            [np.linalg.inv(change).T @ kernel, bias + shift @ kernel]
        )

    def correct_average(self, photos):
        """Corrects what the decoder draws wrongly in all faces alike.

        Such as a grid, or magenta lips. The average of the reconstructions gets
        the colors of the photos' average, and its fine detail. Coarser
        brightness stays: there a perceptual loss wants more contrast than the
        average has, around the eyes for example, and a face loses identity
        without it. Needs `pixel_bias=True`.

        Args:
            photos: training photos, array (n, height, width, 3), RGB 0..255;
                as many as there are.

        Raises:
            ValueError: this decoder has no bias for each pixel.

        Example:

        >>> vae = fv.FaceVAE(pixel_bias=True)
        >>> vae.compile("adam", loss=fv.PixelLoss())
        >>> vae.fit(photos, epochs=50)
        >>> vae.correct_average(photos)
        """
        if not self.pixel_bias:
            raise ValueError(
                "correct_average needs a VAE with pixel_bias=True, whose "
                "decoder ends with a bias for each pixel"
            )
        missing = 0.0
        for start in range(0, len(photos), 128):
            part = photos[start : start + 128]
            images = ops.convert_to_numpy(self._images(part))
            missing += (images - self.reconstruct(part)).sum(axis=0)
        missing = ops.convert_to_tensor(missing[None] / len(photos), "float32")
        colors = missing - brightness(missing)
        fine = fine_brightness(missing, AVERAGE_DEVIATION)
        layer = self.decoder.get_layer("pixel_bias")
        layer.bias.assign_add((colors + fine)[0])


class FastEncoder:
    """The encoder of a trained VAE, for very many photos.

    In its place for `encode_images` and `sum_attributes`. Batch norms are
    folded into the convolutions before them; with bfloat16 all convolutions
    but the first compute in it, and the latent means differ from those of
    float32 by 0.005 (root mean square; their deviation over faces is 1).
    `benchmarks/photos.py` measures both.

    Args:
        vae: a `FaceVAE`, whose weights are copied.
        precision: dtype policy of the convolutions but for the first:
            `"float32"`, `"mixed_bfloat16"`, or None for the one that
            `fv.fastest_precision` names.

    Example:

    >>> encoder = fv.FastEncoder(fv.load_vae("celeba_dfc_vae"))
    >>> latents = fv.encode_images(encoder, paths, crop=0.8)
    """

    def __init__(self, vae, precision=None):
        self.image_size = vae.image_size
        self.latent_dim = vae.latent_dim
        self.encoder = fold_batch_norm(vae.encoder)
        convolutions = [
            layer
            for layer in self.encoder.layers
            if isinstance(layer, keras.layers.Conv2D)
        ]
        for layer in convolutions[1:]:
            layer.dtype_policy = precision or fastest_precision()

    encode = FaceVAE.encode
    _images = FaceVAE._images


def _in_batches(function, array, batch_size=128):
    """Applies a function of one tensor to a large array, part by part."""
    if not len(array):  # compiled networks take no batch of nothing
        one = np.zeros((1, *array.shape[1:]), array.dtype)
        return tuple(x[:0] for x in _in_batches(function, one))
    parts = [
        [
            ops.convert_to_numpy(output)
            for output in function(
                ops.convert_to_tensor(array[start : start + batch_size])
            )
        ]
        for start in range(0, len(array), batch_size)
    ]
    return tuple(
        np.concatenate(outputs) for outputs in zip(*parts, strict=True)
    )


def load_vae(source, architecture=None):
    """Loads a trained VAE.

    Args:
        source: the name of one that ships with the package (see
            `facevae_keras/pretrained/README.md`), a `.keras` file that
            `FaceVAE.save` wrote, or a TensorFlow 1 checkpoint of the original
            programs: its prefix, its folder, or the zip as published.
        architecture: for a checkpoint, which of the original's three models
            it holds, as for `FaceVAE`.

    Returns:
        A `FaceVAE`; compile it with a loss before training it further. Of a
        checkpoint, its attribute `conversion` is a
        `weights.conversion.ConversionReport`.

    Raises:
        FileNotFoundError: nothing there, or a name that does not ship; lists
            those that do.
        ValueError: no VAE in that file, a damaged one, one that claims sizes
            no VAE has, or a checkpoint of another architecture than the one
            named.

    Example:

    >>> vae = fv.load_vae("celeba_dfc_vae")
    >>> original = fv.load_vae("model.ckpt-50000", architecture="dfc_vae")
    """
    source = find_pretrained(source, ".keras")
    if source.is_file() and zipfile.is_zipfile(source):
        with clear_errors(source), zipfile.ZipFile(source) as archive:
            saved_by_keras = "config.json" in archive.namelist()
        if saved_by_keras:
            return _load_saved(source)
    file = weight_files.open_weights(source)
    if file.form != weight_files.CHECKPOINT:
        raise ValueError(
            f"{source}: expected a .keras file or a TensorFlow 1 checkpoint, "
            f"found a {file.form}"
        )
    if architecture is None:
        raise ValueError(
            f"{source} is a checkpoint of the original programs: say which "
            'model it holds, as in load_vae(source, architecture="dfc_vae")'
        )
    arrays = file.arrays
    mean_biases = arrays.get("encoder/Fc_1/biases")
    if mean_biases is None or len(mean_biases.shape) != 1:
        raise ValueError(
            f"{source}: expected the variables of a VAE, such as "
            "encoder/Fc_1/biases; found a checkpoint without them"
        )
    with clear_errors(source):
        _check_latent_dim(mean_biases.shape[0])
    vae = FaceVAE(architecture, latent_dim=mean_biases.shape[0])
    variables = {
        **weight_files.original_names(vae.encoder, "encoder"),
        **weight_files.original_names(vae.decoder, "decoder"),
    }
    conversion.assign_arrays(variables, arrays, source)
    vae.conversion = conversion.conversion_report(file, variables, variables)
    return vae


def _load_saved(source):
    with clear_errors(source):
        if not is_as_shipped(source):
            _check_saved(source)
        vae = keras.saving.load_model(
            source, custom_objects={"FaceVAE": FaceVAE}
        )
        if not all(np.isfinite(x).all() for x in vae.get_weights()):
            raise ValueError("there are weights that are not finite")
    return vae


def _check_saved(source):
    """Looks at what a `.keras` file claims before Keras believes it."""
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            is_weights = member.filename == "model.weights.h5"
            most = _LARGEST_WEIGHTS if is_weights else _LARGEST_CONFIG
            if member.file_size > most:
                raise ValueError(
                    f"{member.filename} unpacks to {member.file_size:,} bytes, "
                    f"expected at most {most:,}"
                )
        description = json.loads(archive.read("config.json"))
        if description["class_name"] != "FaceVAE":
            raise ValueError(
                f"expected a FaceVAE, found {description['class_name']}"
            )
        for name, value in description["config"].items():
            if not isinstance(value, str | int | float | None):
                raise ValueError(f"{name} is {value}, expected a plain value")
        _check_latent_dim(description["config"]["latent_dim"])
        check_hdf5(archive.read("model.weights.h5"))


def _check_latent_dim(latent_dim):
    if not 1 <= latent_dim <= _MOST_LATENTS:
        raise ValueError(
            f"{latent_dim} latent variables, expected 1 to {_MOST_LATENTS}"
        )
