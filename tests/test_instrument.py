from __future__ import annotations

from pathlib import Path

import pytest
from support import ROOT, caffe_split

from caffe_split.errors import CaffeSplitError
from caffe_split.instrument import (
    Windows,
    add_watchers,
    check_windows,
    instrument_training,
    remove_watchers,
    watchers,
    windows_of,
)
from caffe_split.proto import prototxt
from caffe_split.training import open_training

NET = """# a net of mine
name: "mine"
input: "data"  # old form
input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer {
\tname: 'a'   # the first
\ttype: "Convolution" bottom: "data" top: "a"
\tparam { lr_mult: 1 }  # weight
\tparam { lr_mult: 2 }
\tconvolution_param { num_output: 4 kernel_size: 3 }
}
layer { name: "b" type: "Convolution" bottom: "a" top: "b" convolution_param { num_output: 2 kernel_size: 1 } }
layer {
  name: "c"
  type: "Convolution"
  bottom: "b"
  top: "c"
  param { name: "shared" }
  convolution_param { num_output: 2 kernel_size: 1 }
  # param { name: "not this one" }
}"""
SHAPES = {"a": (4, 3, 3, 3), "b": (2, 4, 1, 1), "c": (2, 2, 1, 1)}
WINDOWS = Windows(((0, 100), (100, 300)), 10, 2)


def test_add_and_remove_give_the_file_back() -> None:
    document = prototxt.parse(NET, "net")
    assert add_watchers(document, SHAPES, WINDOWS) == ["a_tpm", "b_tpm", "c_tpm"]
    again = prototxt.parse(str(document), "net")
    found = watchers(again)
    assert {name: layer.name for name, layer in found.items()} == {"a": "a_tpm", "b": "b_tpm", "c": "c_tpm"}
    assert windows_of(found["a"]) == WINDOWS
    assert found["c"].param_names() == ["shared"] and found["a"].param_names() == ["a_tpm_w"]
    assert remove_watchers(again) == ["a", "b", "c"]
    assert str(again) == NET


def test_other_text_stays() -> None:
    document = prototxt.parse(NET, "net")
    add_watchers(document, {"a": SHAPES["a"]}, WINDOWS)
    changed = [line for line in str(document).splitlines() if line not in NET.splitlines()]
    assert changed[0] == '\tparam { lr_mult: 1 name: "a_tpm_w" }  # weight'
    assert NET.split("param { lr_mult: 2 }")[1].rstrip("}") in str(document)


def test_remove_some() -> None:
    document = prototxt.parse(NET, "net")
    add_watchers(document, SHAPES, WINDOWS)
    assert remove_watchers(document, ["b"]) == ["b"]
    assert set(watchers(document)) == {"a", "c"}


def test_errors_change_nothing() -> None:
    document = prototxt.parse(NET, "net")
    for shapes, message in (
        ({"a": (4, 3, 3, 3), "z": (1,)}, "no layer 'z'. Its layers: a, b, c"),
        ({"a": (4, 3, 3, 3), "b": (2, 4, 1, 1)}, "watched already"),
    ):
        if "already" in message:
            add_watchers(document, {"b": SHAPES["b"]}, WINDOWS)
        before = str(document)
        with pytest.raises(CaffeSplitError, match=message):
            add_watchers(document, shapes, WINDOWS)
        assert str(document) == before


@pytest.mark.parametrize(
    "pairs, interval, message",
    [
        (((0, 5),), 10, "does not hold two samples 10 iterations apart"),
        (((0, 50), (40, 90)), 10, "starts before the one before it stops"),
        (((0, 5000),), 10, "whose max_iter is 2000"),
    ],
)
def test_windows_that_cannot_be(pairs: tuple[tuple[int, int], ...], interval: int, message: str) -> None:
    with pytest.raises(CaffeSplitError, match=message):
        check_windows(Windows(pairs, interval), 2000)


def test_shapes_cannot_be_told_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    training = open_training(ROOT / "prototxt/digits/train_val.prototxt")
    with pytest.raises(CaffeSplitError, match="data/digits_train_lmdb' is not there.*Make the data set"):
        instrument_training(training, [(0, 100)], 1, None)


@pytest.mark.caffe
def test_command(digits: Path) -> None:
    plain = (ROOT / "prototxt/digits/train_val.prototxt").read_text()
    printed = caffe_split("instrument", "digits/train_val.prototxt", "--remove", cwd=digits)
    assert printed.stdout == plain
    watched = (digits / "digits/train_val.prototxt").read_text()
    refused = caffe_split(
        "instrument", "digits/train_val.prototxt", "--remove", "--out", "digits/solver.prototxt", cwd=digits, status=1
    )
    assert "exists; nothing is overwritten unasked" in refused.stderr
    again = caffe_split("instrument", "digits/train_val.prototxt", "--window", "0:9", cwd=digits, status=1)
    assert "watched already" in again.stderr
    assert (digits / "digits/train_val.prototxt").read_text() == watched
    caffe_split("instrument", "digits/train_val.prototxt", "--window", "9:0", cwd=digits, status=2)
