"""What the tests share: the real material where it is at hand, drawn faces."""

import gc
import pathlib

import numpy as np
import pytest

import facevae_keras as fv

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


def _shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name} in ../shared, beside the project")
    return path


@pytest.fixture(scope="session")
def celeba():
    return _shared("celeba")


@pytest.fixture(scope="session")
def celeba_wild():
    return _shared("celeba_wild")


@pytest.fixture(scope="session")
def facenet_checkpoint():
    return _shared("facenet/20180402-114759")


@pytest.fixture(scope="session")
def facenet_golden():
    return dict(np.load(_shared("golden/facenet_20180402-114759.npz")))


@pytest.fixture(scope="session")
def vae_checkpoint():
    return _shared("golden/dfc_vae") / "model.ckpt-50000"


@pytest.fixture(scope="session")
def vae_golden():
    return dict(np.load(_shared("golden/dfc_vae/outputs.npz")))


@pytest.fixture(scope="session")
def seeded_facenet():
    return fv.load_facenet("seeded")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A folder of 48 drawn faces in CelebA's layout."""
    folder = tmp_path_factory.mktemp("drawn")
    return fv.write_synthetic_dataset(folder, count=48, seed=1)


@pytest.fixture(scope="session")
def faces(drawn):
    """The first 32 of them as an array (32, 64, 64, 3), uint8."""
    paths = fv.find_images(drawn)["path"][:32]
    return np.stack([fv.read_photo(path, 64, crop=0.8) for path in paths])


@pytest.fixture(scope="module", autouse=True)
def no_garbage_of_other_modules():
    """What a module leaves is not looked through again, which takes seconds."""
    yield
    gc.collect()
    gc.freeze()
