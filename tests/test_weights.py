"""Weights in every form, whole and broken."""

import os
import pickle
import shutil
import struct
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import weight_writers as writers

import facevae_keras as fv
from facevae_keras.weights import conversion, facenet_names
from facevae_keras.weights import open as weight_files

SCOPE = "InceptionResnetV1"


@pytest.fixture
def folder():
    """A folder that is gone after the test: whole networks take 100 MB."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


# The real network in every form.


@pytest.fixture(scope="module")
def real(facenet_checkpoint):
    """The real network's arrays by their original names."""
    file = weight_files.open_weights(facenet_checkpoint)
    return {name: array.read() for name, array in file.arrays.items()}


@pytest.fixture(scope="module")
def facenet(facenet_checkpoint):
    return fv.load_facenet(facenet_checkpoint)


@pytest.fixture(scope="module")
def photos(celeba):
    names = sorted((celeba / "img_align_celeba").iterdir())[:4]
    return np.stack([fv.read_photo(name, 160, crop=0.7) for name in names])


@pytest.fixture(scope="module")
def embeddings(facenet, photos):
    return _embed(facenet, photos)


def _embed(facenet, photos):
    # Called, not predicted: compiling nine networks would take minutes.
    images = keras.ops.convert_to_tensor(photos.astype("float32"))
    return keras.ops.convert_to_numpy(facenet(images, training=False))


def _torch_saved(path, arrays, **options):
    torch = pytest.importorskip(
        "torch", reason="PyTorch, which this form is written with, is missing"
    )
    state = {
        name: torch.from_numpy(array.copy())
        for name, array in writers.torch_state(arrays).items()
    }
    torch.save(state, path, **options)
    return path


FORMS = {
    "published zip": lambda folder, arrays: writers.write_published_zip(
        folder / "20180402-114759.zip", arrays
    ),
    "frozen graph": lambda folder, arrays: writers.write_graph(
        folder / "20180402-114759.pb", arrays
    ),
    "Keras 2 model": lambda folder, arrays: writers.write_keras2(
        folder / "facenet_keras.h5", arrays
    ),
    "arrays": lambda folder, arrays: writers.write_folder(
        folder / "npy_weights", arrays
    ),
    "torch": lambda folder, arrays: writers.write_torch(
        folder / "vggface2.pt", writers.torch_state(arrays)
    ),
    "legacy torch": lambda folder, arrays: writers.write_torch_legacy(
        folder / "vggface2.pt", writers.torch_state(arrays)
    ),
    "torch.save": lambda folder, arrays: _torch_saved(
        folder / "vggface2.pt", arrays
    ),
    "legacy torch.save": lambda folder, arrays: _torch_saved(
        folder / "vggface2.pt", arrays, _use_new_zipfile_serialization=False
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_embeddings(
    form, folder, real, photos, embeddings
):
    # Recognised by content: the name says nothing.
    source = FORMS[form](folder, real).rename(folder / "weights.bin")
    loaded = fv.load_facenet(source)
    difference = np.abs(_embed(loaded, photos) - embeddings).max()
    print(form, difference / np.abs(embeddings).max())
    assert difference < 1e-5 * np.abs(embeddings).max()
    report = loaded.conversion
    assert report.matched == 490 and report.values == 23_497_424
    # Only PyTorch's counters of batches have no place in the network.
    assert all(name.endswith("tracked") for name in report.left_over)


@pytest.mark.slow
def test_what_the_project_saved_itself(facenet, folder, photos, embeddings):
    facenet.save(folder / "facenet.keras")
    loaded = fv.load_facenet(folder / "facenet.keras")
    np.testing.assert_array_equal(_embed(loaded, photos), embeddings)
    assert loaded.get_layer("fixed")


@pytest.mark.slow
def test_the_2017_model_is_recognised(folder, real, photos):
    arrays = {
        name: array[..., :128] if "Bottleneck" in name else array
        for name, array in real.items()
    }
    path = writers.write_keras2(folder / "facenet_keras.h5", arrays, False)
    facenet = fv.load_facenet(path)
    assert facenet.output.shape == (None, 128)
    whitened = facenet.get_layer("per_image")(photos.astype("float32"))
    for image, found in zip(photos, np.asarray(whitened), strict=True):
        expected = (image - image.mean()) / image.std()
        np.testing.assert_allclose(found, expected, atol=1e-4)
    # Its standardisation is saved with it, and may be overruled.
    facenet.save(folder / "facenet.keras")
    saved = fv.load_facenet(folder / "facenet.keras")
    np.testing.assert_array_equal(
        _embed(saved, photos), _embed(facenet, photos)
    )
    fixed = fv.load_facenet(path, standardization="fixed")
    assert fixed.get_layer("fixed")


def test_an_image_of_one_colour_is_not_divided_by_zero():
    from facevae_keras.layers import PerImageStandardization

    whitened = PerImageStandardization()(np.full((1, 4, 4, 3), 7.0))
    np.testing.assert_array_equal(whitened, np.zeros((1, 4, 4, 3)))


@pytest.mark.slow
def test_photos_of_one_person_are_alike(facenet, celeba):
    """200 pairs of the same person and 200 of two: is FaceNet FaceNet?"""
    identities = {}
    for line in (celeba / "identity_CelebA.txt").read_text().splitlines():
        name, identity = line.split()
        if (celeba / "img_align_celeba" / name).exists():
            identities.setdefault(identity, []).append(name)
    people = [names[:3] for names in identities.values() if len(names) > 2]
    people = people[:100]
    assert len(people) == 100
    images = np.stack(
        [
            fv.read_photo(celeba / "img_align_celeba" / name, 160, crop=0.7)
            for names in people
            for name in names
        ]
    )
    embeddings = facenet.predict(images, batch_size=50, verbose=0)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second, third = embeddings.reshape(100, 3, -1).swapaxes(0, 1)
    same = np.concatenate([first * second, first * third]).sum(axis=1)
    others = [np.roll(photos, 1, axis=0) for photos in (second, third)]
    different = np.concatenate([first * other for other in others]).sum(axis=1)
    area = (same[:, None] > different).mean()
    print("area under the curve", area)
    assert len(same) == len(different) == 200 and area >= 0.97


# The original's VAEs.


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture, values, name",
    [
        ("dfc_vae", 2_312_817, "decoder/Conv2d_4/weights"),
        ("dfc_vae_resnet", 7_078_041, "decoder/Conv2d_4c/weights"),
        ("dfc_vae_large", 5_230_795, "decoder/Conv2d_5/weights"),
    ],
)
def test_every_vae_of_the_original(architecture, values, name, folder):
    vae = fv.FaceVAE(architecture)
    arrays = _vae_arrays(vae)
    assert name in arrays
    arrays["global_step"] = np.array(50000)
    prefix = writers.write_checkpoint(folder / "model.ckpt-50000", arrays)
    (folder / "zipped").mkdir()
    path = folder / "zipped" / "20170708-150701.zip"
    writers.write_published_zip(path, arrays)
    wanted = vae.decode(np.ones((1, 100)))
    for source in (prefix, folder, path):
        loaded = fv.load_vae(source, architecture)
        np.testing.assert_array_equal(loaded.decode(np.ones((1, 100))), wanted)
        assert loaded.conversion.values == values
        assert loaded.conversion.left_over == ("global_step",)


def _vae_arrays(vae):
    return {
        name: keras.ops.convert_to_numpy(variable.value).copy()
        for scope, model in (("encoder", vae.encoder), ("decoder", vae.decoder))
        for name, variable in weight_files.original_names(model, scope).items()
    }


# Small arrays, which the readers take for any network's.


@pytest.fixture
def arrays():
    random = np.random.default_rng(0)

    def norm(scope, count):
        return {
            f"{SCOPE}/{scope}/BatchNorm/{name}": random.random(count)
            for name in ("beta", "moving_mean", "moving_variance")
        }

    arrays = {
        f"{SCOPE}/Conv2d_1a_3x3/weights": random.random((3, 3, 3, 4)),
        **norm("Conv2d_1a_3x3", 4),
        f"{SCOPE}/Block8/Conv2d_1x1/weights": random.random((1, 1, 6, 5)),
        f"{SCOPE}/Block8/Conv2d_1x1/biases": random.random(5),
        f"{SCOPE}/Bottleneck/weights": random.random((6, 8)),
        **norm("Bottleneck", 8),
    }
    return {name: array.astype("float32") for name, array in arrays.items()}


class _Variable:
    """As much of a `keras.Variable` as is assigned to."""

    def __init__(self, array):
        self.shape, self.value = array.shape, None

    def assign(self, value):
        self.value = value


def _read(source, arrays):
    """What `load_facenet` does, for a network of these arrays."""
    variables = {name: _Variable(array) for name, array in arrays.items()}
    file = weight_files.open_weights(source)
    with weight_files.clear_errors(source):
        found, _ = facenet_names.original_arrays(file, variables)
    conversion.assign_arrays(variables, found, source)
    return {name: variable.value for name, variable in variables.items()}


def _write_keras3(folder, arrays):
    """As `Model.save` lays its file out."""
    layers = {}
    for name, array in arrays.items():
        scope, variable = name.removeprefix(f"{SCOPE}/").rsplit("/", 1)
        layer = scope.replace("/", "-")
        layer += "-linear" if variable in ("weights", "biases") else ""
        layers.setdefault(layer, []).append(array)
    with h5py.File(folder / "model.weights.h5", "w") as file:
        for number, (layer, values) in enumerate(layers.items()):
            group = file.create_group(f"layers/layer_{number}/vars")
            group.attrs["name"] = layer
            for index, value in enumerate(values):
                group[str(index)] = value
    path = folder / "facenet.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.write(folder / "model.weights.h5", "model.weights.h5")
    return path


SMALL_FORMS = {
    "checkpoint": lambda folder, arrays: writers.write_checkpoint(
        folder / "model.ckpt-1", arrays
    ),
    **{name: write for name, write in FORMS.items() if ".save" not in name},
    "deflated zip": lambda folder, arrays: writers.write_published_zip(
        folder / "20180402-114759.zip", arrays, zipfile.ZIP_DEFLATED
    ),
    "Keras 2 weights": lambda folder, arrays: writers.write_keras2(
        folder / "weights.h5", arrays, whole=False
    ),
    "Keras 3 model": _write_keras3,
}


@pytest.mark.parametrize("form", SMALL_FORMS)
def test_every_form_is_read(form, folder, arrays):
    found = _read(SMALL_FORMS[form](folder, arrays), arrays)
    for name, array in arrays.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, err_msg=name)


# What each form's own checksums cover entirely.
CHECKED = (
    "checkpoint",
    "published zip",
    "deflated zip",
    "torch",
    "Keras 3 model",
)


@pytest.mark.slow
@pytest.mark.parametrize("form", SMALL_FORMS)
def test_flipped_bytes_give_a_clear_error_or_a_whole_network(
    form, folder, arrays
):
    source = SMALL_FORMS[form](folder, arrays)
    files = [path for path in folder.rglob("*") if path.is_file()]
    if form == "Keras 3 model":
        files = [source]
    expected = _read(source, arrays)
    random = np.random.default_rng(0)
    loaded = 0
    for case in range(70):
        path = files[case % len(files)]
        whole = path.read_bytes()
        broken = bytearray(whole)
        for position in random.integers(0, len(whole), 1 + case % 4):
            broken[position] ^= random.integers(1, 256)
        path.write_bytes(broken)
        try:
            found = _read(source, arrays)
        except (ValueError, OSError) as error:
            assert str(source) in str(error)
        else:
            loaded += 1
            for name, array in arrays.items():
                assert found[name].shape == array.shape
                assert np.isfinite(found[name]).all()
                if form in CHECKED:
                    np.testing.assert_array_equal(found[name], expected[name])
        path.write_bytes(whole)
    print(form, f"{loaded} of 70 loaded")


@pytest.mark.parametrize("form", SMALL_FORMS)
def test_values_that_are_not_finite(form, folder, arrays):
    arrays[f"{SCOPE}/Bottleneck/weights"][2, 3] = np.nan
    source = SMALL_FORMS[form](folder, arrays)
    with pytest.raises(ValueError, match="Bottleneck/weights.*not finite"):
        _read(source, arrays)


def test_a_negative_variance(folder):
    vae = fv.FaceVAE()
    arrays = _vae_arrays(vae)
    arrays["encoder/Conv2d_2/BatchNorm/moving_variance"] -= 2
    source = writers.write_checkpoint(folder / "model.ckpt-1", arrays)
    with pytest.raises(
        ValueError, match="ckpt-1: .*Conv2d_2/.*variance: .*neg"
    ):
        fv.load_vae(source, "dfc_vae")


@pytest.mark.parametrize("form", SMALL_FORMS)
def test_files_cut_short(form, folder, arrays):
    source = SMALL_FORMS[form](folder, arrays)
    path = sorted(path for path in folder.rglob("*") if path.is_file())[0]
    path = source if source.is_file() else path
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 100, 9, 1):
        path.write_bytes(whole[:size])
        if form.startswith("Keras 2") and size == len(whole) - 1:
            continue  # a byte of padding
        with pytest.raises(ValueError, match=source.name):
            _read(source, arrays)


# Hostile files.


class _Command:
    """Pickles to a call of `os.system`."""

    def __init__(self, folder):
        self.command = f"touch {folder / 'executed'}"

    def __reduce__(self):
        return os.system, (self.command,)


def _refused(source, match, folder):
    """The error is clear; nothing executed, written or unpacked for it."""
    before = sorted(folder.rglob("*"))
    tracemalloc.start()
    with pytest.raises(ValueError, match=match) as caught:
        fv.load_facenet(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(source) in str(caught.value)
    assert sorted(folder.rglob("*")) == before
    assert peak < 32e6, f"{peak:,} bytes"


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_a_command(protocol, tmp_path):
    program = pickle.dumps({"x": _Command(tmp_path)}, protocol)
    bare = tmp_path / "bare.pt"
    bare.write_bytes(program)
    _refused(bare, "no known kind|was not opened", tmp_path)
    zipped = tmp_path / "zipped.pt"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("zipped/data.pkl", program)
    _refused(zipped, "nothing was executed|which no tensor needs", tmp_path)
    legacy = tmp_path / "legacy.pt"
    writers.write_torch_legacy(legacy, {})
    start = legacy.read_bytes().index(b"\x80\x02ccollections")
    legacy.write_bytes(legacy.read_bytes()[:start] + program)
    _refused(legacy, "nothing was executed|which no tensor needs", tmp_path)


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/../../evil", "C:\\evil"]
)
def test_an_archive_that_leads_out_of_itself(name, tmp_path):
    path = tmp_path / "facenet.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.index", b"x")
        archive.writestr(f"{name}.data-00000-of-00001", b"x")
    _refused(path, "leads out of it.*nothing of it was unpacked", tmp_path)


def test_an_archive_that_unpacks_to_more_than_any_network(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(2**20))
    content = path.read_bytes()
    size, huge = struct.pack("<I", 2**20), struct.pack("<I", 2**32 - 2)
    path.write_bytes(content.replace(size, huge))
    _refused(path, "model.weights.h5 unpacks to 4,294,967,294", tmp_path)


@pytest.mark.parametrize("member", ["data.pkl", "data/0"])
def test_an_archive_with_a_swollen_member(member, tmp_path):
    state = {"last_linear.weight": np.zeros((512, 1792), "f4")}
    path = writers.write_torch(tmp_path / "whole.pt", state)
    bomb = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(path) as archive,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as swollen,
    ):
        for name in archive.namelist():
            content = archive.read(name)
            large = bytes(2**26) if name.endswith(member) else b""
            swollen.writestr(name, content + large)
    del content, large
    if member == "data.pkl":
        _refused(bomb, "too large", tmp_path)
    else:  # found out when it is read, and never unpacked
        file = weight_files.open_weights(bomb)
        with pytest.raises(ValueError, match="expected 917504 values"):
            file.arrays["last_linear.weight"].read()


def test_arrays_declared_larger_than_memory(tmp_path, arrays):
    wide = (1792, 10**12)
    with h5py.File(tmp_path / "wide.h5", "w") as file:
        group = file.create_group("Bottleneck/Bottleneck")
        group.create_dataset("kernel:0", wide, "f4")
    _refused(tmp_path / "wide.h5", "expected.*found .1792, 10000", tmp_path)

    import tensorflow as tf

    graph = tf.compat.v1.GraphDef()
    node = graph.node.add(name=f"{SCOPE}/Bottleneck/weights", op="Const")
    tensor = node.attr["value"].tensor
    tensor.dtype, tensor.float_val[:] = 1, [0.5]
    for size in wide:
        tensor.tensor_shape.dim.add(size=size)
    (tmp_path / "wide.pb").write_bytes(graph.SerializeToString())
    _refused(tmp_path / "wide.pb", "found .1792, 10000", tmp_path)

    source = writers.write_folder(tmp_path / "arrays", arrays)
    with (source / "Bottleneck_kernel.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": wide}
        np.lib.format.write_array_header_1_0(file, header)
    _refused(source, "Bottleneck_kernel.npy: damaged", tmp_path)


def test_arrays_of_python_objects(tmp_path, arrays):
    source = writers.write_folder(tmp_path / "arrays", arrays)
    objects = np.array([_Command(tmp_path)], dtype=object)
    np.save(source / "Bottleneck_kernel.npy", objects, allow_pickle=True)
    _refused(source, "Bottleneck_kernel.npy: damaged", tmp_path)


def test_hdf5_files_that_refer_to_other_files(tmp_path, arrays):
    other = writers.write_keras2(tmp_path / "other.h5", arrays, whole=False)
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["Bottleneck"] = h5py.ExternalLink(other.name, "/Bottleneck")
    _refused(tmp_path / "links.h5", "no weights", tmp_path)
    with h5py.File(tmp_path / "parts.h5", "w") as file:
        file.create_group("Bottleneck").create_dataset(
            "kernel:0", (1792, 512), "f4", external=str(other)
        )
    _refused(tmp_path / "parts.h5", "as Keras stores no weights", tmp_path)


def test_hdf5_groups_that_hold_themselves(tmp_path):
    with h5py.File(tmp_path / "rings.h5", "w") as file:
        group = file.create_group("Bottleneck")
        for number in range(100):
            group[f"ring_{number}"] = group
    _refused(tmp_path / "rings.h5", "no weights", tmp_path)


def test_a_checkpoint_without_part_of_its_data(tmp_path, facenet_checkpoint):
    for file in facenet_checkpoint.iterdir():
        if file.suffix == ".index":
            shutil.copy(file, tmp_path)
            data = tmp_path / f"{file.stem}.data-00000-of-00001"
    with pytest.raises(FileNotFoundError, match="weights themselves"):
        fv.load_facenet(tmp_path)
    data.write_bytes(bytes(1000))
    _refused(tmp_path, "data cut short.* 1000 bytes", tmp_path)
    data.rename(tmp_path / data.name.replace("of-00001", "of-00002"))
    _refused(tmp_path, "2 data files .* found 1", tmp_path)


OTHER = {"conv1/kernel": np.ones((3, 3, 3, 64), "f4")}


@pytest.mark.parametrize(
    "name, write",
    [
        ("other.pb", writers.write_graph),
        ("other.pt", writers.write_torch),
        ("legacy.pt", writers.write_torch_legacy),
        ("other.zip", writers.write_published_zip),
    ],
)
def test_another_network(name, write, tmp_path):
    path = write(tmp_path / name, OTHER)
    _refused(path, "Bottleneck/weights.*another network", tmp_path)


def test_another_keras_network(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["model_weights/conv1/conv1/kernel:0"] = OTHER["conv1/kernel"]
    _refused(tmp_path / "other.h5", "another network", tmp_path)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / "other.keras")
    _refused(tmp_path / "other.keras", "another network", tmp_path)
    fv.FaceVAE().save(tmp_path / "vae.keras")
    _refused(tmp_path / "vae.keras", "Keras 3.*another network", tmp_path)


def test_a_network_of_which_variables_are_missing(tmp_path):
    state = {
        "last_linear.weight": np.ones((128, 1792), "f4"),
        "last_bn.weight": np.ones(128, "f4"),
    }
    path = writers.write_torch(tmp_path / "part.pt", state)
    with pytest.raises(ValueError, match="missing: InceptionResnetV1/Conv2d"):
        fv.load_facenet(path)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "start", [b"", b"\n", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"]
)
def test_random_bytes(start, seed, tmp_path):
    path = tmp_path / "random.bin"
    path.write_bytes(start + np.random.default_rng(seed).bytes(5000))
    _refused(path, "random.bin: ", tmp_path)


@pytest.mark.parametrize("name", ["x.pt", "x.pb", "x.h5", "x.zip", "x.keras"])
def test_an_empty_file(name, tmp_path):
    (tmp_path / name).touch()
    _refused(tmp_path / name, "the file is empty", tmp_path)
