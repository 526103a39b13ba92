"""Files that are no prototxt, given as a net or a solver: the error says what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import caffe_split
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import caffe_pb2
from caffe_split.formats.weights.caffemodel import (
    SolverState,
    read_solverstate,
    read_weights,
    write_solverstate,
    write_weights,
)
from caffe_split.net.training import open_training

NET = 'name: "n"\nlayer { name: "data" type: "Input" top: "data" }\n'
LOG = "Log file created at: 2015/07/04 18:21:28\nI0704 18:21:28.123456 1 solver.cpp:189] Iteration 0, loss = 1\n"


def archive(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as packed:
            packed.writestr("net.prototxt", NET)
    else:
        with tarfile.open(fileobj=stream, mode="w") as packed:
            entry = tarfile.TarInfo("net.prototxt")
            entry.size = len(NET)
            packed.addfile(entry, io.BytesIO(NET.encode()))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (NET.encode("utf-16"), "text in UTF-16, which Caffe does not read; save it as UTF-8"),
        (NET.encode("utf-16-le"), "text in UTF-16"),
        (NET.encode("utf-16-be"), "text in UTF-16"),
        (gzip.compress(NET.encode()), r"compressed \(gzip\); unpack it first"),
        (bz2.compress(NET.encode()), r"compressed \(bzip2\)"),
        (lzma.compress(NET.encode()), r"compressed \(xz\)"),
        (archive("zip"), "a zip archive"),
        (archive("tar"), "a tar archive"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer"),
        (LOG.encode(), "a training log"),
        (b"I0305 16:47:02.008569 17823 solver.cpp:433]     Test net output #0: a = 1\n", "a training log"),
        (b'{"layers": []}', "JSON"),
        (b"#!/usr/bin/env sh\n./caffe train\n", "a program"),
        (b"\x89PNG\r\n\x1a\n\0\0", r"a picture \(PNG\)"),
        (b"\x89HDF\r\n\x1a\n\0\0", "HDF5"),
        (bytes(range(256)), "a binary file"),
    ],
    # The compressed bytes hold the time.
    ids=lambda value: value if isinstance(value, str) else "of",
)
def test_it_is_named(data: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(data)
    for read in (open_training, caffe_split.read_net, caffe_split.read_solver):
        with pytest.raises(CaffeSplitError, match=rf"net.prototxt: this is {expected}.*expected a net or a solver"):
            read(path)


def test_weights_and_a_solver_state_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    write_weights(tmp_path / "w.caffemodel", {"conv": [np.ones((2, 3, 3, 3))]})
    path.write_bytes((tmp_path / "w.caffemodel").read_bytes())
    with pytest.raises(CaffeSplitError, match=r"these are weights \(a caffemodel\); expected"):
        open_training(path)
    # Iteration 5, whose weights are `w`.
    path.write_bytes(b"\x08\x05\x12\x01w\x20\x00")
    with pytest.raises(CaffeSplitError, match="this is a solver state"):
        open_training(path)


def old_model() -> bytes:
    """Layers of 2013-14, whose names stand behind their bottoms, after the net's inputs."""
    layer = caffe_pb2.V1LayerParameter(name="conv", type="CONVOLUTION", bottom=["data"], top=["conv"])
    layer.blobs.add(num=1, channels=1, height=1, width=200, data=[1.0] * 200)
    other = caffe_pb2.V1LayerParameter(name="conv2", bottom=["conv"], blobs=layer.blobs)
    return bytes(caffe_pb2.NetParameter(name="old", input=["data"], layers=[layer, other]).SerializeToString())


def test_weights_and_a_solver_state_that_are_cut_short_are_named(tmp_path: Path) -> None:
    path, weights = tmp_path / "net.prototxt", tmp_path / "w.caffemodel"
    write_weights(weights, {"a": [np.ones(300)], "b": [np.ones(300)]}, "net", types={"a": "InnerProduct"})
    write_solverstate(tmp_path / "w.solverstate", SolverState(7, "run/w_iter_7.caffemodel", 0, [np.ones(300)]))
    state = (tmp_path / "w.solverstate").read_bytes()
    kinds = {
        weights.read_bytes(): "weights (a caffemodel)",
        old_model(): "weights (a caffemodel)",
        state: "a solver state",
    }
    for whole, said in kinds.items():
        for length in (60, len(whole) // 3, len(whole) - 1):
            path.write_bytes(whole[:length])
            words = rf"(this is|these are) {re.escape(said)} that (are|is) cut short; expected"
            with pytest.raises(CaffeSplitError, match=words):
                open_training(path)
            read = read_solverstate if whole is state else read_weights
            with pytest.raises(CaffeSplitError, match=r"not a whole .*; copy or download it again$"):
                read(path)


def test_other_bytes_are_no_weights_that_are_cut_short(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "net.prototxt"
    for _ in range(100):
        path.write_bytes(b"\0" + rng.bytes(int(rng.integers(1, 300))))
        with pytest.raises(CaffeSplitError) as error:
            open_training(path)
        assert "cut short" not in str(error.value)


@pytest.mark.parametrize(
    "text", [NET, "\ufeff" + NET, NET.replace("n", "\u00e4n", 1), "# <html>\n" + NET, "\n\n" + NET]
)
def test_a_net_is_a_net(text: str, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(text.encode())
    if "\u00e4" in text:
        with pytest.raises(CaffeSplitError, match=r"net.prototxt:1:1: "):  # a broken text keeps its place
            caffe_split.read_net(path)
    else:
        assert caffe_split.read_net(path).to_bytes() == text.encode()
