"""How fast a training step is beside the programs of 2017, and why.

    python benchmarks/original_step.py
    ONEDNN_VERBOSE=1 python benchmarks/original_step.py > verbose.txt
    python benchmarks/original_step.py --profile verbose.txt

The 2017 programs' training graph, built of TensorFlow 1's operations
(`tf.compat.v1`) and run in a session: the `dfc_vae`, photo and reconstruction
through the three FaceNet layers as one batch, Adam. Its steps and those of
`FaceVAE` take turns, in one process. Weights are random: they don't change the
time.

With ONEDNN_VERBOSE=1 the library that computes convolutions reports each of
them. `--profile` sums the reports of this project's steps.
"""

import argparse
import collections
import statistics
import time

import numpy as np
import tensorflow as tf
from training_step import costs, machine_limits, new_vae

import facevae_keras as fv
from facevae_keras.layers import RGB_MEAN, RGB_VARIANCE

v1 = tf.compat.v1
START, STOP = "our steps start", "our steps stop"


def batch_norm(x, scope, training):
    with v1.variable_scope(scope):
        depth = x.shape[-1]
        beta = v1.get_variable("beta", depth, trainable=training)
        mean = v1.get_variable("mean", depth, trainable=False)
        variance = v1.get_variable(
            "variance", depth, trainable=False, initializer=tf.ones_initializer
        )
    ones = tf.ones(depth)
    if not training:
        return v1.nn.fused_batch_norm(
            x, ones, beta, mean, variance, 1e-3, is_training=False
        )[0]
    x, batch_mean, batch_variance = v1.nn.fused_batch_norm(
        x, ones, beta, epsilon=1e-3
    )
    for average, value in ((mean, batch_mean), (variance, batch_variance)):
        v1.add_to_collection(
            v1.GraphKeys.UPDATE_OPS,
            v1.assign_sub(average, 0.005 * (average - value)),
        )
    return x


def convolution(x, filters, size, scope, strides=1, padding="SAME", train=True):
    shape = (size, size, x.shape[-1], filters)
    kernel = v1.get_variable(
        f"{scope}/weights",
        shape,
        initializer=v1.truncated_normal_initializer(stddev=0.1),
        trainable=train,
    )
    x = tf.nn.conv2d(x, kernel, strides, padding)
    return batch_norm(x, scope, train)


def leaky(x):
    return tf.maximum(0.1 * x, x)


def dense(x, units, scope):
    shape = (x.shape[-1], units)
    weights = v1.get_variable(f"{scope}/weights", shape)
    return x @ weights + v1.get_variable(f"{scope}/biases", units)


def original_step(photos, size, latent_dim=100):
    """The losses and the operation of one step of the 2017 programs."""
    deviation = np.sqrt(RGB_VARIANCE).astype("float32")
    photos = tf.cast(photos, "float32")
    x = v1.image.resize_images(photos, (64, 64))
    x = (x - RGB_MEAN) / deviation
    for number, filters in enumerate((32, 64, 128, 256), start=1):
        x = leaky(convolution(x, filters, 4, f"encoder{number}", strides=2))
    x = tf.reshape(x, (-1, 4096))
    mean = dense(x, latent_dim, "mean")
    log_variance = dense(x, latent_dim, "log_variance")
    z = mean + tf.random.normal(tf.shape(mean)) * tf.exp(log_variance / 2)
    x = tf.reshape(dense(z, 4096, "decoder"), (-1, 4, 4, 256))
    for number, filters in enumerate((128, 64, 32, 3), start=1):
        doubled = [2 * x.shape[1], 2 * x.shape[2]]
        x = v1.image.resize_nearest_neighbor(x, doubled)
        x = convolution(x, filters, 3, f"decoder{number}")
        if filters > 3:
            x = leaky(x)
    reconstructions = v1.image.resize_images(x, (size, size))
    x = tf.concat([(photos - RGB_MEAN) / deviation, reconstructions], axis=0)
    reconstruction_loss = 0.0
    for number, (filters, strides, padding) in enumerate(
        ((32, 2, "VALID"), (32, 1, "VALID"), (64, 1, "SAME"))
    ):
        x = convolution(
            x, filters, 3, f"facenet{number}", strides, padding, train=False
        )
        x = tf.nn.relu(x)
        a, b = tf.split(x, 2)
        reconstruction_loss += tf.reduce_sum(tf.square(a - b))
    kl_loss = 0.5 * tf.reduce_mean(
        tf.reduce_sum(tf.exp(log_variance) + mean**2 - 1 - log_variance, axis=1)
    )
    loss = kl_loss + 0.5 * reconstruction_loss
    with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
        return loss, v1.train.AdamOptimizer(1e-9, epsilon=1e-8).minimize(loss)


def profile(lines):
    """Milliseconds a step that oneDNN reports, by kind, longest first."""
    times = collections.Counter()
    recording, steps = False, 0
    for line in lines:
        if line.startswith(START):
            recording, steps = True, steps + int(line.split()[-1])
        elif line.startswith(STOP):
            recording = False
        elif recording and ",exec," in line:
            fields = line.strip().split(",")
            kind, _, direction = fields[fields.index("exec") + 2 :][:3]
            times[f"{kind} {direction}"] += float(fields[-1])
    return {kind: time / steps for kind, time in times.most_common()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3, help="in each round")
    parser.add_argument("--profile", help="a file of oneDNN's reports")
    arguments = parser.parse_args()
    if arguments.profile:
        with open(arguments.profile) as file:
            times = profile(file)
        total = sum(times.values())
        print("| oneDNN, a step | ms | share |\n| --- | --- | --- |")
        for kind, milliseconds in times.items():
            share = milliseconds / total
            print(f"| {kind} | {milliseconds:.0f} | {share:.2f} |")
        return

    size, batch, steps = arguments.size, arguments.batch, arguments.steps
    random = np.random.default_rng(0)
    photos = random.integers(0, 256, (batch, size, size, 3), dtype="uint8")

    with tf.Graph().as_default() as graph:
        fed = v1.placeholder("uint8", photos.shape)
        loss, train = original_step(fed, size)
        session = v1.Session(graph=graph)
        session.run(v1.global_variables_initializer())

    facenet = fv.load_facenet("seeded")

    def ours(precision, vae_precision="float32"):
        loss = fv.PerceptualLoss(facenet, image_size=size, precision=precision)
        vae = new_vae("dfc_vae", loss, precision=vae_precision)
        return lambda: vae.train_on_batch(photos)

    rows = {
        "the 2017 programs": lambda: session.run((loss, train), {fed: photos}),
        "ours, default": ours(None),
    }
    fastest = fv.fastest_precision()
    if fastest != "float32":
        rows["ours, float32"] = ours("float32")
        rows[f"ours, all {fastest}"] = ours(fastest, fastest)
    times = {name: [] for name in rows}
    for step in rows.values():
        step()  # builds or compiles
    for _ in range(arguments.rounds):
        for name, step in rows.items():
            default = name == "ours, default"
            if default:
                print(START, steps, flush=True)
            start = time.perf_counter()
            for _ in range(steps):
                step()
            times[name].append((time.perf_counter() - start) / steps)
            if default:
                print(STOP, flush=True)

    exact = fv.PerceptualLoss(facenet, image_size=size, precision="float32")
    operations, _ = costs(fv.FaceVAE(), exact, size)
    limits = machine_limits()
    first = statistics.median(times["the 2017 programs"])
    print(
        f"TensorFlow {tf.__version__}, batch {batch}, {size}x{size}, default "
        f"precision {fastest}; a matrix product reaches "
        f"{limits['float32'] / 1e9:.0f} GFLOP/s in float32, "
        f"{limits['bfloat16'] / 1e9:.0f} in bfloat16"
    )
    print("| | ms a step | of the 2017 programs | GFLOP/s |")
    print("| --- | --- | --- | --- |")
    for name, found in times.items():
        median = statistics.median(found)
        rate = batch * operations / median / 1e9
        useful = f"{rate:.0f}" if name.startswith("ours") else ""
        print(
            f"| {name} | {1e3 * median:.0f} | {first / median:.2f} | {useful} |"
        )


if __name__ == "__main__":
    main()
