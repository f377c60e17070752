"""Files that are written whole, and the files that ship with the package."""

import contextlib
import hashlib
import os
import pathlib
import platform

import psutil

# Of an unfinished file; the number of the process that writes it follows.
_PREFIX = f"unfinished_{platform.node()}_"
_PRETRAINED = pathlib.Path(__file__).parent / "pretrained"


@contextlib.contextmanager
def written_whole(path):
    """Lets a file be written beside its place, and moves it there at the end.

    Args:
        path: the file; its folder is made if it isn't there.

    Yields:
        The path to write to, with the same suffix. If that fails, it is
        removed, and what was at `path` stays.

    Raises:
        OSError: it can't be written, because the disk is full for example;
            names the file.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{_PREFIX}{os.getpid()}_{path.name}")
    try:
        yield unfinished
        with open(unfinished, "rb+") as file:
            if file.seek(0, os.SEEK_END) > 2**20:  # too slow for many photos
                os.fsync(file.fileno())  # the bytes come before the name
        os.replace(unfinished, path)
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(f"{path}: could not be written ({error})") from error
    finally:
        unfinished.unlink(missing_ok=True)


def remove_leftovers(folder):
    """Removes unfinished files of processes that were killed.

    Args:
        folder: `pathlib.Path` of the folder; nothing happens if there is none.
    """
    for file in folder.glob(f"{_PREFIX}*"):
        process = file.name.removeprefix(_PREFIX).split("_")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def clear_errors(source):
    """Turns any error of reading a file into one that names the file.

    Args:
        source: the file, as the user named it.

    Raises:
        ValueError: for any error that a damaged file causes in a reader.
        OSError: as it came where it names a file: missing, no permission.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(f"{source}: damaged ({error})") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    except Exception as error:
        # Readers of damaged files fail in too many ways to list them.
        raise ValueError(
            f"{source}: damaged ({type(error).__name__}: {error})"
        ) from error


def pretrained_file(name):
    """The path of a file that ships with the package.

    Args:
        name: file name, such as `"celeba_dfc_vae.keras"`.

    Returns:
        Its `pathlib.Path`, whether or not there is such a file.
    """
    return _PRETRAINED / name


def is_as_shipped(path):
    """Compares a file with the checksums of what ships, `SHA256SUMS`.

    Args:
        path: `pathlib.Path` of the file.

    Returns:
        Whether it is one of those that ship, wherever it lies.

    Raises:
        ValueError: it lies among those that ship, and has changed.
    """
    lines = pretrained_file("SHA256SUMS").read_text().splitlines()
    checksums = {name: digest for digest, name in map(str.split, lines)}
    if path.name not in checksums:
        return False
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == checksums[path.name]:
        return True
    if path.parent == _PRETRAINED:
        raise ValueError("not as it ships (SHA256SUMS): install facevae again")
    return False


def find_pretrained(source, suffix):
    """Turns the name of something that ships into the path of its file.

    Args:
        source: a name, such as `"celeba_dfc_vae"`, or a path.
        suffix: of the files that ship, such as `".keras"`.

    Returns:
        `pathlib.Path`: of the file that ships, if there is one of that name
        and no file of just that name in the current folder; else the path.

    Raises:
        FileNotFoundError: a bare name of nothing; lists the names that ship.
    """
    path = pathlib.Path(source)
    is_name = str(source) == path.stem
    shipped = pretrained_file(f"{source}{suffix}")
    if is_name and shipped.is_file() and not path.is_file():
        return shipped
    if not is_name or list(path.parent.glob(f"{path.name}*")):
        return path
    names = sorted(file.stem for file in _PRETRAINED.glob("*.h5"))
    raise FileNotFoundError(
        f"{source}: no such file or folder here, and not one of the VAEs that "
        f"ship: {', '.join(names)}"
    )
