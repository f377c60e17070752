"""What git keeps of executed notebooks."""

import pathlib
import subprocess
import sys

import nbformat

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"


def test_stored_notebooks_hold_no_widgets():
    """GitHub shows none with the state of widgets, Jupyter none without."""
    stored = [*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("solutions/*.ipynb")]
    for path in stored:
        assert "widgets" not in nbformat.read(path, as_version=4).metadata
        assert WIDGET not in path.read_text(encoding="utf-8"), path.name


def test_what_is_stored_of_a_run(tmp_path):
    cell = nbformat.v4.new_code_cell(
        "1", metadata={"tags": ["a"], "alt": "b", "papermill": {"status": "c"}}
    )
    cell.outputs = [
        nbformat.v4.new_output(
            "display_data", {WIDGET: {"model_id": "1"}, "image/png": "iVBOR"}
        ),
        nbformat.v4.new_output("stream", text="2"),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata = {
        "kernelspec": {"name": "p", "display_name": "P"},
        "widgets": {"state": {}},
        "papermill": {"duration": 1},
    }
    nbformat.write(notebook, tmp_path / "a.ipynb")
    (tmp_path / "stored").mkdir()
    program = NOTEBOOKS.parent / "recipes" / "store_notebooks.py"
    subprocess.run(
        [sys.executable, program, tmp_path / "a.ipynb", tmp_path / "stored"],
        check=True,
    )
    found = nbformat.read(tmp_path / "stored" / "a.ipynb", as_version=4)
    assert found.metadata == {"kernelspec": notebook.metadata["kernelspec"]}
    assert found.cells[0].metadata == {"tags": ["a"], "alt": "b"}
    assert found.cells[0].outputs[0].data == {"image/png": "iVBOR"}
    assert found.cells[0].outputs[1].text == "2"
