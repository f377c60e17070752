import h5py
import keras
import numpy as np
import pandas as pd
import pytest

import facevae_keras as fv


@pytest.fixture(scope="module")
def vae():
    # Seeded: some untrained encoders give large latents, and these round more.
    keras.utils.set_random_seed(0)
    return fv.FaceVAE("dfc_vae", latent_dim=8)


@pytest.fixture
def made_up():
    """Latents that attributes shift by known vectors."""
    random = np.random.default_rng(0)
    names = [f"{n:06d}.jpg" for n in range(200)]
    attributes = pd.DataFrame(
        random.choice([-1, 1], (200, 3)).astype("int8"),
        index=names,
        columns=["Smiling", "Male", "Hat"],
    )
    shifts = random.normal(size=(3, 8))
    latents = (attributes == 1).to_numpy("float32") @ shifts
    return pd.DataFrame(latents.astype("float32"), index=names), attributes


def test_latents_are_the_posterior_means_by_file_name(vae, drawn):
    images = fv.find_images(drawn)
    # 48 photos in batches of 20: the last one is partial.
    latents = fv.encode_images(vae, images["path"], crop=0.8, batch_size=20)
    assert latents.shape == (48, 8)
    assert list(latents.index) == list(images.index)
    name = images.index[47]
    photo = fv.read_photo(images["path"].iloc[47], 64, crop=0.8)
    mean, _ = vae.encode(photo[None])
    np.testing.assert_allclose(latents.loc[name], mean[0], atol=1e-4)


def test_batch_size_does_not_change_latents(vae, drawn):
    paths = list(fv.find_images(drawn)["path"][:10])
    one = fv.encode_images(vae, paths, batch_size=1)
    all_at_once = fv.encode_images(vae, paths, batch_size=128)
    assert one.index[0] == "000001.jpg"
    np.testing.assert_allclose(one, all_at_once, atol=1e-4)


def test_unreadable_photos_are_left_out_and_named(vae, drawn, tmp_path):
    (tmp_path / "broken.jpg").write_text("no image")
    good = fv.find_images(drawn)["path"].iloc[0]
    with pytest.warns(UserWarning, match="1 of 2 images .*broken.jpg"):
        latents = fv.encode_images(vae, [tmp_path / "broken.jpg", good])
    assert list(latents.index) == ["000001.jpg"]


def test_two_files_of_one_name(vae):
    with pytest.raises(ValueError, match="a.jpg twice"):
        fv.encode_images(vae, ["one/a.jpg", "two/a.jpg"])


def test_vectors_are_differences_of_means(made_up):
    latents, attributes = made_up
    vectors = fv.attribute_vectors(latents, attributes)
    assert list(vectors.index) == ["Smiling", "Male", "Hat"]
    assert vectors.dtypes.eq("float32").all()
    for name in attributes:
        has = (attributes[name] == 1).to_numpy()
        wanted = latents[has].mean() - latents[~has].mean()
        np.testing.assert_allclose(vectors.loc[name], wanted, atol=1e-5)


def test_vectors_are_joined_on_names_whatever_the_order(made_up):
    latents, attributes = made_up
    shuffled = attributes.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        fv.attribute_vectors(latents, attributes),
        fv.attribute_vectors(latents, shuffled),
        check_exact=False,
    )


def test_missing_labels_are_counted_and_named(made_up):
    latents, attributes = made_up
    with pytest.warns(UserWarning, match="1 of 200 photos.*000000.jpg"):
        fv.attribute_vectors(latents, attributes.iloc[1:])
    with pytest.raises(ValueError, match="'000000.jpg' and 'other.jpg'"):
        fv.attribute_vectors(latents, attributes.rename(lambda _: "other.jpg"))


@pytest.mark.parametrize("value", [-1, 1])
def test_attribute_of_nobody_or_everybody(made_up, value):
    latents, attributes = made_up
    with pytest.warns(UserWarning, match="nobody or everybody has: Hat"):
        vectors = fv.attribute_vectors(latents, attributes.assign(Hat=value))
    assert vectors.loc["Hat"].isna().all()
    assert vectors.drop("Hat").notna().all(axis=None)
    with pytest.raises(ValueError, match="nobody or everybody"):
        fv.add_attribute(latents, vectors.loc["Hat"], [1.0])


def test_adding_attributes(made_up):
    latents, attributes = made_up
    vectors = fv.attribute_vectors(latents, attributes)
    smile, hat = vectors.loc["Smiling"], vectors.loc["Hat"]
    moved = fv.add_attribute(latents, smile, [0, 0.5, -2])
    assert moved.shape == (200, 3, 8)
    np.testing.assert_array_equal(moved[:, 0], latents)
    np.testing.assert_allclose(
        moved[7, 2], latents.iloc[7] - 2 * smile, atol=1e-5
    )
    both = fv.add_attribute(moved, hat, [0, 1])
    assert both.shape == (200, 3, 2, 8)
    np.testing.assert_allclose(
        both[7, 1, 1], latents.iloc[7] + 0.5 * smile + hat, atol=1e-5
    )
    with pytest.raises(ValueError, match=r"found \(5,\)"):
        fv.add_attribute(latents, np.zeros(5), [1])


def test_file_keeps_everything(made_up, tmp_path):
    latents, attributes = made_up
    vectors = fv.attribute_vectors(latents, attributes)
    path = tmp_path / "new" / "vectors.h5"
    fv.save_attributes(path, latents, attributes, vectors)
    assert [file.name for file in path.parent.iterdir()] == ["vectors.h5"]
    loaded = fv.load_attributes(path)
    for found, wanted in zip(
        loaded, (latents, attributes, vectors), strict=True
    ):
        pd.testing.assert_frame_equal(found, wanted, check_names=False)
    with h5py.File(path) as file:
        assert file["attribute_vectors"].dtype == "float32"
        assert set(file) == {
            "latent_vars",
            "attributes",
            "fields",
            "attribute_vectors",
            "filenames",
        }


def write_original(path, latents, attributes, vectors):
    """As the 2017 programs do: no file names, names of fields as bytes."""
    with h5py.File(path, "w") as file:
        file["latent_vars"] = latents.to_numpy("float64")
        file["attributes"] = attributes.to_numpy("int64")
        file["fields"] = np.array(attributes.columns, dtype="S")
        file["attribute_vectors"] = vectors.to_numpy("float32")


def test_files_of_the_original_are_read(made_up, tmp_path):
    latents, attributes = made_up
    vectors = fv.attribute_vectors(latents, attributes)
    path = tmp_path / "attribute_vectors.h5"
    write_original(path, latents, attributes, vectors)
    found_latents, found_attributes, found_vectors = fv.load_attributes(path)
    assert list(found_latents.index) == list(range(200))
    assert list(found_attributes.columns) == ["Smiling", "Male", "Hat"]
    pd.testing.assert_frame_equal(found_vectors, vectors, check_names=False)


def test_bad_attribute_vector_files(made_up, tmp_path):
    latents, attributes = made_up
    vectors = fv.attribute_vectors(latents, attributes)
    path = tmp_path / "vectors.h5"
    with pytest.raises(FileNotFoundError):
        fv.load_attributes(path)
    path.write_text("no HDF5")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        fv.load_attributes(path)
    write_original(path, latents, attributes, vectors)
    with h5py.File(path, "a") as file:
        del file["fields"]
    with pytest.raises(ValueError, match="fields missing"):
        fv.load_attributes(path)
    write_original(path, latents, attributes, vectors.iloc[:2])
    with pytest.raises(ValueError, match=r"\(3, 8\), found \(2, 8\)"):
        fv.load_attributes(path)


@pytest.fixture
def correlated():
    """Glasses are mostly on old faces; each has a latent variable of its own.

    The other two variables are noise: a wide one, which also varies with
    glasses, and a narrow one that tells them as well.
    """
    random = np.random.default_rng(1)
    old = random.random(4000) < 0.3
    glasses = random.random(4000) < np.where(old, 0.6, 0.1)
    male = random.random(4000) < 0.5
    latents = random.normal(scale=[1, 1, 3, 0.3], size=(4000, 4))
    latents += np.outer(glasses, [2, 0, 1, 1]) + np.outer(old, [0, 3, 0, 0])
    names = [f"{n:06d}.jpg" for n in range(4000)]
    attributes = pd.DataFrame(
        {"Eyeglasses": glasses, "Old": old, "Male": male}, index=names
    )
    attributes = attributes.astype("int8") * 2 - 1
    return pd.DataFrame(latents.astype("float32"), index=names), attributes


@pytest.mark.parametrize("by", ["Old", ["Old", "Male"]])
def test_balanced_vectors_do_not_bring_a_correlated_attribute(correlated, by):
    latents, attributes = correlated
    plain = fv.attribute_vectors(latents, attributes).loc["Eyeglasses"]
    assert plain[1] > 1  # glasses age
    shuffled = attributes.sample(frac=1, random_state=0)
    balanced = fv.balanced_vector(latents, shuffled, "Eyeglasses", by)
    assert balanced.dtype == "float32"
    assert abs(balanced[1]) < 0.15  # three standard errors
    np.testing.assert_allclose(balanced[[0, 3]], [2, 1], atol=0.15)


def test_balanced_vectors_weigh_groups_by_what_they_know():
    names = list("abcdefg")
    latents = pd.DataFrame({0: [0, 0, 1, 10, 13.0, 99, 99]}, index=names)
    attributes = pd.DataFrame(
        # At age 3 everybody has a hat: there is nothing to compare.
        {"Hat": [-1, -1, 1, -1, 1, 1, 1], "Age": [1, 1, 1, 2, 2, 3, 3]},
        index=names,
    )
    vector = fv.balanced_vector(latents, attributes, "Hat", by="Age")
    # Differences 1 and 3; weights 2 * 1 / 3 and 1 * 1 / 2.
    np.testing.assert_allclose(vector, [(1 * 2 / 3 + 3 / 2) / (2 / 3 + 1 / 2)])


def test_balancing_what_cannot_be_balanced(correlated):
    latents, attributes = correlated
    with pytest.raises(ValueError, match="no attribute Hat; known are Eye"):
        fv.balanced_vector(latents, attributes, "Eyeglasses", ["Hat"])
    with pytest.raises(ValueError, match="agree in Old, nobody or everybody"):
        fv.balanced_vector(latents, attributes, "Old", "Old")
    with pytest.warns(UserWarning, match="1 of 4000 photos.*000000.jpg"):
        fv.balanced_vector(latents, attributes.iloc[1:], "Eyeglasses", "Old")


def test_a_classifiers_direction(correlated):
    """Normal to the best plane: `inverse(covariance) @ shift` for Gaussians."""
    latents, attributes = correlated
    direction = fv.classifier_direction(latents, attributes, "Eyeglasses")
    has = (attributes["Eyeglasses"] == 1).to_numpy()
    step = latents[has].mean() - latents[~has].mean()
    # One step takes the mean without glasses as far as the mean with them.
    np.testing.assert_allclose(
        direction @ step, direction @ direction, rtol=1e-4
    )
    wide, narrow = direction[[2, 3]]
    assert narrow > 10 * abs(wide)  # the plain difference is 1 and 1
    with pytest.raises(ValueError, match="no attribute Hat"):
        fv.classifier_direction(latents, attributes, "Hat")
    with pytest.raises(ValueError, match="nobody or everybody has Old"):
        fv.classifier_direction(latents, attributes.assign(Old=1), "Old")


def test_projections_leave_nothing_along_the_other_vectors(made_up):
    latents, attributes = made_up
    vectors = fv.attribute_vectors(latents, attributes)
    smile = vectors.loc["Smiling"]
    left = fv.project_out(smile, vectors.loc["Male"])
    assert left.dtype == "float32"
    np.testing.assert_allclose(left @ vectors.loc["Male"], 0, atol=1e-5)
    others = vectors.loc[["Male", "Hat"]]  # not at a right angle themselves
    left = fv.project_out(smile, others)
    np.testing.assert_allclose(others @ left, 0, atol=1e-5)
    # What was taken away is a mixture of the others, nothing else.
    taken = smile.to_numpy() - left
    mixture = np.linalg.lstsq(others.to_numpy().T, taken)[0]
    np.testing.assert_allclose(mixture @ others.to_numpy(), taken, atol=1e-5)
    with pytest.raises(ValueError, match=r"shape \(8,\).*shape \(1, 5\)"):
        fv.project_out(smile, np.zeros(5))


@pytest.fixture
def labelled_latents():
    random = np.random.default_rng(0)
    names = pd.Index([f"{i}.jpg" for i in range(3000)], name="filename")
    latents = random.normal(size=(3000, 7)).astype("float32")
    labels = random.choice([-1, 1], size=(3000, 3)).astype("int8")
    return (
        pd.DataFrame(latents, index=names),
        pd.DataFrame(labels, index=names, columns=["A", "B", "C"]),
    )


def test_sums_of_shards_merge_to_the_last_bit(labelled_latents, tmp_path):
    latents, attributes = labelled_latents
    whole = fv.AttributeSums(list("ABC"), 7)
    whole.update(latents, attributes)
    shards = []
    for part in (slice(2000, None), slice(0, 1), slice(1, 2000)):
        shard = fv.AttributeSums(list("ABC"), 7)
        shard.update(latents[part], attributes[part])
        shard.save(tmp_path / "shard.npz")
        shards.append(fv.AttributeSums.load(tmp_path / "shard.npz"))
    merged = shards[0] + shards[1] + shards[2]
    assert merged.count == whole.count == 3000
    np.testing.assert_array_equal(merged.total, whole.total)
    np.testing.assert_array_equal(merged.with_total, whole.with_total)
    pd.testing.assert_frame_equal(merged.vectors(), whole.vectors(), rtol=0)
    with pytest.raises(ValueError, match="other attributes"):
        merged + fv.AttributeSums(list("AB"), 7)


def test_streaming_gives_the_same_vectors(drawn):
    vae = fv.FaceVAE(latent_dim=8)
    paths = fv.find_images(drawn)["path"]
    attributes = fv.read_attributes(drawn / "list_attr_celeba.txt")
    attributes = attributes[["Smiling", "Male"]].drop("000002.jpg")
    sums = fv.sum_attributes(vae, paths, attributes, crop=0.8, batch_size=7)
    assert sums.count == len(paths) - 1  # one has no labels
    latents = fv.encode_images(vae, paths, crop=0.8)
    with pytest.warns(UserWarning, match="1 of 48 photos have no labels"):
        wanted = fv.attribute_vectors(latents, attributes)
    np.testing.assert_allclose(sums.vectors(), wanted, atol=1e-4)


def test_identities_come_with_the_labels_and_are_no_attribute(
    made_up, tmp_path
):
    latents, attributes = made_up
    wanted = fv.attribute_vectors(latents, attributes)
    people = attributes.assign(
        identity=[f"person {i % 50}" for i in range(len(attributes))]
    )
    vectors = fv.attribute_vectors(latents, people)
    pd.testing.assert_frame_equal(vectors, wanted)
    fv.save_attributes(tmp_path / "a.h5", latents, people, vectors)
    _, loaded, _ = fv.load_attributes(tmp_path / "a.h5")
    pd.testing.assert_frame_equal(loaded, people, check_names=False)
    same_person = fv.balanced_vector(latents, loaded, "Smiling", by="identity")
    assert same_person.shape == (8,)


@pytest.mark.parametrize("load", [fv.load_vae, fv.load_attributes])
def test_a_name_that_does_not_ship_lists_those_that_do(
    load, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    names = "celeba_dfc_vae, celeba_residual_vae, drawn_faces"
    message = f"celeba_vae: .*{names}"
    with pytest.raises(FileNotFoundError, match=message):
        load("celeba_vae")
    # A file of that name comes first.
    (tmp_path / "celeba_dfc_vae").write_text("not a VAE")
    with pytest.raises(ValueError, match="celeba_dfc_vae: "):
        load("celeba_dfc_vae")


def test_a_projected_photo_is_drawn_better(vae, faces):
    latents = fv.project_photo(vae, faces[:3], fv.PixelLoss(), steps=20)

    def loss(z):
        difference = vae.decode(z) - faces[:3]
        return np.square(difference).sum(axis=(1, 2, 3))

    before = loss(vae.encode(faces[:3])[0])
    assert latents.shape == (3, 8) and latents.dtype == "float32"
    assert (loss(latents) < 0.95 * before).all()


def test_each_photo_is_projected_by_itself(vae, faces, monkeypatch):
    monkeypatch.setattr(fv.attributes, "_PROJECTED_TOGETHER", 2)
    together = fv.project_photo(vae, faces[:3], fv.PixelLoss(), steps=4)
    alone = fv.project_photo(vae, faces[2:3], fv.PixelLoss(), steps=4)
    np.testing.assert_allclose(together[2:], alone, atol=1e-4)


def test_projecting_leaves_the_vae_as_it_is(vae, faces):
    before = [weights.copy() for weights in vae.get_weights()]
    fv.project_photo(vae, faces[:1], fv.PixelLoss(), steps=2)
    for found, wanted in zip(vae.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert vae.decoder.trainable
