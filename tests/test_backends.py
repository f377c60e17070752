"""Every backend computes the same, alone and on several devices.

A backend is chosen when Keras is imported, so each has a process of its own.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import facevae_keras as fv

BACKENDS = [
    pytest.param(
        backend,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(backend) is None,
            reason=f"{backend} is not installed",
        ),
    )
    for backend in ("tensorflow", "jax", "torch")
]

# What every program below begins with. A processor whose convolutions are
# bfloat16 under one backend and not under another would not compare.
BEGINNING = """
    import importlib.machinery, os

    # As if the packages that ABSENT names were not installed.
    find = importlib.machinery.PathFinder.find_spec
    importlib.machinery.PathFinder.find_spec = lambda name, *place: (
        None if name in os.environ.get("ABSENT", "").split()
        else find(name, *place)
    )

    import json, keras, numpy as np
    import facevae_keras as fv

    def initial_vae():
        vae = fv.load_vae("initial.keras")
        facenet = fv.load_facenet("seeded")
        loss = fv.PerceptualLoss(facenet, image_size=35, precision="float32")
        vae.compile(keras.optimizers.Adam(2e-4), loss=loss)
        return vae

    photos = np.load("photos.npy")
"""


def run(program, folder, backend, **environment):
    program = textwrap.dedent(BEGINNING) + textwrap.dedent(program)
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(pathlib.Path(fv.__file__).parents[1]),
            "KERAS_BACKEND": backend,
            **environment,
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos, noise and initial weights for all backends."""
    folder = tmp_path_factory.mktemp("backends")
    random = np.random.default_rng(0)
    photos = random.integers(0, 256, (24, 64, 64, 3)).astype("uint8")
    np.save(folder / "photos.npy", photos)
    np.save(folder / "noise.npy", random.normal(size=(8, 100)))
    keras.utils.set_random_seed(0)
    fv.FaceVAE().save(folder / "initial.keras")
    return folder


THREE_STEPS = """
    noise = np.load("noise.npy").astype("float32")
    keras.random.normal = lambda shape, seed: keras.ops.convert_to_tensor(noise)
    vae = initial_vae()
    steps = [
        vae.train_on_batch(photos[i : i + 8], return_dict=True)
        for i in (0, 8, 16)
    ]
    vae.save("{backend}.keras")
    np.save("{backend}.npy", vae.reconstruct(photos))
    losses = [[step[name] for name in sorted(step)] for step in steps]
    print(json.dumps(np.array(losses, "float64").tolist()))
"""


@pytest.fixture(scope="module")
def trained(folder):
    """Losses of three steps under a backend, run once."""
    found = {}

    def losses(backend):
        if backend not in found:
            # Where JAX or PyTorch train, neither TensorFlow nor keras-cv is
            # needed.
            absent = "keras_cv"
            if backend != "tensorflow":
                absent += " tensorflow"
            program = THREE_STEPS.format(backend=backend)
            found[backend] = run(program, folder, backend, ABSENT=absent)
        return found[backend]

    return losses


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_three_steps_on_every_backend(trained, backend):
    own = keras.backend.backend()  # TensorFlow, unless KERAS_BACKEND says not
    np.testing.assert_allclose(trained(backend), trained(own), rtol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_of_one_backend_loads_under_another(trained, folder, backend):
    trained(backend)
    vae = fv.load_vae(folder / f"{backend}.keras")  # under this one
    photos = np.load(folder / "photos.npy")
    np.testing.assert_allclose(
        vae.reconstruct(photos), np.load(folder / f"{backend}.npy"), atol=0.05
    )


RESIDENT = """
    def train(batches, epochs):
        keras.utils.set_random_seed(4)
        vae = initial_vae()
        vae.keep_on_device(photos)
        history = vae.fit(
            batches, epochs=1, steps_per_epoch=epochs, verbose=0, shuffle=False
        )
        return int(vae.optimizer.iterations), history.history["loss"]

    drawn = dict(batch_size=8, flip=True, seed=5)
    one_by_one = train(fv.photo_batches(photos, **drawn), 4)
    launches = fv.index_batches(len(photos), steps_per_launch=2, **drawn)
    print(json.dumps([one_by_one, train(launches, 2)]))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_photos_on_the_device_train_the_same(folder, backend):
    one_by_one, launches = run(RESIDENT, folder, backend)
    assert one_by_one[0] == launches[0] == 4
    np.testing.assert_allclose(one_by_one[1], launches[1], rtol=1e-4)


MIRRORED = """
    import tensorflow as tf

    (processor,) = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(processor, parts)

    def train(devices):
        keras.utils.set_random_seed(3)
        with tf.distribute.MirroredStrategy(devices).scope():
            vae = initial_vae()
        batches = tf.data.Dataset.from_tensor_slices(photos).batch(8)
        history = vae.fit(batches, epochs=1, verbose=0).history
        return [history[name][0] for name in sorted(history)]

    print(json.dumps([train(["CPU:0"]), train(["CPU:0", "CPU:1"])]))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"
)
def test_two_devices_of_tensorflow_train_as_one(folder):
    one, two = run(MIRRORED, folder, "tensorflow")
    np.testing.assert_allclose(one, two, rtol=1e-3)


DATA_PARALLEL = """
    devices = keras.distribution.list_devices("cpu")
    assert len(devices) == 2

    def train(devices):
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices)
        )
        keras.utils.set_random_seed(3)
        vae = initial_vae()
        history = vae.fit(
            photos, batch_size=8, epochs=1, shuffle=False, verbose=0
        ).history
        return [history[name][0] for name in sorted(history)]

    print(json.dumps([train(devices[:1]), train(devices)]))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)
def test_two_devices_of_jax_train_as_one(folder):
    flags = "--xla_force_host_platform_device_count=2"
    one, two = run(DATA_PARALLEL, folder, "jax", XLA_FLAGS=flags)
    np.testing.assert_allclose(one, two, rtol=1e-3)
