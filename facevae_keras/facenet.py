"""FaceNet: Inception-ResNet-v1 with its endpoints as named layers.

Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning" (arXiv 1602.07261), as David Sandberg's facenet trains
it for faces (Schroff et al. 2015, arXiv 1503.03832).
"""

import zlib

import keras
import numpy as np
from keras import layers

from facevae_keras import checkpoints
from facevae_keras.architectures import RGB_MEAN, RGB_VARIANCE

ENDPOINTS = (
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "MaxPool_3a_3x3",
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
    "Conv2d_4b_3x3",
    "Mixed_5a",
    "Mixed_6a",
    "Mixed_6b",
    "Mixed_7a",
    "Mixed_8a",
    "Mixed_8b",
    "PrePool",
    "PreLogitsFlatten",
)

# The three layers that the facenet wiki compares photo and reconstruction by.
WIKI_LAYERS = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")

_SCOPE = "InceptionResnetV1"


def load_facenet(source, standardization="fixed"):
    """Builds FaceNet and fills it with converted weights.

    Args:
        source: a TensorFlow 1 checkpoint (its prefix or its folder), or
            `"seeded"`: no training at all, but random weights of sensible size
            that are the same everywhere. Random convolutions still compare
            edges and textures, so they will do for a first perceptual loss;
            they know nothing about faces.
        standardization: how the first layer maps RGB 0..255 to what the
            convolutions see: `"fixed"` is `(x - 127.5) / 128`, with which the
            2018 models were trained; `"vae"` is the mean and deviation that
            the original VAE programs feed to FaceNet.

    Returns:
        A functional `keras.Model`: images (n, height, width, 3), RGB 0..255,
        to embeddings (n, 512) (or 128), not normalised. The usual size is
        160x160; other sizes work where the layers allow. Every name in
        `ENDPOINTS` is `model.get_layer(name).output`.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: an unknown standardization, or weights of another network.

    Example:

    >>> facenet = fv.load_facenet("facenet/20180402-114759")
    >>> facenet.predict(photos).shape  # photos: (8, 160, 160, 3)
    (8, 512)
    """
    if source == "seeded":
        model = _inception_resnet_v1(512, standardization)
        variables = checkpoints.original_names(model, _SCOPE)
        arrays = {
            name: _seeded_array(name, tuple(variable.shape))
            for name, variable in variables.items()
        }
    else:
        arrays = checkpoints.read_checkpoint(source)
        bottleneck = arrays.get(f"{_SCOPE}/Bottleneck/weights")
        if bottleneck is None:
            raise ValueError(
                f"{source}: expected FaceNet's {_SCOPE}/Bottleneck/weights, "
                f"found {len(arrays)} variables without it; this is a "
                "checkpoint of another network"
            )
        model = _inception_resnet_v1(bottleneck.shape[-1], standardization)
        variables = checkpoints.original_names(model, _SCOPE)
    checkpoints.assign_arrays(variables, arrays, source)
    return model


def feature_extractor(facenet, layers):
    """The part of FaceNet that computes some endpoints, and nothing beyond.

    Args:
        facenet: the model from `load_facenet`.
        layers: names of endpoints, such as `fv.WIKI_LAYERS`.

    Returns:
        A frozen functional `keras.Model`: RGB 0..255 images to the list of the
        named endpoints' outputs (after batch norm and ReLU), in that order.

    Raises:
        ValueError: no layer, or a name that is no endpoint; names those that
            are.
    """
    available = {layer.name for layer in facenet.layers}
    unknown = [name for name in layers if name not in available]
    if unknown or not layers:
        raise ValueError(
            f"FaceNet has no layer {', '.join(unknown) or '(none given)'}; its "
            "endpoints are "
            + ", ".join(name for name in ENDPOINTS if name in available)
        )
    outputs = [facenet.get_layer(name).output for name in layers]
    extractor = _ListModel(facenet.input, outputs, name="feature_extractor")
    extractor.trainable = False
    return extractor


class _ListModel(keras.Model):
    """A functional model that returns a list of one output as a list too."""

    def call(self, inputs, training=None, mask=None):
        outputs = super().call(inputs, training=training, mask=mask)
        return outputs if isinstance(outputs, list) else [outputs]


def _seeded_array(name, shape):
    """Random weights that depend on the variable's name alone."""
    random = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
    if name.endswith("moving_variance"):
        values = 0.5 + random.rand(*shape)
    elif name.endswith("weights"):
        # Variance 1 / fan_in keeps the activations' size from layer to layer.
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
    else:
        values = 0.1 * random.standard_normal(shape)
    return values.astype("float32")


def _standardization_layer(name):
    if name == "fixed":
        return layers.Rescaling(1 / 128, offset=-127.5 / 128, name=name)
    if name == "vae":
        return layers.Normalization(
            mean=RGB_MEAN, variance=RGB_VARIANCE, name=name
        )
    raise ValueError(
        f'standardization must be "fixed" or "vae", found {name!r}'
    )


def _batch_norm(scope):
    return layers.BatchNormalization(
        scale=False, epsilon=1e-3, momentum=0.995, name=f"{scope}-BatchNorm"
    )


def _conv(x, filters, kernel_size, scope, strides=1, padding="same"):
    x = layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        name=f"{scope}-linear",
    )(x)
    return layers.ReLU(name=scope)(_batch_norm(scope)(x))


def _branch(x, scope, *convolutions):
    """A chain of convolutions: (name, filters, kernel size) each."""
    for name, filters, kernel_size in convolutions:
        x = _conv(x, filters, kernel_size, f"{scope}-{name}")
    return x


def _residual(x, branches, scale, scope, activation="relu"):
    """Adds to `x` what the branches make of it, scaled down."""
    mixed = layers.Concatenate(name=f"{scope}-mixed")(branches)
    up = layers.Conv2D(x.shape[-1], 1, name=f"{scope}-Conv2d_1x1-linear")(mixed)
    up = layers.Rescaling(scale, name=f"{scope}-scale")(up)
    x = layers.Add(name=f"{scope}-add")([x, up])
    return layers.Activation(activation, name=scope)(x)


def _block35(x, scope):
    branches = [
        _branch(x, f"{scope}-Branch_0", ("Conv2d_1x1", 32, 1)),
        _branch(
            x,
            f"{scope}-Branch_1",
            ("Conv2d_0a_1x1", 32, 1),
            ("Conv2d_0b_3x3", 32, 3),
        ),
        _branch(
            x,
            f"{scope}-Branch_2",
            ("Conv2d_0a_1x1", 32, 1),
            ("Conv2d_0b_3x3", 32, 3),
            ("Conv2d_0c_3x3", 32, 3),
        ),
    ]
    return _residual(x, branches, 0.17, scope)


def _block17(x, scope):
    branches = [
        _branch(x, f"{scope}-Branch_0", ("Conv2d_1x1", 128, 1)),
        _branch(
            x,
            f"{scope}-Branch_1",
            ("Conv2d_0a_1x1", 128, 1),
            ("Conv2d_0b_1x7", 128, (1, 7)),
            ("Conv2d_0c_7x1", 128, (7, 1)),
        ),
    ]
    return _residual(x, branches, 0.10, scope)


def _block8(x, scope, scale=0.20, activation="relu"):
    branches = [
        _branch(x, f"{scope}-Branch_0", ("Conv2d_1x1", 192, 1)),
        _branch(
            x,
            f"{scope}-Branch_1",
            ("Conv2d_0a_1x1", 192, 1),
            ("Conv2d_0b_1x3", 192, (1, 3)),
            ("Conv2d_0c_3x1", 192, (3, 1)),
        ),
    ]
    return _residual(x, branches, scale, scope, activation)


def _shrink(x, filters, scope):
    return _conv(
        x, filters, 3, f"{scope}-Conv2d_1a_3x3", strides=2, padding="valid"
    )


def _shrink_pool(x, name):
    return layers.MaxPooling2D(3, strides=2, padding="valid", name=name)(x)


def _reduction_a(x, scope):
    wide = _branch(
        x,
        f"{scope}-Branch_1",
        ("Conv2d_0a_1x1", 192, 1),
        ("Conv2d_0b_3x3", 192, 3),
    )
    branches = [
        _shrink(x, 384, f"{scope}-Branch_0"),
        _shrink(wide, 256, f"{scope}-Branch_1"),
        _shrink_pool(x, f"{scope}-Branch_2-MaxPool_1a_3x3"),
    ]
    return layers.Concatenate(name=scope)(branches)


def _reduction_b(x, scope):
    first = _branch(x, f"{scope}-Branch_0", ("Conv2d_0a_1x1", 256, 1))
    second = _branch(x, f"{scope}-Branch_1", ("Conv2d_0a_1x1", 256, 1))
    third = _branch(
        x,
        f"{scope}-Branch_2",
        ("Conv2d_0a_1x1", 256, 1),
        ("Conv2d_0b_3x3", 256, 3),
    )
    branches = [
        _shrink(first, 384, f"{scope}-Branch_0"),
        _shrink(second, 256, f"{scope}-Branch_1"),
        _shrink(third, 256, f"{scope}-Branch_2"),
        _shrink_pool(x, f"{scope}-Branch_3-MaxPool_1a_3x3"),
    ]
    return layers.Concatenate(name=scope)(branches)


def _endpoint(x, name):
    return layers.Identity(name=name)(x)


def _inception_resnet_v1(embedding_size, standardization):
    """The network with random weights; sizes in comments at 160x160 input."""
    images = keras.Input((None, None, 3), name="images")
    x = _standardization_layer(standardization)(images)
    x = _conv(x, 32, 3, "Conv2d_1a_3x3", strides=2, padding="valid")  # 79x79
    x = _conv(x, 32, 3, "Conv2d_2a_3x3", padding="valid")  # 77x77
    x = _conv(x, 64, 3, "Conv2d_2b_3x3")
    x = _shrink_pool(x, "MaxPool_3a_3x3")  # 38x38
    x = _conv(x, 80, 1, "Conv2d_3b_1x1", padding="valid")
    x = _conv(x, 192, 3, "Conv2d_4a_3x3", padding="valid")  # 36x36
    x = _conv(x, 256, 3, "Conv2d_4b_3x3", strides=2, padding="valid")  # 17x17
    for block in range(1, 6):
        x = _block35(x, f"Repeat-block35_{block}")
    x = _endpoint(x, "Mixed_5a")
    x = _reduction_a(x, "Mixed_6a")  # 8x8
    for block in range(1, 11):
        x = _block17(x, f"Repeat_1-block17_{block}")
    x = _endpoint(x, "Mixed_6b")
    x = _reduction_b(x, "Mixed_7a")  # 3x3
    for block in range(1, 6):
        x = _block8(x, f"Repeat_2-block8_{block}")
    x = _endpoint(x, "Mixed_8a")
    x = _block8(x, "Block8", scale=1.0, activation="linear")
    x = _endpoint(x, "Mixed_8b")
    x = _endpoint(x, "PrePool")
    x = layers.GlobalAveragePooling2D(name="PreLogitsFlatten")(x)
    x = layers.Dense(embedding_size, use_bias=False, name="Bottleneck-linear")(
        x
    )
    embedding = _batch_norm("Bottleneck")(x)
    return keras.Model(images, embedding, name=_SCOPE)
