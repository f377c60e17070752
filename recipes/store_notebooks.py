"""Copies executed notebooks to where they are stored: what git should keep.

    python recipes/store_notebooks.py build/0*.ipynb notebooks

Left out are times and parameters of papermill, which differ from run to run,
what TensorFlow prints about the machine when it starts, and the state of
widgets. A widget that is stored without its state can't be shown, so the
picture beside it takes its place. Large pictures are stored as JPEG, in about a
fifth of the space.
"""

import base64
import io
import pathlib
import re
import sys

import nbformat
from PIL import Image

LARGE = 120_000  # bytes of a picture
WIDGET = "application/vnd.jupyter.widget-view+json"


def stored(notebook):
    """The notebook as it is to be stored.

    Args:
        notebook: an executed `nbformat.NotebookNode`; it is changed.
    """
    kept = "kernelspec", "language_info"
    notebook.metadata = {
        key: value for key, value in notebook.metadata.items() if key in kept
    }
    for cell in notebook.cells:
        cell.metadata = {
            key: value
            for key, value in cell.metadata.items()
            if key in ("tags", "alt", "jupyter")
        }
        if cell.cell_type == "code":
            cell.outputs = [x for x in cell.outputs if not _at_start(x)]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(WIDGET, None)
            if len(data.get("image/png", "")) > LARGE:
                data["image/jpeg"] = _as_jpeg(data.pop("image/png"))
    return notebook


def _as_jpeg(png):
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    file = io.BytesIO()
    # Color at full resolution: lips are few pixels.
    picture.save(file, "JPEG", quality=88, subsampling=0, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _at_start(output):
    """Whether an output is nothing but TensorFlow's lines about the machine."""
    lines = output.get("text", "").splitlines()
    return output.get("name") == "stderr" and all(
        re.match(
            r"[WIE]0000 |WARNING: All log messages before absl|To enable", x
        )
        for x in lines
    )


def main():
    *sources, target = map(pathlib.Path, sys.argv[1:])
    for source in sources:
        notebook = stored(nbformat.read(source, as_version=4))
        nbformat.write(notebook, target / source.name)


if __name__ == "__main__":
    main()
