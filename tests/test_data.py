import itertools
import pathlib
import shutil
import time
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import facevae_keras as fv


def write_image(path, size=(178, 218), seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 255, (size[1], size[0], 3), "uint8")
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def damaged(tmp_path):
    """Four good photos, a truncated one, and a text file named .jpg."""
    for number in range(4):
        write_image(tmp_path / f"good{number}.jpg", seed=number)
    content = write_image(tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("no image at all")
    return tmp_path


def test_flat_folder(tmp_path):
    for name in ("b.jpg", "a.PNG"):
        write_image(tmp_path / name.lower()).rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    images = fv.find_images(tmp_path)
    assert list(images.index) == ["a.PNG", "b.jpg"]
    assert list(images.columns) == ["path", "identity"]
    assert images["identity"].isna().all()


def test_identity_folders(tmp_path):
    for person in ("0000045", "0000099"):
        write_image(tmp_path / person / "001.jpg")
    images = fv.find_images(str(tmp_path))
    assert list(images.index) == ["0000045/001.jpg", "0000099/001.jpg"]
    assert list(images["identity"]) == ["0000045", "0000099"]
    assert all(pathlib.Path(path).exists() for path in images["path"])


def test_celeba_of_mixed_sizes(celeba):
    images = fv.find_images(celeba)
    assert len(images) == 14823
    assert images["identity"].notna().all()
    attributes = fv.read_attributes(celeba / "list_attr_celeba.txt")
    assert attributes.shape == (14823, 40)
    assert set(attributes.index) == set(images.index)
    assert attributes.dtypes.eq("int8").all()
    assert set(np.unique(attributes)) == {-1, 1}
    part = fv.find_images(celeba / "img_align_celeba")
    assert len(part) == 5100 and part["identity"].notna().all()
    native = part["path"].iloc[0]
    half = fv.find_images(celeba / "img_align_celeba_half")["path"].iloc[0]
    assert Image.open(native).size == (178, 218)
    assert Image.open(half).size == (89, 109)
    (batch,) = fv.image_dataset([native, half], 64, crop=0.8)
    assert batch.shape == (2, 64, 64, 3)


def test_the_crop_means_the_same_at_every_size(drawn, tmp_path):
    path = fv.find_images(drawn)["path"].iloc[0]
    with Image.open(path) as photo:
        half = photo.resize((89, 109), Image.Resampling.BOX)
    half.save(tmp_path / "half.png")
    whole = fv.read_photo(path, 64, crop=0.8).astype(float)
    scaled = fv.read_photo(tmp_path / "half.png", 64, crop=0.8)
    assert np.abs(whole - scaled).mean() < 4


def test_photos_are_scaled_with_anti_aliasing(tmp_path):
    stripes = np.zeros((512, 512, 3), "uint8")
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    photo = fv.read_photo(tmp_path / "stripes.png", 64).astype(int)
    # At the border there is half a stripe more on one side.
    assert np.abs(photo - 127).max() <= 8
    assert np.abs(photo[1:-1, 1:-1] - 127).max() <= 1


def test_grey_and_transparent_images_become_rgb(tmp_path):
    for mode in ("L", "RGBA", "P"):
        Image.new(mode, (80, 80)).save(tmp_path / f"{mode}.png")
        assert fv.read_photo(tmp_path / f"{mode}.png", 64).shape == (64, 64, 3)


@pytest.mark.parametrize("content", ["nothing", "a text file", "a folder"])
def test_folders_without_images(tmp_path, content):
    if content == "a text file":
        (tmp_path / "notes.txt").write_text("no image")
    if content == "a folder":
        (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="expected images.*found none"):
        fv.find_images(tmp_path)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        fv.find_images(tmp_path / "nowhere")


def test_the_same_name_twice_in_a_celeba_folder(tmp_path):
    write_image(tmp_path / "one" / "000001.jpg")
    write_image(tmp_path / "two" / "000001.jpg")
    (tmp_path / "identity_CelebA.txt").write_text("000001.jpg 1\n")
    with pytest.raises(ValueError, match="000001.jpg twice"):
        fv.find_images(tmp_path)


def test_bad_files_are_skipped_counted_and_named(damaged):
    paths = fv.find_images(damaged)["path"]
    with pytest.warns(UserWarning, match="2 of 6 images") as caught:
        batches = list(fv.image_dataset(paths, 64))
    assert sum(len(batch) for batch in batches) == 4
    message = str(caught[0].message)
    assert "cut.jpg" in message and "text.jpg" in message


def test_only_bad_files_are_an_error(damaged):
    with pytest.raises(Exception, match="1 of 1 images could not be read"):
        list(fv.image_dataset([damaged / "text.jpg"], 64))


def test_no_paths_and_a_bad_crop():
    with pytest.raises(ValueError, match="found none"):
        fv.image_dataset([], 64)
    with pytest.raises(ValueError, match="crop is a fraction"):
        fv.image_dataset(["a.jpg"], 64, crop=160)


def test_a_batch_larger_than_the_data_set(drawn):
    paths = fv.find_images(drawn)["path"]
    with pytest.raises(ValueError, match="batch of 100 is larger .* of 48"):
        fv.image_dataset(paths, 64, batch_size=100, shuffle=True)
    (batch,) = fv.image_dataset(paths, 64, batch_size=100)
    assert len(batch) == 48


def test_shuffling_repeats_with_the_seed_and_changes_every_pass(drawn):
    paths = fv.find_images(drawn)["path"]

    def passes(seed):
        dataset = fv.image_dataset(
            paths,
            64,
            batch_size=16,
            shuffle=True,
            flip=True,
            color_jitter=True,
            seed=seed,
        )
        return [np.concatenate(list(dataset)) for _ in range(2)]

    first, again, other = passes(1), passes(1), passes(2)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any() and (first[0] != other[0]).any()


def test_a_pass_shows_every_photo_once(drawn):
    paths = fv.find_images(drawn)["path"]
    plain = np.concatenate(list(fv.image_dataset(paths, 64)))
    shuffled = np.concatenate(
        list(fv.image_dataset(paths, 64, batch_size=8, shuffle=True))
    )
    assert (plain != shuffled).any()
    order = [sorted(photo.tobytes() for photo in x) for x in (plain, shuffled)]
    assert order[0] == order[1]


def test_flips_mirror_about_half_of_the_photos(drawn):
    paths = fv.find_images(drawn)["path"]
    plain = np.concatenate(list(fv.image_dataset(paths, 64)))
    flipped = np.concatenate(list(fv.image_dataset(paths, 64, flip=True)))
    mirrored = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == plain).all(axis=(1, 2, 3))
    assert (mirrored | same).all()
    assert 10 < mirrored.sum() < 38


@pytest.mark.parametrize("library", [True, "keras-cv"])
def test_jitter_changes_colors_a_little_and_stays_in_range(drawn, library):
    if library == "keras-cv":
        pytest.importorskip("keras_cv")
    paths = fv.find_images(drawn)["path"]
    plain = np.concatenate(list(fv.image_dataset(paths, 64)))
    jittered = np.concatenate(
        list(fv.image_dataset(paths, 64, color_jitter=library))
    )
    assert jittered.dtype == np.uint8
    change = np.abs(plain.astype(float) - jittered).mean(axis=(1, 2, 3))
    assert 1 < change.mean() < 30


def test_both_libraries_jitter_with_the_same_statistics():
    pytest.importorskip("keras_cv")
    color = np.full((4096, 4, 4, 3), [168, 128, 88], "float32")
    found = [
        np.stack([np.asarray(layer(color))[:, 0, 0] for layer in layers])
        for layers in (
            fv.batches._color_jitter_layers(1),
            fv.batches._keras_cv_jitter_layers(1),
        )
    ]
    for statistic in (np.mean, np.std):
        own, other = (statistic(values, axis=1) for values in found)
        np.testing.assert_allclose(own, other, rtol=0.05, atol=0.7)


def test_training_batches_combine_everything_and_can_be_skipped(drawn):
    paths = fv.find_images(drawn)["path"]

    def batches(**options):
        return fv.training_batches(paths, 32, 8, crop=0.8, **options)

    def first(batches):
        (photos,) = next(batches)
        assert photos.shape == (8, 32, 32, 3) and photos.dtype == "uint8"
        return photos

    together = dict(flip=True, warp=True, blend=True, color_jitter=True)
    plain, augmented = first(batches()), first(batches(**together))
    assert (plain != augmented).mean() > 0.9
    ahead = batches(**together)
    for _ in range(3):
        next(ahead)
    skipped = batches(**together).skip(3)
    np.testing.assert_array_equal(first(skipped), first(ahead))
    jittered = first(batches(color_jitter=True)).astype(float)
    change = (jittered - plain).mean((1, 2, 3))
    assert 1 < np.abs(change).max() < 40
    with pytest.raises(ValueError, match="at most 0.889.*crop of 0.95"):
        fv.training_batches(paths, 32, 8, crop=0.95, warp=True)


def test_splits_keep_people_apart(celeba):
    images = fv.find_images(celeba)
    training, validation = fv.split_images(images, 0.1)
    assert not set(training["identity"]) & set(validation["identity"])
    assert not set(training.index) & set(validation.index)
    assert len(training) + len(validation) == len(images)
    assert 0.1 <= len(validation) / len(images) < 0.11
    again = fv.split_images(images, 0.1)[1]
    assert list(again.index) == list(validation.index)


def test_splits_without_identities():
    images = pd.DataFrame(
        {"path": "x", "identity": None}, index=[f"{n}.jpg" for n in range(50)]
    )
    training, validation = fv.split_images(images, 0.2, seed=1)
    assert len(training) == 40 and len(validation) == 10
    other = fv.split_images(images, 0.2, seed=2)[1]
    assert list(other.index) != list(validation.index)
    with pytest.raises(ValueError, match="at least one person"):
        fv.split_images(images.assign(identity="the same"), 0.2)


GOOD = "2\nSmiling Male\na.jpg 1 -1\nb.jpg -1 -1\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "number of photos in line 1"),
        ("Smiling Male\na.jpg 1 -1\nb.jpg 1 1\n", "number of photos in line 1"),
        (GOOD.replace("b.jpg -1 -1", "b.jpg -1"), "line 4: expected .* 2 val"),
        (GOOD.replace("a.jpg 1", "a.jpg 0"), "line 3: .* -1 or 1, found 0"),
        (GOOD.replace("2\n", "3\n", 1), "says 3 photos, found 2"),
    ],
)
def test_bad_attribute_files(tmp_path, text, message):
    path = tmp_path / "list_attr_celeba.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        fv.read_attributes(path)


def test_attribute_files(tmp_path):
    path = tmp_path / "list_attr_celeba.txt"
    path.write_text(GOOD)
    attributes = fv.read_attributes(path)
    assert attributes.loc["a.jpg"].to_dict() == {"Smiling": 1, "Male": -1}
    with pytest.raises(FileNotFoundError, match="attribute file"):
        fv.read_attributes(tmp_path / "other.txt")


def test_no_warning_for_good_photos(drawn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(fv.image_dataset(fv.find_images(drawn)["path"], 64))


@pytest.fixture
def some_photos(drawn, tmp_path):
    """Five photos and a file that is none, in a folder of their own."""
    for path in list(fv.find_images(drawn)["path"])[:5]:
        shutil.copy(path, tmp_path)
    (tmp_path / "000003.jpg").write_text("no photo")
    return fv.find_images(tmp_path)["path"]


@pytest.mark.parametrize("in_memory", [True, False])
def test_loaded_photos_keep_their_names(
    some_photos, tmp_path, in_memory, monkeypatch
):
    if not in_memory:
        monkeypatch.setattr(fv.batches, "LARGEST_IN_MEMORY", 0)
    with pytest.warns(UserWarning, match="1 of 5 images.*000003.jpg"):
        photos, names = fv.load_photos(some_photos, 32, 0.8, tmp_path / "cache")
    assert isinstance(photos, np.memmap) != in_memory
    assert list(names) == [f"00000{i}.jpg" for i in (1, 2, 4, 5)]
    wanted = [fv.read_photo(some_photos[name], 32, 0.8) for name in names]
    np.testing.assert_array_equal(photos, wanted)


def test_a_cache_is_found_again_until_a_photo_changes(
    some_photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(fv.batches, "LARGEST_IN_MEMORY", 0)
    some_photos = some_photos.drop("000003.jpg")
    cache = tmp_path / "cache"
    before, names = fv.load_photos(some_photos, 32, 0.8, cache)
    with monkeypatch.context() as patch:  # nothing is decoded again
        patch.setattr(fv.batches, "read_photo", None)
        again, same_names = fv.load_photos(some_photos, 32, 0.8, cache)
    np.testing.assert_array_equal(before, again)
    assert names.equals(same_names)
    shutil.copy(some_photos["000002.jpg"], some_photos["000001.jpg"])
    after, _ = fv.load_photos(some_photos, 32, 0.8, cache)
    np.testing.assert_array_equal(after[0], after[1])
    assert not list(cache.glob("unfinished*"))


def test_reading_nothing_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        fv.load_photos([], 32)
    (tmp_path / "a.jpg").write_text("no photo")
    with pytest.raises(ValueError, match="1 of 1 images could not be read"):
        fv.load_photos([tmp_path / "a.jpg"], 32)


def test_every_pass_draws_every_photo_once():
    batches = fv.index_batches(12, 4, flip=True, steps_per_launch=3, seed=1)
    passes = [next(batches)[0] for _ in range(2)]
    for drawn in passes:
        assert drawn.shape == (3, 4) and drawn.dtype == "int32"
        assert sorted(drawn.ravel() % 12) == list(range(12))
        assert 0 < (drawn >= 12).sum() < 12  # some are mirrored
    assert (passes[0] != passes[1]).any()
    again = next(fv.index_batches(12, 4, flip=True, seed=1))[0]
    np.testing.assert_array_equal(again[0], passes[0][0])
    with pytest.raises(ValueError, match="batch of 13 is larger"):
        fv.index_batches(12, 13)


def test_batches_can_be_skipped_without_reading_them(faces):
    options = {"flip": True, "warped_size": 56, "blend": True, "seed": 3}
    batches = fv.photo_batches(faces, 8, **options)
    later = [batch for (batch,) in itertools.islice(batches, 9)][7:]
    skipped = fv.photo_batches(faces, 8, **options).skip(3).skip(4)
    start = time.monotonic()
    far = batches.skip(10**9)
    assert time.monotonic() - start < 0.1
    for wanted, (batch,) in zip(later, skipped, strict=False):
        np.testing.assert_array_equal(batch, wanted)
    assert next(far)[0].shape == (8, 56, 56, 3)
    # `fit` asks for batches by number, and so may several threads.
    np.testing.assert_array_equal(batches.skip(-2)[0][0], later[0])
    one = itertools.islice(fv.index_batches(12, 4, seed=1), 9)
    three = fv.index_batches(12, 4, steps_per_launch=3, seed=1).skip(1)
    np.testing.assert_array_equal(
        np.concatenate([launch for (launch,) in itertools.islice(three, 2)]),
        [step[0] for (step,) in one][3:],
    )


@pytest.mark.parametrize("batch_size", [0, -1])
def test_no_batches_of_no_photos(batch_size):
    with pytest.raises(ValueError, match=f"1 or more, is {batch_size}"):
        fv.photo_batches(np.zeros((4, 8, 8, 3), "uint8"), batch_size)


def test_photo_batches_are_the_photos_of_the_indices():
    photos = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), "uint8")
    (indices,) = next(fv.index_batches(6, 6, flip=True))
    (batch,) = next(fv.photo_batches(photos, 6, flip=True))
    for index, photo in zip(indices[0], batch, strict=True):
        wanted = photos[index % 6]
        wanted = wanted[:, ::-1] if index >= 6 else wanted
        np.testing.assert_array_equal(photo, wanted)


def test_warped_photos_are_bent_a_little_and_differently(faces):
    photos = faces[:4]
    batches = fv.photo_batches(photos, 4, seed=1, warped_size=56)
    ((first,), (second,)) = next(batches), next(batches)
    assert first.shape == (4, 56, 56, 3) and first.dtype == "uint8"
    (again,) = next(fv.photo_batches(photos, 4, seed=1, warped_size=56))
    np.testing.assert_array_equal(first, again)
    centres = photos[:, 4:60, 4:60].astype("float32")
    passes = [
        indices[0]
        for (indices,) in itertools.islice(fv.index_batches(4, 4, seed=1), 2)
    ]

    def distance(a, b):
        return np.abs(a.astype("float32") - b).mean()

    another = distance(centres, np.roll(centres, 1, axis=0))
    for batch, order in zip((first, second), passes, strict=True):
        assert 1 < distance(batch, centres[order]) < 0.5 * another
    # No two passes bend a photo alike.
    assert distance(first[passes[0].argsort()], second[passes[1].argsort()]) > 1
    with pytest.raises(ValueError, match="64 pixels have no room .* of 65"):
        fv.photo_batches(photos, 4, warped_size=65)


def test_every_second_photo_gets_parts_of_the_next_one(faces):
    batches = fv.photo_batches(faces[:6], 6, seed=1, blend=True)
    (plain,) = next(fv.photo_batches(faces[:6], 6, seed=1))
    (blended,), (later,) = next(batches), next(batches)
    assert blended.shape == plain.shape and blended.dtype == "uint8"
    np.testing.assert_array_equal(blended[1::2], plain[1::2])
    for mixed, face in zip(blended[::2], plain[::2], strict=True):
        changed = np.abs(mixed.astype(int) - face).max(axis=-1) > 8
        assert 0.02 < changed.mean() < 0.98
    assert not np.array_equal(later, blended)


def test_a_blend_is_the_other_face_in_spots_and_the_colours_of_the_first():
    random = np.random.default_rng(0)
    texture = random.integers(-40, 40, (64, 64, 3))
    face = np.uint8([200, 120, 60] + texture)
    other = np.uint8([90, 120, 160] + texture[::-1, ::-1])
    photos = np.stack([face, other] * 20)
    seed = keras.random.SeedGenerator(1)
    blended = np.array(fv.augment.blend_photos(photos, seed))
    np.testing.assert_array_equal(blended[1::2], photos[1::2])
    odd = np.array(fv.augment.blend_photos(photos[:5], seed))
    np.testing.assert_array_equal(odd[1::2], photos[1:5:2])
    # In both the texture is around the first one's colour.
    means = blended[::2].mean((1, 2))
    assert np.abs(means - [200, 120, 60]).max() < 6
    shares = (np.abs(blended[::2] - face) <= 2).mean((1, 2, 3))
    assert shares.min() < 0.4 and shares.max() > 0.6


def test_a_warp_without_deviations_is_the_middle(monkeypatch, faces):
    monkeypatch.setattr(
        keras.random, "normal", lambda shape, **_: np.zeros(shape, "float32")
    )
    warped = np.array(fv.augment.warp_photos(faces[:3], 56, None))
    np.testing.assert_allclose(warped, faces[:3, 4:60, 4:60], atol=1e-2)


def test_the_device_warps_and_blends(faces):
    vae = fv.FaceVAE(latent_dim=4)
    vae.keep_on_device(faces[:8], warped_size=56, blend=True)
    indices = np.arange(8)
    first, second = (np.array(vae.photos_on_device(indices)) for _ in range(2))
    assert first.shape == (8, 56, 56, 3)
    assert np.abs(first - second).mean() > 1
    centres = faces[:8, 4:60, 4:60].astype("float32")
    another = np.abs(np.roll(centres, 1, axis=0) - centres).mean()
    difference = np.abs(first[1::2] - centres[1::2]).mean()
    assert 1 < difference < 0.5 * another
    with pytest.raises(ValueError, match="64 pixels have no room .* of 65"):
        vae.keep_on_device(faces, warped_size=65)
    with pytest.raises(ValueError, match="expected square photos"):
        vae.keep_on_device(faces[:, :60], warped_size=56)
