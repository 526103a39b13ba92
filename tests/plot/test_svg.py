"""The SVG: it stands alone, names every layer once, and can be read."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from caffe_split.diagram.picture import LINE_SIZE, NAME_SIZE, text_width
from caffe_split.diagram.strokes import FRAME_FILLS, SHADES, Rectangle, Text, drawing
from caffe_split.formats import prototxt
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TRAIN
from caffe_split.plot.draw import draw_svg
from tests.plot.drawn_nets import layer, page
from tests.plot.picture_checks import overlap


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
