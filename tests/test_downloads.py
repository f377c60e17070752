"""Weights by name, from a server on this machine."""

import http.server
import os
import subprocess
import threading
import time

import numpy as np
import pytest
import weight_writers as writers

import facevae_keras as fv
from facevae_keras import files
from facevae_keras.weights import downloads

NAME = "20180402-114759"
FILE = "20180402-114759-vggface2.pt"


class _Server(http.server.ThreadingHTTPServer):
    """Serves `content`, or as much of it as `sent` says."""

    content, sent, tell_length, requests = b"", None, True, 0
    ranges, silent = False, False


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        content, wanted = self.server.content, self.headers.get("Range")
        if self.server.ranges and wanted:
            self.send_response(206)
            content = content[int(wanted.strip("bytes=-")) :]
        else:
            self.send_response(200)
        if self.server.tell_length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.silent:
            time.sleep(1)
        self.wfile.write(content[: self.server.sent])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "facenet"


@pytest.fixture
def server(cache, monkeypatch):
    with _Server(("127.0.0.1", 0), _Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}/{FILE}"
        monkeypatch.setitem(downloads.PUBLISHED, NAME, address)
        server.content = _content(cache.parent, 0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _content(folder, value):
    state = {"conv2d_1a.conv.weight": np.full((32, 3, 3, 3), value, "f4")}
    return writers.write_torch_legacy(folder / "served.pt", state).read_bytes()


def test_a_file_is_downloaded_once_and_recorded(server, cache, capsys):
    path = downloads.find_published(NAME)
    assert path == cache / FILE and path.read_bytes() == server.content
    assert server.content and "━" in capsys.readouterr().out  # progress bar
    again = downloads.find_published(NAME)
    assert again == path and server.requests == 1
    names = {file.name for file in cache.iterdir()}
    assert names == {FILE, f"{FILE}.sha256"}


def test_load_facenet_reads_what_was_downloaded(server):
    with pytest.raises(ValueError, match=f"{FILE}.*another network"):
        fv.load_facenet(NAME)


@pytest.mark.parametrize("tell_length", [True, False])
def test_a_cut_connection_leaves_nothing(tell_length, server, cache):
    server.sent = len(server.content) - 100
    server.tell_length = tell_length
    with pytest.raises(OSError, match=f"could not download {FILE}"):
        downloads.find_published(NAME)
    assert not list(cache.iterdir())
    server.sent = None
    assert downloads.find_published(NAME).read_bytes() == server.content


def test_what_a_killed_download_left_is_not_used(server, cache):
    cache.mkdir()
    # Another process may have had the same number.
    unfinished = cache / f"unfinished_{os.getpid()}_{FILE}"
    unfinished.write_bytes(server.content[:100])
    assert downloads.find_published(NAME).read_bytes() == server.content


def test_a_file_that_changed_since_its_first_use(server, cache):
    path = downloads.find_published(NAME)
    path.write_bytes(server.content[:-1] + b"x")
    with pytest.raises(ValueError, match=f"{FILE}: SHA-256 is .* it was"):
        downloads.find_published(NAME)
    assert server.requests == 1


def test_a_server_that_sends_another_file(server, cache):
    downloads.find_published(NAME).unlink()
    server.content = _content(cache.parent, 1)
    with pytest.raises(ValueError, match="SHA-256 is .* at its first use"):
        downloads.find_published(NAME)


def test_a_file_put_there_by_hand_needs_no_server(cache, monkeypatch):
    cache.mkdir()
    (cache / FILE).write_bytes(_content(cache.parent, 0))
    monkeypatch.delattr(downloads, "_receive")
    assert downloads.find_published(NAME) == cache / FILE
    assert (cache / f"{FILE}.sha256").exists()


def test_offline(cache, monkeypatch):
    address = f"http://127.0.0.1:9/{FILE}"  # where nobody listens
    monkeypatch.setitem(downloads.PUBLISHED, NAME, address)
    with pytest.raises(OSError) as caught:
        fv.load_facenet(NAME)
    for part in (FILE, address, str(cache)):
        assert part in str(caught.value)
    assert not list(cache.iterdir())


def test_the_2017_model_is_explained():
    with pytest.raises(FileNotFoundError, match="drive.google.*load_facenet"):
        fv.load_facenet("20170512-110547")


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    with pytest.raises(FileNotFoundError, match="no .index file"):
        fv.load_facenet(NAME)


def test_a_broken_download_goes_on_at_the_same_byte(server, cache):
    server.sent, server.ranges = 1000, True
    path = downloads.find_published(NAME)
    assert path.read_bytes() == server.content
    assert server.requests == -(-len(server.content) // 1000)


def test_a_server_that_falls_silent(server, cache, monkeypatch):
    monkeypatch.setattr(downloads, "_TIMEOUT", 0.2)
    server.silent = True
    with pytest.raises(OSError, match=f"could not download {FILE}.*timed out"):
        downloads.find_published(NAME)
    assert not list(cache.iterdir())


def test_a_server_that_sends_too_much(server, cache, monkeypatch):
    monkeypatch.setattr(downloads, "_LARGEST", 2000)
    with pytest.raises(OSError, match="more than 2,000 bytes"):
        downloads.find_published(NAME)
    assert not list(cache.iterdir())


def test_what_a_killed_download_left_is_removed(server, cache):
    cache.mkdir()
    with subprocess.Popen(["true"]) as process:
        pass
    left = cache / f"{files._PREFIX}{process.pid}_{FILE}"
    left.write_bytes(b"half")
    downloads.find_published(NAME)
    assert not left.exists()
