"""The built-in faces: their files, their statistics, and their truth."""

import copy
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

import facevae_keras as fv
from facevae_keras import synthetic
from facevae_keras.synthetic import (
    ATTRIBUTES,
    DRAWN_ATTRIBUTES,
    describe,
    draw_face,
    draw_portrait,
    sample_person,
    write_synthetic_dataset,
)

COUNT = 6


def person(number, **traits):
    """Somebody, with some traits forced."""
    somebody = sample_person(np.random.default_rng([7, number]))
    vars(somebody).update(traits)
    return somebody


def smiling(number, yes, gap=0.0):
    """The same person with and without a smile, mouth as asked."""
    joy, gloom = (0.9, 0.0) if yes else (0.0, 0.1)
    return person(number, smiling=yes, joy=joy, gloom=gloom,
                  open=gap > 0, gap=gap, beard="none", roll=0.0, turn=0.0,
                  scale=1.0, shift=(0.0, 0.0), chin=0.0, mouth=41.5,
                  old=0.0)  # fmt: skip


def light(image):
    return image.astype(np.float32).mean(axis=-1)


@pytest.fixture(scope="module")
def people():
    """A few thousand people, not painted, as a table of attributes."""
    rows = [describe(person(number)) for number in range(4000)]
    table = np.array([[row[name] for name in DRAWN_ATTRIBUTES] for row in rows])
    return {name: table[:, k] for k, name in enumerate(DRAWN_ATTRIBUTES)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_synthetic_dataset(tmp_path_factory.mktemp("drawn"), COUNT)


def read(folder):
    return [
        (folder / "img_align_celeba" / f"{number:06d}.jpg").read_bytes()
        for number in range(1, COUNT + 1)
    ]


def test_layout_is_celebas(folder):
    names = sorted(path.name for path in folder.rglob("*") if path.is_file())
    images = [f"{number:06d}.jpg" for number in range(1, COUNT + 1)]
    assert names == [*images, "list_attr_celeba.txt"]
    lines = (folder / "list_attr_celeba.txt").read_text().splitlines()
    assert lines[0] == str(COUNT)
    assert tuple(lines[1].split()) == ATTRIBUTES and len(ATTRIBUTES) == 40
    rows = [line.split() for line in lines[2:]]
    assert [row[0] for row in rows] == images
    assert all(len(row) == 41 and set(row[1:]) <= {"-1", "1"} for row in rows)


def test_images_are_rgb_of_celebas_size(folder):
    with Image.open(folder / "img_align_celeba" / "000001.jpg") as image:
        assert (image.size, image.mode, image.format) == (
            (178, 218), "RGB", "JPEG")  # fmt: skip


def test_file_agrees_with_the_drawn_people(folder):
    lines = (folder / "list_attr_celeba.txt").read_text().splitlines()[2:]
    for number, line in enumerate(lines, start=1):
        _, truth = draw_face(np.random.default_rng([666, number]))
        assert tuple(truth) == DRAWN_ATTRIBUTES
        signs = dict(zip(ATTRIBUTES, map(int, line.split()[1:]), strict=True))
        assert signs == {n: 1 if truth.get(n) else -1 for n in ATTRIBUTES}


def test_seed_decides_and_a_larger_set_extends(folder, tmp_path):
    again = write_synthetic_dataset(tmp_path / "a", COUNT + 2)
    assert read(again) == read(folder)
    lines = (folder / "list_attr_celeba.txt").read_text().splitlines()
    more = (again / "list_attr_celeba.txt").read_text().splitlines()
    assert more[1 : COUNT + 2] == lines[1:]
    other = write_synthetic_dataset(tmp_path / "b", COUNT, seed=1)
    assert not set(read(other)) & set(read(folder))


def test_draw_face_is_an_image():
    image, attributes = draw_face(np.random.default_rng(3))
    assert image.shape == (218, 178, 3) and image.dtype == np.uint8
    assert all(type(value) is bool for value in attributes.values())


def test_enough_attributes_are_drawn(people):
    assert len(DRAWN_ATTRIBUTES) >= 20
    assert set(DRAWN_ATTRIBUTES) <= set(ATTRIBUTES)
    shares = {name: float(column.mean()) for name, column in people.items()}
    assert all(0.04 < share < 0.96 for share in shares.values()), shares
    assert 0.45 < shares["Smiling"] < 0.55
    assert 0.40 < shares["Mouth_Slightly_Open"] < 0.50
    assert 0.40 < shares["Male"] < 0.50


@pytest.mark.parametrize("name", ["Smiling", "Mouth_Slightly_Open"])
def test_expression_is_tied_to_nothing(people, name):
    for other in DRAWN_ATTRIBUTES:
        if other != name:
            tie = np.corrcoef(people[name], people[other])[0, 1]
            assert abs(tie) < 0.08, other


def test_beards_are_mens_and_nothing_contradicts(people):
    male, bare = people["Male"], people["No_Beard"]
    for name in ("5_o_Clock_Shadow", "Goatee", "Mustache"):
        assert not np.any(people[name] & ~male)
        assert not np.any(people[name] & bare)
    hair = ["Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Bald"]
    assert sum(people[name].astype(int) for name in hair).max() == 1
    for hidden in ("Bald", "Bangs", "Receding_Hairline"):
        assert not np.any(people[hidden] & people["Wearing_Hat"])
    assert not np.any(people["Straight_Hair"] & people["Wavy_Hair"])


@pytest.mark.parametrize(("switched", "expected"), [(False, 0), (True, 0.55)])
def test_the_rule_that_men_wear_no_lipstick_can_be_switched_off(
    switched, expected, tmp_path
):
    people = [
        sample_person(np.random.default_rng([7, number]), switched)
        for number in range(2000)
    ]
    wear = [person.lipstick for person in people if person.male]
    assert abs(np.mean(wear) - expected) < 0.05  # of about 900 men
    folder = write_synthetic_dataset(
        tmp_path, 12, seed=1, lipstick_on_men=switched
    )
    faces = fv.read_attributes(folder / "list_attr_celeba.txt")
    men = faces["Male"] == 1
    assert (faces.loc[men, "Wearing_Lipstick"] == 1).any() == switched


def test_smile_changes_the_mouth_and_spares_the_rest():
    for number in range(5):
        no, yes = (draw_portrait(smiling(number, s)) for s in (False, True))
        change = np.abs(light(yes) - light(no))
        mouth = change[138:170, 65:113].mean()
        assert mouth > 3
        assert change[:60].mean() < 0.2 and change[195:].mean() < mouth / 2


def test_smile_lifts_the_corners_of_the_mouth():
    """The dark line of a closed mouth bends down or up towards its ends."""
    bends = {False: [], True: []}
    for number in range(8):
        for smile, bend in bends.items():
            image = light(draw_portrait(smiling(number, smile)))
            rows = [
                np.argmin(image[144:164, slice(x - 1, x + 2)].mean(axis=1))
                for x in (75, 88, 102)
            ]
            bend.append(rows[1] - (rows[0] + rows[2]) / 2)
    assert np.median(bends[True]) > np.median(bends[False]) + 1.5


@pytest.mark.parametrize("smile", [False, True])
def test_open_mouth_is_seen(smile):
    for number in range(5):
        closed, open_ = (
            light(draw_portrait(smiling(number, smile, gap)))[146:166, 82:95]
            for gap in (0.0, 0.8)
        )
        assert np.abs(open_ - closed).mean() > 8


def test_hair_colours_in_order_of_lightness():
    lightness = [
        np.mean([
            light(draw_portrait(person(
                number, style="long", hat="none", bangs=False, roll=0.0,
                hair_colour=synthetic.HAIR_COLOURS[name][0],
            )))[54:62, 70:108].mean() for number in range(4)])
        for name in ("black", "brown", "blond")
    ]  # fmt: skip
    assert lightness[0] + 20 < lightness[1] < lightness[2] - 20


def region_change(number, region, **pair):
    """Mean change of a region between two values of one trait."""
    ((name, (first, second)),) = pair.items()
    images = [
        light(draw_portrait(person(number, **{name: value})))
        for value in (first, second)
    ]
    return np.abs(images[0] - images[1])[region].mean()


@pytest.mark.parametrize(
    ("pair", "rows", "columns"),
    [
        ({"glasses": ("none", "square")}, (98, 130), (50, 127)),
        ({"hat": ("none", "cap")}, (40, 80), (60, 117)),
        ({"beard": ("none", "full")}, (150, 185), (60, 117)),
        ({"beard": ("none", "mustache")}, (138, 150), (75, 103)),
        ({"eye_open": (0.55, 1.0)}, (104, 118), (58, 119)),
        ({"nose": (0.9, 1.35)}, (125, 146), (72, 105)),
        ({"lipstick": (False, True)}, (145, 162), (76, 101)),
        ({"makeup": (False, True)}, (100, 114), (58, 119)),
    ],
)
def test_what_is_labelled_is_seen(pair, rows, columns):
    region = slice(*rows), slice(*columns)
    changes = [region_change(number, region, **pair) for number in range(4)]
    assert np.mean(changes) > 2.5


def test_painting_leaves_the_person_alone():
    somebody = person(1)
    before = copy.deepcopy(vars(somebody))
    first, second = draw_portrait(somebody), draw_portrait(somebody)
    assert np.array_equal(first, second)
    assert str(before) == str(vars(somebody))


@pytest.mark.parametrize("count", [0, -3])
def test_count_must_be_positive(tmp_path, count):
    with pytest.raises(ValueError, match="at least 1"):
        write_synthetic_dataset(tmp_path / "none", count)
    assert not (tmp_path / "none").exists()


def test_a_stopped_run_leaves_whole_photos_and_no_labels(
    folder, tmp_path, monkeypatch
):
    target = write_synthetic_dataset(tmp_path, 2)  # an older, complete set
    save, calls = Image.Image.save, []

    def stop_within_the_third(image, file, **options):
        calls.append(file)
        save(image, file, **options)
        if len(calls) == 3:
            os.truncate(file, 1000)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", stop_within_the_third)
        with pytest.raises(KeyboardInterrupt):
            write_synthetic_dataset(target, COUNT)
    left = sorted(path for path in target.rglob("*") if path.is_file())
    assert [path.name for path in left] == ["000001.jpg", "000002.jpg"]
    assert [path.read_bytes() for path in left] == read(folder)[:2]
    assert read(write_synthetic_dataset(target, COUNT)) == read(folder)


def test_faces_are_drawn_only_where_there_is_no_folder(tmp_path):
    import facevae_keras as fv

    assert fv.data_folder("photos", tmp_path / "drawn") == pathlib.Path(
        "photos"
    )
    folder = fv.data_folder("", tmp_path / "drawn", count=2, seed=1)
    listing = folder / "list_attr_celeba.txt"
    written = listing.stat().st_mtime_ns
    assert fv.data_folder("", tmp_path / "drawn", count=2, seed=1) == folder
    assert fv.data_folder("", tmp_path / "drawn", count=1, seed=1) == folder
    assert listing.stat().st_mtime_ns == written
    # A smaller set of an earlier run is not what is asked for.
    fv.data_folder("", tmp_path / "drawn", count=3, seed=1)
    assert len(fv.read_attributes(listing)) == 3
