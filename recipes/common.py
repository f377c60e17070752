"""What the programs of this folder share: the split of the photos, a picture.

A program's own folder is on Python's path, so `import common` finds this file.
"""

import numpy as np

import facevae_keras as fv

CROP, HELD_OUT, SEED = 0.8, 0.15, 666  # of all VAEs and the stem that ship
SAMPLES = 8
LAYERS = {  # of the loss, and their weights after `PerceptualLoss.equalize`
    "pixels": 4,
    "Conv2d_1a_3x3": 1,
    "Conv2d_2b_3x3": 1,
    "Conv2d_4a_3x3": 1,
    "Conv2d_4b_3x3": 1,
    "Mixed_6a": 1,
    "Mixed_6b": 1,
    "Mixed_8a": 4,
    "PreLogitsFlatten": 20,
}
# Those that come before FaceNet's deep layers; the stem that ships has them.
STEM = list(LAYERS)[: list(LAYERS).index("Mixed_6a")]


def split(celeba):
    """Training photos and held-out ones of CelebA, no person in both.

    Args:
        celeba: folder of the photos.

    Returns:
        Three DataFrames like `fv.find_images`: training, held out, and of the
        latter those of full size, which FaceNet compares in full detail.
    """
    training, held_out = fv.split_images(fv.find_images(celeba), HELD_OUT, SEED)
    native = held_out[held_out["path"].str.contains("img_align_celeba/")]
    return training, held_out, native


def draw(vae, photos, people):
    """A picture of two rows: eight people, and eight samples of the prior.

    Args:
        vae: a `FaceVAE`.
        photos: array (n, height, width, 3), RGB 0..255.
        people: Series of n identities; one photo of each is shown.

    Returns:
        uint8 array, for `fv.save_picture`.
    """
    first = ~people.duplicated().to_numpy()
    random = np.random.default_rng(SEED)
    samples = random.standard_normal((SAMPLES, vae.latent_dim))
    reconstructions = vae.reconstruct(photos[first][:SAMPLES])
    return fv.face_grid(np.stack([reconstructions, vae.decode(samples)]))
