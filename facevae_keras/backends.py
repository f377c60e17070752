"""What differs between Keras' backends, so that the rest of the package is one.

`FaceVAE` writes a step of training once, as if variables could be changed in
place. That is so under TensorFlow and PyTorch. JAX instead passes all variables
in and out of a step; `step` does that around the same code.
"""

import functools
import itertools
import os
import pathlib

import keras


def _inputs(data):
    return keras.utils.unpack_x_y_sample_weight(data)[0]


class _TensorFlow:
    @staticmethod
    def step(method):
        @functools.wraps(method)
        def wrapped(self, data):
            import tensorflow as tf

            inputs = _inputs(data)
            if len(inputs.shape) == 4:
                return method(self, inputs)

            def body(number):
                method(self, self.photos_on_device(inputs[number]))
                return (number + 1,)

            count = tf.shape(inputs)[0]
            tf.while_loop(lambda number: number < count, body, [0])
            return self.loss_results()

        return wrapped

    @staticmethod
    def several_gradients(model, photos, pairs):
        import tensorflow as tf

        with tf.GradientTape(persistent=len(pairs) > 1) as tape:
            losses = model.compute_losses(photos, training=True)
            # The optimizer adds up the gradients of all devices.
            devices = tf.distribute.get_strategy().num_replicas_in_sync
            shares = [loss / devices for loss in losses]
        return losses, [
            tape.gradient(shares[number], variables)
            for number, variables in pairs
        ]

    @staticmethod
    def standard_normal(shape, seed):
        import tensorflow as tf

        count, size = shape
        devices = tf.distribute.get_strategy().num_replicas_in_sync
        if devices == 1:
            return keras.random.normal(shape, seed=seed)
        # Each of several devices takes its part of one draw.
        noise = keras.random.normal((devices * count, size), seed=seed)
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        return noise[number * count : (number + 1) * count]

    @staticmethod
    def infer(model, inputs):
        import tensorflow as tf

        if not hasattr(model, "compiled_call"):
            # One trace for every number of images.
            images = tf.TensorSpec((None, *inputs.shape[1:]), inputs.dtype)
            model.compiled_call = tf.function(
                lambda inputs: model(inputs, training=False),
                input_signature=[images],
            )
        return model.compiled_call(inputs)

    @staticmethod
    def gpu_has_bfloat16():
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            return None
        details = tf.config.experimental.get_device_details(gpus[0])
        return details.get("compute_capability", (0, 0)) >= (8, 0)


class _Jax:
    @staticmethod
    def step(method):
        def on_state(self, state, inputs):
            groups = [self.trainable_variables, self.non_trainable_variables]
            if len(state) == 4:  # a step of training
                groups.append(self.optimizer.variables)
            groups.append(self.metrics_variables)
            flat = [itertools.chain.from_iterable(x) for x in (groups, state)]
            with keras.StatelessScope(list(zip(*flat, strict=True))) as scope:
                if len(inputs.shape) == 1:
                    inputs = self.photos_on_device(inputs)
                results = method(self, inputs)
            return results, tuple(
                [scope.get_current_value(variable) for variable in group]
                for group in groups
            )

        @functools.wraps(method)
        def wrapped(self, state, data):
            import jax

            inputs = _inputs(data)
            if len(inputs.shape) == 4:
                return on_state(self, state, inputs)

            def body(state, indices):
                results, state = on_state(self, state, indices)
                return state, results

            state, results = jax.lax.scan(body, tuple(state), inputs)
            return {name: value[-1] for name, value in results.items()}, state

        return wrapped

    @staticmethod
    def several_gradients(model, photos, pairs):
        import jax

        variables = [*model.trainable_variables, *model.non_trainable_variables]
        positions = {id(variable): n for n, variable in enumerate(variables)}
        values = [variable.value for variable in variables]

        def losses_of(number, places, changed_values):
            state = list(values)
            for place, value in zip(places, changed_values, strict=True):
                state[place] = value
            with keras.StatelessScope(
                list(zip(variables, state, strict=True))
            ) as scope:
                losses = model.compute_losses(photos, training=True)
            after = [scope.get_current_value(x) for x in variables]
            return losses[number], (losses, after)

        # Each pair goes through the networks anew; the compiler finds that
        # they are the same and computes them once.
        gradients = []
        for number, own in pairs:
            places = [positions[id(variable)] for variable in own]
            differentiate = jax.grad(losses_of, argnums=2, has_aux=True)
            gradient, (losses, after) = differentiate(
                number, places, [values[place] for place in places]
            )
            gradients.append(gradient)
        # Spectral normalization changes kernels, which are trainable.
        for variable, value in zip(variables, after, strict=True):
            variable.assign(value)
        return losses, gradients

    @staticmethod
    def standard_normal(shape, seed):
        return keras.random.normal(shape, seed=seed)

    @staticmethod
    @functools.cache
    def _compiled():
        import jax

        @functools.partial(jax.jit, static_argnums=0)
        def infer(model, trainable, non_trainable, inputs):
            outputs, _ = model.stateless_call(
                trainable, non_trainable, inputs, training=False
            )
            return outputs

        return infer

    @staticmethod
    def infer(model, inputs):
        trainable, non_trainable = (
            [variable.value for variable in variables]
            for variables in (
                model.trainable_variables,
                model.non_trainable_variables,
            )
        )
        return _Jax._compiled()(model, trainable, non_trainable, inputs)

    @staticmethod
    def gpu_has_bfloat16():
        import jax

        if jax.default_backend() != "gpu":
            return None
        device = jax.devices()[0]
        return float(getattr(device, "compute_capability", 0)) >= 8


class _Torch:
    @staticmethod
    def step(method):
        @functools.wraps(method)
        def wrapped(self, data):
            inputs = _inputs(data)
            if len(inputs.shape) == 4:
                return method(self, inputs)
            for indices in inputs:
                results = method(self, self.photos_on_device(indices))
            return results

        return wrapped

    @staticmethod
    def several_gradients(model, photos, pairs):
        import torch

        losses = model.compute_losses(photos, training=True)
        gradients = [
            torch.autograd.grad(
                losses[number],
                [variable.value for variable in variables],
                retain_graph=True,
                allow_unused=True,
            )
            for number, variables in pairs
        ]
        return [loss.detach() for loss in losses], gradients

    @staticmethod
    def standard_normal(shape, seed):
        return keras.random.normal(shape, seed=seed)

    @staticmethod
    def infer(model, inputs):
        import torch

        with torch.no_grad():
            return model(inputs, training=False)

    @staticmethod
    def gpu_has_bfloat16():
        import torch

        if not torch.cuda.is_available():
            return None
        return torch.cuda.is_bf16_supported()


_own = {"tensorflow": _TensorFlow, "jax": _Jax, "torch": _Torch}[
    keras.backend.backend()
]


def join_processes():
    """Joins the other processes of one training, on as many hosts.

    Keras' own environment variables say which: in all processes
    `KERAS_DISTRIBUTION_JOB_ADDRESSES`, host and port of the first one, and
    `KERAS_DISTRIBUTION_NUM_PROCESSES`; and the number of each, from 0, as
    `KERAS_DISTRIBUTION_PROCESS_ID`. Without them there is one process.

    Call it before anything is computed. It waits until all processes are there.

    Returns:
        The number of this process, and how many there are.

    Raises:
        ValueError: several processes, and another backend than JAX.

    Example:

    >>> process, processes = fv.join_processes()
    """
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" not in os.environ:
        return 0, 1
    if _own is not _Jax:
        raise ValueError(
            "several processes train together with KERAS_BACKEND=jax only, "
            f"found {keras.backend.backend()}"
        )
    import jax

    if not jax.distributed.is_initialized():
        # How processors exchange numbers; GPUs have their own way.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize()
        keras.distribution.set_distribution(
            # `Batches.part` gives each process its part.
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )
    return jax.process_index(), jax.process_count()


def wait_for_all(name):
    """Waits until all processes of `join_processes` have come here.

    Args:
        name: of this place, the same in all of them.
    """
    if join_processes()[1] > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def step(method):
    """Makes a method of photos what Keras calls with each batch of `fit`.

    Args:
        method: function of a `FaceVAE` and photos, (n, height, width, 3). It
            may assign variables; returns a dictionary of losses.

    Returns:
        A `train_step` or `test_step` of this backend's signature. A batch is
        photos, or indices (steps, n) of photos that `FaceVAE.keep_on_device`
        stored: several steps of training in one launch.
    """
    return _own.step(method)


def losses_and_gradients(model, photos):
    """Computes the losses of a batch and differentiates the first.

    Args:
        model: a `FaceVAE`.
        photos: (n, height, width, 3), RGB 0..255.

    Returns:
        The three losses of `model.compute_losses(photos, training=True)`, and
        the gradients of the first: one tensor for each of
        `model.trainable_variables`.
    """
    pairs = [(0, model.trainable_variables)]
    losses, (gradients,) = several_gradients(model, photos, pairs)
    return losses, gradients


def several_gradients(model, photos, pairs):
    """Computes the losses of a batch and differentiates some of them.

    Args:
        model: a model whose `compute_losses(photos, training)` returns a tuple
            of scalars.
        photos: (n, height, width, 3), RGB 0..255.
        pairs: list of the number of a loss and the variables to differentiate
            it by.

    Returns:
        All losses; and for each pair its gradients, one tensor for each
        variable.
    """
    return _own.several_gradients(model, photos, pairs)


def standard_normal(shape, seed):
    """Draws standard normal noise; several devices share one draw.

    Args:
        shape: (n, size), n on this device.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        Tensor of this shape.
    """
    return _own.standard_normal(shape, seed)


def infer(model, inputs):
    """Compiled forward pass of a functional model, in inference mode.

    Args:
        model: a functional `keras.Model`.
        inputs: tensor (n, ...).

    Returns:
        The model's outputs.
    """
    return _own.infer(model, inputs)


def default_jit_compile():
    """The `jit_compile` that this project's models are compiled with.

    Returns:
        False under TensorFlow, where XLA takes about 1.4 times as long for
        these networks on a CPU; elsewhere Keras' own `"auto"`.
    """
    return False if _own is _TensorFlow else "auto"


@functools.cache
def fastest_precision():
    """The dtype policy in which this machine's convolutions run fastest.

    `"mixed_bfloat16"` is faster on a processor that multiplies bfloat16
    natively (not under JAX: measured by `benchmarks/training_step.py`) and, by
    its maker's figures, on an NVIDIA GPU since Ampere (2020). Other hardware
    computes bfloat16 by way of float32, which is slower.

    Returns:
        `"mixed_bfloat16"` or `"float32"`.

    Example:

    >>> keras.config.set_dtype_policy(fv.fastest_precision())
    """
    fast = _own.gpu_has_bfloat16()  # None: there is no GPU
    if fast is None:
        fast = _own is not _Jax and _processor_has_bfloat16()
    return "mixed_bfloat16" if fast else "float32"


def _processor_has_bfloat16():
    flags = pathlib.Path("/proc/cpuinfo")  # Linux
    text = flags.read_text() if flags.exists() else ""
    return "avx512_bf16" in text or "amx_bf16" in text
