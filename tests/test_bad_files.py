"""Damaged, hostile and strange files of our own: clear errors, in no time."""

import hashlib
import json
import pathlib
import shutil
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest

import facevae_keras as fv

HDF5 = b"\x89HDF\r\n\x1a\n"
PRETRAINED = pathlib.Path(fv.__file__).parent / "pretrained"
VALID = {
    "latent_vars": np.zeros((6, 4), "f4"),
    "attributes": np.ones((6, 2), "i1"),
    "fields": np.array(["Smiling", "Male"], "S"),
    "attribute_vectors": np.zeros((2, 4), "f4"),
    "filenames": np.array([f"{i}.jpg" for i in range(6)], "S"),
}


def write(path, **changes):
    with h5py.File(path, "w") as file:
        for key, data in {**VALID, **changes}.items():
            if data is not None:
                file[key] = data
    return path


# ---------------------------------------------------------------- attributes


def test_what_ships_has_its_checksums():
    lines = (PRETRAINED / "SHA256SUMS").read_text().splitlines()
    stated = {name: digest for digest, name in map(str.split, lines)}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in PRETRAINED.iterdir()
        if path.suffix in (".h5", ".keras")
    }
    # After a change: sha256sum *.h5 *.keras > SHA256SUMS, in that folder.
    assert found == stated


def test_a_changed_file_among_those_that_ship_is_named(monkeypatch, tmp_path):
    shutil.copytree(PRETRAINED, tmp_path / "p")
    monkeypatch.setattr(fv.files, "_PRETRAINED", tmp_path / "p")
    for name, load in (
        ("drawn_faces.h5", fv.load_attributes),
        ("drawn_faces.keras", fv.load_vae),
    ):
        path = tmp_path / "p" / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: not as it ships"):
            load("drawn_faces")


def empty_heap(content):
    """Zeroes the heap in which HDF5 keeps strings of any length."""
    content = bytearray(content)
    place = content.index(b"GCOL") + 16
    content[place : place + 4080] = bytes(4080)
    return bytes(content)


def test_hdf5_that_keeps_its_library_busy_for_ever(tmp_path):
    text = np.array([f"{i}.jpg" for i in range(6)], h5py.string_dtype())
    path = write(tmp_path / "zeroed.h5", filenames=text)
    assert fv.load_attributes(path)[0].index[0] == "0.jpg"
    path.write_bytes(empty_heap(path.read_bytes()))
    message = "zeroed.h5: a damaged HDF5 file: reading it takes for ever"
    with pytest.raises(ValueError, match=message):
        fv.load_attributes(path)


@pytest.mark.slow
def test_weights_that_keep_the_library_busy_for_ever(tmp_path):
    vae = fv.FaceVAE(latent_dim=2)
    vae.save(tmp_path / "vae.keras")
    with zipfile.ZipFile(tmp_path / "vae.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = empty_heap(members["model.weights.h5"])  # the layers' names
    members["model.weights.h5"] = weights
    with zipfile.ZipFile(tmp_path / "zeroed.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    (tmp_path / "zeroed.h5").write_bytes(weights)
    for name, load in (
        ("zeroed.keras", fv.load_vae),
        ("zeroed.keras", fv.load_facenet),
        ("zeroed.h5", fv.load_facenet),
    ):
        with pytest.raises(ValueError, match=f"{name}: .*damaged"):
            load(tmp_path / name)


def external(path):
    (path.parent / "secret").write_bytes(bytes(96))
    write(path, latent_vars=None)
    with h5py.File(path, "a") as file:
        file.create_dataset(
            "latent_vars",
            (6, 4),
            "f4",
            external=[(path.parent / "secret", 0, 96)],
        )


def linked(path):
    write(path.parent / "other.h5")
    write(path, latent_vars=None)
    with h5py.File(path, "a") as file:
        file["latent_vars"] = h5py.ExternalLink("other.h5", "/latent_vars")


def bomb(path):
    write(path, latent_vars=None)
    with h5py.File(path, "a") as file:
        file.create_dataset(
            "latent_vars", (10**6, 1024), "f4", chunks=(1000, 1024)
        )


HOSTILE = {
    "data lie in other files": external,
    "a link, expected data": linked,
    r"declared as \(1000000, 1024\)": bomb,
    r"expected .* of shape \(.*, 0\), found": lambda path: write(
        path, latent_vars=np.float32(3)
    ),
    "not finite": lambda path: write(
        path, latent_vars=np.full((6, 4), np.nan, "f4")
    ),
    "values that are not finite": lambda path: write(
        path, latent_vars=np.full((6, 4), 1e300)
    ),
    "infinite": lambda path: write(
        path, attribute_vectors=np.full((2, 4), np.inf, "f4")
    ),
    "other values than -1 and 1": lambda path: write(
        path, attributes=np.full((6, 2), 500)
    ),
    "labels|than -1 and 1": lambda path: write(
        path, attributes=np.full((6, 2), np.nan)
    ),
    "utf-8": lambda path: write(path, fields=np.array([b"\xff", b"b"])),
    r"filenames of shape \(6,\), found \(5,\)": lambda path: write(
        path, filenames=VALID["filenames"][:5]
    ),
    "expected numbers": lambda path: write(
        path, latent_vars=np.zeros((6, 4), "c8")
    ),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_attribute_files_that_lie(message, tmp_path):
    path = tmp_path / "strange.h5"
    HOSTILE[message](path)
    with pytest.raises(ValueError, match=f"strange.h5: .*({message})"):
        fv.load_attributes(path)


def test_groups_in_an_attribute_file_do_no_harm(tmp_path):
    path = write(tmp_path / "grouped.h5")
    with h5py.File(path, "a") as file:
        file.create_group("notes")["made"] = 2026
        file["notes/again"] = file["notes"]  # a group in itself
    assert fv.load_attributes(path)[0].shape == (6, 4)


def test_our_own_strings_are_of_one_length(tmp_path):
    latents = pd.DataFrame(np.zeros((2, 3), "f4"), index=["a.jpg", "süß.jpg"])
    labels = pd.DataFrame({"Smiling": np.int8([1, -1])}, index=latents.index)
    labels["identity"] = ["Zoë", "7"]
    vectors = pd.DataFrame(np.ones((1, 3), "f4"), index=["Smiling"])
    path = tmp_path / "own.h5"
    fv.save_attributes(path, latents, labels, vectors)
    with h5py.File(path) as file:
        for key in ("fields", "filenames", "identities"):
            assert file[key].dtype.kind == "S"
    found = fv.load_attributes(path)
    assert list(found[0].index) == ["a.jpg", "süß.jpg"]
    assert list(found[1]["identity"]) == ["Zoë", "7"]


# ---------------------------------------------------------------------- sums


@pytest.fixture
def sums(tmp_path):
    sums = fv.AttributeSums(["Smiling", "Male"], 3)
    sums.update(np.ones((5, 3)), np.ones((5, 2)))
    sums.save(tmp_path / "sums.npz")
    return dict(np.load(tmp_path / "sums.npz"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total": np.zeros(3)}, "expected whole numbers"),
        ({"with_total": np.zeros((3, 3), "i8")}, "expected whole numbers"),
        ({"with_count": np.array([9, 9])}, "more faces with"),
        ({"count": None}, "count"),
        ({"attributes": np.array(["a", {}], object)}, "allow_pickle"),
    ],
)
def test_sums_that_are_none(changes, message, sums, tmp_path):
    found = {k: v for k, v in {**sums, **changes}.items() if v is not None}
    np.savez(tmp_path / "bad.npz", **found)
    with pytest.raises(ValueError, match=f"bad.npz: .*{message}"):
        fv.AttributeSums.load(tmp_path / "bad.npz")


def test_damaged_sums_and_sums_that_unpack_to_much(sums, tmp_path):
    path = tmp_path / "sums.npz"
    content = path.read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:-200])
    np.savez_compressed(tmp_path / "bomb.npz", total=np.zeros(10**7, "i8"))
    for name in ("cut.npz", "bomb.npz"):
        with pytest.raises(ValueError, match=name):
            fv.AttributeSums.load(tmp_path / name)
    assert fv.AttributeSums.load(path).count == 5


def test_nan_latents_and_double_labels_are_no_vector():
    sums = fv.AttributeSums(["Smiling"], 2)
    with pytest.raises(ValueError, match="not finite"):
        sums.update(np.array([[np.nan, 0], [0, 0]]), [[1], [-1]])
    with pytest.raises(ValueError, match="2 faces and labels of 3"):
        sums.update(np.zeros((2, 2)), [[1], [-1], [1]])
    assert sums.count == 0


# ----------------------------------------------------------------------- VAEs


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The members of a saved VAE's file, and the VAE."""
    vae = fv.FaceVAE(latent_dim=2)
    path = tmp_path_factory.mktemp("saved") / "vae.keras"
    vae.save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}, vae


def rewrite(path, members, **changes):
    """The file again, with another config."""
    config = json.loads(members["config.json"])
    config["config"].update(changes)
    members = {**members, "config.json": json.dumps(config)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": 10**6}, "1000000 latent variables, expected 1 to 4096"),
        ({"latent_dim": 3}, "strange.keras"),
        ({"latent_dim": "many"}, "strange.keras"),
        ({"architecture": "vgg"}, "no architecture"),
        ({"name": {"class_name": "Lambda"}}, "expected a plain value"),
        ({"unknown": 1}, "strange.keras"),
        ({"name": "x" * 2**21}, "config.json unpacks to"),
    ],
)
def test_vaes_with_a_strange_config(changes, message, saved, tmp_path):
    path = rewrite(tmp_path / "strange.keras", saved[0], **changes)
    with pytest.raises(ValueError, match="strange.keras: ") as caught:
        fv.load_vae(path)
    assert message in str(caught.value)


def test_weights_that_are_not_finite(saved, tmp_path):
    members, vae = saved
    kernel = vae.decoder.get_weights()[0].ravel()[:64].tobytes()
    weights = members["model.weights.h5"]
    place = weights.index(kernel)
    spoiled = weights[:place] + b"\xff" * 16 + weights[place + 16 :]
    members = {**members, "model.weights.h5": spoiled}
    path = rewrite(tmp_path / "nan.keras", members)
    with pytest.raises(ValueError, match="nan.keras: .*not finite"):
        fv.load_vae(path)


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\x89HDF\r\n\x1a\n" + b"0" * 99]
)
def test_members_that_are_damaged(name, content, saved, tmp_path):
    path = tmp_path / "damaged.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for member, old in saved[0].items():
            archive.writestr(member, content if member == name else old)
    with pytest.raises(ValueError, match="damaged.keras: "):
        fv.load_vae(path)


def test_a_vae_file_that_is_cut_or_changed(saved, tmp_path):
    whole = rewrite(tmp_path / "vae.keras", saved[0])
    assert fv.load_vae(whole).latent_dim == 2
    content = whole.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 4  # in the weights, which have a checksum
    for name, other in (("cut.keras", content[:-99]), ("bit.keras", changed)):
        (tmp_path / name).write_bytes(other)
        with pytest.raises(ValueError, match=name):
            fv.load_vae(tmp_path / name)


def test_a_checkpoint_of_a_million_latent_variables(monkeypatch, tmp_path):
    bias = fv.weights.stored_arrays.StoredArray((10**6,), None)
    file = fv.weights.open.WeightFile(
        "huge", fv.weights.open.CHECKPOINT, {"encoder/Fc_1/biases": bias}
    )
    monkeypatch.setattr(fv.weights.open, "open_weights", lambda source: file)
    with pytest.raises(ValueError, match="huge: 1000000 latent variables"):
        fv.load_vae(tmp_path / "huge", architecture="dfc_vae")


@pytest.mark.parametrize("name", ["x.h5", "x.weights.h5", "x"])
def test_a_vae_is_saved_as_keras_files_only(name, saved, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: expected .* in .keras"):
        saved[1].save(tmp_path / name)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------- labels

TEXT = "2\nSmiling Male\na.jpg -1 1\nb.jpg 1 -1\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_label_files_of_other_encodings(encoding, tmp_path):
    path = tmp_path / "list_attr_celeba.txt"
    path.write_bytes(TEXT.replace("a.jpg", "ä.jpg").encode(encoding))
    assert list(fv.read_attributes(path).index) == ["ä.jpg", "b.jpg"]
    (tmp_path / "a.jpg").write_bytes(b"photo")
    people = "a.jpg 7\n\n".encode(encoding)
    (tmp_path / "identity_CelebA.txt").write_bytes(people)
    assert list(fv.find_images(tmp_path)["identity"]) == ["7"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("b.jpg", "a.jpg"), "line 4: a.jpg a second time"),
        (TEXT.replace("Male", "Smiling"), "line 2: .* named twice"),
        (TEXT.replace("-1 1\n", "-1 1\n\n").replace("1 -1", "1 0"), "line 5"),
        ("²" + TEXT[1:], "expected the number"),
        ("9" * 5000 + TEXT[1:], "expected the number"),
        (TEXT.encode("latin-1").replace(b"a.jpg", b"\xe4.jpg"), "UTF-8"),
        (b"\xff\xfe" + TEXT.encode() + b"x", "UTF-8|expected"),
    ],
)
def test_label_files_that_cannot_be_right(text, message, tmp_path):
    path = tmp_path / "list_attr_celeba.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"list_attr_celeba.txt.*({message})"):
        fv.read_attributes(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 1\na.jpg 2\n", "line 2: a.jpg a second time"),
        ("a.jpg\n", "line 1: expected a file name and a person, found 'a.jpg'"),
        ("a.jpg 1 2\n", "line 1: expected a file name and a person"),
    ],
)
def test_identity_files_that_cannot_be_right(text, message, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"photo")
    (tmp_path / "identity_CelebA.txt").write_text(text)
    with pytest.raises(ValueError, match=f"identity_CelebA.txt, {message}"):
        fv.find_images(tmp_path)


def test_unfinished_photos_are_none(tmp_path):
    for name in ("a.jpg", "unfinished_host_7_b.jpg"):
        (tmp_path / name).write_bytes(b"photo")
    assert list(fv.find_images(tmp_path).index) == ["a.jpg"]


def test_faces_drawn_earlier_do_not_stay(tmp_path):
    fv.write_synthetic_dataset(tmp_path, 4)
    photos = tmp_path / "img_align_celeba"
    shutil.copy(photos / "000001.jpg", tmp_path / "mine.jpg")
    content = (photos / "000001.jpg").read_bytes()
    start = content.index(b"drawn by")
    foreign = content[:start] + b"taken by" + content[start + 8 :]
    (photos / "000009.jpg").write_bytes(foreign)  # somebody's own photo
    fv.write_synthetic_dataset(tmp_path, 2)
    names = sorted(path.name for path in photos.iterdir())
    assert names == ["000001.jpg", "000002.jpg", "000009.jpg"]


# ------------------------------------------------------------- whole files


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "new.txt"
    with pytest.raises(OSError, match="new.txt: could not be written .*No sp"):
        with fv.files.written_whole(path):
            raise OSError(28, "No space left on device")
    with pytest.raises(PermissionError, match="denied"):  # names a file itself
        with fv.files.written_whole(path):
            raise PermissionError(13, "Permission denied", "other.txt")
    assert not list(tmp_path.iterdir())


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        with fv.files.written_whole(path) as unfinished:
            unfinished.write_bytes(b"half")
            raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert [x.name for x in tmp_path.iterdir()] == ["a.bin"]
