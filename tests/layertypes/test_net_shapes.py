"""Shapes and parameters of whole nets against what the built Caffe makes of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from caffe_split.data.store import write_store
from caffe_split.formats import prototxt
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.state import TEST, TRAIN, NetState
from tests.layertypes.shape_checks import compare, ours
from tests.support import CAFFE, ROOT

SHARE = CAFFE.parents[1] / "share" / "caffe"


def nets_in(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.prototxt")) if folder.is_dir() else []
    return [path for path in found if prototxt.read(path).kind == "net"]


CAFFE_NETS = [path for part in ("models", "examples") for path in nets_in(SHARE / part)]


def without_data(path: Path, phase: str, to: Path) -> Path:
    """The net's layers of a phase with Input layers of two images in the place of those that read files."""
    document = prototxt.read(path)
    chosen = {id(layer.field): layer for layer in phase_layers(document, NetState(phase))}
    for field in document.all_fields("layer"):
        layer = chosen.get(id(field))
        if layer is None:
            document.remove(field)
        elif layer.type.endswith("Data") and layer.type != "DummyData":
            text = field.message
            assert text is not None
            crops = re.findall(r"crop_size: *(\d+)", str(text))
            side = int(crops[0]) if crops else 28
            channels = 1 if "mnist" in str(path) else 3
            if "siamese" in str(path):
                channels = 2
            dims = [(2, 4) if "hdf5" in str(path) else (2, channels, side, side), (2,)]
            shapes = [("shape", {"dim": list(dim)}) for dim in dims[: len(layer.tops)]]
            tops = [("top", top) for top in layer.tops]
            given = prototxt.field("layer", [("name", layer.name), ("type", "Input"), *tops, ("input_param", shapes)])
            document.replace(field, [given])
    prototxt.write(document, to / "net.prototxt")
    return to / "net.prototxt"


@pytest.mark.caffe
@pytest.mark.parametrize(
    "path",
    # The many nets of CaffeNet's size take seconds each to be filled; of those AlexNet is tested every time.
    [
        pytest.param(p, marks=pytest.mark.slow) if "fc6" in p.read_text() and "alexnet" not in str(p) else p
        for p in CAFFE_NETS
    ],
    ids=lambda path: str(path.relative_to(SHARE)),
)
def test_nets_of_caffe(path: Path, tmp_path: Path) -> None:
    document = prototxt.read(path)
    names = {state.phase: [layer.name for layer in phase_layers(document, state)] for state in (TRAIN, TEST)}
    if names["TEST"] == names["TRAIN"] or "mnist_autoencoder" in str(path):
        names.pop("TEST")  # The autoencoder's TEST layers read data in stages only, without which it is no net.
    for phase in names:
        if "pycaffe" in str(path):
            unknown = ours(without_data(path, phase, tmp_path), phase).unknown
            assert list(unknown) == ["loss"] and "Python" in unknown["loss"]
            continue
        shapes = compare(without_data(path, phase, tmp_path), phase)
        assert shapes.parameter_count is not None and shapes.mac_count is not None


OUR_NETS = nets_in(ROOT / "prototxt")


@pytest.mark.caffe
@pytest.mark.parametrize("path", OUR_NETS, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_nets_and_their_data_sets(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data layers read the first record of a data set that is there."""
    monkeypatch.chdir(tmp_path)
    net = prototxt.read(path)
    image = np.zeros((1, 8, 8) if "digits" in str(path) else (3, 32, 32), np.uint8)
    for layer in all_layers(net):
        data = layer.message.sub("data_param")
        if data is not None and not Path(data.get("source")).exists():
            write_store(data.get("source"), [(image, 0)] * 2)
    for phase in ("TRAIN", "TEST"):
        shapes = compare(path, phase, tmp_path)
        assert shapes.mac_count


@pytest.mark.caffe
def test_a_watched_net(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(digits)
    shapes = compare(digits / "digits/train_val.prototxt", "TRAIN", digits)
    state = [name for name in shapes.state if name.endswith("_tpm")]
    assert state and not set(state) & set(shapes.params)
    # Watching costs no parameter.
    assert shapes.parameter_count == ours(ROOT / "prototxt/digits/train_val.prototxt", "TRAIN").parameter_count


def test_shared_parameters_count_once() -> None:
    twin = """layer {{ name: "{0}" type: "InnerProduct" bottom: "x" top: "{0}" param {{ name: "w" }}
      inner_product_param {{ num_output: 3 }} }}"""
    document = prototxt.parse(twin.format("a") + twin.format("b"), "net")
    shapes = infer_shapes(phase_layers(document, TRAIN), {"x": (2, 5)})
    assert shapes.params == {name: [(3, 5), (3,)] for name in "ab"}
    assert [shapes.parameters_of(name) for name in "ab"] == [18, 3] and shapes.parameter_count == 21
    assert shapes.mac_count == 30
