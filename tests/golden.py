"""Golden values: what this code computes for two drawn faces, recorded.

Files in ../shared prove the code against the programs of 2017, but few have
them. `golden.npz` carries that proof to every machine: it was recorded by code
that passed the tests with those files. Record it anew only together with a
change that is meant to change these numbers, and with ../shared at hand:

    python -m pytest tests/test_facenet.py tests/test_vae.py
    python tests/golden.py
"""

import pathlib
import tempfile
import zlib
from unittest import mock

import keras
import numpy as np

import facevae_keras as fv
from facevae_keras.weights.open import original_names

FILE = pathlib.Path(__file__).with_name("golden.npz")
TRAININGS = [  # of the wiki's three networks
    ("dfc_vae", "perceptual"),
    ("dfc_vae_resnet", "perceptual"),
    ("dfc_vae_large", "perceptual"),
    ("dfc_vae", "plain"),
]


def facenet_values(photos):
    """Values of FaceNet with seeded weights.

    Args:
        photos: uint8 array (2, 160, 160, 3).

    Returns:
        Dictionary of every endpoint's name, and `"embedding"`, to an array
        (2, 100) of values at equal distances in the flattened output.
    """
    facenet = fv.load_facenet("seeded")
    outputs = [facenet.get_layer(name).output for name in fv.ENDPOINTS]
    model = keras.Model(facenet.input, [*outputs, facenet.output])
    names = [*fv.ENDPOINTS, "embedding"]
    values = zip(names, model.predict(photos, verbose=0), strict=True)
    return {name: _sample(array) for name, array in values}


def training_values(photos, architecture, loss):
    """Values of a VAE with seeded weights, and of two steps of its training.

    Args:
        photos: uint8 array (2, 160, 160, 3).
        architecture: as for `fv.FaceVAE`.
        loss: `"perceptual"` or `"plain"`.

    Returns:
        Dictionary of `"mean"`, `"log_variance"`, `"decoded"`: arrays (2, 100)
        in inference mode, and `"steps"`: (2, 3), the total, reconstruction and
        KL loss of each step.
    """
    vae = fv.FaceVAE(architecture, beta=0.5)
    for scope, half in (("encoder", vae.encoder), ("decoder", vae.decoder)):
        for name, variable in original_names(half, scope).items():
            variable.assign(_seeded(name, variable.shape))
    if loss == "perceptual":
        facenet = fv.load_facenet("seeded", standardization="vae")
        reconstruction_loss = fv.PerceptualLoss(
            facenet, image_size=64, precision="float32"
        )
    else:
        reconstruction_loss = fv.PixelLoss()
    mean, log_variance = vae.encode(photos)
    z = np.random.RandomState(0).standard_normal((4, 100)).astype("float32")
    values = {
        "mean": mean,
        "log_variance": log_variance,
        "decoded": _sample(vae.decode(z[:2])),
    }
    optimizer = keras.optimizers.Adam(0.0002, epsilon=1e-8)
    vae.compile(optimizer, loss=reconstruction_loss, run_eagerly=True)
    batch = np.concatenate([photos, photos[:, :, ::-1]])
    steps = []
    with mock.patch.object(
        keras.random, "normal", lambda *_, **__: keras.ops.convert_to_tensor(z)
    ):
        for _ in range(2):
            found = vae.train_on_batch(batch, return_dict=True)
            vae.reset_metrics()
            names = ("loss", "reconstruction_loss", "kl_loss")
            steps.append([float(found[name]) for name in names])
    return {**values, "steps": np.array(steps)}


def _sample(array):
    values = np.asarray(array).reshape(len(array), -1)
    places = np.linspace(0, values.shape[1] - 1, 100).astype(int)
    return values[:, places]


def _seeded(name, shape):
    """Random values that depend on a variable's name alone."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("moving_variance"):
        return 0.5 + random.rand(*shape)
    if name.endswith("weights"):
        return random.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
    return 0.1 * random.standard_normal(shape)


def record():
    """Draws the faces and writes `golden.npz`."""
    with tempfile.TemporaryDirectory() as folder:
        fv.write_synthetic_dataset(folder, count=2, seed=3)
        paths = fv.find_images(folder)["path"]
        photos = np.stack([fv.read_photo(path, 160, 0.8) for path in paths])
    values = {
        f"facenet/{name}": array
        for name, array in facenet_values(photos).items()
    }
    for training in TRAININGS:
        for name, array in training_values(photos, *training).items():
            values["/".join((*training, name))] = array
            if name == "steps":
                print(*training, array.tolist())
    values = {name: array.astype("float32") for name, array in values.items()}
    np.savez_compressed(FILE, photos=photos, **values)
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    record()
