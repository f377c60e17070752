"""Every backend computes the same, alone and on several devices.

A backend is chosen when Keras is imported, so each has a process of its own. It
runs PROGRAM, whose findings the tests compare.
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

pytestmark = pytest.mark.slow

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
SEVERAL_DEVICES = BACKENDS[:2]
OTHERS = [
    parameter
    for parameter in BACKENDS
    if parameter.values != (keras.backend.backend(),)
]

PROGRAM = """
    import importlib.machinery, json, os

    # As if the packages that ABSENT names were not installed.
    find = importlib.machinery.PathFinder.find_spec
    importlib.machinery.PathFinder.find_spec = lambda name, *place: (
        None if name in os.environ["ABSENT"].split() else find(name, *place)
    )

    import keras, numpy as np
    import facevae_keras as fv

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        (processor,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(processor, parts)

    photos = np.load("photos.npy")
    found = {}

    def initial_vae():
        vae = fv.load_vae("initial.keras")
        facenet = fv.load_facenet("seeded")
        # A processor that is fast in bfloat16 under one backend and not under
        # another would not compare.
        loss = fv.PerceptualLoss(facenet, image_size=35, precision="float32")
        vae.compile(keras.optimizers.Adam(2e-4), loss=loss)
        return vae

    def losses(vae, batches, **options):
        keras.utils.set_random_seed(3)
        vae.seed_generator.state.assign([3, 0])
        history = vae.fit(batches, verbose=0, shuffle=False, **options).history
        return [history[name][-1] for name in sorted(history)]

    # Photos on the device, one step and two steps in a launch.
    drawn = dict(batch_size=8, flip=True, seed=5)
    found["one by one"] = losses(
        initial_vae(), fv.photo_batches(photos, **drawn), steps_per_epoch=4
    )
    vae = initial_vae()
    vae.keep_on_device(photos)
    launches = fv.index_batches(len(photos), steps_per_launch=2, **drawn)
    found["launches"] = losses(vae, launches, steps_per_epoch=2)
    found["steps"] = int(vae.optimizer.iterations)

    # Two devices as one.
    if backend == "tensorflow":
        for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
            with tf.distribute.MirroredStrategy(devices).scope():
                vae = initial_vae()
            batches = tf.data.Dataset.from_tensor_slices(photos).batch(8)
            found[f"{len(devices)} devices"] = losses(vae, batches)
    if backend == "jax":
        two = keras.distribution.list_devices("cpu")
        for devices in (two[:1], two):
            keras.distribution.set_distribution(
                keras.distribution.DataParallel(devices=devices)
            )
            found[f"{len(devices)} devices"] = losses(
                initial_vae(), photos, batch_size=8
            )
        keras.distribution.set_distribution(None)

    projected = fv.project_photo(initial_vae(), photos[:4], fv.PixelLoss(), 3)
    found["projected"] = projected[:, :5].tolist()

    # Three steps with the same noise, and the file they leave.
    noise = np.load("noise.npy").astype("float32")
    keras.random.normal = lambda shape, seed: keras.ops.convert_to_tensor(noise)
    vae = initial_vae()
    steps = [
        vae.train_on_batch(photos[i : i + 8], return_dict=True)
        for i in (0, 8, 16)
    ]
    found["three steps"] = [
        [float(step[name]) for name in sorted(step)] for step in steps
    ]
    vae.save(f"{backend}.keras")
    np.save(f"{backend}.npy", vae.reconstruct(photos))

    # One step with a critic, whose random weights are the same everywhere.
    vae = fv.PatchCriticVAE(warm_up_steps=1, decoder_rate=0.5)
    initial = initial_vae()
    vae.encoder.set_weights(initial.encoder.get_weights())
    vae.decoder.set_weights(initial.decoder.get_weights())
    random = np.random.default_rng(0)
    for variable in vae.critic.trainable_variables:
        variable.assign(random.normal(size=variable.shape) / 10)
    for variable in vae.critic.non_trainable_variables:
        variable.assign(np.ones(variable.shape))
    vae.compile(keras.optimizers.Adam(2e-4), loss=fv.PixelLoss())
    step = vae.train_on_batch(photos[:8], return_dict=True)
    found["critic"] = [float(step[name]) for name in sorted(step)]
    found["norms"] = np.asarray(vae.norms.value).tolist()
    kernels = [x for x in vae.critic.trainable_variables if len(x.shape) == 4]
    found["kernels"] = [float(np.abs(np.asarray(x)).mean()) for x in kernels]
    before, after = (
        x.decoder.get_layer("Conv2d_4").get_weights()[0] for x in (initial, vae)
    )
    found["decoder"] = float(np.abs(after - before).mean())
    print(json.dumps(found))
"""


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


@pytest.fixture(scope="module")
def findings(folder):
    """Function of a backend: what PROGRAM finds under it, run once."""
    known = {}

    def run(backend):
        if backend not in known:
            # keras-cv is never needed to train, TensorFlow only for itself.
            absent = "" if backend == "tensorflow" else "tensorflow"
            result = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(PROGRAM)],
                cwd=folder,
                env={
                    **os.environ,
                    "PYTHONPATH": str(pathlib.Path(fv.__file__).parents[1]),
                    "KERAS_BACKEND": backend,
                    "ABSENT": f"keras_cv {absent}",
                    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
                },
                capture_output=True,
                text=True,
            )
            assert result.returncode == 0, result.stderr[-3000:]
            known[backend] = json.loads(result.stdout.splitlines()[-1])
        return known[backend]

    return run


@pytest.mark.parametrize("backend", OTHERS)
def test_the_same_three_steps_on_every_backend(findings, backend):
    own = keras.backend.backend()  # TensorFlow, unless KERAS_BACKEND says not
    found, wanted = (findings(b)["three steps"] for b in (backend, own))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize("backend", OTHERS)
def test_a_critic_trains_alike(findings, backend):
    found, wanted = (findings(b) for b in (backend, keras.backend.backend()))
    for name in ("critic", "norms", "kernels", "decoder"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=5e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_photos_are_projected_alike(findings, backend):
    own = keras.backend.backend()
    found, wanted = (findings(b)["projected"] for b in (backend, own))
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_of_one_backend_loads_under_another(findings, folder, backend):
    findings(backend)
    vae = fv.load_vae(folder / f"{backend}.keras")  # under this one
    photos = np.load(folder / "photos.npy")
    wanted = np.load(folder / f"{backend}.npy")
    # Of three steps from random weights: values of several thousand.
    np.testing.assert_allclose(
        vae.reconstruct(photos), wanted, atol=2e-5 * np.abs(wanted).max()
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_photos_on_the_device_train_the_same(findings, backend):
    found = findings(backend)
    assert found["steps"] == 4
    np.testing.assert_allclose(
        found["launches"], found["one by one"], rtol=1e-3
    )


@pytest.mark.parametrize("backend", SEVERAL_DEVICES)
def test_two_devices_train_as_one(findings, backend):
    found = findings(backend)
    np.testing.assert_allclose(
        found["2 devices"], found["1 devices"], rtol=1e-3
    )
