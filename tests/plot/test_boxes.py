"""What stands in one box, which words are on it, what is drawn once; the ranks and places of a layered drawing."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from caffe_split.diagram.boxes import make_boxes
from caffe_split.diagram.layered import Node, place, rank_nodes
from caffe_split.diagram.page import net_page
from caffe_split.diagram.splits import split_boxes
from caffe_split.diagram.strokes import Rectangle
from caffe_split.formats import prototxt
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TEST, TRAIN
from caffe_split.plot.draw import draw_svg
from tests.plot.drawn_nets import CONV, DATA, RESNET, layer, page
from tests.plot.picture_checks import check_joints, check_page, overlap
from tests.support import ROOT, caffe_split


def boxes_of(text: str) -> dict[str, tuple[str, ...]]:
    layers = phase_layers(prototxt.parse(text, "net"), TRAIN)
    return {box.name: box.layers for box in make_boxes(layers)}


def test_what_stands_in_one_box() -> None:
    text = DATA + layer("c", "Convolution", "d", "c", 'param { name: "w" } ' + CONV)
    in_place = layer("bn", "BatchNorm", "c", "c") + layer("relu", "ReLU", "c", "c")
    assert boxes_of(text + in_place)["c"] == ("c", "bn", "relu")
    # Not in place, but alone in reading: the same; a pooling never.
    chain = layer("bn", "BatchNorm", "c", "x") + layer("relu", "ReLU", "x", "y") + layer("p", "Pooling", "y")
    assert boxes_of(text + chain) == {"d": ("d",), "c": ("c", "bn", "relu"), "p": ("p",)}
    # Two readers: each has its own box.
    forked = layer("bn", "BatchNorm", "c", "x") + layer("relu", "ReLU", "c", "y")
    assert boxes_of(text + forked) == {"d": ("d",), "c": ("c",), "bn": ("bn",), "relu": ("relu",)}
    # A TPM layer stands in the box of the layer that it watches; what follows data does not stand in data's.
    watched = layer("c_tpm", "TPM", "", "c_tpm", 'param { name: "w" }')
    assert boxes_of(text + watched)["c"] == ("c", "c_tpm")
    assert boxes_of(DATA + layer("norm", "BatchNorm", "d", "n")) == {"d": ("d",), "norm": ("norm",)}


def test_the_words_on_a_box() -> None:
    settings = "convolution_param { num_output: 6 kernel_h: 3 kernel_w: 1 stride: 2 pad: 1 group: 2 dilation: 2 }"
    text = DATA + layer("c", "Convolution", "d", "c", settings + " param { lr_mult: 0 }")
    text += layer("p", "Pooling", "c", "p", "pooling_param { pool: AVE kernel_size: 2 stride: 2 pad: 1 }")
    text += layer("e", "Eltwise", "p p", "e", "eltwise_param { operation: PROD }") + layer("f", "InnerProduct", "e")
    words = {box.name: box.lines for box in make_boxes(phase_layers(prototxt.parse(text, "net"), TRAIN))}
    assert words == {
        "d": ("Input 1x3x8x8",),
        "c": ("conv 3x1 to 6", "stride 2, pad 1, dilation 2, group 2"),
        "p": ("average pool 2x2, stride 2, pad 1",),
        "e": ("product",),
        "f": ("inner product to ?",),
    }
    boxes = {box.name: box for box in make_boxes(phase_layers(prototxt.parse(text, "net"), TRAIN))}
    assert (boxes["c"].role, boxes["c"].tag) == ("frozen", "frozen")


def test_inputs_that_no_layer_gives() -> None:
    """Those of older deploy nets; a layer that works in place on one has a box of its own."""
    text = layer("r", "ReLU", "data", "data") + layer("c", "Convolution", "data", "c", CONV)
    declared = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 9 }\n' + text + layer("e", "Eltwise", "c other")
    document = prototxt.parse(declared, "net")
    boxes = make_boxes(phase_layers(document, TEST), {"data": (1, 3, 8, 9)})
    assert [(box.name, box.layers, box.lines[0]) for box in boxes] == [
        ("data", (), "input 1x3x8x9"),
        ("other", (), "input"),
        ("r", ("r",), "ReLU"),
        ("c", ("c",), "conv 3x3 to 2"),
        ("e", ("e",), "sum"),
    ]
    svg = draw_svg(prototxt.parse('input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 9 }\n' + text, "net"))
    assert ">input 1x3x8x9</text>" in svg


def test_stretches_without_a_split_are_one_box(rounds: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "one"
    weights = rounds["round1"].parents[1] / "w.caffemodel"
    options = ["--weights", weights, "--layers", "res2c_conv1", "--partition", "random:0", "--out", out]
    caffe_split("make-derived", RESNET, *options, cwd=tmp_path)
    layers = phase_layers(prototxt.read(out / "deploy.prototxt"), TRAIN)
    around, whole = net_page(layers), net_page(layers, True)
    assert len(around.boxes) < 20 < 40 < len(whole.boxes)
    long = [placed for placed in around.boxes if len(placed.box.layers) > 20]
    assert [placed.title for placed in long] == ["conv1 to res2b", "res3a_half to prob"] or len(long) == 2
    assert all(f"{len(p.box.layers)} layers, none of them split" in p.lines for p in long)
    check_page(around, [each.name for each in layers])


def residual_block(name: str, bottom: str, kernels: int = 2) -> str:
    text = layer(f"{name}_a", "Convolution", bottom, "", CONV.replace("2", str(kernels)))
    text += layer(f"{name}_relu", "ReLU", f"{name}_a", f"{name}_a") + layer(f"{name}_b", "Pooling", f"{name}_a")
    return text + layer(name, "Eltwise", f"{bottom} {name}_b")


@pytest.mark.parametrize("count", [3, 4, 9])
def test_blocks_that_are_the_same_are_drawn_once(count: int) -> None:
    text = DATA + "".join(residual_block(f"r{i}", f"r{i - 1}" if i else "d") for i in range(count))
    # One that differs, and more of those.
    text += "".join(residual_block(f"s{i}", f"s{i - 1}" if i else f"r{count - 1}", 5) for i in range(4))
    layers = phase_layers(prototxt.parse(text, "net"), TRAIN)
    picture = net_page(layers)
    check_page(picture, [each.name for each in layers])
    check_joints(picture)
    joined = {placed.title: placed.lines for placed in picture.boxes if " to " in placed.title}
    expected = {"s1_a to s3": ("the block above 3 times more, 12 layers",)}
    if count > 3:
        line = f"the block above {count - 1} times more, {4 * count - 4} layers"
        expected[f"r1_a to r{count - 1}"] = (line,)
    assert joined == expected
    assert not any(" to " in placed.title for placed in net_page(layers, True).boxes)


def test_labels_are_notes_not_wires(rounds: dict[str, Path]) -> None:
    net = ROOT / "prototxt/resnet20_cifar100/train_val.prototxt"
    picture = page(net, phase="TEST")
    assert {note.text for note in picture.notes} == {"label from data"}
    assert not any(wire.source == "data" and wire.target in ("loss", "accuracy") for wire in picture.wires)


def test_in_one_column_too() -> None:
    text = layer("d", "DummyData", "", "d").replace('top: "d"', 'top: "d" top: "label"')
    names = ["d", "a", "b", "c", "e"]
    text += "".join(layer(name, "Convolution", bottom, name, CONV) for bottom, name in zip(names, names[1:]))
    text += layer("loss", "SoftmaxWithLoss", "e label", "loss")
    picture = net_page(phase_layers(prototxt.parse(text, "net"), TRAIN), True)
    assert [note.text for note in picture.notes] == ["label from d"]
    assert ("d", "loss") not in {(wire.source, wire.target) for wire in picture.wires}


def test_a_split_layer_that_is_no_split() -> None:
    """Names alone do not make a split: it takes the concat and the reorder."""
    text = DATA + layer("a_split1", "Convolution", "d", "a_split1", CONV) + layer("a_concat", "Concat", "a_split1")
    layers = phase_layers(prototxt.parse(text, "net"), TRAIN)
    boxes = make_boxes(layers)
    assert {box.role for box in boxes} == {"plain"} and split_boxes(layers, boxes) == []


def test_ranks() -> None:
    assert rank_nodes(4, [(0, 1), (1, 3), (2, 3)]) == [0, 1, 1, 2]


def test_layout_of_random_graphs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        count = int(rng.integers(1, 25))
        sizes = rng.integers(5, 90, (count, 2))
        nodes = [Node(float(w), float(h), w / 2.0, w / 3.0) for w, h in sizes]
        pairs = {(int(u), int(v)) for u, v in rng.integers(0, count, (int(rng.integers(0, 40)), 2)) if u < v}
        placed = place(nodes, sorted(pairs), side=float(rng.choice([0.01, 1.0])))
        boxes = [Rectangle(x, y, n.width, n.height, "", "") for (x, y), n in zip(placed.corners, nodes)]
        assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
        assert set(placed.wires) == pairs
        for (u, v), points in placed.wires.items():
            assert points[0] == (boxes[u].x + nodes[u].leave, boxes[u].y + nodes[u].height)
            assert points[-1] == (boxes[v].x + nodes[v].enter, boxes[v].y)
            assert all(a[1] <= b[1] for a, b in zip(points, points[1:]))
