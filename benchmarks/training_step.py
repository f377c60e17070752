"""How fast a training step is, beside what the original did.

    python benchmarks/training_step.py
    KERAS_BACKEND=jax python benchmarks/training_step.py --launch 50

The *baseline* computes literally what the programs of 2017 compute: photo and
reconstruction go through FaceNet as one batch that is differentiated as a
whole, with its batch norms, in float32, and the decoder enlarges its images
before it convolves them. All rows are timed in turn, round by round, so that a
noisy machine disturbs all of them alike; a row's time is the median.
"""

import argparse
import statistics
import time

import keras
import numpy as np
from keras import ops

import facevae_keras as fv
from facevae_keras.layers import UpsamplingConv2D


class BaselineLoss(keras.losses.Loss):
    """The perceptual loss as it was: both halves through one FaceNet."""

    def __init__(self, facenet, image_size):
        super().__init__()
        self.image_size = image_size
        self.features = keras.Model(
            facenet.input,
            [facenet.get_layer(name).output for name in fv.WIKI_LAYERS],
        )
        self.features.trainable = False

    def call(self, photos, reconstructions):
        size = (self.image_size, self.image_size)
        enlarged = ops.image.resize(reconstructions, size)
        both = ops.concatenate([photos, enlarged])
        count = photos.shape[0]
        return sum(
            ops.sum(ops.square(x[:count] - x[count:]), axis=(1, 2, 3))
            for x in self.features(both, training=False)
        )


def new_vae(architecture, loss, upsampling=None, precision="float32"):
    keras.config.set_dtype_policy(precision)
    vae = fv.FaceVAE(architecture)
    for layer in vae.decoder.layers:
        if upsampling and isinstance(layer, UpsamplingConv2D):
            layer.call = upsampling.__get__(layer)
    # So small that the networks stay as they are.
    vae.compile(keras.optimizers.Adam(1e-9), loss=loss)
    keras.config.set_dtype_policy("float32")
    return vae


def enlarge_then_convolve(layer, inputs, training=None):
    return UpsamplingConv2D.call(layer, inputs, training=False)


def products(model):
    """Multiply-adds of one image through a functional model's layers."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            total += np.prod(layer.kernel.shape)
        elif isinstance(layer, UpsamplingConv2D):  # 4 products instead of 9
            height, width = layer.output.shape[1:3]
            total += height * width * np.prod(layer.kernel.shape) * 4 / 9
        elif isinstance(layer, keras.layers.Conv2D):
            height, width = layer.output.shape[1:3]
            total += height * width * np.prod(layer.kernel.shape)
    return total


def values(model):
    """Numbers that the layers of a model put out for one image."""
    return sum(
        np.prod(layer.output.shape[1:])
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    )


def costs(vae, loss, image_size):
    """Floating-point operations and bytes of one image in one step.

    A pass forward counts once, back to the input and back to the weights once
    more each. Bytes: each layer's output is written and read once forward, and
    as much in each pass back; 4 bytes a value.
    """
    extractor = keras.models.clone_model(
        keras.Model(
            loss.feature_extractor.input, loss.feature_extractor.output
        ),
        input_tensors=keras.Input((image_size, image_size, 3)),
    )
    passes = [(vae.encoder, 3), (vae.decoder, 3), (extractor, 1 + 2)]
    operations = sum(2 * n * products(model) for model, n in passes)
    moved = sum(2 * 4 * n * values(model) for model, n in passes)
    return operations, moved


def best_rate(function, amount, repetitions=5):
    function()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return amount / min(times)


def machine_limits(size=4096):
    """Operations a second of a large matrix product, bytes of a copy."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        a = ops.ones((size, size), dtype=dtype)
        found[dtype] = best_rate(
            lambda a=a: float(ops.cast((a @ a)[0, 0], "float32")), 2 * size**3
        )
    block = ops.ones((64 * 1024**2,), dtype="float32")
    found["bytes"] = best_rate(
        lambda: float((block + 1)[0]), 2 * 4 * 64 * 1024**2
    )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="in each round")
    parser.add_argument(
        "--launch",
        type=int,
        default=0,
        help="photos stay on the device, and so many steps are one launch",
    )
    parser.add_argument("--architectures", default=",".join(fv.ARCHITECTURES))
    arguments = parser.parse_args()

    size, batch = arguments.size, arguments.batch
    fastest = fv.fastest_precision()
    facenet = fv.load_facenet("seeded")
    baseline = BaselineLoss(facenet, size)
    exact = fv.PerceptualLoss(facenet, image_size=size, precision="float32")
    default = fv.PerceptualLoss(facenet, image_size=size)
    rows = {
        "dfc_vae, baseline": new_vae(
            "dfc_vae", baseline, enlarge_then_convolve
        ),
        "dfc_vae, float32": new_vae("dfc_vae", exact),
        "dfc_vae, all mixed_bfloat16": new_vae(
            "dfc_vae",
            fv.PerceptualLoss(
                facenet, image_size=size, precision="mixed_bfloat16"
            ),
            precision="mixed_bfloat16",
        ),
    }
    for architecture in arguments.architectures.split(","):
        rows[f"{architecture}, default"] = new_vae(architecture, default)

    random = np.random.default_rng(0)
    photos = random.integers(0, 256, (4 * batch, size, size, 3), dtype="uint8")

    def one_step(vae):
        vae.train_on_batch(photos[:batch])

    def one_launch(vae):
        indices = random.integers(len(photos), size=(arguments.launch, batch))
        vae.train_on_batch(indices.astype("int32"))

    if arguments.launch:
        for vae in rows.values():
            vae.keep_on_device(photos)
    step = one_launch if arguments.launch else one_step
    times = {name: [] for name in rows}
    for vae in rows.values():
        step(vae)  # compiles
    for _ in range(arguments.rounds):
        for name, vae in rows.items():
            start = time.perf_counter()
            for _ in range(arguments.steps):
                step(vae)
            times[name].append(time.perf_counter() - start)

    images = batch * arguments.steps * max(1, arguments.launch)
    limits = machine_limits()
    print(f"{keras.backend.backend()}, Keras {keras.__version__}")
    print(f"batch {batch}, {size}x{size}, default precision {fastest}")
    print(
        f"a matrix product reaches {limits['float32'] / 1e9:.0f} GFLOP/s in "
        f"float32, {limits['bfloat16'] / 1e9:.0f} in bfloat16; adding 1 to an "
        f"array moves {limits['bytes'] / 1e9:.0f} GB/s"
    )
    print("| | images a second | of the baseline | GFLOP/s | GB/s |")
    print("| --- | --- | --- | --- | --- |")
    first = statistics.median(times["dfc_vae, baseline"])
    for name, vae in rows.items():
        median = statistics.median(times[name])
        rate = images / median
        operations, moved = costs(vae, exact, size)
        useful = (
            f"{rate * operations / 1e9:.0f} | {rate * moved / 1e9:.1f}"
            if "baseline" not in name
            else "| "
        )
        print(f"| {name} | {rate:.1f} | {first / median:.2f} | {useful} |")
    operations, moved = costs(rows["dfc_vae, float32"], exact, size)
    print(
        f"dfc_vae, an image: {operations / 1e9:.2f} GFLOP, "
        f"{moved / 1e6:.0f} MB in float32"
    )


if __name__ == "__main__":
    main()
