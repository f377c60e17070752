"""The project's own files agree with each other."""

import pathlib
import re
import tomllib

import nbformat
import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))


def requirements():
    extras = PROJECT["optional-dependencies"]
    names = PROJECT["dependencies"] + extras["dev"]
    return [Requirement(name) for name in names]


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_constraints_pin_every_dependency_within_its_range():
    found = pins()
    for requirement in requirements():
        version = found[requirement.name.lower()]
        assert version in requirement.specifier, requirement


def test_conda_environment_refers_to_pyproject_and_constraints():
    text = (ROOT / "environment.yml").read_text()
    assert "--editable .[dev]" in text
    assert "--constraint constraints.txt" in text
    assert f"python{PROJECT['requires-python']}" in text
    # One list of dependencies: no package of it is named here again.
    for requirement in requirements():
        assert f"- {requirement.name}" not in text


def test_ci_runs_the_readmes_test_command_and_nothing_else():
    commands = [
        line
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
        if line and not line.startswith(("#", "set ", "cd "))
    ]
    assert commands == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text()


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS][:4] == [
        "00_meet_the_faces",
        "01_train_a_vae",
        "02_attribute_vectors",
        "03_add_a_smile",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_notebooks_are_one_clean_run(path):
    assert path.stat().st_size < 2 * 2**20
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1))
    tagged = [
        cell for cell in code if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(tagged) == 1
    outputs = [output for cell in code for output in cell.outputs]
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    assert pictures
    for output in outputs:
        assert output.output_type != "error"
        text = output.get("text", "") + output.get("data", {}).get(
            "text/plain", ""
        )
        assert output.get("name") != "stderr", text
        assert not re.search(r"Warning|Traceback|\r|\x08", text), text
        assert not re.search(r"(?:^|[\s'\"(])/(?:[\w.-]+/){2,}", text), text
    assert "widgets" not in notebook.metadata


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_open_with_a_picture_and_close_with_exercises(path):
    notebook = nbformat.read(path, as_version=4)
    first = notebook.cells[0].source
    picture = re.search(r"!\[.+\]\((images/.+?\.(?:png|jpg))\)", first)
    assert (path.parent / picture.group(1)).exists()
    text = "\n".join(
        cell.source for cell in notebook.cells if cell.cell_type == "markdown"
    )
    for heading in ("## Summary", "## Exercises", "## What to try next"):
        assert heading in text


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *NOTEBOOKS], ids=lambda path: path.stem
)
def test_every_public_name_in_the_texts_exists(path):
    import facevae_keras as fv

    names = set(re.findall(r"\bfv\.(\w+)", path.read_text()))
    assert names - set(dir(fv)) <= {"__file__"}


def test_the_readme_maps_to_parameters_that_exist():
    """Every parameter of the headless commands is in its notebook's cell."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"papermill (notebooks/\S+\.ipynb)(.*)", text)
    assert len(commands) >= 4
    for notebook, options in commands:
        (cell,) = [
            cell.source
            for cell in nbformat.read(ROOT / notebook, as_version=4).cells
            if "parameters" in cell.metadata.get("tags", [])
        ]
        known = set(re.findall(r"^(\w+) =", cell, re.MULTILINE))
        assert set(re.findall(r"-p (\w+)", options)) <= known
