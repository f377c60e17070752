"""Mutated files of every kind: a right load, or an error that names the file.

A small part runs with the other tests; all 5,000 with `-m exhaustive`.
"""

import os
import pathlib
import random
import resource
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import facevae_keras as fv

SECONDS = 5
BYTES = 2**30


def mutate(content, generator):
    """Damages a file in one of the ways in which files are damaged."""
    content = bytearray(content)
    place = generator.randrange(len(content))
    kind = generator.choice(
        ["bit", "byte", "bytes", "zeros", "cut", "lose", "double", "insert"]
    )
    size = generator.choice([1, 2, 4, 8, 64, 512, 4096])
    if kind == "bit":
        content[place] ^= 1 << generator.randrange(8)
    elif kind == "byte":
        content[place] = generator.choice([0, 1, 127, 128, 255])
    elif kind == "bytes":
        content[place : place + size] = generator.randbytes(size)
    elif kind == "zeros":
        content[place : place + size] = bytes(size)
    elif kind == "cut":
        del content[place:]
    elif kind == "lose":
        del content[place : place + size]
    elif kind == "double":
        content[place:place] = content[place : place + size]
    else:
        content[place:place] = generator.randbytes(size)
    return bytes(content)


def processor_seconds():
    times = os.times()
    return sum(times[:4])  # of this process and of those that it has ended


def most_bytes(who):
    """The most memory that this process, or one child of it, ever had."""
    return resource.getrusage(who).ru_maxrss * 1024  # on Linux in KiB


def check_each(path, contents, load, is_right, errors=(ValueError, OSError)):
    """Loads each content from `path`; counts what came of it.

    None may take five seconds or a gigabyte.
    """
    counts = {"loaded": 0, "refused": 0}
    for number, content in enumerate(contents):
        path.write_bytes(content)
        before, memory = processor_seconds(), most_bytes(resource.RUSAGE_SELF)
        children = most_bytes(resource.RUSAGE_CHILDREN)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = load(path)
            except errors as error:
                assert path.name in str(error), f"{number}: {error!r}"
                counts["refused"] += 1
            else:
                assert is_right(found), f"case {number} is silently wrong"
                counts["loaded"] += 1
        assert processor_seconds() - before < SECONDS, f"case {number}"
        assert most_bytes(resource.RUSAGE_SELF) - memory < BYTES
        # A larger child may have ended before; each starts as a copy of this
        # process, whose memory is counted as its own.
        most = most_bytes(resource.RUSAGE_CHILDREN)
        assert most == children or most - memory < BYTES
    print(f"{path.suffix}: {counts}")


def mutants(content, count, seed):
    generator = random.Random(seed)
    return (mutate(content, generator) for _ in range(count))


@pytest.fixture(params=[0.004, pytest.param(1, marks=pytest.mark.exhaustive)])
def share(request):
    """Which part of the cases to run."""
    return request.param


@pytest.mark.slow
def test_attribute_files(share, tmp_path):
    random_values = np.random.default_rng(1)
    names = [f"{i:06d}.jpg" for i in range(300)]
    latents = random_values.normal(size=(300, 8)).astype("f4")
    latents = pd.DataFrame(latents, index=names)
    labels = random_values.choice([-1, 1], (300, 3)).astype("i1")
    labels = pd.DataFrame(labels, index=names, columns=["A", "B", "C"])
    vectors = fv.attribute_vectors(latents, labels)
    path = tmp_path / "attributes.h5"
    fv.save_attributes(path, latents, labels, vectors)
    wanted = fv.load_attributes(path)

    def is_right(found):  # every part of the file has a checksum
        return all(
            np.array_equal(a.to_numpy(), b.to_numpy())
            and list(a.index) == list(b.index)
            and list(a.columns) == list(b.columns)
            for a, b in zip(found, wanted, strict=True)
        )

    contents = mutants(path.read_bytes(), int(600 * share), 1)
    check_each(path, contents, fv.load_attributes, is_right)


@pytest.mark.slow
def test_attribute_files_of_the_original(share, tmp_path):
    """These have no checksums: what loads is finite and of the right shape."""
    import h5py

    path = tmp_path / "original.h5"
    with h5py.File(path, "w") as file:
        file["latent_vars"] = np.ones((50, 8))
        file["attributes"] = np.ones((50, 3), "i8")
        text = h5py.string_dtype()
        file["fields"] = np.array(["A", "B", "C"], text)
        file["attribute_vectors"] = np.ones((3, 8), "f4")

    def is_right(found):
        latents, labels, vectors = found
        return (
            np.isfinite(latents).all(axis=None)
            and labels.isin([-1, 1]).all(axis=None)
            and latents.shape[1] == vectors.shape[1]
            and len(vectors) == labels.shape[1]
        )

    contents = mutants(path.read_bytes(), int(400 * share), 2)
    check_each(path, contents, fv.load_attributes, is_right)


@pytest.mark.slow
def test_vae_files(share, tmp_path):
    vae = fv.FaceVAE(latent_dim=2)
    path = tmp_path / "vae.keras"
    vae.save(path)
    wanted = vae.get_weights()

    def is_right(found):
        pairs = zip(found.get_weights(), wanted, strict=True)
        return all(np.array_equal(a, b) for a, b in pairs)

    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:  # half of the damage hits the rest
        weights = archive.getinfo("model.weights.h5")
    start, generator = weights.header_offset, random.Random(3)
    end = start + weights.compress_size

    def contents():
        for number in range(int(400 * share)):
            if number % 2:
                yield mutate(content, generator)
            elif number % 4:
                yield mutate(content[:start], generator) + content[start:]
            else:
                yield content[:end] + mutate(content[end:], generator)

    check_each(path, contents(), fv.load_vae, is_right)


@pytest.mark.slow
def test_sums(share, tmp_path):
    sums = fv.AttributeSums(["Smiling", "Male", "Young"], 8)
    sums.update(np.ones((9, 8)), np.ones((9, 3)))
    path = tmp_path / "sums.npz"
    sums.save(path)

    def is_right(found):
        return found.vectors().equals(sums.vectors())

    contents = mutants(path.read_bytes(), int(1000 * share), 4)
    check_each(path, contents, fv.AttributeSums.load, is_right)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_photos(suffix, share, drawn, tmp_path):
    path = tmp_path / f"photo{suffix}"
    with Image.open(fv.find_images(drawn)["path"].iloc[0]) as photo:
        photo.save(path)

    def is_right(found):
        return found.shape == (64, 64, 3) and found.dtype == "uint8"

    contents = mutants(path.read_bytes(), int(500 * share), 5)
    check_each(path, contents, lambda x: fv.read_photo(x, 64), is_right)


def read_folder(path):
    return fv.find_images(pathlib.Path(path).parent)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["list_attr_celeba.txt", "identity_CelebA.txt"]
)
def test_label_files(name, share, drawn, tmp_path):
    path = tmp_path / name
    (tmp_path / "000001.jpg").write_bytes(b"photo")
    if name.startswith("list"):
        path.write_bytes((drawn / name).read_bytes())
        load = fv.read_attributes
    else:
        path.write_text("".join(f"{i:06d}.jpg {i}\n" for i in range(1, 50)))
        load = read_folder

    def is_right(found):
        if name.startswith("list"):
            return found.index.is_unique and found.isin([-1, 1]).all(axis=None)
        return list(found.index) == ["000001.jpg"]

    contents = mutants(path.read_bytes(), int(500 * share), 6)
    check_each(path, contents, load, is_right)
