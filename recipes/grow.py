"""Makes a dfc_vae_large that draws what a trained dfc_vae draws.

    python recipes/grow.py run/dfc_vae/vae.keras CELEBA run/grown.keras

A training of 64x64 faces is cheaper than one of 128x128, and most of what it
learns is the same. So the large VAE starts as the small one: its additional
convolutions halve and double the image, its additional filters are random, and
nobody listens to them yet (Net2Net, Chen et al. 2015, arXiv 1511.05641). Some
photos of the folder CELEBA say how bright and contrasty images are.
"""

import pathlib
import sys

import keras
import numpy as np
from common import CROP, SEED

import facevae_keras as fv
from facevae_keras.layers import RGB_MEAN, RGB_VARIANCE

HALVE = np.outer([1, 3, 3, 1], [1, 3, 3, 1])[:, :, None, None] / 64
# Of an image whose pixels were doubled: linear interpolation.
SMOOTH = np.outer([1, 2, 1], [1, 2, 1])[:, :, None, None] / 16
BLACK = -np.array(RGB_MEAN) / np.sqrt(RGB_VARIANCE)


def enlarge(new, old):
    """Writes an old array into the leading corner of a new one, in place.

    The old outputs (the last axis) get nothing from new inputs.
    """
    new[..., : old.shape[-1]] = 0
    new[tuple(slice(size) for size in old.shape)] = old


def grow_encoder(small, large, photos):
    # The first convolution halves, and gives each colour as it is and negated:
    # leaky(x) - leaky(-x) = 1.1 x.
    standardized = (photos - RGB_MEAN) / np.sqrt(RGB_VARIANCE)
    mean, deviation = (
        function(standardized, axis=(0, 1, 2)) for function in (np.mean, np.std)
    )
    both = np.concatenate([np.eye(3), -np.eye(3)], axis=1)
    set_convolution(
        large,
        "Conv2d_1",
        HALVE * both,
        np.stack([np.zeros(6), mean @ both, deviation**2 @ np.abs(both)]),
    )
    for number in range(1, 5):
        kernel, normalization = convolution(small, f"Conv2d_{number}")
        if number == 1:
            normalization[1] -= np.einsum("yxcf,c->f", kernel, mean)
            kernel = kernel * deviation[:, None] / 1.1
            kernel = np.concatenate([kernel, -kernel], axis=2)
        set_convolution(large, f"Conv2d_{number + 1}", kernel, normalization)
    for name in ("Fc_1", "Fc_2"):
        kernel, bias = small.get_layer(name).get_weights()
        old = kernel.reshape(4, 4, -1, len(bias))
        new = np.zeros((4, 4, 2 * old.shape[2], len(bias)), "float32")
        enlarge(new, old)
        large.get_layer(name).set_weights([new.reshape(-1, len(bias)), bias])


def grow_decoder(small, large):
    large.get_layer("Fc_1").set_weights(small.get_layer("Fc_1").get_weights())
    for number in range(1, 5):
        kernel, normalization = convolution(small, f"Conv2d_{number}")
        if number == 4:  # black becomes 0: leaky ReLU changes no colour
            beta = normalization[0].copy()
            normalization[0] -= BLACK
        set_convolution(large, f"Conv2d_{number}", kernel, normalization)
    set_convolution(
        large,
        "Conv2d_5",
        SMOOTH * np.eye(3),
        np.stack([beta, beta - BLACK, np.ones(3)]),
    )


def convolution(model, name):
    """The kernel; beta, mean and variance of the batch norm after it."""
    (kernel,) = model.get_layer(name).get_weights()
    return kernel, np.stack(model.get_layer(f"{name}-BatchNorm").get_weights())


def set_convolution(model, name, kernel, normalization):
    new_kernel, new_normalization = convolution(model, name)
    enlarge(new_kernel, kernel)
    new_normalization[:, : normalization.shape[1]] = normalization
    model.get_layer(name).set_weights([new_kernel])
    model.get_layer(f"{name}-BatchNorm").set_weights(list(new_normalization))


if __name__ == "__main__":
    source, celeba, target = map(pathlib.Path, sys.argv[1:])
    keras.utils.set_random_seed(SEED)
    small = fv.load_vae(source)
    large = fv.FaceVAE("dfc_vae_large", small.latent_dim)
    paths = fv.find_images(celeba)["path"].sample(frac=1, random_state=SEED)
    photos, _ = fv.load_photos(paths[:512], large.image_size, CROP)
    halves = np.array(fv.scale_images(photos * 1.0, small.image_size))
    grow_encoder(small.encoder, large.encoder, halves)
    grow_decoder(small.decoder, large.decoder)
    large.save(target)
    drawn = np.array(
        fv.scale_images(large.reconstruct(photos), small.image_size)
    )
    difference = np.abs(small.reconstruct(photos) - drawn).mean()
    print(f"{target}: differs from {source} by {difference:.1f} of 255")
