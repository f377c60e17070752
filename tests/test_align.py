import importlib.metadata
import io
import json
import os
import pathlib
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib

import keras
import matplotlib.cbook
import numpy as np
import pytest
import sklearn.datasets
from PIL import ExifTags, Image

import facevae_keras as fv
from facevae_keras import align, detector

try:
    importlib.metadata.distribution("mtcnn")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("needs facevae-keras[align]", allow_module_level=True)

# Points of the portrait below, read off by eye, counted from 0.
EYES = np.array([(222.5, 190.5), (306.5, 187.5)])
MOUTH = np.array([(231.5, 279.0), (308.0, 276.0)])


@pytest.fixture(scope="module")
def portrait():
    """Grace Hopper by the US Navy, in the public domain, as in matplotlib."""
    path = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    with Image.open(path) as photo:
        return photo.convert("RGB")


@pytest.fixture(scope="module")
def aligned(portrait):
    return align.align_face(portrait)


@pytest.fixture(scope="module")
def no_face():
    return Image.fromarray(sklearn.datasets.load_sample_image("china.jpg"))


def points_of(face):
    """The five points of a row of `find_faces`, an array (5, 2)."""
    return face[align.COLUMNS[5:]].to_numpy(float).reshape(5, 2)


def difference(photo, other):
    """Mean difference of gray values where CelebA's frame shows the face."""
    photo, other = (
        np.asarray(Image.fromarray(x).convert("L"), float)[60:180, 35:145]
        for x in (photo, other)
    )
    return np.abs(photo - other).mean()


# Faces and their points


def test_a_face_and_its_points(portrait):
    faces = align.find_faces(portrait)
    assert len(faces) == 1 and list(faces.columns) == align.COLUMNS
    face = faces.iloc[0]
    points = points_of(face)
    assert np.abs(points[:2] - EYES).max() < 4
    assert np.abs(points[3:] - MOUTH).max() < 4
    assert (
        face["left"] < points[:, 0].min() < points[:, 0].max() < face["right"]
    )
    assert (
        face["top"] < points[:, 1].min() < points[:, 1].max() < face["bottom"]
    )
    assert 0.99 < face["score"] <= 1


def test_the_networks_are_those_of_mtcnn():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the package's own networks need TensorFlow")
    from mtcnn.stages import StageONet, StagePNet, StageRNet

    random = np.random.default_rng(0)

    def check(stage, ours, size, order):
        patches = random.integers(0, 256, (3, *size, 3), "uint8")
        theirs = stage()._model((patches.astype("float32") - 127.5) / 128)
        for found, place in zip(
            ours(detector.standardize(patches)), order, strict=True
        ):
            wanted = np.asarray(theirs[place])
            if place == order[0]:
                wanted = wanted[..., 1]
            if found.shape[-2:] == (5, 2):
                wanted = wanted.reshape(-1, 2, 5).swapaxes(1, 2)
            if size == (47, 62):  # ours takes one photo at a time
                wanted = wanted[0]
            assert np.abs(found - wanted).max() < 1e-5

    check(StagePNet, detector._proposal_network, (47, 62), (1, 0))
    check(StageRNet, detector._refine_network, (24, 24), (1, 0))
    check(StageONet, detector.output_network, (48, 48), (2, 0, 1))


def test_several_faces_the_best_first(portrait):
    scene = Image.new("RGB", (1500, 700), "gray")
    scene.paste(portrait.resize((256, 300)), (50, 50))
    scene.paste(portrait, (650, 50))
    scene.paste(portrait.resize((200, 234)), (1250, 400))
    faces = align.find_faces(scene)
    assert len(faces) == 3
    eyes = points_of(faces.iloc[0])[:2] - (650, 50)
    assert np.abs(eyes - EYES).max() < 6
    assert difference(align.align_face(scene), align.align_face(portrait)) < 6


@pytest.mark.parametrize("degrees", [30, 90, 135, 180, 250, 330])
def test_faces_turned_to_any_side(portrait, aligned, degrees):
    turned = portrait.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    assert difference(align.align_face(turned), aligned) < 8


@pytest.mark.parametrize("scale", [0.15, 0.5, 8])
def test_photos_of_any_size(portrait, aligned, scale):
    scaled = portrait.resize([round(side * scale) for side in portrait.size])
    eyes = points_of(align.find_faces(scaled).iloc[0])[:2]
    assert np.abs((eyes + 0.5) / scale - 0.5 - EYES).max() < 6
    assert difference(align.align_face(scaled), aligned) < 10


def test_a_small_face_in_a_large_photo(portrait):
    scene = Image.new("RGB", (2000, 1500), "gray")
    small = portrait.resize((64, 75))  # at 640 pixels its face has 7
    scene.paste(small, (1500, 1000))
    eyes = points_of(align.find_faces(scene).iloc[0])[:2]
    assert np.abs((eyes - (1500, 1000) + 0.5) * 8 - 0.5 - EYES).max() < 12


def test_no_face(no_face, tmp_path):
    path = tmp_path / "china.png"
    no_face.save(path)
    faces = align.find_faces(path)
    assert len(faces) == 0 and list(faces.columns) == align.COLUMNS
    with pytest.raises(ValueError, match="china.png: expected a face"):
        align.align_face(str(path))
    Image.new("RGB", (1, 1)).save(path)
    with pytest.raises(ValueError, match="china.png: expected a face"):
        align.align_face(path)
    with pytest.raises(ValueError, match="the photo: expected a face"):
        align.align_face(np.zeros((300, 200, 3), "uint8"))


# Photos of every kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(portrait, aligned, tmp_path, orientation):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = portrait
    if orientation > 1:
        stored = portrait.transpose(turns[orientation])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    eyes = points_of(align.find_faces(tmp_path / "turned.jpg").iloc[0])[:2]
    assert np.abs(eyes - EYES).max() < 4
    with Image.open(tmp_path / "turned.jpg") as photo:
        assert difference(align.align_face(photo), aligned) < 2
        assert photo.getexif()[ExifTags.Base.Orientation] == orientation


def _transparent(portrait):
    """What lies under transparent pixels is black, as programs store it."""
    alpha = Image.new("L", portrait.size, 255)
    alpha.paste(0, (380, 0, 512, 600))
    hidden = Image.composite(portrait, Image.new("RGB", portrait.size), alpha)
    hidden.putalpha(alpha)
    return hidden


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gray.jpg", lambda photo: photo.convert("L")),
        ("cmyk.jpg", lambda photo: photo.convert("CMYK")),
        ("palette.png", lambda photo: photo.convert("P")),
        ("transparent.png", _transparent),
        ("gray_transparent.png", lambda photo: photo.convert("LA")),
        (
            "gray_16.png",
            lambda photo: Image.fromarray(
                np.asarray(photo.convert("L")).astype("uint16") * 257
            ),
        ),
        ("photo.webp", lambda photo: photo),
        ("photo.bmp", lambda photo: photo),
    ],
)
def test_modes_and_formats(portrait, aligned, tmp_path, name, change):
    change(portrait).save(tmp_path / name)
    assert difference(align.align_face(tmp_path / name), aligned) < 4


def test_transparent_is_white(portrait):
    face = align.align_face(_transparent(portrait))
    # To the right of the face, where the portrait is blue.
    assert face[100:200, 165:].min() > 240


def test_paths_files_images_and_arrays(portrait, aligned, tmp_path):
    portrait.save(tmp_path / "photo.png")
    for photo in (
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        io.BytesIO((tmp_path / "photo.png").read_bytes()),
        np.asarray(portrait),
    ):
        assert np.array_equal(align.align_face(photo), aligned)


def _png(width, height, rows=0):
    """A PNG file that says so much and holds some rows of black pixels."""

    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(1)
    row = bytes(3 * width + 1)
    packed = b"".join(packer.compress(row) for _ in range(rows))
    packed += packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", packed)
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def bad_photos(portrait, tmp_path):
    whole = io.BytesIO()
    portrait.save(whole, "JPEG")
    contents = {
        "truncated.jpg": whole.getvalue()[:20_000],
        "text.jpg": b"no photo at all",
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "empty.jpg": b"",
        "claims_50_000.png": _png(50_000, 50_000),
        "claims_20_000.png": _png(20_000, 20_000),
        "claims_12_000.png": _png(12_000, 12_000),
    }
    folder = tmp_path / "bad"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def test_unreadable_photos(bad_photos):
    for path in bad_photos.iterdir():
        with pytest.raises(OSError, match=f"{path.name}: no readable photo"):
            align.find_faces(path)
        with pytest.raises(OSError, match=path.name):
            align.align_face(str(path))
        row = align.align_file(path, bad_photos / "out" / path.name)
        assert row["outcome"] == "unreadable" and path.name in row["reason"]
    assert not (bad_photos / "out").exists()
    with pytest.raises(FileNotFoundError, match="missing.jpg"):
        align.find_faces("missing.jpg")


@pytest.mark.slow
def test_memory_for_large_photos_is_bounded(tmp_path):
    (tmp_path / "large.png").write_bytes(_png(12_000, 4_100, rows=4_100))
    (tmp_path / "too_large.png").write_bytes(_png(13_000, 13_000, rows=13_000))
    (tmp_path / "claims_20_000.png").write_bytes(_png(20_000, 20_000))
    Image.new("RGB", (13_000, 13_000)).save(tmp_path / "large.jpg")
    program = """
import resource, sys, pathlib
from facevae_keras import align
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        print(path.name, len(align.find_faces(path)), "faces")
    except OSError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    output = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert "claims_20_000.png: no readable photo" in output[0]
    assert output[1:3] == ["large.jpg 0 faces", "large.png 0 faces"]
    assert "too_large.png: no readable photo" in output[3]
    assert float(output[4]) < 800  # MB


# The frame


def test_a_warp_of_nothing_changes_nothing(portrait):
    same = align.warp(portrait, np.eye(3), portrait.size)
    assert np.array_equal(same, np.asarray(portrait))
    shift = np.array([(1, 0, -20), (0, 1, -30), (0, 0, 1)])
    shifted = align.warp(portrait, shift, (100, 100))
    assert np.array_equal(shifted, np.asarray(portrait)[30:130, 20:120])


def test_beyond_the_edges_they_are_repeated(portrait):
    shift = np.array([(1, 0, 50), (0, 1, 40), (0, 0, 1)])
    beyond = align.warp(portrait, shift, (90, 80))
    pixels = np.asarray(portrait)
    assert np.array_equal(beyond[40:, 50:], pixels[:40, :40])
    assert (beyond[:41, :51] == pixels[0, 0]).all()
    # Far away there is only the edge.
    shift[:2, 2] = 5000
    assert (align.warp(portrait, shift, (9, 9)) == pixels[0, 0]).all()


def test_scaling_down_averages():
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (600, 600, 3), "uint8")
    smaller = np.diag([0.1, 0.1, 1])
    drawn = align.warp(Image.fromarray(noise), smaller, (60, 60))
    # A pixel of ten by ten deviates a tenth as much, sampling as much.
    assert drawn.std() < 0.15 * noise.std()


def test_eyes_and_mouth_come_to_their_places(portrait):
    face = align.find_faces(align.align_face(portrait)).iloc[0]
    points = points_of(face)
    found = np.vstack([points[:2], points[3:].mean(axis=0)])
    assert np.abs(found - align.FRAME_POINTS).max() < 2


def test_the_layout_of_the_wiki(portrait):
    face = align.find_faces(portrait).iloc[0]
    cut = align.align_face(portrait, "wiki")
    assert cut.shape == (182, 182, 3) and cut.dtype == "uint8"
    box = [face[edge] for edge in ("left", "top", "right", "bottom")]
    box = np.array(box) + 0.5 + (-22, -22, 22, 22)
    wanted = portrait.crop([int(edge) for edge in box])
    wanted = wanted.resize((182, 182), Image.Resampling.BILINEAR)
    assert np.abs(cut.astype(float) - np.asarray(wanted)).max() <= 1
    sideways = portrait.transpose(Image.Transpose.ROTATE_90)
    assert (
        np.abs(align.align_face(sideways, "wiki") - cut.astype(float)).mean()
        < 12
    )
    assert align.align_face(portrait, "wiki", 96, 0).shape == (96, 96, 3)
    with pytest.raises(ValueError, match="layout"):
        align.align_face(portrait, "oval")


def turned_back(path, random):
    """Mean error, in pixels, of a photo of CelebA that was turned and scaled.

    It is turned by up to 30 degrees, scaled 0.5 to 4 times and pasted on a
    larger canvas; the error is that of eyes and mouth in the aligned photo.
    """
    with Image.open(path) as photo:
        photo = photo.convert("RGB")
    angle = np.deg2rad(random.uniform(-30, 30))
    scale = np.exp(random.uniform(np.log(0.5), np.log(4)))
    turn = scale * np.array(
        [(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))]
    )
    size = [round(2 * scale * side) for side in photo.size]
    moved = np.eye(3)
    moved[:2, :2] = turn
    moved[:2, 2] = np.array(size) / 2 - turn @ photo.size / [2, 2]
    canvas = align.warp(photo, moved, size)
    inside = align.warp(Image.new("RGB", photo.size, "white"), moved, size)
    del inside
    image = Image.fromarray(canvas)
    _, _, points = align._search(image)
    found = align._similarity(points[0]) @ moved
    places = align.FRAME_POINTS + 0.5
    return np.linalg.norm(align._apply(found, places) - places, axis=1).mean()
