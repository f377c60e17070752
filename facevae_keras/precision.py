"""Which arithmetic is fastest here."""

import functools
import pathlib

import keras


@functools.cache
def fastest_precision():
    """The dtype policy in which this machine's convolutions run fastest.

    A processor that multiplies bfloat16 natively gains from
    `"mixed_bfloat16"`, but not JAX's convolutions on it: measured by
    `benchmarks/training_step.py`. So does, by its maker's figures, an NVIDIA
    GPU since Ampere (2020). Everything else computes bfloat16 by way of
    float32, and loses time.

    Returns:
        `"mixed_bfloat16"` or `"float32"`.

    Example:

    >>> keras.config.set_dtype_policy(fv.fastest_precision())
    """
    backend = keras.backend.backend()
    on_gpu = {
        "tensorflow": _tensorflow_gpu_has_bfloat16,
        "jax": _jax_gpu_has_bfloat16,
        "torch": _torch_gpu_has_bfloat16,
    }[backend]()
    if on_gpu is None:
        fast = backend != "jax" and _processor_has_bfloat16()
    else:
        fast = on_gpu
    return "mixed_bfloat16" if fast else "float32"


# Compute capability 8.0 (Ampere, 2020) is NVIDIA's first with bfloat16. None:
# there is no GPU.


def _tensorflow_gpu_has_bfloat16():
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None
    details = tf.config.experimental.get_device_details(gpus[0])
    return details.get("compute_capability", (0, 0)) >= (8, 0)


def _jax_gpu_has_bfloat16():
    import jax

    if jax.default_backend() != "gpu":
        return None
    return float(getattr(jax.devices()[0], "compute_capability", 0)) >= 8


def _torch_gpu_has_bfloat16():
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_capability() >= (8, 0)


def _processor_has_bfloat16():
    flags = pathlib.Path("/proc/cpuinfo")  # Linux
    text = flags.read_text() if flags.exists() else ""
    return "avx512_bf16" in text or "amx_bf16" in text
