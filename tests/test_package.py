"""The package as others install it: from a wheel, far from the checkout."""

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import matplotlib.pyplot as plt
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import facevae_keras as fv

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[1]

PROGRAM = """
import importlib.machinery, os, socket, sys

sys.path.insert(0, os.environ["SITE"])
# As if nothing were installed but the package and what it depends on.
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = lambda name, *place: (
    None if name in os.environ["ABSENT"].split() else find(name, *place)
)


def refuse(*arguments):
    raise OSError("offline")


socket.socket.connect = refuse
exec(compile(sys.stdin.read(), "README.md", "exec"))
assert fv.__file__.startswith(os.environ["SITE"]), fv.__file__
print(fv.__version__)
"""


def python_blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)


def absent_packages():
    """What a fresh environment with the core's dependencies would not have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    queue = [Requirement(line).name for line in project["dependencies"]]
    present = set()
    while queue:
        name = canonicalize_name(queue.pop())
        if name in present:
            continue
        present.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for other systems
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": ""}):
                queue.append(requirement.name)
    return {
        module
        for module, names in importlib.metadata.packages_distributions().items()
        if not present & {canonicalize_name(name) for name in names}
    } - {"facevae_keras"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    shutil.copytree(
        ROOT / "facevae_keras",
        sources / "facevae_keras",
        ignore=shutil.ignore_patterns("__pycache__", "unfinished_*"),
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", sources, "--wheel-dir", folder]
        + ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"],
        check=True,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist()}
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "facevae_keras").rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not path.name.startswith("unfinished_")
    }
    about = f"facevae_keras-{fv.__version__}.dist-info/"
    others = {name for name in files if not name.startswith(about)}
    assert others == sources
    assert f"{about}licenses/LICENSE" in files
    assert wheel.stat().st_size < 41e6


def test_the_readmes_first_lines_run_offline_from_the_wheel(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", wheel, "--target", site]
        + ["--no-deps", "--no-index", "--quiet"],
        check=True,
    )
    elsewhere.mkdir()
    absent = absent_packages()
    assert {"jupyterlab", "papermill", "keras_cv", "jax"} <= absent
    assert not absent & {"keras", "tensorflow", "numpy", "PIL", "sklearn"}
    result = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM],
        input=python_blocks(ROOT / "README.md")[0],
        cwd=elsewhere,
        env={**os.environ, "SITE": str(site), "ABSENT": " ".join(absent)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == fv.__version__
    (picture,) = elsewhere.iterdir()
    # Faces in rows of one person each, who changes from left to right.
    rows = plt.imread(picture)[..., :3]
    assert rows.shape[0] > 64 and rows.shape[1] > 64
    assert rows.std() > 0.1


# Sizes of the documents' programs, and those that they are tested with.
SMALLER = {
    "count=5000": "count=150",
    "steps_per_epoch=200": "steps_per_epoch=5",
}
PROGRAMS = [
    (path, number)
    for path in sorted((ROOT / "docs").glob("*.md"))
    for number in range(len(python_blocks(path)))
]


def test_the_readme_has_one_program():
    assert len(python_blocks(ROOT / "README.md")) == 1
    assert PROGRAMS


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "path, number", PROGRAMS, ids=lambda value: getattr(value, "stem", value)
)
def test_every_program_of_the_documents_runs(
    path, number, tmp_path, monkeypatch
):
    program = python_blocks(path)[number]
    for size, smaller in SMALLER.items():
        program = program.replace(size, smaller)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, f"{path.name}, program {number}", "exec"), {})
    assert list(tmp_path.glob("*.png"))
