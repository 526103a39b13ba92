"""Pictures of nets: nothing lost, nothing over another, roles told by colour and label, files and refusals."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from caffe_split.diagram.boxes import Box, make_boxes
from caffe_split.diagram.layered import Node, place, rank_nodes
from caffe_split.diagram.page import net_page
from caffe_split.diagram.picture import HEAD_HEIGHT, LINE_SIZE, NAME_SIZE, Frame, Picture, PlacedBox, text_width
from caffe_split.diagram.splits import split_boxes
from caffe_split.diagram.strokes import FRAME_FILLS, SHADES, Curve, Rectangle, Text, drawing, pieces
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.shapes import document_inputs, infer_shapes
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TEST, TRAIN, NetState
from caffe_split.plot.draw import draw_file, draw_svg
from tests.support import CAFFE, ROOT, caffe_split

SHARE = CAFFE.parents[1] / "share" / "caffe"
RESNET = ROOT / "prototxt/resnet20_cifar100/deploy.prototxt"
ROUNDS = [
    "conv1,res1a_conv2,res1c_conv1,res2a_conv1,res2b_conv1,res2c_conv2,res3a_conv1,res3b_conv2,res3c_conv1",
    "conv1_split2,res1a_conv2_split1,res1b_conv1,res2a_conv1_split2_residual_pre,res2b_conv2,res2c_conv2_split2,"
    "res3a_conv1_split1,res3b_conv1,res3c_conv2",
    "conv1_split2_split1,res1b_conv1_split2,res1b_conv2,res2a_conv2,res2b_conv2_split1,res2c_conv1,res3a_conv1_split2,"
    "res3b_conv2_split2,res3c_conv2_split1",
]


def random_weights(net: Path, path: Path) -> Path:
    """Weights that fit the net."""
    document = prototxt.read(net)
    layers = phase_layers(document, TEST)
    shapes = infer_shapes(layers, document_inputs(document))
    rng = np.random.default_rng(0)
    blobs = {
        layer.name: [
            rng.standard_normal(shape).astype(np.float32)
            for shape in shapes.params.get(layer.name, []) + shapes.state.get(layer.name, [])
        ]
        for layer in layers
    }
    caffemodel.write_weights(path, {name: arrays for name, arrays in blobs.items() if arrays})
    return path


@pytest.fixture(scope="session")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ResNet-20 with nine splits, the same again on that, and again; and nine splits of the other kinds."""
    folder = tmp_path_factory.mktemp("rounds")
    nets = {"baseline": RESNET}
    net, weights = RESNET, random_weights(RESNET, folder / "w.caffemodel")
    for number, layers in enumerate(ROUNDS, 1):
        out = folder / f"round{number}"
        options = ["--weights", weights, "--layers", layers, "--partition", f"random:{number}", "--out", out]
        caffe_split("make-derived", net, *options, cwd=folder)
        net, weights = out / "deploy.prototxt", out / "init.caffemodel"
        nets[f"round{number}"] = net
    for kind in ("skip", "extension"):
        out = folder / kind
        options = ["--weights", folder / "w.caffemodel", "--layers", ROUNDS[0], "--partition", "random:0"]
        caffe_split("make-derived", RESNET, *options, "--kind", kind, "--out", out, cwd=folder)
        nets[kind] = out / "deploy.prototxt"
    return nets


NETS = ["baseline", "round1", "round2", "round3", "skip", "extension"]


def page(net: Path, whole: bool | None = None, phase: str = "TRAIN") -> Picture:
    return net_page(phase_layers(prototxt.read(net), NetState(phase)), whole)


# -- the page as a value


def overlap(a: object, b: object) -> bool:
    return (
        a.x < b.x + b.width - 0.01  # type: ignore[attr-defined]
        and b.x < a.x + a.width - 0.01  # type: ignore[attr-defined]
        and a.y < b.y + b.height - 0.01  # type: ignore[attr-defined]
        and b.y < a.y + a.height - 0.01  # type: ignore[attr-defined]
    )


def holds(frame: Frame, thing: object) -> bool:
    return (
        frame.x <= thing.x  # type: ignore[attr-defined]
        and frame.y <= thing.y  # type: ignore[attr-defined]
        and thing.x + thing.width <= frame.x + frame.width  # type: ignore[attr-defined]
        and thing.y + thing.height <= frame.y + frame.height  # type: ignore[attr-defined]
    )


def check_page(picture: Picture, layers: list[str]) -> None:
    """Every layer once; no two boxes or notes over one another; frames within one another or apart; wires clear."""
    assert Counter(name for placed in picture.boxes for name in placed.box.layers) == Counter(layers)
    things = [*picture.boxes, *picture.notes]
    for a, b in itertools.combinations(things, 2):
        assert not overlap(a, b), (a, b)
    for a, b in itertools.combinations(picture.frames, 2):
        assert not overlap(a, b) or holds(a, b) or holds(b, a), (a.name, b.name)
    for thing in (*things, *picture.frames):
        assert thing.x >= 0 and thing.y >= 0
        assert thing.x + thing.width <= picture.width + 0.01 and thing.y + thing.height <= picture.height + 0.01
        for frame in picture.frames:
            assert not overlap(frame, thing) or holds(frame, thing) or holds(thing, frame)  # type: ignore[arg-type]
    for wire in picture.wires:
        for piece in pieces(Curve(wire.points, "", False)):
            xs, ys = [x for x, _ in piece], [y for _, y in piece]
            hull = Rectangle(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys), "", "")
            for thing in things:
                crossed = (
                    hull.x < thing.x + thing.width - 0.5
                    and thing.x + 0.5 < hull.x + hull.width
                    and hull.y < thing.y + thing.height - 0.5
                    and thing.y + 0.5 < hull.y + hull.height
                )
                assert not crossed, (wire, thing)


def check_joints(picture: Picture) -> None:
    """Every wire begins under a box, a frame or a note, in a frame's head, or where another ends; and ends alike."""

    def near(a: float, b: float) -> bool:
        return abs(a - b) < 0.01

    things = [*picture.boxes, *picture.frames, *picture.notes]
    starts, ends = [w.points[0] for w in picture.wires], [w.points[-1] for w in picture.wires]
    for wire in picture.wires:
        (x, y), (to_x, to_y) = wire.points[0], wire.points[-1]
        bottoms = [t for t in things if near(y, t.y + t.height) and t.x <= x <= t.x + t.width]
        heads = [f for f in picture.frames if near(y, f.y + HEAD_HEIGHT) and f.x <= x <= f.x + f.width]
        assert bottoms or heads or any(near(x, a) and near(y, b) for a, b in ends), wire
        tops = [t for t in things if near(to_y, t.y) and t.x <= to_x <= t.x + t.width]
        floors = [f for f in picture.frames if near(to_y, f.y + f.height) and f.x <= to_x <= f.x + f.width]
        assert tops or floors or any(near(to_x, a) and near(to_y, b) for a, b in starts), wire
        assert wire.arrow or not tops
    for frame in picture.frames:
        assert any(near(y, frame.y + frame.height) and frame.x <= x <= frame.x + frame.width for x, y in ends)


def check_flow(picture: Picture, boxes: list[Box]) -> None:
    """Every input of every box is drawn: as wires from one to the other, through frames and turns, or as a note."""
    drawn = {(wire.source, wire.target) for wire in picture.wires}
    notes = " ".join(note.text for note in picture.notes)
    around = {placed.box.name: _frames_around(picture, placed) for placed in picture.boxes}
    for placed in picture.boxes:
        for index, blob in placed.box.inputs:
            source = boxes[index].name
            mine, theirs = around[placed.box.name], around[source]
            shared = 0
            while shared < min(len(mine), len(theirs)) and mine[shared] == theirs[shared]:
                shared += 1
            target = [*mine, placed.box.name][shared]
            origin = [*theirs, source][shared]
            direct = (origin, target) in drawn
            turned = (origin, "") in drawn and ("", target) in drawn
            noted = f"from {origin}" in notes and ("", target) in drawn
            assert direct or turned or noted, (source, placed.box.name, blob)
            for outer, inner in zip([*mine][shared:], [*mine, placed.box.name][shared + 1 :]):
                assert ("", inner) in drawn and ("", outer) in drawn, (outer, inner)


def _frames_around(picture: Picture, placed: PlacedBox) -> list[str]:
    found = [frame for frame in picture.frames if holds(frame, placed)]
    return [frame.name for frame in sorted(found, key=lambda frame: -frame.width * frame.height)]


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


def boxes_of(text: str) -> dict[str, tuple[str, ...]]:
    layers = phase_layers(prototxt.parse(text, "net"), TRAIN)
    return {box.name: box.layers for box in make_boxes(layers)}


def layer(name: str, kind: str, bottoms: str = "", top: str = "", more: str = "") -> str:
    words = [f'bottom: "{bottom}"' for bottom in bottoms.split()] + [f'top: "{top or name}"']
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(words)} {more} }}\n'


CONV = "convolution_param { num_output: 2 kernel_size: 3 }"
DATA = layer("d", "Input", "", "d", "input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } }")


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


# -- layered layout


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


# -- SVG


def svg_of(net: Path, **options: object) -> ElementTree.Element:
    return ElementTree.fromstring(draw_svg(prototxt.read(net), **options))  # type: ignore[arg-type]


SVG = "{http://www.w3.org/2000/svg}"


def test_svg_stands_alone(rounds: dict[str, Path]) -> None:
    text = draw_svg(prototxt.read(rounds["round3"]))
    assert text.startswith("<svg ") and len(text) < 300_000
    assert text.count("http") == 1  # the name space
    root = ElementTree.fromstring(text)
    assert {element.tag.replace(SVG, "") for element in root.iter()} == {"svg", "title", "rect", "text", "path"}
    # No wider than the page it is on. Two of them in a page must not disturb each other: no ids or classes.
    assert root.attrib.pop("style") == "max-width:100%;height:auto"
    names = {name for element in root.iter() for name in element.attrib}
    assert not names & {"id", "class", "style", "href"}
    assert text == draw_svg(prototxt.read(rounds["round3"]))


def test_svg_names_every_layer_once(rounds: dict[str, Path]) -> None:
    root = svg_of(rounds["round1"], whole=True)
    told = [title.text.split(", ") for rect in root.iter(f"{SVG}rect") for title in rect.iter(f"{SVG}title")]
    frames = [words for words in told if ":" in words[0]]
    assert len(frames) == 9
    names = Counter(name for words in told if words not in frames for name in words)
    layers = [each.name for each in phase_layers(prototxt.read(rounds["round1"]), TRAIN)]
    assert names == Counter(layers)


def test_svg_tells_roles_by_colour_and_label(rounds: dict[str, Path]) -> None:
    root = svg_of(rounds["skip"])
    words = Counter(element.text for element in root.iter(f"{SVG}text"))
    # One a split, and one in the legend.
    assert (words["fast"], words["slow"], words["added"], words["added frozen"]) == (10, 10, 10, 9)
    assert words["frozen"] == 1 and words["kernels of high TPM"] == 1 and words["never learns"] == 1
    fills = Counter(element.get("fill") for element in root.iter(f"{SVG}rect"))
    assert fills[SHADES["fast"][1]] == fills[SHADES["slow"][1]] == fills[SHADES["frozen"][1]] == 9
    # The labels stand on the dark shade of the role; one more of each is in the legend.
    assert [fills[SHADES[role][0]] for role in ("fast", "slow", "added", "frozen")] == [10, 10, 10, 10]
    dashed = [element for element in root.iter(f"{SVG}rect") if element.get("stroke-dasharray")]
    assert len([element for element in dashed if element.get("fill") == SHADES["frozen"][1]]) == 9
    baseline = Counter(element.text for element in svg_of(rounds["baseline"]).iter(f"{SVG}text"))
    assert baseline["fast"] == 0 and baseline["resnet20_cifar100"] == 1


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_on_its_ground() -> None:
    """WCAG 2.1: 4.5 to 1."""
    for role, (dark, pale) in SHADES.items():
        for ground in (pale, FRAME_FILLS[role]):
            assert contrast("#1A1A1A", ground) > 4.5 and contrast("#5A5A5A", ground) > 4.5
        if role != "plain":
            assert contrast("#FFFFFF", dark) > 4.5


def test_text_stays_in_its_box(rounds: dict[str, Path]) -> None:
    """The estimate of a text's width is no less than what the font needs, and every text is inside a rectangle."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    strokes = drawing(page(rounds["round2"]), "a title").strokes
    for text, size, bold in {(stroke.text, stroke.size, stroke.bold) for stroke in strokes if isinstance(stroke, Text)}:
        font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
        needed = TextPath((0, 0), text, size=size, prop=font).get_extents().x1
        assert needed <= text_width(text, size, bold) + 0.5, text
    rectangles = [stroke for stroke in strokes if isinstance(stroke, Rectangle)]
    for stroke in strokes:
        if isinstance(stroke, Text) and stroke.y > 40:
            right = stroke.x + text_width(stroke.text, stroke.size, stroke.bold)
            assert any(
                r.x <= stroke.x
                and right <= r.x + r.width + 0.5
                and r.y <= stroke.y - stroke.size * 0.7
                and stroke.y <= r.y + r.height
                for r in rectangles
            ), stroke


def test_tags_do_not_cover_text(rounds: dict[str, Path]) -> None:
    for name in ("round3", "skip"):
        texts = [s for s in drawing(page(rounds[name])).strokes if isinstance(s, Text) and s.y > 40]
        hulls = [
            Rectangle(t.x, t.y - 0.72 * t.size, text_width(t.text, t.size, t.bold) * 0.97, 0.7 * t.size, "", "")
            for t in texts
        ]
        order = sorted(range(len(hulls)), key=lambda i: hulls[i].y)
        for position, i in enumerate(order):
            for j in order[position + 1 :]:
                if hulls[j].y > hulls[i].y + hulls[i].height:
                    break
                assert not overlap(hulls[i], hulls[j]), (texts[i], texts[j])


def test_names_are_escaped() -> None:
    text = 'name: "a<b&c"\n' + layer("x<&>'y", "Input", "", "t", "input_param { shape { dim: 1 } }")
    document = prototxt.parse(text, "net")
    assert "a&lt;b&amp;c" in draw_svg(document) and ElementTree.fromstring(draw_svg(document)) is not None
    assert text_width("", NAME_SIZE) == 0 < text_width("a", LINE_SIZE)


# -- files and the command


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<svg "), ("pdf", b"%PDF")])
def test_files(rounds: dict[str, Path], tmp_path: Path, ending: str, start: bytes) -> None:
    out = tmp_path / f"net.{ending}"
    said = caffe_split("draw", rounds["round1"], "--out", out, cwd=tmp_path).stdout
    assert said == f"wrote {out}\n" and out.read_bytes().startswith(start)
    draw_file(prototxt.parse(DATA, "net"), tmp_path / f"again.{ending}", title="once more")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, f"again.{ending}"])


def test_whole_and_split(rounds: dict[str, Path], tmp_path: Path) -> None:
    run = lambda *words: caffe_split("draw", *words, cwd=tmp_path)  # noqa: E731
    run(rounds["round1"], "--out", "split.svg", "--title", "Nine splits")
    run(rounds["round1"], "--out", "whole.svg", "--whole")
    split, whole = ((tmp_path / name).read_text() for name in ("split.svg", "whole.svg"))
    assert "Nine splits" in split and split.count("<text") <= whole.count("<text")
    with pytest.raises(CaffeSplitError, match="no layer of the net was split"):
        draw_svg(prototxt.read(RESNET), whole=False)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["net.prototxt", "--out", "x.gif"], 1, "must end in .png, .svg, .pdf"),
        (["missing.prototxt", "--out", "x.svg"], 1, "missing.prototxt"),
        (["net.prototxt", "--out", "there.svg"], 1, "there.svg exists; nothing is overwritten unasked"),
        (["net.prototxt", "--out", "no/x.svg"], 1, "no such folder"),
        (["net.prototxt", "--out", "x.svg", "--split"], 1, "no layer of the net was split; draw the whole net"),
        (["net.prototxt", "--out", "folder.svg", "--force"], 1, "folder.svg is there and no file"),
        (["empty.prototxt", "--out", "x.svg"], 1, "no layer of it runs in phase TRAIN"),
        (["net.prototxt"], 2, "--out"),
        (["net.prototxt", "--out", "x.svg", "--aspect", "0"], 2, "--aspect"),
    ],
)
def test_refused(tmp_path: Path, words: list[str], status: int, said: str) -> None:
    (tmp_path / "net.prototxt").write_text(DATA + layer("c", "Convolution", "d", "c", CONV))
    (tmp_path / "empty.prototxt").write_text(layer("c", "Silence", "d", "c", "include { phase: TEST }"))
    (tmp_path / "there.svg").write_text("old")
    (tmp_path / "folder.svg").mkdir()
    result = caffe_split("draw", *words, cwd=tmp_path, status=status)
    assert said in result.stderr and not (tmp_path / "x.svg").exists()
    assert (tmp_path / "there.svg").read_text() == "old"
