"""Recipes set parameters that notebook 01 has, to values of their kind."""

import pathlib

import nbformat
import pytest
import yaml
from papermill.translators import PythonTranslator

import facevae_keras as fv

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def read(path):
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def own_parameters():
    """The cell of notebook 01 that is tagged `parameters`."""
    notebook = nbformat.read(ROOT / "notebooks/01_train_a_vae.ipynb", 4)
    (cell,) = [
        cell.source
        for cell in notebook.cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    return cell


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_sets_parameters_of_notebook_01(
    path, own_parameters, tmp_path
):
    recipe = read(path)
    folders = {"data_dir": str(tmp_path), "run_dir": str(tmp_path)}
    inserted = PythonTranslator.codify({**recipe, **folders})
    found = fv.check_parameters([own_parameters, inserted])
    assert found.keys() >= recipe.keys()
    layers = found["layers"].split(",")
    if "layer_weights" in recipe and "layers" not in recipe:
        layers = read(ROOT / "recipes/celeba.yaml")["layers"].split(",")
    weights = found["layer_weights"].removeprefix("equal").strip(",")
    assert not weights or len(weights.split(",")) == len(layers)
    assert set(layers) <= {"pixels", *fv.ENDPOINTS}


def test_the_gpu_recipe_is_the_wikis_and_two_parameters():
    wiki = read(ROOT / "recipes/wiki.yaml")
    gpu = read(ROOT / "recipes/wiki_gpu.yaml")
    speed = gpu.keys() - wiki.keys()
    assert speed == {"steps_per_launch", "precision"}
    assert {name: gpu[name] for name in wiki} == wiki


def test_the_recipes_of_what_ships_are_one_chain():
    """Each training starts from what the one before leaves."""
    for path in RECIPES:
        recipe = read(path)
        if path.stem.startswith("celeba_dfc_vae"):
            assert recipe["run_dir"] == f"run/{path.stem}"
        if recipe.get("vae", "").endswith("vae.keras"):
            before = pathlib.Path(recipe["vae"]).parent.name
            assert (ROOT / f"recipes/{before}.yaml").exists()
