"""Arrays that NumPy wrote: what is read, and what is refused in a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_split import CaffeSplitError
from caffe_split.backends.compare import load_inputs
from caffe_split.formats.arrays import read_array, read_arrays

VALUES = np.arange(6, dtype=np.float64).reshape(1, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "one.npy", VALUES)
    np.savez_compressed(tmp_path / "several.npz", x=VALUES, y=VALUES > 2)
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "words.npz", x=np.array(["a"]))
    np.savez(tmp_path / "objects.npz", x=np.array([{}]))
    (tmp_path / "short.npz").write_bytes((tmp_path / "several.npz").read_bytes()[:-30])
    damaged = bytearray((tmp_path / "several.npz").read_bytes())
    damaged[60:90] = bytes(30)
    (tmp_path / "damaged.npz").write_bytes(damaged)
    (tmp_path / "text.npz").write_text("no array\n")
    (tmp_path / "empty.npz").write_text("")
    (tmp_path / "short.npy").write_bytes((tmp_path / "one.npy").read_bytes()[:-9])
    (tmp_path / "header.npy").write_bytes(b"\x93NUMPY\x01\x00\x08\x00{'descr'")
    (tmp_path / "folder.npz").mkdir()
    return tmp_path


def test_arrays_are_float32_by_what_the_file_is_and_not_by_its_name(folder: Path) -> None:
    (folder / "several.npz").rename(folder / "several.data")
    found = read_arrays(folder / "several.data")
    assert isinstance(found, dict) and list(found) == ["x", "y"]
    assert all(each.dtype == np.float32 for each in found.values())
    np.testing.assert_array_equal(found["x"], VALUES)
    np.testing.assert_array_equal(read_array(folder / "one.npy"), VALUES)
    with pytest.raises(CaffeSplitError, match=r"several\.data: 2 arrays by name"):
        read_array(folder / "several.data")


@pytest.mark.parametrize(
    "name",
    [
        *("absent.npz", "words.npz", "objects.npz", "short.npz", "damaged.npz", "text.npz", "empty.npz", "folder.npz"),
        *("absent.npy", "short.npy", "header.npy"),
    ],
)
def test_what_holds_no_numbers_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(CaffeSplitError, match=rf"{name}: "):
        read_arrays(folder / name)


def test_arrays_go_to_the_inputs_of_their_names(folder: Path) -> None:
    assert list(load_inputs(folder / "several.npz", ["z", "x"], "n")) == ["x"]
    assert list(load_inputs(folder / "one.npy", ["z"], "n")) == ["z"]
    for name, inputs, message in [
        ("several.npz", ["z"], "it holds 'x', 'y'; the inputs of n are 'z'"),
        ("none.npz", ["z"], "it holds no array; the inputs of n are 'z'"),
        ("one.npy", ["z", "x"], r"n: it has 2 inputs, and .*one\.npy holds one array without a name; give an \.npz"),
        ("one.npy", [], "n: it has no input for the array"),
    ]:
        with pytest.raises(CaffeSplitError, match=message):
            load_inputs(folder / name, inputs, "n")
