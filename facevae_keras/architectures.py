"""The encoder and decoder pairs, and their registry.

Three are the networks of the facenet wiki's VAE programs, after "Deep Feature
Consistent Variational Autoencoder" (Hou et al. 2016, arXiv 1610.00291); the
fourth, `residual_vae`, is our own. An encoder maps images (n, size, size,
3), RGB 0..255, to the mean and the log variance of the latent variables, each
(n, latent_dim); a decoder maps latent variables back to images of the same size
and range. Layers of the three carry the names of the original variables (see
`checkpoints`).
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from facevae_keras.layers import RGB_MEAN, RGB_VARIANCE, UpsamplingConv2D


def _initial_weights():
    # A new object for each layer: one shared by all would give all of them
    # the same random numbers.
    return keras.initializers.TruncatedNormal(stddev=0.1)


def _normalize(x, scope, activation=True):
    """Batch norm without scale, leaky ReLU."""
    # On several devices the statistics are those of the whole batch; the other
    # backends do so by themselves.
    synchronized = keras.backend.backend() == "tensorflow"
    x = layers.BatchNormalization(
        scale=False,
        epsilon=1e-3,
        momentum=0.995,
        synchronized=synchronized,
        name=f"{scope}-BatchNorm",
    )(x)
    if not activation:
        return x
    return layers.LeakyReLU(0.1, name=f"{scope}-activation")(x)


def _conv(x, filters, kernel_size, scope, strides=1, activation=True):
    """Convolution without bias, batch norm, leaky ReLU."""
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer=_initial_weights(),
        name=scope,
    )(x)
    return _normalize(x, scope, activation)


def _double(x, filters, scope, activation=True):
    """Twice the size, 3x3 convolution, batch norm, leaky ReLU."""
    x = UpsamplingConv2D(
        filters, kernel_initializer=_initial_weights(), name=scope
    )(x)
    return _normalize(x, scope, activation)


def _dense(x, units, scope, dtype=None, initializer=None):
    return layers.Dense(
        units,
        kernel_initializer=initializer or _initial_weights(),
        name=scope,
        dtype=dtype,
    )(x)


def _residuals(x, kernel_size, scope):
    """Three times `x + 0.1 * conv(x)`."""
    for number in range(1, 4):
        branch_scope = f"{scope}-{scope}_{number}"
        branch = _conv(x, x.shape[-1], kernel_size, branch_scope)
        branch = layers.Rescaling(0.1, name=f"{branch_scope}-scale")(branch)
        x = layers.Add(name=f"{branch_scope}-add")([x, branch])
    return x


def _encoder(image_size, latent_dim, body):
    images = keras.Input((image_size, image_size, 3), name="images")
    x = layers.Normalization(
        mean=RGB_MEAN, variance=RGB_VARIANCE, name="standardize"
    )(images)
    x = layers.Flatten(name="flatten")(body(x))
    # What leaves the two networks is float32 under mixed precision too.
    mean = _dense(x, latent_dim, "Fc_1", "float32")
    # Not the original's initial weights: with them the log variances of the
    # first batch deviate by 6 and their exponentials by 1e8, and training is
    # busy with the KL divergence for hundreds of steps.
    log_variance = _dense(x, latent_dim, "Fc_2", "float32", "zeros")
    return keras.Model(images, [mean, log_variance], name="encoder")


def _decoder(latent_dim, body):
    latents = keras.Input((latent_dim,), name="latents")
    x = _dense(latents, 4 * 4 * 256, "Fc_1")
    x = body(layers.Reshape((4, 4, 256), name="reshape")(x))
    # The encoder's standardisation undone; nothing is clipped here, so that
    # the loss has a gradient outside 0..255 too.
    images = layers.Rescaling(
        np.sqrt(RGB_VARIANCE).tolist(),
        offset=RGB_MEAN,
        name="to_rgb",
        dtype="float32",
    )(x)
    return keras.Model(latents, images, name="decoder")


def _plain_encoder(image_size, latent_dim, filters):
    def body(x):  # halves the image at every convolution, down to 4x4
        for number, count in enumerate(filters, start=1):
            x = _conv(x, count, 4, f"Conv2d_{number}", strides=2)
        return x

    return _encoder(image_size, latent_dim, body)


def _plain_decoder(latent_dim, filters):
    def body(x):  # doubles the image before every convolution, from 4x4
        for number, count in enumerate(filters, start=1):
            last = number == len(filters)
            x = _double(x, count, f"Conv2d_{number}", activation=not last)
        return x

    return _decoder(latent_dim, body)


def _resnet_encoder(image_size, latent_dim, filters):
    def body(x):
        for number, count in enumerate(filters, start=1):
            x = _conv(x, count, 4, f"Conv2d_{number}a", strides=2)
            x = _residuals(x, 4, f"Conv2d_{number}b")
        return x

    return _encoder(image_size, latent_dim, body)


def _resnet_decoder(latent_dim, filters):
    def body(x):
        for number, count in enumerate(filters, start=1):
            x = _double(x, count, f"Conv2d_{number}a")
            x = _residuals(x, 3, f"Conv2d_{number}b")
        return _conv(x, 3, 3, f"Conv2d_{len(filters)}c", activation=False)

    return _decoder(latent_dim, body)


def _residual_encoder(latent_dim):
    def body(x):  # halves the image five times, down to 4x4
        for number, filters in enumerate((48, 96, 192, 256, 256), start=1):
            x = _rms_conv(x, filters, f"Conv2d_{number}a", 4, strides=2)
            if number < 5:
                x = _rms_residual(x, f"Conv2d_{number}b")
        return x

    return _encoder(128, latent_dim, body)


def _residual_decoder(latent_dim):
    """Doubles the image by linear interpolation, from 4x4 on.

    Where pixels are doubled instead, convolutions leave a grid. RMS norm is
    the same in training and in use, unlike batch norm.
    """

    def body(x):
        for number, filters in enumerate((256, 192, 128, 64, 24), start=1):
            x = layers.UpSampling2D(
                interpolation="bilinear", name=f"Conv2d_{number}-double"
            )(x)
            x = _rms_conv(x, filters, f"Conv2d_{number}a")
            x = _rms_residual(x, f"Conv2d_{number}b")
        return layers.Conv2D(
            3,
            3,
            padding="same",
            kernel_initializer=_variance_scaling(),
            name="Conv2d_6",
        )(x)

    return _decoder(latent_dim, body)


def _variance_scaling():
    return keras.initializers.VarianceScaling(2.0)


def _rms_activation(x, scope):
    x = layers.RMSNormalization(name=f"{scope}-RMSNorm")(x)
    return layers.LeakyReLU(0.1, name=f"{scope}-activation")(x)


def _rms_conv(x, filters, scope, kernel_size=3, strides=1):
    """Convolution without bias, RMS norm, leaky ReLU."""
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer=_variance_scaling(),
        name=scope,
    )(x)
    return _rms_activation(x, scope)


def _rms_residual(x, scope):
    """`x + conv(activation(norm(conv(x))))`; nothing is added at first."""
    branch = _rms_conv(x, x.shape[-1], f"{scope}a")
    branch = layers.Conv2D(
        x.shape[-1],
        3,
        padding="same",
        kernel_initializer="zeros",
        name=f"{scope}b",
    )(branch)
    return layers.Add(name=f"{scope}-add")([x, branch])


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An encoder and decoder pair.

    Attributes:
        image_size: height and width of the images, in pixels.
        encoder: function of `latent_dim` that returns the encoder.
        decoder: function of `latent_dim` that returns the decoder.
    """

    image_size: int
    encoder: Callable[[int], keras.Model]
    decoder: Callable[[int], keras.Model]


ARCHITECTURES = {
    "dfc_vae": Architecture(
        64,
        lambda latent_dim: _plain_encoder(64, latent_dim, (32, 64, 128, 256)),
        lambda latent_dim: _plain_decoder(latent_dim, (128, 64, 32, 3)),
    ),
    "dfc_vae_resnet": Architecture(
        64,
        lambda latent_dim: _resnet_encoder(64, latent_dim, (32, 64, 128, 256)),
        lambda latent_dim: _resnet_decoder(latent_dim, (128, 64, 32, 3)),
    ),
    "dfc_vae_large": Architecture(
        128,
        lambda latent_dim: _plain_encoder(
            128, latent_dim, (32, 64, 128, 256, 512)
        ),
        lambda latent_dim: _plain_decoder(latent_dim, (128, 64, 32, 3, 3)),
    ),
    "residual_vae": Architecture(128, _residual_encoder, _residual_decoder),
}


def get_architecture(name):
    """Looks an architecture up.

    Args:
        name: a key of `ARCHITECTURES`.

    Returns:
        The `Architecture`.

    Raises:
        ValueError: no such name; lists those that exist.
    """
    if name not in ARCHITECTURES:
        raise ValueError(
            f"no architecture {name!r}; there are {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]
