"""How fast photos are read, encoded and drawn, and how much memory it takes.

    python benchmarks/photos.py --data ../shared/celeba

Reading alone and reading with encoding are timed in turn. Each peak of memory
is that of a process of its own, which runs `fv.sum_attributes`.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

import facevae_keras as fv
from facevae_keras.batches import read_batches


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def sum_all(vae, data, count):
    images = fv.find_images(data)["path"].iloc[:count]
    attributes = fv.read_attributes(f"{data}/{fv.data.ATTRIBUTE_FILE}")
    fv.sum_attributes(vae, images, attributes, crop=0.8)


def peak_memory(data, count):
    """MB at the peak of a process that sums the attributes of photos."""
    command = [sys.executable, __file__, "--data", data, "--peak", str(count)]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(output.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a CelebA folder")
    parser.add_argument("--photos", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.peak:
        sum_all(fv.FaceVAE(), arguments.data, arguments.peak)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"\n{peak / 1024:.0f}")
        return

    images = fv.find_images(arguments.data)["path"]
    paths = list(images.iloc[: arguments.photos])
    vaes = {name: fv.FaceVAE(name) for name in ("dfc_vae", "dfc_vae_large")}
    vaes |= {f"{name}, fast": fv.FastEncoder(vae) for name, vae in vaes.items()}
    times = {}
    for _ in range(arguments.rounds):
        for name, vae in vaes.items():
            size = vae.image_size
            faces = np.zeros((1024, size, size, 3), "uint8")
            vae.encode(faces)  # compiles
            with_reading = seconds(
                lambda vae=vae: [
                    vae.encode(photos)
                    for _, photos in read_batches(paths, vae.image_size, 0.8)
                ]
            )
            reading = seconds(
                lambda size=size: list(read_batches(paths, size, 0.8))
            )
            alone = seconds(lambda vae=vae, faces=faces: vae.encode(faces))
            for key, value in (
                ("reading", len(paths) / reading),
                ("encoding alone", len(faces) / alone),
                ("both", len(paths) / with_reading),
                ("both, of reading", reading / with_reading),
            ):
                times.setdefault((name, key), []).append(value)
    with tempfile.TemporaryDirectory() as folder:
        drawing = 300 / seconds(
            lambda: fv.write_synthetic_dataset(folder, 300, seed=1)
        )
    small, large = (
        peak_memory(arguments.data, len(images) // parts) for parts in (10, 1)
    )
    print("\n| | a second |\n| --- | --- |")
    for (name, key), found in times.items():
        print(f"| {name}, {key} | {statistics.median(found):.4g} |")
    for name in ("celeba_dfc_vae", "celeba_residual_vae"):
        vae = fv.load_vae(name)
        photos, _ = fv.load_photos(paths[:512], vae.image_size, 0.8)
        means, _ = vae.encode(photos)
        found, _ = fv.FastEncoder(vae).encode(photos)
        difference = np.sqrt(np.mean(np.square(found - means)))
        print(f"| {name}, fast: RMS difference of means | {difference:.4f} |")
    print(f"| drawing faces | {drawing:.0f} |")
    print(
        f"\npeak memory {small:.0f} MB for {len(images) // 10} photos, "
        f"{large:.0f} MB for {len(images)}: {large / small:.2f} times"
    )


if __name__ == "__main__":
    main()
