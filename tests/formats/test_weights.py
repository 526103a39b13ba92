"""Weights and solver states: every form in, the same arrays out, and nothing believed that the bytes deny."""

from __future__ import annotations

import os
import random
import re
import struct

import numpy as np
import pytest

import caffe_split
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import caffe_pb2
from caffe_split.formats.weights import caffemodel
from tests.formats.wire_files import blob, layer, net, raw_field

RNG = np.random.default_rng(0)
W = RNG.standard_normal((4, 3, 5, 5)).astype(np.float32)
B = RNG.standard_normal(4).astype(np.float32)


def put(tmp_path, message, name="x.caffemodel"):
    path = tmp_path / name
    path.write_bytes(message if isinstance(message, bytes) else message.SerializeToString())
    return path


def v2_model():
    model = caffe_pb2.NetParameter(name="n")
    one = model.layer.add(name="conv1", type="Convolution", bottom=["data"])
    for values in (W, B):
        one.blobs.add(data=values.ravel(), shape=caffe_pb2.BlobShape(dim=values.shape))
    model.layer.add(name="relu1", type="ReLU")
    return model


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_weights_come_back_as_they_were_written(suffix, tmp_path):
    path = tmp_path / f"x.caffemodel{suffix}"
    given = {"b": [W, B], "none": [], "a": [np.float32(3), np.zeros((0, 2)), np.arange(3), W[::2, ::-1]]}
    caffemodel.write_weights(path, given, "net", {"b": "Convolution"})
    weights = caffemodel.read_weights(path)
    assert sorted(weights) == ["a", "b", "none"] and len(weights) == 3 and "a" in weights and "x" not in weights
    for name, arrays in given.items():
        assert len(weights[name]) == len(arrays)
        for got, put_in in zip(weights[name], arrays):
            assert got.dtype == np.float32 and got.shape == np.shape(put_in)
            np.testing.assert_array_equal(got, put_in)
    with pytest.raises(KeyError):
        weights["x"]
    if not suffix:
        assert weights.net_name == "net" and weights.types["b"] == "Convolution" and list(weights) == list(given)


def test_protobuf_reads_what_we_write_and_we_what_it_writes(tmp_path):
    path = put(tmp_path, v2_model())
    weights = caffemodel.read_weights(path)
    np.testing.assert_array_equal(weights["conv1"][0], W)
    np.testing.assert_array_equal(weights["conv1"][1], B)
    caffemodel.write_weights(tmp_path / "out", weights)
    again = caffe_pb2.NetParameter.FromString((tmp_path / "out").read_bytes())
    assert again == v2_model()  # the bottom of the layer is kept, too


def test_arrays_are_views_that_cannot_be_written(tmp_path):
    path = put(tmp_path, v2_model())
    array = caffemodel.read_weights(path)["conv1"][0]
    assert not array.flags.owndata and not array.flags.writeable
    caffemodel.write_weights(path, {"other": [B]})  # over the file that is mapped
    np.testing.assert_array_equal(array, W)


def test_old_layers_and_old_shapes_are_read(tmp_path):
    model = caffe_pb2.NetParameter(name="old")
    one = model.layers.add(name="ip", type=14)
    one.blobs.add(num=1, channels=1, height=2, width=3, data=range(6))
    inner = model.layers.add().layer
    inner.name, inner.type = "conv", "conv"
    inner.blobs.add(num=2, channels=1, height=1, width=1, data=[7, 8])
    weights = caffemodel.read_weights(put(tmp_path, model))
    assert weights["ip"][0].shape == (1, 1, 2, 3) and weights["ip"][0].ravel().tolist() == list(range(6))
    assert weights["conv"][0].shape == (2, 1, 1, 1) and weights["conv"][0].ravel().tolist() == [7, 8]
    assert dict(weights.types) == {"ip": "InnerProduct", "conv": "Convolution"}
    caffemodel.write_weights(tmp_path / "new", weights)
    again = caffe_pb2.NetParameter.FromString((tmp_path / "new").read_bytes())
    assert [(item.name, item.type) for item in again.layer] == [
        ("ip", "InnerProduct"),
        ("conv", "Convolution"),
    ]


def test_old_fields_win_over_the_shape_as_in_caffe(tmp_path):
    model = v2_model()
    model.layer[0].blobs[1].num = 2
    for name in ("channels", "height"):
        setattr(model.layer[0].blobs[1], name, 1)
    model.layer[0].blobs[1].width = 2
    assert caffemodel.read_weights(put(tmp_path, model))["conv1"][1].shape == (2, 1, 1, 2)


def test_unpacked_cut_and_double_values_give_the_same_arrays(tmp_path):
    singles = b"".join(b"\x2d" + struct.pack("<f", value) for value in range(300))
    cut = raw_field(5, struct.pack("<2f", 1, 2)) + b"\x2d" + struct.pack("<f", 3) + raw_field(5, struct.pack("<f", 4))
    double = raw_field(8, struct.pack("<3d", 0.1, 1e300, -2))
    double_singles = b"".join(b"\x41" + struct.pack("<d", value) for value in range(3))
    data = net(
        layer("a", blob(singles, 300)),
        layer("b", blob(cut, 2, 2)),
        layer("c", blob(double, 3)),
        layer("d", blob(double_singles, 3)),
        layer("e", blob(raw_field(5, b""), 0)),
    )
    weights = caffemodel.read_weights(put(tmp_path, data))
    assert weights["a"][0].tolist() == list(range(300))
    assert weights["b"][0].tolist() == [[1, 2], [3, 4]]
    assert weights["c"][0].tolist() == [np.float32(0.1), np.inf, -2]
    assert weights["d"][0].tolist() == [0, 1, 2]
    assert not any(weights[name][0].flags.writeable for name in "abcd")
    assert weights["e"][0].shape == (0,)


def test_unknown_fields_are_kept(tmp_path):
    strange = raw_field(999, b"strange")
    data = net(layer("a", blob(raw_field(5, struct.pack("<f", 1)) + strange, 1), strange)) + strange
    path = put(tmp_path, data)
    weights = caffemodel.read_weights(path)
    caffemodel.write_weights(tmp_path / "same", weights)
    caffemodel.write_weights(tmp_path / "changed", {"a": [np.float32([5])], "new": [B]}, like=weights)
    assert (tmp_path / "same").read_bytes().count(strange) == 3
    assert (tmp_path / "changed").read_bytes().count(strange) == 3
    assert caffemodel.read_weights(tmp_path / "changed")["a"][0].tolist() == [5]


ONE = struct.pack("<f", 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            net(layer("a", blob(raw_field(5, ONE), 2))),
            "layer 'a', blob 0: its shape 2 needs 2 values, but 1 are present",
        ),
        (net(layer("a", blob(raw_field(5, ONE), -1))), "layer 'a', blob 0: its shape -1 has a negative length"),
        (net(layer("a", blob(raw_field(5, ONE), 2**31, 2**31, 0))), "but 1 are present"),
        (net(layer("a", blob(raw_field(5, ONE), 2**40, 2**40))), "Caffe takes at most 2147483647"),
        (net(layer("a", blob(raw_field(5, ONE), *[1] * 33))), "more than 32 axes"),
        (net(layer("a", blob(raw_field(5, b"abc"), 1))), "its values take 3 bytes, no multiple of 4"),
        (net(layer("a", blob(raw_field(5, ONE)))) + b"\xa2\x06\xff\xff\xff\x0f", "but 0 are left"),
        (net(layer("a"), layer("a")), "layer 'a' occurs twice (the second at byte"),
        (net(layer("a")) + raw_field(2, raw_field(4, b"b")), "holds both old layers (`layers`) and new ones"),
        (net(layer("a"))[:-1], "not a whole caffemodel: at byte 0"),
        (net(layer("a", blob(b"\x63" * 200 + b"\x64" * 200))), "groups nested more than 100 deep"),
        (net(layer("a", blob(b"\x63\x0c"))), "group 1 ends, but another was open"),
        (net(layer("a", blob(b"\x0c"))), "ends a group that did not begin"),
        (net(layer("a", blob(b"\xff" * 11))), "a number of more than ten bytes"),
        (net(layer("a", blob(b"\x00"))), "0 is no field number"),
        (net(layer("a", blob(b"\x0f"))), "has the wire type 7"),
        (b"", "the file is empty"),
        (b"\x0a\x01n", "no layer in it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\xef\xbb\xbf<html>", "a web page"),
        (b"PK\x03\x04....", "zip archive"),
        (b"\x1f\x8b....", "gzip"),
        (b"\x80\x02}q", "pickle"),
        (b'name: "n"\nlayer {', "a prototxt (text), not weights"),
        (b"\x08\xe8\x07\x12\x01x", "this is a solver state (iteration 1000), not weights"),
        (net(layer("a", blob(raw_field(12, b"\0\0") + b"\x50\x02", 1))), "NVCaffe's raw data (half type, 2 bytes)"),
    ],
)
def test_bad_files_are_named_for_what_they_are(data, expected, tmp_path):
    with pytest.raises(CaffeSplitError) as error:
        caffemodel.read_weights(put(tmp_path, data))
    assert expected in str(error.value) and "x.caffemodel" in str(error.value)


def test_paths_that_do_not_exist_are_refused_with_the_reason(tmp_path):
    with pytest.raises(CaffeSplitError, match="cannot read weights: No such file"):
        caffemodel.read_weights(tmp_path / "none")
    with pytest.raises(CaffeSplitError, match="cannot write there: No such file"):
        caffemodel.write_weights(tmp_path / "no" / "x", {})


def test_two_gigabytes_are_refused_before_anything_is_written(tmp_path):
    big = np.broadcast_to(np.float32(0), (2**29,))  # claims 2 GB, holds four bytes
    with pytest.raises(CaffeSplitError, match=r"holds at most 2147483647; write it as HDF5: .*x\.h5"):
        caffemodel.write_weights(tmp_path / "x", {"a": [big]})
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_no_numbers_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(CaffeSplitError, match="layer 'a', blob 0: expected an array of real numbers"):
        caffemodel.write_weights(tmp_path / "x", {"a": [["text"]]})
    assert list(tmp_path.iterdir()) == []


def test_nonfinite_weights_are_reported_by_layer():
    bad = W.copy()
    bad[0, 0, 0, 0], bad[1, 0, 0, 0] = np.nan, np.inf
    assert caffemodel.nonfinite({"a": [W], "b": [bad, B]}) == {"b": [(2, 300), (0, 4)]}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = put(tmp_path, v2_model())
    before = path.read_bytes()

    class Breaks(dict):
        reads = 0

        def __getitem__(self, key):
            self.reads += 1
            if self.reads > 1:
                raise RuntimeError("gone")
            return super().__getitem__(key)

    for target in (path, tmp_path / "x.h5"):
        with pytest.raises(RuntimeError):
            caffemodel.write_weights(target, Breaks(a=[B], b=[B]))
    assert path.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["x.caffemodel"]


def test_a_write_keeps_the_files_mode_and_a_link_to_it(tmp_path):
    path = put(tmp_path, v2_model())
    path.chmod(0o640)
    (tmp_path / "link").symlink_to("x.caffemodel")
    caffemodel.write_weights(tmp_path / "link", {"a": [B]})
    assert (tmp_path / "link").is_symlink() and path.stat().st_mode & 0o777 == 0o640
    assert list(caffemodel.read_weights(path)) == ["a"]


# -- HDF5


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
        "has the blobs 0, 2: some lack": lambda f: [f.create_dataset(f"data/c/{i}", data=[1.0]) for i in (0, 2)],
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
    weights = caffemodel.read_weights(tmp_path / "x.h5")
    assert [array.shape for array in weights["b"]] == [(0,), (4,), (4,)] and weights.shared == {"b": 1}
    caffemodel.write_weights(tmp_path / "copy.h5", weights)
    with h5py.File(tmp_path / "copy.h5") as file:
        assert sorted(file["data/b"]) == ["1", "2"]
    with pytest.raises(CaffeSplitError, match=r"lacks the first 1 blob\(s\) of layer 'b', which it shares"):
        caffemodel.write_weights(tmp_path / "x.caffemodel", weights)
    kept = {name: weights[name] for name in weights if name not in weights.shared}
    caffemodel.write_weights(tmp_path / "x.caffemodel", kept)


def test_names_that_hdf5_cannot_hold_are_refused(tmp_path):
    with pytest.raises(CaffeSplitError, match="there `/` parts groups"):
        caffemodel.write_weights(tmp_path / "x.h5", {"conv1/7x7": [B]})
    assert list(tmp_path.iterdir()) == []


# -- solver states


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_solver_states_come_back_as_they_were_written(suffix, tmp_path):
    path = tmp_path / f"x.solverstate{suffix}"
    state = caffemodel.SolverState(12345, "dir/x.caffemodel", 3, [W, B, np.float32(1)])
    caffemodel.write_solverstate(path, state)
    again = caffemodel.read_solverstate(path)
    assert (again.iter, again.learned_net, again.current_step) == (12345, "dir/x.caffemodel", 3)
    for left, right in zip(again.history, state.history):
        assert left.shape == np.shape(right)
        np.testing.assert_array_equal(left, right)


def test_binary_solver_states_are_protobufs(tmp_path):
    message = caffe_pb2.SolverState(iter=7, learned_net="n", current_step=2)
    message.history.add(data=B, shape=caffe_pb2.BlobShape(dim=[4]))
    data = message.SerializeToString() + raw_field(77, b"strange")
    state = caffemodel.read_solverstate(put(tmp_path, data))
    caffemodel.write_solverstate(tmp_path / "out", state)
    again = (tmp_path / "out").read_bytes()
    assert again.endswith(raw_field(77, b"strange"))
    assert caffe_pb2.SolverState.FromString(again) == caffe_pb2.SolverState.FromString(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (v2_model().SerializeToString(), "these are weights, not a solver state"),
        (b"\x08\x07\x1a\x04\x2d\0\0", "not a whole solver state"),
        (
            b"\x08\x07" + raw_field(3, raw_field(5, b"\0\0\0\0") + raw_field(7, b"\x08\x02")),
            "history blob 0: its shape 2",
        ),
        (b"net: 'x'", "a prototxt (text)"),
    ],
)
def test_bad_solver_states_are_named_for_what_they_are(data, expected, tmp_path):
    with pytest.raises(CaffeSplitError) as error:
        caffemodel.read_solverstate(put(tmp_path, data))
    assert expected in str(error.value)


def test_the_package_offers_the_readers_of_this_room():
    assert set(caffe_split.__all__) <= set(dir(caffe_split))
    assert caffe_split.read_weights is caffemodel.read_weights
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        caffe_split.nothing  # noqa: B018


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
