"""Tries an HDF5 file out in a process of its own, before it is read here.

The HDF5 library runs for ever on some damaged files, cannot be interrupted
then, and believes what a file says about its sizes. So another process, with
limits on its time and memory, reads everything first. It runs this file as a
program: the package itself takes seconds to import.
"""

import os
import pathlib
import subprocess
import sys

# Unpacked by packed bytes: 2 for latent variables, 20 for the few labels.
_LARGEST_RATIO = 10
_ALWAYS_ALLOWED = 2**26
_MOST_OBJECTS = 20_000
_SECONDS = 2  # of processor time, and one more for each 20 MB


def check_hdf5(file, strict=True):
    """Raises an error if an HDF5 file is not safe to read.

    Args:
        file: path of the file, or its content as bytes.
        strict: whether to refuse what no file of latent variables holds:
            links, data in other files, compound types, filters of other
            libraries, more data than a file of this size has. False: this is
            left alone, for a reader that does so, too.

    Raises:
        ValueError: it is damaged, or takes too much time or memory.
    """
    content = file if isinstance(file, bytes) else None
    command = [sys.executable, "-P", __file__]
    command.append("-" if content is not None else str(file))
    command.append("strict" if strict else "lenient")
    try:
        found = subprocess.run(
            command,
            input=content,
            stdin=None if content is not None else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=120,  # the limit where the system has none of its own
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        found = None
    if found is None or found.returncode < 0:  # ended by a signal
        raise ValueError("a damaged HDF5 file: reading it takes for ever")
    if found.returncode:
        lines = found.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(lines[-1] if lines else "a damaged HDF5 file")


def _limit_resources(size):
    try:
        import resource
    except ImportError:  # Windows
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime + _SECONDS + size / 20e6
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    memory = 2 * _most_bytes(size) + 2**28
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def _most_bytes(size):
    return _ALWAYS_ALLOWED + _LARGEST_RATIO * size


def _read_all(file, most_bytes, strict):
    import h5py

    waiting, seen = [file], set()
    while waiting:
        item = waiting.pop()
        dict(item.attrs)
        if isinstance(item, h5py.Dataset):
            size = item.size * item.dtype.itemsize
            problem = _problem(item, size > most_bytes)
            if problem and strict:
                raise ValueError(f"{item.name}: {problem}")
            if not problem:
                most_bytes -= size
                item[()]
            continue
        for name in item:
            if not isinstance(item.get(name, getlink=True), h5py.HardLink):
                if strict:
                    raise ValueError(f"{name}: a link, expected data")
                continue
            child = item[name]
            address = h5py.h5o.get_info(child.id).addr
            if address not in seen:  # a group may be linked into itself
                seen.add(address)
                waiting.append(child)
        if len(seen) > _MOST_OBJECTS:
            raise ValueError("more objects than any such file has")


def _problem(dataset, too_large):
    import h5py

    if dataset.external or dataset.is_virtual:
        return "its data lie in other files"
    if too_large:
        return (
            f"declared as {dataset.shape} {dataset.dtype}, more than a file of "
            "this size holds"
        )
    text = h5py.check_string_dtype(dataset.dtype)
    if text is None and dataset.dtype.kind not in "fiu":
        return f"{dataset.dtype}, expected numbers or text"
    created = dataset.id.get_create_plist()
    filters = {created.get_filter(i)[0] for i in range(created.get_nfilters())}
    known = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}
    if not filters <= known | {h5py.h5z.FILTER_FLETCHER32}:
        return "compressed in an unknown way"
    return None


def _main(name, strictness):
    import io

    import h5py

    if name == "-":
        content = sys.stdin.buffer.read()
        source, size = io.BytesIO(content), len(content)
    else:
        source, size = name, pathlib.Path(name).stat().st_size
    _limit_resources(size)
    with h5py.File(source, "r") as file:
        _read_all(file, _most_bytes(size), strictness == "strict")


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except BaseException as error:
        sys.exit(f"not an HDF5 file, or damaged ({error})")
