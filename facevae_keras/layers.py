"""Layers and constants that the networks share."""

import functools
import warnings

import keras
import numpy as np
from keras import layers, ops

# Mean and variance of RGB values 0..255 with which the original programs
# standardize images, both for the VAE and for FaceNet in its loss.
RGB_MEAN = (134.10714722, 102.52040863, 87.15436554)
RGB_VARIANCE = (3941.30175781, 2856.94287109, 2519.35791016)
# Red, green and blue in brightness (luma, ITU-R BT.601).
BRIGHTNESS = (0.299, 0.587, 0.114)


def warn_of_range(images):
    """Warns of images in 0..1, which would train and encode all the same.

    Args:
        images: array (n, height, width, 3); the first hundred are looked at.
    """
    if np.issubdtype(images.dtype, np.floating) and len(images):
        least, most = images[:100].min(), images[:100].max()
        if 0 <= least and 0 < most <= 1:
            warnings.warn(
                f"images are RGB 0..255, found {least:g} to {most:g}",
                stacklevel=3,
            )


def scale_images(images, size):
    """Scales images to `size` x `size`; anti-aliased, linear interpolation.

    Two products with constant matrices, so that it is differentiable, compiles
    everywhere and gives the same numbers on every Keras backend (their own
    resizing operations do not).

    Args:
        images: float tensor (n, height, width, channels).
        size: new height and width, in pixels.

    Returns:
        Tensor (n, size, size, channels); `images` itself where it fits.
    """
    height, width, channels = images.shape[1:]
    if (height, width) == (size, size):
        return images
    # One large product for the columns of all channels is faster than many
    # small ones, although it multiplies by zeros between the channels.
    rows = _resizing_matrix(height, size)
    columns = np.kron(_resizing_matrix(width, size), np.eye(channels)).T
    columns = ops.cast(columns, images.dtype)
    images = ops.reshape(images, (-1, height, width * channels))
    if size < height:  # the smaller product first
        images = ops.matmul(ops.cast(rows, images.dtype), images)
        images = ops.matmul(images, columns)
    else:
        images = ops.matmul(images, columns)
        images = ops.matmul(ops.cast(rows, images.dtype), images)
    return ops.reshape(images, (-1, size, size, channels))


@functools.cache
def _resizing_matrix(old, new):
    """Row i holds the weights of the old pixels in new pixel i, (new, old).

    A triangle around the new pixel's centre, as wide as a new pixel when
    scaling down (anti-aliasing) and as an old one when scaling up.
    """
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(old)[None, :])
    weights = np.maximum(0.0, 1.0 - distance / max(scale, 1.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype("float32")


def fold_batch_norm(model):
    """A copy of a model without its batch norms, for inference.

    A batch norm `(y - mean) / deviation + beta` of a convolution `y = k * x` is
    the convolution `(k / deviation) * x + (beta - mean / deviation)`.

    Args:
        model: functional model whose convolutions, `NAME` or `NAME-linear`,
            have no bias where a batch norm `NAME-BatchNorm` follows.

    Returns:
        Functional model: the same values in fewer operations.
    """
    batch_norms = {
        layer.name: layer
        for layer in model.layers
        if isinstance(layer, layers.BatchNormalization)
    }

    def batch_norm_after(layer):
        if isinstance(layer, layers.Conv2D | layers.Dense):
            scope = layer.name.removesuffix("-linear")
            return batch_norms.get(f"{scope}-BatchNorm")
        return None

    def clone(layer):
        config = layer.get_config()
        if batch_norm_after(layer):
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer, *args, **kwargs):
        if layer.name in batch_norms:
            return args[0]
        return layer(*args, **kwargs)

    folded = keras.models.clone_model(
        model, clone_function=clone, call_function=call
    )
    for layer in folded.layers:
        original = model.get_layer(layer.name)
        batch_norm = batch_norm_after(layer)
        if batch_norm is None:
            layer.set_weights(original.get_weights())
            continue
        (kernel,) = original.get_weights()
        beta, mean, variance = batch_norm.get_weights()
        deviation = np.sqrt(variance + batch_norm.epsilon)
        layer.set_weights([kernel / deviation, beta - mean / deviation])
    return folded


# Row i: which of a 3x3 kernel's three rows (or columns) add up to row i of the
# 4x4 kernel that does the same to an image before its pixels are doubled.
_KERNEL_OF_DOUBLED_PIXELS = np.array(
    [[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype="float32"
)


@functools.cache
def _transposed_convolutions_are_fast():
    """Everywhere but under JAX on a processor: half the speed, measured."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    return jax.default_backend() != "cpu"


@keras.saving.register_keras_serializable(package="facevae_keras")
class UpsamplingConv2D(layers.Conv2D):
    """Nearest-neighbour upsampling to twice the size, then a 3x3 convolution.

    Both are linear, so together they are one transposed convolution of stride
    2, whose 4x4 kernel is a sum of shifted copies of the 3x3 one. It needs no
    enlarged input and 4 instead of 9 products for each value: 1.4 to 4 times as
    fast on a CPU. The weights are those of the 3x3 convolution; there is no
    bias. Only training computes so: inference takes the two steps in turn,
    which round as the original's do.
    """

    def __init__(self, filters, **kwargs):
        super().__init__(filters, 3, padding="same", use_bias=False, **kwargs)

    def call(self, inputs, training=None):
        if not training or not _transposed_convolutions_are_fast():
            rows = ops.repeat(inputs, 2, axis=1)
            return super().call(ops.repeat(rows, 2, axis=2))
        # The sums of the kernel's values are taken in float32.
        shifts = _KERNEL_OF_DOUBLED_PIXELS
        kernel = ops.cast(self.kernel, "float32")
        kernel = ops.einsum("yi,ijcf->yjcf", shifts, kernel)
        kernel = ops.einsum("xj,yjcf->yxfc", shifts, kernel)
        kernel = ops.cast(kernel, inputs.dtype)
        return ops.conv_transpose(inputs, kernel, strides=2, padding="same")

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return (
            batch,
            None if height is None else 2 * height,
            None if width is None else 2 * width,
            self.filters,
        )

    def get_config(self):
        config = super().get_config()
        for fixed in ("kernel_size", "padding", "use_bias"):
            del config[fixed]
        return config


@keras.saving.register_keras_serializable(package="facevae_keras")
class PerImageStandardization(layers.Layer):
    """Gives every image mean 0 and deviation 1, as the 2017 FaceNet expects.

    The deviation is taken as at least `1 / sqrt(number of values)`, so that an
    image of one color is not divided by 0.
    """

    def call(self, images):
        images = ops.cast(images, "float32")  # half a float can't sum so many
        mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
        deviation = ops.std(images, axis=(1, 2, 3), keepdims=True)
        values = ops.cast(ops.prod(ops.shape(images)[1:]), images.dtype)
        deviation = ops.maximum(deviation, 1 / ops.sqrt(values))
        return ops.cast((images - mean) / deviation, self.compute_dtype)


@keras.saving.register_keras_serializable(package="facevae_keras")
class HalfBandFilter(layers.Layer):
    """Smooths images along both axes with the kernel (-1, 4, 10, 4, -1) / 16.

    A decoder that doubles pixels also mirrors low frequencies to just below
    the sampling limit: a fine grid on every skin. The kernel's response is 1
    at frequency 0, 3/4 at half of the limit and 0 at the limit itself, so that
    the grid goes and the rest stays. It has no weights; beyond the edges,
    images are mirrored.
    """

    def call(self, images):
        kernel = -1, 4, 10, 4, -1
        return filter_both_axes(images, _kernel_matrix(kernel, images.shape[1]))


@keras.saving.register_keras_serializable(package="facevae_keras")
class ColorFilter(layers.Layer):
    """Smooths colors with the kernel (1, 4, 6, 4, 1) / 16; not brightness.

    A decoder that doubles pixels draws colored stripes of three pixels and
    more, which a loss hardly sees. Photos have little color there (JPEG stores
    it at half the resolution), and eyes hardly see what is missing: filtered
    so, photos of 64 pixels are at 43 dB. Colors are red, green and blue less
    the brightness. No weights; beyond the edges, images are mirrored.
    """

    def call(self, images):
        gray = brightness(images)
        kernel = 1, 4, 6, 4, 1
        return gray + filter_both_axes(
            images - gray, _kernel_matrix(kernel, images.shape[1])
        )


@keras.saving.register_keras_serializable(package="facevae_keras")
class PixelBias(layers.Layer):
    """Adds a constant image, which `FaceVAE.correct_average` sets; first 0.

    A decoder of convolutions has one bias for all pixels of a channel, so what
    it draws wrongly in all faces alike, such as a grid or magenta lips, it
    can't subtract. No optimizer changes this bias.
    """

    def build(self, input_shape):
        self.bias = self.add_weight(
            shape=input_shape[1:],
            initializer="zeros",
            trainable=False,
            name="bias",
        )

    def call(self, images):
        return images + self.bias


def filter_both_axes(images, matrix):
    """Filters square images along both axes.

    Two products with a constant matrix: shifted copies, added up, took 7 to 60
    times as long with their gradient (TensorFlow, two cores).

    Args:
        images: float tensor (n, size, size, channels).
        matrix: NumPy array (size, size); row i holds the weights of the old
            pixels in pixel i of a line.

    Returns:
        Tensor of the shape of `images`.
    """
    size, channels = images.shape[2:]
    matrix = ops.cast(matrix, images.dtype)
    images = ops.reshape(images, (-1, size, size * channels))
    images = ops.matmul(matrix, images)
    images = ops.reshape(images, (-1, size, size, channels))
    return ops.matmul(matrix, images)


@functools.cache
def _kernel_matrix(kernel, size):
    """Row i holds the weights of the old pixels in pixel i, (size, size).

    Args:
        kernel: five numbers, which are divided by 16.
        size: of the images; beyond the edges they are mirrored.
    """
    matrix = np.zeros((size, size), "float32")
    for shift, weight in zip(range(-2, 3), kernel, strict=True):
        for i in range(size):
            mirrored = abs(i + shift)
            mirrored = min(mirrored, 2 * (size - 1) - mirrored)
            matrix[i, mirrored] += weight / 16
    return matrix


def brightness(images):
    """Weighted sum of red, green and blue.

    Args:
        images: float tensor (n, size, size, 3).

    Returns:
        Tensor (n, size, size, 1).
    """
    weights = ops.cast(BRIGHTNESS, images.dtype)
    return ops.sum(images * weights, axis=-1, keepdims=True)


def fine_brightness(images, deviation):
    """Brightness that is left of images when a Gaussian blur is subtracted.

    Args:
        images: (n, size, size, 3).
        deviation: of the Gaussian, in pixels.

    Returns:
        Tensor (n, size, size, 1); 0 for an image of one color.
    """
    gray = brightness(images)
    blur = _gaussian_matrix(images.shape[1], deviation)
    return gray - filter_both_axes(gray, blur)


@functools.cache
def _gaussian_matrix(size, deviation):
    """Row i holds the weights of all pixels in pixel i of a blurred line."""
    distance = np.subtract.outer(np.arange(size), np.arange(size))
    weights = np.exp(-0.5 * np.square(distance / deviation))
    return (weights / weights.sum(axis=1, keepdims=True)).astype("float32")
