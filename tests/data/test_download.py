"""Fetching from a server that breaks off, cannot resume, sends something else, or is not there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from caffe_split.data.download import fetch
from caffe_split.errors import CaffeSplitError
from tests.support import caffe_split

CONTENT = np.random.default_rng(1).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Sends CONTENT. breaks: the bytes after which an answer ends. resumes: whether it sends a part when asked to."""

    breaks = 10**9
    resumes = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if self.path != "/set.tar.gz":
            self.send_error(404)
            return
        start = int(wanted[len("bytes=") : -1]) if wanted and server.resumes else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : start + server.breaks])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_it_goes_on_where_it_was_cut_off(server: Server, tmp_path: Path) -> None:
    server.breaks = 120_000
    for have in (120_000, 240_000):
        with pytest.raises(CaffeSplitError, match=f"after {have:,} of 300,000 bytes.*run it again"):
            fetch(server.base, "set.tar.gz", MD5, tmp_path)
    seen: list[tuple[int, int]] = []
    path = fetch(server.base, "set.tar.gz", MD5, tmp_path, lambda have, whole: seen.append((have, whole)))
    assert path.read_bytes() == CONTENT and seen[-1] == (300_000, 300_000)
    assert server.asked == [None, "bytes=120000-", "bytes=240000-"]
    assert [each.name for each in tmp_path.iterdir()] == ["set.tar.gz"]
    # It is there: nothing is asked for.
    assert fetch(server.base, "set.tar.gz", MD5, tmp_path) == path and len(server.asked) == 3


def test_killed_after_the_last_byte_it_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT)
    assert fetch(server.base, "set.tar.gz", MD5, tmp_path).read_bytes() == CONTENT


def test_a_server_that_cannot_resume_sends_all(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.tar.gz.part").write_bytes(CONTENT[:1000])
    server.resumes = False
    assert fetch(server.base, "set.tar.gz", MD5, tmp_path).read_bytes() == CONTENT


def test_something_else_is_removed_and_said(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.tar.gz.part").write_bytes(b"x" * 1000)
    with pytest.raises(CaffeSplitError, match=f"MD5 [0-9a-f]+, expected {MD5}; it was removed. Fetch .* by hand"):
        fetch(server.base, "set.tar.gz", MD5, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.tar.gz").write_bytes(CONTENT[:-1])
    with pytest.raises(CaffeSplitError, match=f"expected {MD5}"):
        fetch(server.base, "set.tar.gz", MD5, tmp_path)


def test_a_missing_server_or_file_says_how_to_fetch_by_hand(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CaffeSplitError, match=r"answers 404 .*by hand .MD5 abc. and give it with --from other"):
        fetch(server.base, "other", "abc", tmp_path)
    server.server_close()
    with pytest.raises(CaffeSplitError, match=r"cannot be fetched .*refused.*by hand"):
        fetch("http://127.0.0.1:1/", "other", "abc", tmp_path)


def test_the_command_wants_one_source(tmp_path: Path) -> None:
    for words in ([], ["--download", "--from", "x"]):
        result = caffe_split("data", "cifar10", *words, cwd=tmp_path, status=2)
        assert "either --from FILE or --download" in result.stderr
