"""The losses, per image.

Photos may be larger than the reconstruction: `PixelLoss` scales them to the
reconstruction's size, `PerceptualLoss` brings both to its own.
"""

import keras
from keras import ops

from facevae_keras.backends import fastest_precision
from facevae_keras.facenet import WIKI_LAYERS, feature_extractor
from facevae_keras.layers import scale_images

PIXELS = "pixels"  # the layer of a PerceptualLoss that is the image itself


def kl_divergence(mean, log_variance):
    """KL divergence of N(mean, exp(log_variance)) from N(0, 1), per image.

    `0.5 * sum(exp(log_variance) + mean^2 - 1 - log_variance)`: equation 10 of
    Kingma and Welling 2013 (arXiv 1312.6114), summed, never averaged, over the
    latent dimensions.

    Args:
        mean: (n, latent_dim).
        log_variance: (n, latent_dim).

    Returns:
        Tensor (n,), in nats.

    Example:

    >>> fv.kl_divergence(np.zeros((2, 100)), np.zeros((2, 100)))  # [0., 0.]
    """
    return 0.5 * ops.sum(
        ops.exp(log_variance) + ops.square(mean) - 1.0 - log_variance, axis=-1
    )


@ops.custom_gradient
def _squared_distance(a, b):
    """Sum of the squared differences of each image, in float32: (n,).

    Custom gradient `2 (b - a)`: one pass over the features instead of several,
    which makes a training step about 1.15 times as fast on a CPU.
    """
    difference = b - a
    squares = ops.square(ops.cast(difference, "float32"))
    distance = ops.sum(squares, axis=tuple(range(1, len(a.shape))))

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        shape = (-1,) + (1,) * (len(a.shape) - 1)
        scale = ops.cast(ops.reshape(2 * upstream, shape), difference.dtype)
        change = scale * difference
        return -change, change

    return distance, gradient


class PixelLoss(keras.losses.Loss):
    """Squared differences of RGB values 0..255, summed over each image.

    The PLAIN loss of the original programs, per image: they sum over the
    batch too. Photos are scaled to the reconstruction's size.

    Call arguments:
        photos: (n, height, width, 3), RGB 0..255.
        reconstructions: (n, size, size, 3), RGB 0..255.

    Returns:
        Scalar: the mean over the images of their sums.

    Example:

    >>> vae.compile("adam", loss=fv.PixelLoss())
    """

    def __init__(self, name="pixel_loss"):
        super().__init__(name=name)

    def call(self, photos, reconstructions):
        photos = scale_images(photos, reconstructions.shape[1])
        return ops.sum(ops.square(photos - reconstructions), axis=(1, 2, 3))


class PerceptualLoss(keras.losses.Loss):
    """Squared differences of FaceNet's features, summed over each image.

    The PERCEPTUAL loss of the original programs (Hou et al. 2016, arXiv
    1610.00291), per image: they sum over the batch too. The weighted sums of
    the layers are added.

    Args:
        facenet: the model from `fv.load_facenet`. It is frozen, and belongs to
            the loss: a VAE that is saved does not contain it.
        layers: names of FaceNet's endpoints; `"pixels"` among them is the
            image itself.
        image_size: photo and reconstruction are compared at this size, in
            pixels. The original's is 160; smaller is faster.
        precision: dtype policy of FaceNet's convolutions but for the first:
            `"float32"`, `"mixed_bfloat16"`, or None for the one that
            `fv.fastest_precision` names. Sums are in float32 in any case.
        weights: factor of each layer, in the order of `layers`. None: 1, the
            original's. `equalize` scales them.

    Call arguments:
        photos: (n, height, width, 3), RGB 0..255.
        reconstructions: (n, size, size, 3), RGB 0..255.

    Returns:
        Scalar: the mean over the images of their sums.

    Raises:
        ValueError: a layer that does not exist; names those that do. Weights
            of another number.

    Example:

    >>> facenet = fv.load_facenet("facenet/20180402-114759")
    >>> vae.compile("adam", loss=fv.PerceptualLoss(facenet))
    """

    def __init__(
        self,
        facenet,
        layers=WIKI_LAYERS,
        image_size=160,
        precision=None,
        weights=None,
        name="perceptual_loss",
    ):
        super().__init__(name=name)
        self.layers = tuple(layers)
        self.image_size = image_size
        self.precision = precision or fastest_precision()
        if weights is None:
            weights = [1.0] * len(self.layers)
        self.weights = list(weights)
        if len(self.weights) != len(self.layers):
            raise ValueError(
                f"expected a weight for each of {len(self.layers)} layers, "
                f"found {len(self.weights)}"
            )
        self.feature_extractor = None
        if set(self.layers) != {PIXELS}:
            self.feature_extractor = feature_extractor(
                facenet,
                [layer for layer in self.layers if layer != PIXELS],
                self.precision,
            )

    def equalize(self, photos):
        """Divides the weight of each layer by its variance over photos.

        Deep layers have fewer and smaller features than the first ones, so
        their squared differences are smaller by orders of magnitude. After the
        division a layer's loss is the unexplained share of its variance times
        its weight: 1 for the mean features of all photos, 2 for the features
        of another photo. Call it before `compile`.

        Args:
            photos: (n, height, width, 3), RGB 0..255; some hundreds suffice.

        Example:

        >>> loss = fv.PerceptualLoss(facenet, ["pixels", "Conv2d_4b_3x3"])
        >>> loss.equalize(photos[:500])
        """
        sums = [0.0 for _ in self.layers]
        sums_of_squares = [0.0 for _ in self.layers]
        for start in range(0, len(photos), 32):
            features = self._features(photos[start : start + 32])
            for number, layer in enumerate(features):
                layer = ops.cast(layer, "float32")
                sums[number] += ops.sum(layer, axis=0)
                sums_of_squares[number] += ops.sum(ops.square(layer), axis=0)
        for number, (total, squares) in enumerate(
            zip(sums, sums_of_squares, strict=True)
        ):
            variances = squares / len(photos) - ops.square(total / len(photos))
            self.weights[number] /= float(ops.sum(variances))

    def call(self, photos, reconstructions):
        return sum(self.layer_losses(photos, reconstructions).values())

    def layer_losses(self, photos, reconstructions):
        """The weighted loss of each layer alone.

        Args:
            photos: see the class.
            reconstructions: see the class.

        Returns:
            Dictionary of layer name to tensor (n,); their sum is the loss.
        """
        wanted = self._features(photos)
        found = self._features(reconstructions)
        losses = {}
        for layer, weight, a, b in zip(
            self.layers, self.weights, wanted, found, strict=True
        ):
            # No gradient with respect to the photo.
            distance = _squared_distance(ops.stop_gradient(a), b)
            losses[layer] = weight * distance
        return losses

    def _features(self, images):
        images = ops.convert_to_tensor(images, dtype="float32")
        images = scale_images(images, self.image_size)
        features = iter(())
        if self.feature_extractor is not None:
            features = iter(self.feature_extractor(images, training=False))
        return [
            images if layer == PIXELS else next(features)
            for layer in self.layers
        ]
