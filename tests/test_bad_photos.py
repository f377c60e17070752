"""Whatever a photo does, it is skipped, counted and named."""

import io
import os
import shutil
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import facevae_keras as fv


@pytest.fixture(scope="module")
def vae():
    return fv.FaceVAE(latent_dim=4)


def png(width, height, rows=b""):
    """A PNG that claims a size, whatever its rows."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def saved(form, mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, (80, 80)).save(file, form, **options)
    return file.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 80 80\n%%EOF\n"
BAD = {
    "empty.jpg": b"",
    "text.jpg": b"no photo",
    "bomb.png": png(50_000, 50_000),
    "large.png": png(12_000, 12_000),
    "cut.png": png(80, 80, b"\0" * 1000),
    "dds.jpg": b"DDS \x7c\0\0\0" + bytes(120),
    "postscript.jpg": POSTSCRIPT,
    "float.jpg": saved("TIFF", "F"),
    "integers.jpg": saved("TIFF", "I"),
}
if "AVIF" in Image.SAVE or ".avif" in Image.registered_extensions():
    BAD["avif.jpg"] = saved("AVIF")[:200]


@pytest.fixture
def folder(drawn, tmp_path):
    """Every kind of bad photo first, then three good ones."""
    for name, content in BAD.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")  # which would be waited for
    for path in list(fv.find_images(drawn)["path"])[:3]:
        shutil.copy(path, tmp_path / f"z{path[-10:]}")
    return tmp_path


def paths_in(folder):
    vanished = folder / "vanished.jpg"
    return [*sorted(folder.iterdir()), vanished]


def test_every_reader_skips_counts_and_names_bad_photos(folder, vae):
    paths = paths_in(folder)
    bad = [path.name for path in paths if not path.name.startswith("z")]
    good = [path.name for path in paths if path.name.startswith("z")]
    labels = pd.DataFrame({"Smiling": np.int8([1, -1, 1])}, index=good)

    def dataset():
        return sum(len(x) for x in fv.image_dataset(paths, 64, batch_size=1))

    readers = {
        "load_photos": lambda: fv.load_photos(paths, 64)[1],
        "encode_images": lambda: fv.encode_images(vae, paths, batch_size=1),
        "sum_attributes": lambda: range(
            fv.sum_attributes(vae, paths, labels, batch_size=1).count
        ),
        "image_dataset": lambda: range(dataset()),
    }
    for name, reader in readers.items():
        with pytest.warns(UserWarning, match="could not be read") as caught:
            assert len(reader()) == 3, name
        messages = [str(x.message) for x in caught]
        (message,) = [x for x in messages if "could not be read" in x]
        assert message.startswith(f"{len(bad)} of {len(paths)} images")
        assert all(file in message for file in bad[:10]), name


@pytest.mark.parametrize("name", [*BAD, "folder.jpg", "pipe.jpg", "vanished"])
def test_a_bad_photo_is_an_error_that_names_the_file(name, folder):
    with pytest.raises(OSError, match=name):
        fv.read_photo(folder / name, 64)


def test_a_folder_of_bad_photos_is_an_error(folder, vae):
    paths = [folder / name for name in BAD]
    with pytest.raises(ValueError, match=f"{len(BAD)} of {len(BAD)} images"):
        fv.encode_images(vae, paths, batch_size=2)


def test_postscript_never_runs_a_program(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(POSTSCRIPT)
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs", raising=False)
    with pytest.raises(OSError, match="a.jpg"):
        fv.read_photo(tmp_path / "a.jpg", 64)
    assert not started


def test_the_limit_on_pixels(tmp_path, monkeypatch):
    Image.new("RGB", (80, 90)).save(tmp_path / "a.png")
    monkeypatch.setattr(fv.batches, "MOST_PIXELS", 7_200)
    fv.read_photo(tmp_path / "a.png", 64)
    monkeypatch.setattr(fv.batches, "MOST_PIXELS", 7_199)
    message = "a.png: 80x90 pixels, expected at most 7,199"
    with pytest.raises(OSError, match=message):
        fv.read_photo(tmp_path / "a.png", 64)


def test_sixteen_bits_are_scaled(tmp_path):
    grey = np.linspace(0, 255, 64).astype("uint8") * np.ones((64, 1), "uint8")
    Image.fromarray(grey.astype("uint16") * 257).save(tmp_path / "a.png")
    photo = fv.read_photo(tmp_path / "a.png", 64)
    np.testing.assert_allclose(photo[..., 0], grey, atol=1)
    assert (photo == photo[..., :1]).all()


def test_no_images_encode_and_decode_to_nothing(vae):
    mean, log_variance = vae.encode(np.zeros((0, 64, 64, 3), "uint8"))
    assert mean.shape == log_variance.shape == (0, 4)
    assert vae.decode(np.zeros((0, 5, 4))).shape == (0, 5, 64, 64, 3)


def test_images_from_0_to_1_are_warned_of(vae, faces):
    small = faces[:2] / np.float32(255)
    with pytest.warns(UserWarning, match=r"RGB 0\.\.255, found 0.* to [01]\."):
        vae.encode(small)
    with pytest.warns(UserWarning, match=r"RGB 0\.\.255"):
        fv.photo_batches(small, 2)
    vae.compile(loss=fv.PixelLoss(), run_eagerly=True)
    with pytest.warns(UserWarning, match=r"RGB 0\.\.255"):
        vae.fit(small, verbose=0)


def test_photos_that_are_not_square_are_refused(vae, faces):
    with pytest.raises(ValueError, match=r"square.*\(2, 64, 60, 3\)"):
        vae.encode(faces[:2, :, :60])
    vae.compile(loss=fv.PixelLoss(), run_eagerly=True)
    with pytest.raises(ValueError, match="square"):
        vae.fit(faces[:2, :, :60], verbose=0)


# ------------------------------------------------------------ the cache


@pytest.fixture
def cached(drawn, tmp_path, monkeypatch):
    """Loads five photos, by way of a cache."""
    monkeypatch.setattr(fv.batches, "LARGEST_IN_MEMORY", 0)
    for path in list(fv.find_images(drawn)["path"])[:5]:
        shutil.copy(path, tmp_path)
    paths = fv.find_images(tmp_path)["path"]
    return lambda size=32: fv.load_photos(paths, size, 0.8, tmp_path / "cache")


def test_what_was_unreadable_is_tried_again(cached, tmp_path, monkeypatch):
    read_photo = fv.batches.read_photo

    def fails(path, *arguments):
        if path.endswith("000003.jpg"):
            raise OSError(f"{path}: Input/output error")
        return read_photo(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fv.batches, "read_photo", fails)
        for _ in range(2):
            with pytest.warns(UserWarning, match="1 of 5 images .*000003.jpg"):
                photos, _ = cached()
            assert len(photos) == 4
    photos, names = cached()
    assert list(names) == [f"00000{i}.jpg" for i in range(1, 6)]
    np.testing.assert_array_equal(
        photos[2], read_photo(tmp_path / "000003.jpg", 32, 0.8)
    )


def test_old_caches_do_not_pile_up(cached, tmp_path):
    for size in (16, 17, 18, 16, 19, 20):
        cached(size)
    assert len(list((tmp_path / "cache").glob("photos_*/"))) <= 3
    assert {np.load(x).shape[1] for x in tmp_path.rglob("photos.npy")} >= {20}


def test_a_full_disk_is_a_clear_error(cached, tmp_path, monkeypatch):
    def full(descriptor, offset, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="cache: no room for 15 kB of photos"):
        cached()
    assert not list((tmp_path / "cache").glob("*photos_*/*"))


BOTH = """
    import sys
    import facevae_keras as fv
    fv.batches.LARGEST_IN_MEMORY = 0
    paths = fv.find_images(sys.argv[1])["path"]
    photos, names = fv.load_photos(paths, 64, 1.0, sys.argv[2])
    print(len(names), int(photos.max(axis=(1, 2, 3)).min()))
"""


@pytest.mark.slow
def test_two_processes_make_one_cache(tmp_path):
    folder = fv.write_synthetic_dataset(tmp_path / "drawn", 300)
    command = [sys.executable, "-c", textwrap.dedent(BOTH)]
    command += [str(folder), str(tmp_path / "cache")]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        count, darkest = process.communicate()[0].splitlines()[-1].split()
        assert int(count) == 300 and int(darkest) > 0  # none is black
    assert len(list((tmp_path / "cache").glob("photos_*/"))) == 1
