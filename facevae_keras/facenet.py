"""FaceNet: Inception-ResNet-v1 with its endpoints as named layers.

Szegedy et al. 2016, "Inception-v4, Inception-ResNet and the Impact of Residual
Connections on Learning" (arXiv 1602.07261), as David Sandberg's facenet trains
it for faces (Schroff et al. 2015, arXiv 1503.03832).
"""

import functools
import zlib

import keras
import numpy as np
from keras import layers

from facevae_keras.files import clear_errors, pretrained_file
from facevae_keras.layers import (
    RGB_MEAN,
    RGB_VARIANCE,
    PerImageStandardization,
    fold_batch_norm,
)
from facevae_keras.weights import (
    conversion,
    downloads,
    facenet_names,
)
from facevae_keras.weights import (
    open as weight_files,
)
from facevae_keras.weights.stored_arrays import StoredArray

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

# Where the stem that ships ends, see `load_facenet`.
_BUILT_IN_END = "Conv2d_4b_3x3"

_SCOPE = facenet_names.SCOPE
_STANDARDIZATIONS = ("fixed", "vae", "per_image")

# All weights are read or drawn after the network is built; random ones before
# that would only take time.
_TO_BE_FILLED = "zeros"

# More than any published FaceNet has, and still no burden.
_LARGEST_EMBEDDING = 2048


def load_facenet(source, standardization=None):
    """Builds FaceNet and fills it with converted weights.

    The files are only read, whatever they claim to be: no program in them is
    executed, and no network that they describe is built.

    Args:
        source: where the weights are, in any of the forms in which FaceNet is
            passed on; recognised by content, not by file name:

            - the name of a published model, `"20180402-114759"` (VGGFace2) or
              `"20180408-102900"` (CASIA-WebFace): downloaded once, 110 MB;
            - a TensorFlow 1 checkpoint: its prefix, its folder, or the zip as
              published;
            - the frozen graph `NAME.pb`;
            - keras-facenet's HDF5 file, whole model or weights, or a folder
              of its `.npy` files;
            - facenet-pytorch's state dictionary (`.pt`);
            - a `.keras` file of a model that this function returned;
            - `"built-in"`: FaceNet's stem, the layers through Conv2d_4b_3x3,
              as trained for this project on 12,582 photos of CelebA
              (recipes/train_stem.py). A model of these layers alone,
              which returns the last one's features and no embedding: it
              can't compare identities;
            - `"seeded"`: no training at all, but random weights of sensible
              size that are the same everywhere. Random convolutions still
              compare edges and textures, so they will do for a first
              perceptual loss; they are not specific to faces.
        standardization: how the first layer maps RGB 0..255 to what the
            convolutions see: `"fixed"` is `(x - 127.5) / 128`, with which the
            2018 models were trained; `"per_image"` subtracts each image's own
            mean and divides by its own deviation, as the 2017 model was
            trained; `"vae"` is the mean and deviation that the original VAE
            programs feed to FaceNet. None is the model's own: what a `.keras`
            file was saved with, `"per_image"` for an embedding of 128 (the
            2017 model), `"fixed"` for any other.

    Returns:
        A functional `keras.Model`: images (n, height, width, 3), RGB 0..255,
        to embeddings (n, 512) (or 128), not normalised. The usual size is
        160x160; other sizes work where the layers allow. Every name in
        `ENDPOINTS` is `model.get_layer(name).output`. Unless seeded, its
        attribute `conversion` says what was read, for `print`: a
        `weights.conversion.ConversionReport`.

    Raises:
        FileNotFoundError: nothing there.
        OSError: a download failed; says where to get the file and where to
            put it.
        ValueError: an unknown standardization, a damaged file, or weights of
            another network; names the file.

    Example:

    >>> facenet = fv.load_facenet("facenet/20180402-114759")
    >>> facenet.predict(photos).shape  # photos: (8, 160, 160, 3)
    (8, 512)
    >>> print(facenet.conversion)
    facenet/20180402-114759: TensorFlow 1 checkpoint
    490 variables read, 0 left over
    490 variables of the network filled, none missing, all shapes equal, ...
    """
    if standardization not in (None, *_STANDARDIZATIONS):
        raise ValueError(
            "standardization must be None (the model's own), "
            f'"per_image", "fixed" or "vae", found {standardization!r}'
        )
    if source == "seeded":
        return _seeded_facenet(standardization or "fixed")
    if source == "built-in":
        return _built_in_stem(standardization or "fixed")
    file = weight_files.open_weights(downloads.find_published(source))
    embedding_size = _embedding_size(file)
    model = _inception_resnet_v1(
        embedding_size,
        standardization or _own_standardization(file, embedding_size),
    )
    return _fill(model, file)


def _fill(model, file):
    """Gives a network, or its first layers, the weights of a file."""
    variables = weight_files.original_names(model, _SCOPE)
    with clear_errors(file.source):
        arrays, used = facenet_names.original_arrays(file, variables)
    conversion.assign_arrays(variables, arrays, file.source)
    model.conversion = conversion.conversion_report(file, variables, used)
    return model


def _embedding_size(file):
    """The width of the bottleneck, as the file declares it."""
    name = f"{_SCOPE}/Bottleneck/weights"
    arrays, _ = facenet_names.original_arrays(file, [name])
    if name not in arrays:
        raise ValueError(
            f"{file.source}: expected FaceNet's {name}, found "
            f"{len(file.arrays)} variables without it ({file.form}); this is "
            "a checkpoint of another network"
        )
    shape = arrays[name].shape
    if len(shape) != 2 or not 0 < shape[1] <= _LARGEST_EMBEDDING:
        raise ValueError(
            f"{file.source}: expected FaceNet's {name} of shape (1792, 128) "
            f"or (1792, 512), found {shape}"
        )
    return shape[1]


def _own_standardization(file, embedding_size):
    """What a model was trained with, or saved with."""
    for name in _STANDARDIZATIONS:
        if name in file.layers:
            return name
    return "per_image" if embedding_size == 128 else "fixed"


def _built_in_stem(standardization):
    """The first layers, trained for this project: pretrained/README.md."""
    model = _inception_resnet_v1(512, standardization)
    end = model.get_layer(_BUILT_IN_END).output
    stem = keras.Model(model.input, end, name=_SCOPE)
    return _fill(
        stem, weight_files.open_weights(pretrained_file("facenet_stem.keras"))
    )


def _seeded_facenet(standardization):
    model = _inception_resnet_v1(512, standardization)
    variables = weight_files.original_names(model, _SCOPE)
    arrays = {
        name: StoredArray(
            tuple(variable.shape),
            functools.partial(_seeded_array, name, tuple(variable.shape)),
        )
        for name, variable in variables.items()
    }
    conversion.assign_arrays(variables, arrays, "seeded")
    return model


def feature_extractor(facenet, layers, precision="float32"):
    """The part of FaceNet that computes some endpoints, and nothing beyond.

    Args:
        facenet: the model from `load_facenet`.
        layers: names of endpoints, such as `fv.WIKI_LAYERS`.
        precision: dtype policy of the convolutions, such as
            `"mixed_bfloat16"`. The first one stays in float32: rounded
            to bfloat16 it would shift the loss of its features by 0.1 %.

    Returns:
        A frozen functional `keras.Model`: RGB 0..255 images to the list of the
        named endpoints' outputs (after batch norm and ReLU), in that order. It
        has a copy of the weights, with each batch norm folded into the
        convolution before it: the same values in fewer operations.

    Raises:
        ValueError: no layer, or a name that is no endpoint; names those that
            are.
    """
    built = {layer.name for layer in facenet.layers}
    available = [name for name in ENDPOINTS if name in built]
    unknown = [name for name in layers if name not in available]
    if unknown or not layers:
        raise ValueError(
            f"FaceNet has no layer {', '.join(unknown) or '(none given)'}; its "
            f"endpoints are {', '.join(available)}"
        )
    outputs = [facenet.get_layer(name).output for name in layers]
    folded = fold_batch_norm(keras.Model(facenet.input, outputs))
    first = next(x for x in folded.layers if x.name.endswith("-linear"))
    for layer in folded.layers[folded.layers.index(first) + 1 :]:
        layer.dtype_policy = precision
    extractor = _ListModel(
        folded.input, folded.outputs, name="feature_extractor"
    )
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
    return PerImageStandardization(name=name)


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
        kernel_initializer=_TO_BE_FILLED,
        name=f"{scope}-linear",
    )(x)
    return layers.ReLU(name=scope)(_batch_norm(scope)(x))


def _branch(x, scope, *convolutions):
    """A chain of convolutions: (name, filters, kernel size) each."""
    for name, filters, kernel_size in convolutions:
        x = _conv(x, filters, kernel_size, f"{scope}-{name}")
    return x


def _residual(x, branches, scale, scope, activation="relu"):
    """Adds the concatenated branches, projected and scaled, to `x`."""
    mixed = layers.Concatenate(name=f"{scope}-mixed")(branches)
    up = layers.Conv2D(
        x.shape[-1],
        1,
        kernel_initializer=_TO_BE_FILLED,
        name=f"{scope}-Conv2d_1x1-linear",
    )(mixed)
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
    """The network with random weights, in float32 whatever the user's policy.

    Embeddings are compared with those of other programs to 1e-4.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        return _float32_network(embedding_size, standardization)
    finally:
        keras.config.set_dtype_policy(policy)


def _float32_network(embedding_size, standardization):
    """The layers; sizes in comments at 160x160 input."""
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
    x = layers.Dense(
        embedding_size,
        use_bias=False,
        kernel_initializer=_TO_BE_FILLED,
        name="Bottleneck-linear",
    )(x)
    embedding = _batch_norm("Bottleneck")(x)
    return keras.Model(images, embedding, name=_SCOPE)
