"""HDF5 files of weights and states: laid out as Caffe's, read whole or refused, however damaged."""

from __future__ import annotations

import random
import re
import struct

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import caffe_pb2
from caffe_split.formats.weights import caffemodel
from tests.formats.models import B, W


def test_layers_are_found_where_caffe_puts_them_in_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.caffemodel.h5", "w") as file:
        file["data/conv1/0"], file["data/conv1/1"], file["data/a/b/0"] = W, B.astype(">f8"), B
        file.create_group("data/relu")
        for index in range(12):
            file[f"data/many/{index}"] = np.float32([index])
    weights = caffemodel.read_weights(tmp_path / "x.caffemodel.h5")
    assert sorted(weights) == ["a/b", "conv1", "many", "relu"]
    np.testing.assert_array_equal(weights["conv1"][1], B)
    assert [float(array[0]) for array in weights["many"]] == list(range(12))


def test_hdf5_that_is_not_caffes_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.h5"
    cases = {
        "no group /data": lambda f: f.create_group("other"),
        "this is a solver state": lambda f: f.create_dataset("iter", data=[3]),
        "expected /data/<layer>/<index>, found /data/conv/x": lambda f: f.create_dataset("data/conv/x", data=[1.0]),
        "has the blobs 0, 16: some lack": lambda f: [f.create_dataset(f"data/c/{i}", data=[1.0]) for i in (0, 16)],
        "has the blobs 0, 02: some lack": lambda f: [f.create_dataset(f"data/c/{i}", data=[1.0]) for i in ("0", "02")],
        "expected numbers": lambda f: f.create_dataset("data/c/0", data=b"text"),
        "needs 4000000000 bytes": lambda f: f.create_dataset("data/c/0", (10**9,), "f4", chunks=(1000,)),
        "needs 800000000 bytes": lambda f: f.create_dataset("data/c/0", (2 * 10**8,), "f4", chunks=(1000,)).__setitem__(
            0, 1.0
        ),
        "is a link to elsewhere": lambda f: f.create_group("data").__setitem__("c", h5py.ExternalLink("/etc/x", "/")),
    }
    for expected, make in cases.items():
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(CaffeSplitError) as error:
            caffemodel.read_weights(path)
        assert expected in str(error.value)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CaffeSplitError, match="cannot open it as HDF5"):
        caffemodel.read_weights(path)


@pytest.mark.parametrize("reader", ["weights", "solver state"])
def test_hdf5_whose_heap_goes_round_is_refused(reader, tmp_path):
    """libhdf5 itself would take all memory there is."""
    path = tmp_path / "x.h5"
    if reader == "weights":
        caffemodel.write_weights(path, {"conv1": [B], "relu": [], "ip": [B]})
    else:
        caffemodel.write_solverstate(path, caffemodel.SolverState(5, "", 1, [B, B]))
    good = path.read_bytes()
    heaps = [match.start() for match in re.finditer(b"HEAP", good)]
    assert len(heaps) >= 2
    for heap in heaps[:2]:
        _, free, start = struct.unpack_from("<3Q", good, heap + 8)
        data = bytearray(good)
        struct.pack_into("<Q", data, start + free, free)
        path = tmp_path / f"{heap}.h5"
        path.write_bytes(data)
        with pytest.raises(CaffeSplitError, match=r"damaged: the heap of group .* has no end"):
            (caffemodel.read_weights if reader == "weights" else caffemodel.read_solverstate)(path)


def test_hdf5_states_that_are_not_caffes_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.solverstate.h5"
    caffemodel.write_solverstate(path, caffemodel.SolverState(5, "", 1, [B, B]))
    good = path.read_bytes()
    cases = {
        "these are weights": lambda f: (f.pop("iter"), f.create_group("data")),
        "the history has the blobs 0, 2: some lack": lambda f: f.move("history/1", "history/2"),
        "expected /history/<index>, found /history/x": lambda f: f["history"].create_dataset("x", data=[1.0]),
        "/history/2 is a link to elsewhere": lambda f: f["history"].__setitem__("2", h5py.ExternalLink("/etc/x", "/")),
        "history/2: its shape 1000000000 needs": lambda f: f.create_dataset("history/2", (10**9,), "f", chunks=(99,)),
        "/iter: its shape 1000000000 needs": lambda f: (
            f.pop("iter"),
            f.create_dataset("iter", (10**9,), "i4", chunks=(1000,)),
        ),
    }
    for expected, make in cases.items():
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            make(file)
        with pytest.raises(CaffeSplitError) as error:
            caffemodel.read_solverstate(path)
        assert expected in str(error.value)


def test_old_shapes_become_the_layers_own_in_hdf5(tmp_path):
    """Caffe lets 1x1xMxN stand for MxN in binary files only, and there by the old fields only."""
    old = {
        "ip": [W.reshape(1, 1, 12, 25), B.reshape(1, 1, 1, 4)],
        "conv": [W, B.reshape(1, 1, 1, 4)],
        "one": [W[:1, :1], B[:1].reshape(1, 1, 1, 1)],
        "other": [W[:1, :1]],
    }
    types = {"ip": "InnerProduct", "conv": "Convolution", "one": "Convolution"}
    caffemodel.write_weights(tmp_path / "x", old, types=types)
    message = caffe_pb2.NetParameter.FromString((tmp_path / "x").read_bytes())
    assert [blob.HasField("num") for layer in message.layer for blob in layer.blobs] == [1, 1, 0, 1, 1, 1, 1]
    assert not any(blob.HasField("num") and blob.HasField("shape") for layer in message.layer for blob in layer.blobs)
    weights = caffemodel.read_weights(tmp_path / "x")
    assert {name: [array.shape for array in weights[name]] for name in weights} == {
        name: [array.shape for array in old[name]] for name in old
    }
    caffemodel.write_weights(tmp_path / "x.h5", weights)
    weights = caffemodel.read_weights(tmp_path / "x.h5")
    assert [array.shape for name in sorted(weights) for array in weights[name]] == [
        (4, 3, 5, 5),
        (4,),
        (12, 25),
        (4,),
        (1, 1, 5, 5),
        (1,),
        (1, 1, 5, 5),
    ]
    np.testing.assert_array_equal(weights["ip"][0], W.reshape(12, 25))


def test_shared_blobs_are_left_out_of_hdf5_and_refused_in_binary(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data/a/0"], file["data/b/1"], file["data/b/2"] = W, B, B
        file["data/c/0"], file["data/c/3"] = B, B
    weights = caffemodel.read_weights(tmp_path / "x.h5")
    assert [array.shape for array in weights["b"]] == [(0,), (4,), (4,)] and weights.shared == {"b": 1, "c": 2}
    assert [array.shape for array in weights["c"]] == [(4,), (0,), (0,), (4,)]
    caffemodel.write_weights(tmp_path / "copy.h5", weights)
    with h5py.File(tmp_path / "copy.h5") as file:
        assert sorted(file["data/b"]) == ["1", "2"] and sorted(file["data/c"]) == ["0", "3"]
    with pytest.raises(CaffeSplitError, match=r"lacks blobs of layer 'b' \(1\), which it shares"):
        caffemodel.write_weights(tmp_path / "x.caffemodel", weights)
    kept = {name: weights[name] for name in weights if name not in weights.shared}
    caffemodel.write_weights(tmp_path / "x.caffemodel", kept)


def test_names_that_hdf5_cannot_hold_are_refused(tmp_path):
    with pytest.raises(CaffeSplitError, match="there `/` parts groups"):
        caffemodel.write_weights(tmp_path / "x.h5", {"conv1/7x7": [B]})
    assert list(tmp_path.iterdir()) == []


def damaged(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, what = rng.randrange(len(out)), rng.randrange(4)
        if what == 0:
            out[at] = rng.randrange(256)
        elif what == 1:
            out[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), b"\xff\xff\xff\x7f\0\0\0\0"])
        elif what == 2:
            start = rng.randrange(len(out))
            out[at : at + 16] = out[start : start + 16]
        elif rng.random() < 0.2:
            del out[at + 1 :]
    return bytes(out)


@pytest.mark.parametrize("kind", ["weights", "state"])
def test_damaged_hdf5_gives_values_or_one_error(kind, tmp_path):
    pytest.importorskip("h5py")
    rng, path = random.Random(1), tmp_path / "x.h5"
    if kind == "weights":
        caffemodel.write_weights(path, {"conv": [B, B], "relu": [], "a": [B]})
    else:
        caffemodel.write_solverstate(path, caffemodel.SolverState(5, "a.caffemodel.h5", 1, [B, B]))
    good = path.read_bytes()
    refusals = []
    for index in range(400):
        path = tmp_path / f"{index}x.h5"  # a file that is still open would be taken for the one before
        path.write_bytes(damaged(good, rng))
        try:
            if kind == "weights":
                weights = caffemodel.read_weights(path)
                assert all(array.dtype == np.float32 for name in weights for array in weights[name])
            else:
                caffemodel.read_solverstate(path)
        except CaffeSplitError as error:
            refusals.append(str(error))
    assert all("x.h5" in message and "\n" not in message for message in refusals)
    assert 100 < len(refusals) < 400
