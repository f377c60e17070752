"""A check that papermill lacks: parameters that a notebook does not have."""

import ast


def check_parameters(cells):
    """Raises an error if papermill was given a parameter of unknown name.

    `papermill notebook.ipynb out.ipynb -p stepz 500` inserts a cell
    `# Parameters` that sets `stepz` after the notebook's own parameters, and
    trains with the default of `steps`. This looks for names in that cell that
    the cell before it does not set. In JupyterLab, where papermill inserts
    nothing, it does nothing.

    Args:
        cells: the sources of the cells run so far: IPython's own list `In`.

    Raises:
        NameError: a parameter that the notebook does not have; names those
            that it has.

    Example:

    >>> fv.check_parameters(In)
    """
    for own, inserted in zip(cells, cells[1:], strict=False):
        if not inserted.startswith("# Parameters\n"):
            continue
        known = _assigned_names(own)
        unknown = _assigned_names(inserted) - known
        if unknown:
            raise NameError(
                f"this notebook has no parameter {', '.join(sorted(unknown))}; "
                f"it has {', '.join(sorted(known))}"
            )


def _assigned_names(cell):
    return {
        node.id
        for node in ast.walk(ast.parse(cell))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
