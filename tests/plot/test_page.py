"""The picture of a net as a value: every layer once, nothing over another, frames that are the splits."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from caffe_split.diagram.boxes import make_boxes
from caffe_split.diagram.page import net_page
from caffe_split.formats import prototxt
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TRAIN, NetState
from tests.plot.drawn_nets import CONV, NETS, ROUNDS, SHARE, layer, page
from tests.plot.picture_checks import check_flow, check_joints, check_page, holds
from tests.support import ROOT


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("whole", [True, None])
def test_nothing_is_lost_or_hidden(rounds: dict[str, Path], name: str, whole: bool | None) -> None:
    layers = phase_layers(prototxt.read(rounds[name]), TRAIN)
    picture = net_page(layers, whole)
    check_page(picture, [layer.name for layer in layers])
    check_joints(picture)
    if whole:
        check_flow(picture, make_boxes(layers))
    assert picture.width / picture.height == pytest.approx(1.3, rel=0.6)


@pytest.mark.caffe
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_nets_of_caffe(phase: str) -> None:
    count = 0
    for path in sorted(SHARE.rglob("*.prototxt")) + sorted((ROOT / "prototxt").rglob("*.prototxt")):
        document = prototxt.read(path)
        if document.kind != "net" or (phase == "TEST" and "autoencoder" in path.name):
            continue
        layers = phase_layers(document, NetState(phase))
        check_page(net_page(layers), [layer.name for layer in layers])
        picture = net_page(layers, True)
        check_page(picture, [layer.name for layer in layers])
        check_flow(picture, make_boxes(layers))
        check_joints(picture)
        count += 1
    assert count > 30


def random_net(rng: np.random.Generator) -> str:
    """Layers that read one to three of the blobs before them, near ones more often; some of them split by hand."""
    text = [layer("d", "DummyData", "", "d").replace('top: "d"', 'top: "d" top: "label"')]
    blobs = ["d"]
    for number in range(int(rng.integers(1, 40))):
        count = min(len(blobs), int(rng.choice([1, 1, 1, 2, 3])))
        places = {max(0, len(blobs) - 1 - int(rng.exponential(2.0))) for _ in range(count)}
        bottoms = [blobs[place] for place in sorted(places)]
        name = f"n{number}"
        if len(bottoms) > 1:
            text.append(layer(name, "Eltwise", " ".join(bottoms)))
        elif rng.random() < 0.3:
            (bottom,) = bottoms
            text += [layer(f"{name}_split{half}", "Convolution", bottom, "", CONV) for half in (1, 2)]
            text.append(layer(f"{name}_concat", "Concat", f"{name}_split1 {name}_split2"))
            text.append(layer(f"{name}_reorder", "Convolution", f"{name}_concat", name, CONV))
        else:
            text.append(layer(name, str(rng.choice(["Convolution", "Pooling", "ReLU"])), bottoms[0], "", CONV))
        blobs.append(name)
    text.append(layer("loss", "SoftmaxWithLoss", f"{blobs[-1]} label"))
    return "".join(text)


@pytest.mark.parametrize("seed", range(6))
def test_random_nets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(6):
        layers = phase_layers(prototxt.parse(random_net(rng), "net"), TRAIN)
        names = [each.name for each in layers]
        picture = net_page(layers, True, aspect=float(rng.choice([0.4, 1.3, 4])))
        check_page(picture, names)
        check_joints(picture)
        check_flow(picture, make_boxes(layers))
        check_page(net_page(layers), names)


def test_the_frames_are_the_splits(rounds: dict[str, Path]) -> None:
    picture = page(rounds["round3"])
    expected = {name for layers in ROUNDS for name in layers.split(",")}
    assert {frame.name for frame in picture.frames} == expected
    frames = {frame.name: frame for frame in picture.frames}
    assert (frames["conv1"].title, frames["conv1"].role) == ("conv1", "plain")
    assert frames["conv1"].note == "residual split, 8 fast + 8 slow"
    inner = frames["conv1_split2"]
    assert (inner.title, inner.role, inner.tag) == ("_split2", "slow", "slow")
    assert inner.note == "residual split, 4 fast + 4 slow"
    assert holds(frames["conv1"], inner) and holds(inner, frames["conv1_split2_split1"])
    assert frames["res2a_conv1_split2_residual_pre"].role == "added"
    for placed in picture.boxes:
        around = [frame for frame in picture.frames if holds(frame, placed)]
        # A split's parts, and nothing else, stand in its frame; a title goes on from the innermost frame's name.
        assert sorted(f.name for f in around) == sorted(
            name for name in expected if placed.box.name.startswith(f"{name}_") and _is_part(placed.box.name, name)
        )
        if around:
            innermost = max(around, key=lambda frame: len(frame.name))
            assert innermost.name + placed.title == placed.box.name


def _is_part(name: str, split: str) -> bool:
    ending = name[len(split) :]
    return re.match(r"_(split[12]|concat|reorder)", ending) is not None


def test_roles(rounds: dict[str, Path]) -> None:
    roles = {placed.box.name: (placed.box.role, placed.box.tag) for placed in page(rounds["round1"]).boxes}
    assert roles["conv1_split1"] == ("fast", "fast") and roles["conv1_split2"] == ("slow", "slow")
    for part in ("conv1_split2_residual_pre", "conv1_split2_residual_post", "conv1_reorder"):
        assert roles[part] == ("added", "added")
    assert roles["conv1_concat"] == roles["conv1_split2_sum"] == roles["res1b_conv1"] == ("plain", "")
    roles = {placed.box.name: (placed.box.role, placed.box.tag) for placed in page(rounds["skip"]).boxes}
    assert roles["conv1_split2_skip"] == ("frozen", "added frozen")
    roles = {placed.box.name: placed.box.role for placed in page(rounds["extension"]).boxes}
    assert roles["conv1_split2_extension"] == "added"
