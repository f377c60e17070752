"""Published weights by name: downloaded once, and checked ever after."""

import hashlib
import http.client
import os
import pathlib
import urllib.request

import keras

from facevae_keras.files import remove_leftovers, written_whole
from facevae_keras.weights.open import open_weights

_RELEASE = "https://github.com/timesler/facenet-pytorch/releases/download"

PUBLISHED = {
    "20180402-114759": f"{_RELEASE}/v2.2.9/20180402-114759-vggface2.pt",
    "20180408-102900": f"{_RELEASE}/v2.2.9/20180408-102900-casia-webface.pt",
}

_TIMEOUT = 30  # seconds without an answer
_LARGEST = 2**30  # bytes; FaceNet takes 110 million

# The wiki's model, for which there is no address that a program can fetch.
_BY_HAND = {
    "20170512-110547": (
        "https://drive.google.com/file/d/0B5MzpY9kBtDVZ2RpVDYwWmxoSUk"
    ),
}


def find_published(source):
    """Turns the name of published weights into a file, downloaded if need be.

    Args:
        source: a name in `PUBLISHED`, or anything else, which is returned as
            it is; so is a name if a file or folder of that name is there.

    Returns:
        The path of the weights.

    Raises:
        FileNotFoundError: a model that only a browser can fetch; says where
            it is and what to pass instead.
        OSError: the download failed; says where to put the file.
        ValueError: the file is not the one it was at first use.
    """
    name = str(source)
    if pathlib.Path(name).exists():
        return source
    if name in _BY_HAND:
        raise FileNotFoundError(
            f"{name} can't be downloaded by a program. Fetch {name}.zip in a "
            f"browser from {_BY_HAND[name]} and pass its path: "
            f'load_facenet("{name}.zip")'
        )
    if name in PUBLISHED:
        return fetch(PUBLISHED[name], cache_folder())
    return source


def cache_folder():
    """The folder for downloaded weights, in Keras' own cache.

    Returns:
        `pathlib.Path`: `~/.keras/facenet`, or below `$KERAS_HOME` if set.
    """
    home = os.environ.get("KERAS_HOME", "~/.keras")
    return pathlib.Path(home).expanduser() / "facenet"


def fetch(address, folder):
    """Downloads a file of weights once, and checks it at every use.

    Where the connection breaks, it is taken up again at the same byte. The
    file gets its name only when it is whole, so that what a stopped download
    left is never used. The publishers state no checksums, so its SHA-256 is
    written beside it at first use and compared afterwards.

    Args:
        address: URL of the file.
        folder: `pathlib.Path` of the folder to keep it in.

    Returns:
        The path of the file.

    Raises:
        OSError: the download failed; names the file, the address and the
            folder to put it in by hand.
        ValueError: the checksum is not the one of the first use.
    """
    path = folder / address.rsplit("/", 1)[-1]
    remove_leftovers(folder)
    if not path.exists():
        _download(address, path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    record = path.with_name(path.name + ".sha256")
    if not record.exists():
        with written_whole(record) as unfinished:
            unfinished.write_text(found + "\n")
    recorded = record.read_text().strip()
    if found != recorded:
        raise ValueError(
            f"{path}: SHA-256 is {found}, at its first use it was {recorded}. "
            f"Delete the file to download it again; if you changed it "
            f"yourself, delete {record.name} beside it"
        )
    return path


def _download(address, path):
    try:
        with written_whole(path) as unfinished:
            _receive(address, unfinished)
            # A server that does not tell the length may stop at any byte.
            open_weights(unfinished)
    except Exception as error:
        raise OSError(
            f"could not download {path.name} ({error}). Fetch {address} in "
            f"another way and put it into {path.parent}, under that name"
        ) from error


def _receive(address, path):
    """Writes what is at an address to a file; goes on where it breaks off."""
    print(f"downloading {address}")
    received = 0
    while True:
        with open(path, "ab") as file:
            try:
                return _receive_rest(address, file)
            except (OSError, http.client.HTTPException):
                if file.tell() <= received:
                    raise  # not a byte more than at the last try
                received = file.tell()


def _receive_rest(address, file):
    request = urllib.request.Request(address)
    if file.tell():
        request.add_header("Range", f"bytes={file.tell()}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            file.truncate(0)  # a server that begins anew
        rest = answer.length  # None where it isn't told
        whole = None if rest is None else file.tell() + rest
        progress = keras.utils.Progbar(whole, unit_name="byte")
        while block := answer.read(2**20):
            file.write(block)
            progress.update(file.tell())
            if file.tell() > _LARGEST:
                raise ValueError(f"more than {_LARGEST:,} bytes")
        if whole is not None and file.tell() < whole:
            raise OSError(f"{file.tell():,} of {whole:,} bytes came")
