"""Writing a file so that a stopped program never leaves half of it."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def written_whole(path):
    """Lets a file be written beside its place, and moves it there at the end.

    Args:
        path: the file; its folder is made if it isn't there.

    Yields:
        The path to write to, with the same suffix. If that fails, it is
        removed, and what was at `path` stays.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished_{os.getpid()}_{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
