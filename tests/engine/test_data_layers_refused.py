"""Data layers refuse records, lists, files and arrays that do not fit, each by its name and place."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caffe_split.errors import CaffeSplitError
from tests.engine.runs import write_training
from tests.engine.source_files import LIST, encoded, here, image_data, layer, picture, write_records
from tests.support import caffe_split

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")

pytestmark = pytest.mark.usefixtures("folder")


def run(text: str, **given: Any) -> None:
    net = here(text, "TRAIN")
    if given:
        net.set_input_arrays(**given)
    for _ in range(3):
        net.forward()


def refused(text: str, **given: Any) -> str:
    """The reason why the net is refused, when it is built or when it runs."""
    with pytest.raises(CaffeSplitError) as said:
        run(text, **given)
    return str(said.value)


STORE = 'data_param { source: "store" batch_size: 4 backend: LMDB }'


@pytest.mark.parametrize(
    ("records", "options", "expected"),
    [
        ([{"data": b"no image", "encoded": True}], STORE, "store: record 0: an image that cannot be decoded"),
        (
            [{"channels": 1, "height": 2, "width": 2, "data": b"abc"}],
            STORE,
            "store: record 0: a Datum of shape (1, 2, 2) holds 3 values",
        ),
        ([{"channels": 1, "height": 2, "width": 2, "float_data": [1.0] * 5}], STORE, "holds 5 values"),
        (
            [{"data": encoded(picture(0, (4 + n, 5)), "PNG"), "encoded": True} for n in (0, 0, 1)],
            STORE,
            "store: record 2 has shape (3, 5, 5), the first (3, 4, 5); one batch holds one shape.",
        ),
        (
            [{"data": encoded(picture(0, (6 - n, 5)), "PNG"), "encoded": True} for n in (0, 0, 3)],
            f"{STORE} transform_param {{ crop_size: 4 }}",
            "store: record 2 has shape (3, 3, 5), less than its crop_size 4",
        ),
        (
            [{"data": encoded(picture(0, (6, 5), 3 - n), "PNG"), "encoded": True} for n in (0, 2)],
            f"{STORE} transform_param {{ crop_size: 4 }}",
            "store: record 1 has shape (1, 6, 5), the first (3, 6, 5)",
        ),
        (
            [{"data": encoded(picture(0), "PNG"), "encoded": True}],
            f"{STORE} transform_param {{ force_color: true force_gray: true }}",
            "Caffe takes one of them",
        ),
        ([], STORE.replace("LMDB", "LEVELDB"), "backend: LEVELDB, but 'store' is an LMDB; write backend: LMDB"),
        (
            [],
            STORE.replace("backend: LMDB", ""),
            "LEVELDB (Caffe's default, as none is written), but 'store' is an LMDB",
        ),
        ([], STORE.replace('"store"', '"st"'), "source: no LMDB at 'st' seen from"),
        ([], STORE.replace('"store"', '"st"').replace("LMDB", "LEVELDB"), "source: no LevelDB at 'st' seen from"),
        ([], STORE, "store: the LMDB holds no record"),
    ],
)
def test_records_that_do_not_fit_are_refused(records: list[dict[str, Any]], options: str, expected: str) -> None:
    write_records(records)
    assert expected in refused(layer("Data", options))


@pytest.mark.parametrize(
    ("listing", "options", "expected"),
    [
        ("a.png 1\ngone.png 2\n", "", "list.txt:2: no image 'root/gone.png' seen from"),
        ("a.png\n", "", "list.txt:1: 'a.png'; expected a file, a blank and a label"),
        ("a.png one\n", "", "list.txt:1: 'a.png one'; expected"),
        ("\n", "", "list.txt lists no image"),
        ("bad.png 0\n", "", "root/bad.png: an image that cannot be decoded"),
        ("a.png 0\nb.png 0\n", "", "root/b.png has shape (3, 5, 5), the first (3, 4, 5)"),
        ("deep.png 0\n", "", "root/deep.png: an image of mode I;16; expected one of 8 bits"),
        ("a.png 0\n", "new_height: 4", "new_height and new_width go together"),
        ("a.png 0\n", "rand_skip: 900", "would pass over all of its 1 images"),
        (None, "", "source: no file 'list.txt' seen from"),
    ],
)
def test_image_lists_that_do_not_fit_are_refused(listing: str | None, options: str, expected: str) -> None:
    Path("root").mkdir()
    for name, size in (("a", (4, 5)), ("b", (5, 5))):
        Path(f"root/{name}.png").write_bytes(encoded(picture(1, size), "PNG"))
    Path("root/bad.png").write_bytes(b"no image")
    Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4)).save("root/deep.png")
    if listing is not None:
        Path("list.txt").write_text(listing)
    assert expected in refused(image_data(2, options))


@pytest.mark.parametrize(
    ("listing", "options", "tops", "expected"),
    [
        ("gone.h5", "", "data", "no HDF5 file 'gone.h5' seen from"),
        ("", "", "data", "list lists no HDF5 file"),
        ("list", "", "data", "list: no HDF5 file that can be read"),
        ("a.h5", "", "data labels", "a.h5: no data set 'labels'; it has data, far, label"),
        ("c.h5", "", "data label", "c.h5: 3, 2 rows in its data sets"),
        ("a.h5 d.h5", "", "data", "d.h5: rows of shapes [(4,)]; those of a.h5 are [(2, 3)]"),
        ("d.h5", "", "text", "data set 'text' of type object and shape (2,); expected rows of numbers"),
        ("a.h5", "transform_param { scale: 2 }", "data", "HDF5Data does not transform; take transform_param out"),
        (None, "", "data", "source: no file 'list' seen from"),
    ],
)
def test_hdf5_files_that_do_not_fit_are_refused(
    rows: dict[str, np.ndarray], listing: str | None, options: str, tops: str, expected: str
) -> None:
    with h5py.File("c.h5", "w") as stream:
        stream["data"], stream["label"] = np.zeros((3, 2)), np.zeros(2)
    with h5py.File("d.h5", "w") as stream:
        stream["data"], stream["text"] = np.zeros((3, 4)), ["a", "b"]
    if listing is None:
        Path("list").unlink()
    else:
        Path("list").write_text(listing)
    assert expected in refused(layer("HDF5Data", f"{LIST % (2, '')} {options}", tops))


def test_hdf5_needs_h5py(rows: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "h5py" else find_spec(name))
    assert "HDF5Data needs h5py: pip install h5py" in refused(layer("HDF5Data", LIST % (2, "")))


LOSS = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: %d } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_param { ignore_label: 99 } }
"""


def test_labels_are_checked_before_the_training(listed: list[np.ndarray], rows: dict[str, np.ndarray]) -> None:
    high = int(rows["label"].max())
    for text, classes in ((image_data(1), 15), (layer("HDF5Data", LIST % (1, "")), high + 1)):
        here(text + LOSS % classes)
        with pytest.raises(CaffeSplitError, match=f"'loss' .*: a label is {classes - 1}, but bottom 'ip' scores"):
            here(text + LOSS % (classes - 1))
    Path("list.txt").write_text("0.png 99\n1.png 0\n")
    here(image_data(1) + LOSS % 1)
    Path("list.txt").write_text("0.png 99\n1.png -1\n")
    with pytest.raises(CaffeSplitError, match="a label is -1"):
        here(image_data(1) + LOSS % 1)


def test_arrays_that_do_not_fit_are_refused() -> None:
    text = layer("MemoryData", "memory_data_param { batch_size: 3 channels: 2 height: 4 width: 5 }")
    assert "given no arrays: net.set_input_arrays(images, labels)" in refused(text)
    for images, labels in (((4, 2, 4, 5), (4,)), ((3, 2, 5, 4), (3,)), ((3, 2, 4, 5), (4,)), ((0, 2, 4, 5), (0,))):
        assert "N a multiple of its batch of 3" in refused(text, images=np.zeros(images), labels=np.zeros(labels))
    assert "have to be given" in refused(text.replace("height: 4", ""))
    with pytest.raises(CaffeSplitError, match="no MemoryData layer 'other'"):
        here(text).set_input_arrays(np.zeros((3, 2, 4, 5)), np.zeros(3), "other")


def test_a_command_cannot_give_arrays(folder: Path) -> None:
    write_training(folder, 'base_lr: 0.01 lr_policy: "fixed"', 2)
    net = folder / "net.prototxt"
    lines = net.read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if 'type: "Data"' in line)
    lines[start : start + 3] = [
        layer("MemoryData", "memory_data_param { batch_size: 2 channels: 3 height: 9 width: 9 }").replace(
            'type: "MemoryData"', 'type: "MemoryData" include { phase: TRAIN }'
        )
    ]
    net.write_text("\n".join(lines))
    said = caffe_split("train", "solver.prototxt", "--engine", "torch", cwd=folder, status=1).stderr
    assert re.search(r"net.prototxt:\d+: layer 'data': MemoryData is given its arrays in Python", said), said
