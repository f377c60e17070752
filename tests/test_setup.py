"""The project's own files agree with each other."""

import ast
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import types

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "facevae_keras"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ADDRESS = PROJECT["urls"]["Homepage"]  # see CONTRIBUTING.md
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
TEXTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "data" / "README.md",
    ROOT / "benchmarks" / "README.md",
    PACKAGE / "pretrained" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def names_in(requirements):
    return {Requirement(line).name for line in requirements} - {"facevae-keras"}


def installed_by_make():
    """Requirements of the core and of `dev`, which names other extras."""
    (own,) = [
        Requirement(line)
        for line in EXTRAS["dev"]
        if line.startswith("facevae-keras")
    ]
    lists = [PROJECT["dependencies"], EXTRAS["dev"]]
    lists += [EXTRAS[extra] for extra in own.extras]
    lines = [line for lines in lists for line in lines]
    return [
        Requirement(line)
        for line in lines
        if not line.startswith("facevae-keras")
    ]


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_constraints_pin_every_dependency_within_its_range():
    found = pins()
    for requirement in installed_by_make():
        version = found[requirement.name.lower()]
        assert version in requirement.specifier, requirement


def test_make_installs_all_but_what_needs_a_gpu():
    installed = {requirement.name for requirement in installed_by_make()}
    for extra in set(EXTRAS) - {"gpu", "gpu-jax"}:
        assert names_in(EXTRAS[extra]) <= installed, extra
    # What the owner of the project wants there, whatever the code imports.
    assert installed >= {
        "keras",
        "tensorflow",
        "keras-cv",
        "jupyterlab",
        "matplotlib",
        "h5py",
        "pandas",
    }


def imports(path):
    """Modules that a file imports: at its top, and within functions."""
    tree = ast.parse(path.read_text())

    def modules(nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                if node.module == "facevae_keras":
                    yield from (f"{node.module}.{x.name}" for x in node.names)
                else:
                    yield node.module

    top = set(modules(tree.body))
    return top, set(modules(ast.walk(tree))) - top


def test_the_package_imports_what_it_declares_and_declares_what_it_imports():
    distributions = importlib.metadata.packages_distributions()
    distributions["dlib"] = ["dlib-bin"]  # which doesn't say so

    def distributions_of(modules):
        """Names of the distributions outside Python that have them."""
        first = {module.split(".")[0] for module in modules}
        first -= {"facevae_keras", *sys.stdlib_module_names}
        return {
            canonicalize_name(distributions.get(name, [name])[0])
            for name in first
        }

    found = [imports(path) for path in PACKAGE.rglob("*.py")]
    top = distributions_of(set().union(*(top for top, _ in found)))
    inside = distributions_of(set().union(*(inside for _, inside in found)))
    core = names_in(PROJECT["dependencies"])
    assert top <= core
    extras = {name for lines in EXTRAS.values() for name in names_in(lines)}
    assert inside <= core | extras | {"jax", "torch"}
    assert core <= top | inside


def test_the_install_without_tensorflow_lists_all_the_rest():
    text = (ROOT / "docs" / "hardware.md").read_text().replace("\\\n", " ")
    (packages,) = re.findall(r"pip install ([a-z].*) jax$", text, re.MULTILINE)
    core = names_in(PROJECT["dependencies"])
    assert set(packages.split()) == core - {"tensorflow"}


def rooms():
    """The rooms of the package, lowest first, as CONTRIBUTING.md lists them."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(r"^\| `(\w+)(?:\.py|/)` \|", text, re.MULTILINE)


def test_rooms_import_downwards_only():
    order = rooms()
    assert len(order) == len(set(order))
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "__init__.py":
            continue
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert room in order, f"{room} is not in CONTRIBUTING.md's table"
        for module in set().union(*imports(path)):
            package, _, name = module.partition(".")
            if package != "facevae_keras":
                continue
            imported = name.split(".")[0]
            assert imported in order, f"{path} imports {module}"
            height = order.index(room) - order.index(imported)
            assert height > 0 or room == imported == "weights", (
                f"{path} imports {module}, which is not below {room}"
            )


def test_conda_environment_refers_to_pyproject_and_constraints():
    text = (ROOT / "environment.yml").read_text()
    assert "--editable .[dev]" in text
    assert "--constraint constraints.txt" in text
    assert f"python{PROJECT['requires-python']}" in text
    # One list of dependencies: no package of it is named here again.
    for requirement in installed_by_make():
        assert f"- {requirement.name}" not in text


@pytest.mark.parametrize("status", [0, 2])
def test_ci_runs_the_readmes_test_command(status, tmp_path):
    """With and without a browser to install, and it fails as the tests do."""
    programs = {
        "id": "echo 0",
        "apt-get": "exit 100",
        "make": f"echo make $* >> {tmp_path}/log; pwd >> {tmp_path}/log; "
        f"exit {status}",
    }
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    (tmp_path / "bash").symlink_to("/bin/bash")
    result = subprocess.run(
        [ROOT / ".ci" / "run"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == status
    assert "Chromium could not be installed" in result.stderr
    log = (tmp_path / "log").read_text().splitlines()
    assert log == ["make test", str(ROOT)]
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_workflow_runs_on_every_python_that_is_declared():
    path = ROOT / ".github" / "workflows" / "tests.yml"
    jobs = yaml.safe_load(path.read_text())["jobs"]
    versions = jobs["fast"]["strategy"]["matrix"]["python-version"]
    prefix = "Programming Language :: Python :: "
    declared = [
        line.removeprefix(prefix)
        for line in PROJECT["classifiers"]
        if line.startswith(prefix)
    ]
    assert versions == declared
    assert PROJECT["requires-python"] == f">={versions[0]}"
    commands = [
        step["run"]
        for job in jobs.values()
        for step in job["steps"]
        if "run" in step
    ]
    assert {"ruff check", "make test-fast", ".ci/run"} <= set(commands)


def test_the_readmes_cards_have_the_notebooks_minutes():
    cards = re.findall(r": (\d+) minutes", (ROOT / "README.md").read_text())
    numbers = {"ten": "10"}
    for path, card in zip(NOTEBOOKS, cards, strict=True):
        opening = nbformat.read(path, as_version=4).cells[0].source
        (minutes,) = re.findall(r"(\w+) minutes of reading", opening)
        assert numbers.get(minutes, minutes) == card, path


def test_make_does_what_it_says():
    """`make test` checks the style first; `make test-fast` runs a part."""

    def dry_run(target):
        return subprocess.run(
            [
                *("make", "--dry-run", "--no-print-directory"),
                *("--assume-old=.venv/installed", target),
            ],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    lint = ".venv/bin/ruff check\n.venv/bin/ruff format --check\n"
    assert dry_run("lint") == lint
    assert dry_run("test") == f"{lint}.venv/bin/python -m pytest\n"
    assert "not slow and not exhaustive" in dry_run("test-fast")
    # JupyterLab runs notebooks in their folder: one `build` for both.
    tutorial = dry_run("tutorial")
    assert "papermill --cwd notebooks " in tutorial
    assert all(str(path.relative_to(ROOT)) in tutorial for path in NOTEBOOKS)


def test_version_is_one():
    import facevae_keras as fv

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == fv.__version__
    assert f"## {fv.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert citation["repository-code"] == ADDRESS


@pytest.mark.parametrize(
    "path", TEXTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_somewhere(path):
    text = path.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    links += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for link in links:
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, section = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if section:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
            anchors = {
                re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
                for heading in headings
            }
            assert section in anchors, link


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
    pictures = [
        output
        for output in outputs
        if {"image/png", "image/jpeg"} & output.get("data", {}).keys()
    ]
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
    picture = re.search(r"!\[.+\]\((images/.+?\.(?:png|jpg|webp|svg))\)", first)
    assert (path.parent / picture.group(1)).exists()
    text = "\n".join(
        cell.source for cell in notebook.cells if cell.cell_type == "markdown"
    )
    for heading in ("## Summary", "## Exercises", "## What to try next"):
        assert heading in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_open_in_colab_and_install_the_package_there(
    path, monkeypatch
):
    cells = nbformat.read(path, as_version=4).cells
    badge = (
        "[![Open in Colab](https://colab.research.google.com/assets/"
        f"colab-badge.svg)](https://colab.research.google.com/github/"
        f"{ADDRESS.removeprefix('https://github.com/')}/blob/main/"
        f"{path.relative_to(ROOT)})"
    )
    assert badge in cells[0].source
    first = next(cell for cell in cells if cell.cell_type == "code")
    program = TransformerManager().transform_cell(first.source)
    installed = []
    shell = types.SimpleNamespace(
        run_line_magic=lambda name, line: installed.append(f"{name} {line}")
    )
    names = {"get_ipython": lambda: shell}
    exec(program, dict(names))
    assert not installed
    monkeypatch.setitem(sys.modules, "facevae_keras", None)  # as if absent
    exec(program, dict(names))
    (command,) = installed
    assert command.startswith("pip install ")
    assert f"git+{ADDRESS}" in command


@pytest.mark.parametrize(
    "path", [*TEXTS, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_name_in_the_texts_exists(path):
    """Names of the package, targets of make, files of this project."""
    import facevae_keras as fv

    text = path.read_text()
    names = set(re.findall(r"\bfv\.(\w+)", text))
    assert names - set(dir(fv)) <= {"__file__"}
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.M)) <= targets
    folders = "recipes|benchmarks|tests|docs|notebooks|facevae_keras"
    for file in re.findall(rf"\b((?:{folders})/[\w/]+\.\w+)", text):
        assert (ROOT / file).exists(), file


def parameters(notebook):
    """Names in the cell of a notebook that papermill writes below."""
    (cell,) = [
        cell.source
        for cell in nbformat.read(notebook, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    return set(re.findall(r"^(\w+) =", cell, re.MULTILINE))


def test_commands_set_parameters_that_exist():
    commands = []
    for path in TEXTS:
        text = path.read_text().replace("\\\n", " ")
        commands += re.findall(
            r"papermill (.*?)(notebooks/\S+\.ipynb)(.*)", text
        )
    assert len(commands) >= 4
    for before, notebook, after in commands:
        names = set(re.findall(r"-p (\w+)", before + after))
        assert names <= parameters(ROOT / notebook)


def test_a_text_names_every_recipe():
    texts = "".join(path.read_text() for path in TEXTS)
    for path in (ROOT / "recipes").iterdir():
        assert path.stem in texts, path
