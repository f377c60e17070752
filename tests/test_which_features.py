"""The table of notebook 05 is complete, and every row says how to make it."""

import pathlib
import runpy

import matplotlib.pyplot as plt
import pandas as pd

ROOT = pathlib.Path(__file__).resolve().parents[1]
DATA = ROOT / "data"


def test_every_row_has_every_figure_its_command_and_its_picture(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "recipes")
    script = runpy.run_path(str(ROOT / "recipes" / "which_features.py"))
    table = pd.read_csv(DATA / "which_features.csv")
    assert list(table["row"]) == list(script["ROWS"])
    assert not table.isna().any(axis=None)
    for _, row in table.iterrows():
        assert row["command"].endswith(f'"{row["row"]}"')
        picture = plt.imread(DATA / "which_features" / row["picture"])
        assert picture.shape[1] > 3.9 * picture.shape[0]  # two rows of eight
