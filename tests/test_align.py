import importlib.metadata
import io
import json
import os
import pathlib
import pickle
import runpy
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


def error(photo, places=(*EYES, *MOUTH)):
    """How far eyes and corners of the mouth are found from these places."""
    found = points_of(align.find_faces(photo).iloc[0])[[0, 1, 3, 4]]
    return np.abs(found - places).max()


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
    assert error(portrait) < 4
    face = faces.iloc[0]
    x, y = points_of(face).T
    assert face["left"] < x.min() < x.max() < face["right"]
    assert face["top"] < y.min() < y.max() < face["bottom"]
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
    assert len(align.find_faces(scene)) == 3
    assert error(scene, np.array([*EYES, *MOUTH]) + (650, 50)) < 6


@pytest.mark.parametrize("degrees", [30, 60, 135, 180, 270, 330])
def test_faces_turned_to_any_side(portrait, degrees):
    canvas = Image.new("RGB", (800, 800), "gray")
    canvas.paste(portrait, (144, 100))
    canvas = canvas.rotate(degrees, Image.Resampling.BICUBIC)
    angle = np.deg2rad(degrees)
    turn = np.array(
        [(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))]
    )
    places = np.array([*EYES, *MOUTH]) + (144, 100) - 399.5
    assert error(canvas, places @ turn.T + 399.5) < 6
    # The left eye is left in the upright face.
    assert difference(align.align_face(canvas), align.align_face(portrait)) < 40


@pytest.mark.parametrize("scale", [0.2, 0.5, 8])
def test_photos_of_any_size(portrait, scale):
    scaled = portrait.resize([round(side * scale) for side in portrait.size])
    places = (np.array([*EYES, *MOUTH]) + 0.5) * scale - 0.5
    assert error(scaled, places) < 6 * scale


def test_a_small_face_in_a_large_photo(portrait):
    scene = Image.new("RGB", (2000, 1500), "gray")
    scene.paste(portrait.resize((64, 75)), (1500, 1000))
    assert not len(align._search_upright(scene, scene.resize((640, 480)), 0)[0])
    places = (np.array([*EYES, *MOUTH]) + 0.5) / 8 - 0.5 + (1500, 1000)
    assert error(scene, places) < 2


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
def test_exif_orientations(portrait, tmp_path, orientation):
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
    assert error(tmp_path / "turned.jpg") < 4
    with Image.open(tmp_path / "turned.jpg") as photo:
        assert error(photo) < 4
        assert photo.getexif()[ExifTags.Base.Orientation] == orientation


def test_a_large_photo_that_is_turned(portrait, tmp_path):
    large = portrait.resize((4608, 5400)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    places = (np.array([*EYES, *MOUTH]) + 0.5) * 9 - 0.5
    large.save(tmp_path / "large.jpg", exif=exif)
    assert error(tmp_path / "large.jpg", places) < 40
    with Image.open(tmp_path / "large.jpg") as photo:
        assert error(photo, places) < 40


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
    assert error(tmp_path / name) < 5
    face = align.align_face(tmp_path / name)
    gray, wanted = (
        np.asarray(Image.fromarray(photo).convert("L"), float)[60:180, 35:145]
        for photo in (face, aligned)
    )
    assert abs(gray.mean() - wanted.mean()) < 4


def test_transparent_is_white(portrait):
    face = align.align_face(_transparent(portrait))
    # To the right of the face, where the portrait is blue.
    assert face[100:200, 165:].min() > 240


def test_paths_files_images_and_arrays(portrait, aligned, tmp_path):
    portrait.save(tmp_path / "photo.png")
    photo = Image.open(tmp_path / "photo.png")
    assert np.array_equal(align.align_face(photo), aligned)
    assert photo.size == portrait.size  # it can be used on
    assert photo.getpixel((0, 0)) == portrait.getpixel((0, 0))
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
        "claims_8_000.png": _png(8_000, 8_000),
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
    (tmp_path / "too_large.png").write_bytes(_png(9_000, 9_000, rows=9_000))
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


@pytest.fixture(scope="module")
def benchmark():
    path = pathlib.Path(__file__).parents[1] / "benchmarks" / "alignment.py"
    return runpy.run_path(str(path))


def test_photos_of_celeba_turned_and_aligned_back(celeba, benchmark):
    random = np.random.default_rng(1)
    paths = fv.find_images(celeba / "img_align_celeba")["path"].iloc[::510]
    errors = [benchmark["error_of_turned"](path, random) for path in paths]
    assert len(errors) == 10 and None not in errors
    # One looks up steeply, and the points are some 10 pixels off.
    assert np.median(errors) < 1.5 and sorted(errors)[-2] < 5


def test_photos_as_they_were_taken(celeba_wild, benchmark):
    paths = fv.find_images(celeba_wild)["path"].iloc[::971]
    faces = [align.align_face(path) for path in paths]
    by_us, by_mtcnn = np.transpose(
        [benchmark["eye_errors_of_aligned"](face) for face in faces]
    )
    assert len(by_us) == 9
    assert np.median(by_us) < 2 and np.median(by_mtcnn) < 3


def test_a_photo_is_taken_to_be_upright_where_that_is_in_doubt(celeba_wild):
    (path,) = celeba_wild.rglob("187769.jpg")
    face = align.find_faces(path).iloc[0]
    assert face["left_eye_y"] < face["mouth_left_y"]


# The weights


def _distribution(folder):
    """What `importlib.metadata` says of a package that lies in a folder."""

    class Distribution:
        def locate_file(self, path):
            return folder / path

    return lambda name: Distribution()


class Opened:
    """Notes in a file that it was unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_nothing_in_the_working_folder_is_unpickled(
    portrait, tmp_path, monkeypatch
):
    opened = tmp_path / "opened"
    weights = tmp_path / "mtcnn" / "assets" / "weights"
    weights.mkdir(parents=True)
    for name in detector.WEIGHT_FILES:
        for folder in (tmp_path, weights):
            content = pickle.dumps(Opened(opened))
            (folder / f"{name}.lz4").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    detector._weights.cache_clear()
    assert len(align.find_faces(portrait)) == 1
    # Not even where Python takes the working folder for the package's.
    monkeypatch.setattr(
        importlib.metadata, "distribution", _distribution(tmp_path)
    )
    detector._weights.cache_clear()
    with pytest.raises(ImportError, match="weights of mtcnn 1.0.0"):
        align.find_faces(portrait)
    assert not opened.exists()
    pickle.loads(content)  # it would have
    assert opened.exists()


def test_without_the_package(portrait, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    detector._weights.cache_clear()
    with pytest.raises(ImportError, match=r"facevae-keras\[align\]"):
        align.find_faces(portrait)


@pytest.mark.slow
def test_without_tensorflow(portrait, aligned, tmp_path):
    pytest.importorskip("jax")
    portrait.save(tmp_path / "photo.png")
    program = """
import sys
sys.modules["tensorflow"] = None
import numpy as np
from facevae_keras import align
np.save(sys.argv[2], align.align_face(sys.argv[1]))
"""
    subprocess.run(
        [sys.executable, "-c", program, tmp_path / "photo.png", tmp_path / "a"],
        check=True,
        env=os.environ | {"KERAS_BACKEND": "jax"},
    )
    assert np.array_equal(np.load(tmp_path / "a.npy"), aligned)


# Whole folders


def write_data_set(folder, portrait, count):
    """Portraits in CelebA's layout, and three files without a face."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    small = portrait.resize((128, 150))
    for number in range(count):
        small.rotate(number % 20 - 10).save(photos / f"{number:06d}.jpg")
    small.save(photos / "a.png")
    (photos / "text.jpg").write_text("no photo")
    Image.new("RGB", (150, 150)).save(photos / "dark.jpg")
    names = sorted(path.name for path in photos.iterdir())
    labels = [f"{name} {1 - 2 * (i % 2)} -1" for i, name in enumerate(names)]
    (folder / "list_attr_celeba.txt").write_text(
        f"{len(names)}\nMale Smiling\n" + "\n".join(labels) + "\n"
    )
    (folder / "identity_CelebA.txt").write_text(
        "".join(f"{name} {i // 2}\n" for i, name in enumerate(names))
    )
    return folder


def written_times(folder):
    return {
        path.name: path.stat().st_mtime_ns
        for path in (folder / "photos").iterdir()
    }


@pytest.fixture
def data_set(portrait, tmp_path):
    return write_data_set(tmp_path / "source", portrait, 4)


def test_a_folder(data_set, tmp_path):
    target = tmp_path / "target"
    with pytest.warns(UserWarning, match="2 of 7 photos were not aligned"):
        outcomes = fv.align_folder(data_set, target)
    source_images = fv.find_images(data_set)
    assert outcomes.index.equals(source_images.index)
    good = outcomes[outcomes["outcome"] == "aligned"]
    assert len(good) == 5 and (good["faces"] == 1).all()
    assert (good["right"] - good["left"]).between(30, 60).all()
    assert outcomes.at["dark.jpg", "outcome"] == "no face"
    assert outcomes.at["text.jpg", "outcome"] == "unreadable"
    assert "text.jpg" in outcomes.at["text.jpg", "reason"]

    images = fv.find_images(target)
    assert images.index.equals(good.index)
    assert images["identity"].equals(source_images.loc[good.index, "identity"])
    attributes = fv.read_attributes(target / "list_attr_celeba.txt")
    wanted = fv.read_attributes(data_set / "list_attr_celeba.txt")
    assert attributes.equals(wanted.loc[good.index])
    for path in images["path"]:
        with Image.open(path) as photo:
            assert photo.size == (178, 218)
            assert photo.format == {"jpg": "JPEG", "png": "PNG"}[path[-3:]]
    with Image.open(target / "photos" / "a.png") as photo:
        source = align.align_face(data_set / "photos" / "a.png")
        assert np.array_equal(np.asarray(photo), source)
    assert sorted(path.name for path in target.iterdir()) == [
        "alignment.csv",
        "identity_CelebA.txt",
        "list_attr_celeba.txt",
        "photos",
    ]


def test_a_folder_goes_on_where_it_was_stopped(data_set, tmp_path):
    target = tmp_path / "target"
    with pytest.warns(UserWarning):
        outcomes = fv.align_folder(data_set, target)
    before = written_times(target)
    with pytest.warns(UserWarning):
        assert fv.align_folder(data_set, target).equals(outcomes)
    assert written_times(target) == before

    # Stopped while it wrote the second line, with one photo half written.
    rows = outcomes.reset_index().to_dict("records")
    lines = [json.dumps(row) for row in rows[:2]]
    (target / align.JOURNAL).write_text(f"{lines[0]}\n{lines[1][:30]}")
    (target / "alignment.csv").unlink()
    (target / "photos" / f"{rows[3]['filename']}.77.part").write_text("half")
    with pytest.warns(UserWarning):
        assert fv.align_folder(data_set, target).equals(outcomes)
    after = written_times(target)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] == before[name]] == [
        rows[0]["filename"]
    ]

    # What was deleted, has come since, or has become readable is done; no more.
    before = after
    (target / "photos" / "000002.jpg").unlink()
    good = data_set / "photos" / "000001.jpg"
    shutil.copy(good, data_set / "photos" / "new.jpg")
    shutil.copy(good, data_set / "photos" / "text.jpg")
    with pytest.warns(UserWarning, match="1 of 8 photos were not aligned"):
        outcomes = fv.align_folder(data_set, target)
    assert (outcomes["outcome"] == "aligned").sum() == 7
    after = written_times(target)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"000002.jpg", "new.jpg", "text.jpg"}
    assert len(fv.read_attributes(target / "list_attr_celeba.txt")) == 6
    assert len(fv.find_images(target)) == 7


def test_folders_of_persons_and_flat_ones(portrait, tmp_path):
    for person in ("ada", "grace"):
        (tmp_path / "persons" / person).mkdir(parents=True)
        portrait.save(tmp_path / "persons" / person / "1.JPG")
    outcomes = fv.align_folder(tmp_path / "persons", tmp_path / "out", "wiki")
    images = fv.find_images(tmp_path / "out")
    assert list(images.index) == list(outcomes.index)
    assert list(images["identity"]) == ["ada", "grace"]
    with Image.open(images["path"].iloc[0]) as photo:
        assert photo.size == (182, 182)

    data_set = write_data_set(tmp_path / "source", portrait, 2)
    with pytest.warns(UserWarning):
        fv.align_folder(data_set / "photos", tmp_path / "flat")
    images = fv.find_images(tmp_path / "flat")
    assert len(images) == 3 and images["identity"].notna().all()
    labels = fv.read_attributes(tmp_path / "flat" / "list_attr_celeba.txt")
    assert list(labels.index) == list(images.index)


def test_targets_that_are_refused(data_set, tmp_path):
    with pytest.raises(ValueError, match="outside of"):
        fv.align_folder(data_set, data_set)
    with pytest.raises(ValueError, match="outside of"):
        fv.align_folder(data_set, data_set / "aligned")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "000001.jpg").write_text("precious")
    with pytest.raises(ValueError, match="mine: expected an empty folder"):
        fv.align_folder(data_set, tmp_path / "mine")
    assert (tmp_path / "mine" / "000001.jpg").read_text() == "precious"
    with pytest.warns(UserWarning):
        fv.align_folder(data_set, tmp_path / "target", "wiki")
    for arguments in (("celeba",), ("wiki", 160), ("wiki", 182, 0)):
        with pytest.raises(ValueError, match="'wiki 182 44' from"):
            fv.align_folder(data_set, tmp_path / "target", *arguments)
    with pytest.raises(ValueError, match="layout"):
        fv.align_folder(data_set, tmp_path / "other", "oval")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fv.align_folder(tmp_path / "nowhere", tmp_path / "other")
    (data_set / "list_attr_celeba.txt").write_text("7\nMale\na.png 3\n")
    with pytest.raises(ValueError, match="list_attr_celeba.txt, line 3"):
        fv.align_folder(data_set, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_file_of_no_image_format_is_refused(portrait, tmp_path):
    portrait.save(tmp_path / "photo.jpg")
    with pytest.raises(ValueError, match="aligned.txt"):
        align.align_file(tmp_path / "photo.jpg", tmp_path / "aligned.txt")


ALIGN_FOLDER = """
import sys, warnings
import joblib
import facevae_keras as fv
joblib.cpu_count = lambda: 2
warnings.simplefilter("ignore")
fv.align_folder(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
def test_killed_and_resumed_with_several_processes(portrait, tmp_path):
    data_set = write_data_set(tmp_path / "source", portrait, 600)
    target = tmp_path / "target"
    command = [sys.executable, "-c", ALIGN_FOLDER, data_set, target]
    journal = target / align.JOURNAL
    rows, times = 0, {}
    for share in (1, 2):
        run = subprocess.Popen(command, start_new_session=True)
        while rows < 200 * share:
            assert run.poll() is None
            time.sleep(0.05)
            if journal.exists():
                rows = journal.read_bytes().count(b'"layout"')
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        for path in (target / "photos").glob("*.jpg"):
            with Image.open(path) as photo:
                photo.load()  # whole
        kept = {
            json.loads(line)["filename"]
            for line in journal.read_text().splitlines()
            if line.endswith("}")
        }
        now = written_times(target)
        assert {name: now[name] for name in times} == times
        times = {name: now[name] for name in kept if name in now}
        assert len(times) >= len(kept) - 2  # text.jpg and dark.jpg have none
    assert 400 <= len(kept) < 603
    subprocess.run(command, check=True)
    now = written_times(target)
    assert {name: now[name] for name in times} == times  # none done twice
    assert len(now) == 601
    images = fv.find_images(target)
    assert len(images) == 601 and images["identity"].notna().all()
    assert len(fv.read_attributes(target / "list_attr_celeba.txt")) == 601
    assert not journal.exists()
