"""The check of an exercise passes with its solution, and finds a mistake."""

import pathlib

import nbformat
import papermill
import pytest

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
SOLUTIONS = sorted((NOTEBOOKS / "solutions").glob("0*.ipynb"))


def code(path):
    notebook = nbformat.read(path, as_version=4)
    return [c.source for c in notebook.cells if c.cell_type == "code"]


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_have_the_checks_of_the_exercises(path):
    """A check is folded in JupyterLab, since it contains a solution."""
    notebook = nbformat.read(NOTEBOOKS / path.name, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    exercises = [
        after
        for before, after in zip(cells, cells[1:], strict=False)
        if "answer = None" in before.source
    ]
    assert exercises
    for exercise in exercises:
        check = exercise.source
        assert exercise.metadata["jupyter"] == {"source_hidden": True}
        assert "fv.check_answer(answer" in check
        (solution,) = [cell for cell in code(path) if check in cell]
        assert "answer = None" not in solution


@pytest.mark.slow
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_checks_pass_with_the_solutions_and_find_the_mistakes(path, tmp_path):
    result = tmp_path / path.name
    quick = {
        "drawn_faces": 500,
        "evaluator_faces": 500,
        "evaluator_epochs": 2,
        "run_dir": "build",
    }
    known = papermill.inspect_notebook(path)
    papermill.execute_notebook(
        path,
        result,
        parameters={name: quick[name] for name in quick if name in known},
        cwd=tmp_path,
        progress_bar=False,
    )
    for cell in nbformat.read(result, as_version=4).cells:
        if cell.cell_type != "code" or "fv.check_answer(" not in cell.source:
            continue
        text = "".join(output.get("text", "") for output in cell.outputs)
        # A cell with a solution defines `answer`, a cell with a mistake not.
        if "answer = " in cell.source:
            # A guess may be off with the few faces here; its line comes first.
            lines = [line for line in text.splitlines() if "expected" in line]
            checked = cell.source.count("fv.check_answer(answer")
            assert checked
            assert all(": correct" in line for line in lines[-checked:]), text
        else:
            assert ": not correct yet" in text
            assert ": correct" not in text
