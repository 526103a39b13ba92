"""Weights and solver states: every form in, the same arrays out, and nothing believed that the bytes deny."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import caffe_split
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import caffe_pb2
from caffe_split.formats.weights import caffemodel
from tests.formats.models import B, W, put, v2_model
from tests.formats.wire_files import blob, layer, net, raw_field


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


@pytest.mark.parametrize("left", [0, 40])
def test_a_file_that_caffe_writes_anew_while_it_is_read_is_told(left, tmp_path):
    """Caffe shortens a snapshot of the same name to nothing and writes it again; a look at what is gone is a SIGBUS."""
    path = put(tmp_path, v2_model())
    weights = caffemodel.read_weights(path)
    whole = path.read_bytes()
    os.truncate(path, left)
    for look in (lambda: weights["conv1"], lambda: weights.other_fields("conv1"), lambda: weights.net_fields()):
        with pytest.raises(CaffeSplitError, match="another program has written it anew while it was read"):
            look()
    path.write_bytes(b"\xff" * len(whole))  # as long, and other bytes
    with pytest.raises(CaffeSplitError, match="another program has written it anew while it was read"):
        weights["conv1"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux alone")
def test_a_released_layer_gives_its_memory_back_and_can_be_read_again(tmp_path):
    path = tmp_path / "w.caffemodel"
    values = np.arange(1 << 20, dtype=np.float32)
    caffemodel.write_weights(path, {"small": [B], "large": [values], "other": [values]})
    weights = caffemodel.read_weights(path)
    for name in ("large", "other"):
        np.testing.assert_array_equal(weights[name][0], values)

    def held() -> int:
        lines = Path("/proc/self/smaps").read_text().split(str(path))[1].splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

    before = held()
    weights.release("large")
    weights.release("small")  # lies within a page: nothing can go
    assert before - 4096 <= held() <= before - 4088
    np.testing.assert_array_equal(weights["large"][0], values)


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


def test_like_takes_weights_that_were_read_and_no_path(tmp_path: Path) -> None:
    caffemodel.write_weights(tmp_path / "w.caffemodel", {"a": [np.float32([5])]})
    for like in ("w.caffemodel", tmp_path / "w.caffemodel", {"a": [np.float32([5])]}):
        with pytest.raises(CaffeSplitError, match="expected for like= the weights that read_weights returns, found"):
            caffemodel.write_weights(tmp_path / "new", {"a": [np.float32([5])]}, like=like)
    assert not (tmp_path / "new").exists()


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


def test_the_package_offers_the_readers_of_this_room():
    assert set(caffe_split.__all__) <= set(dir(caffe_split))
    assert caffe_split.read_weights is caffemodel.read_weights
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        caffe_split.nothing  # noqa: B018
