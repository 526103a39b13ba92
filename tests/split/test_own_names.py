"""A user's own layers that have names of ours: what we do with a net does not depend on its layers' names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from caffe_split.derivation.choose import candidates, choose_layers
from caffe_split.derivation.options import DeriveOptions
from caffe_split.errors import CaffeSplitError
from caffe_split.folding.merge import merge_stems
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.layertypes.summary import summarize
from caffe_split.layertypes.summary_text import csv_text
from caffe_split.net.layers import all_layers
from caffe_split.plot.draw import draw_svg
from caffe_split.plot.kernels import shown_layers
from caffe_split.split import naming
from caffe_split.split.kinds import KIND_NAMES, KindName, added_words
from caffe_split.split.recognise import helper_names
from caffe_split.study.telemetry import movements
from caffe_split.tpm.collect import measure_snapshots
from tests.split.nets import CONV, layer, split_again
from tests.support import caffe_split

CASE = Path(__file__).parent / "files" / "own_layer_named_reorder.prototxt"
DATA = 'layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 1 dim: 8 dim: 6 dim: 6 } } }\n'

LETTERS = str.maketrans("psedli", "qzabjf")
ENDINGS = [
    make("")
    for make in (
        naming.fast_half,
        naming.slow_half,
        naming.concat,
        naming.reorder,
        naming.total,
        *(lambda name, word=word: naming.added(name, word) for word in sorted(added_words())),
    )
]


@st.composite
def nets(draw: st.DrawFn) -> tuple[str, dict[str, str]]:
    """A net of convolutions, sums and concats that is none of ours, and neutral name -> the name that it has.

    Neutral names have letters that are as wide in a picture.
    """
    name = st.builds(
        lambda base, ends: base + "".join(ends), st.sampled_from("xy"), st.lists(st.sampled_from(ENDINGS), max_size=2)
    )
    names = draw(st.lists(name, min_size=2, max_size=7, unique=True))
    text, channels = DATA, {"b": 8}
    for own in names:
        kind = draw(st.sampled_from(["Convolution", "Convolution", "Convolution", "Concat", "Eltwise"]))
        bottoms = draw(st.lists(st.sampled_from(sorted(channels)), min_size=2, max_size=2))
        if kind == "Convolution":
            side = draw(st.sampled_from([1, 3]))
            count = draw(st.sampled_from([4, 8]))
            text += layer(
                own,
                kind,
                bottoms[0],
                f"convolution_param {{ num_output: {count} kernel_size: {side} pad: {side // 2} }}",
            )
            channels[own] = count
        elif kind == "Concat":
            text += layer(own, kind, " ".join(bottoms))
            channels[own] = sum(channels[bottom] for bottom in bottoms)
        else:
            alike = [blob for blob in channels if channels[blob] == channels[bottoms[0]]]
            text += layer(own, kind, f"{bottoms[0]} {draw(st.sampled_from(alike))}")
            channels[own] = channels[bottoms[0]]
    joins = {each.name for each in all_layers(prototxt.parse(text, "net")) if each.type == "Concat"}
    # One such pair could be the end of a split; what makes it one is tested beside `find_splits`.
    assume(not any(naming.concat(origin) in joins for own in names if (origin := naming.reordered(own)) is not None))
    return text, {own.translate(LETTERS): own for own in names}


def renamed(text: str, names: dict[str, str]) -> str:
    if not names:
        return text
    longest = sorted(names, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest)), lambda found: names[found.group()], text)


def neutral(text: str, names: dict[str, str]) -> str:
    back = {own: name for name, own in names.items()}
    return re.sub(r'"([^"]*)"', lambda found: '"' + back.get(found.group(1), found.group(1)) + '"', text)


def folded(document: prototxt.Document) -> str:
    """What folding makes of the net with weights of ones."""
    shapes = infer_shapes(all_layers(document)).params
    blobs = {name: [np.ones(shape, np.float32) for shape in blobs] for name, blobs in shapes.items()}
    done, kept, *_ = merge_stems([document], blobs)
    return f"{done} {kept} {document}"


VIEWS: dict[str, Callable[[prototxt.Document], str]] = {
    "drawn": lambda document: draw_svg(document, whole=True),
    "shortened": draw_svg,
    "summarised": lambda document: csv_text(summarize(document)),
    "candidates": lambda document: " ".join(each.name for each in candidates(document)),
    "kernels": lambda document: " ".join(
        " ".join(shown_layers(document, each.name)) for each in all_layers(document) if each.type == "Convolution"
    ),
    "folded": folded,
}


@settings(deadline=None, max_examples=25)
@given(made=nets(), kind=st.sampled_from(KIND_NAMES), whole=st.booleans(), data=st.data())
def test_a_net_with_our_names_is_as_one_with_neutral_names(
    made: tuple[str, dict[str, str]], kind: KindName, whole: bool, data: st.DataObject
) -> None:
    text, names = made
    own, other = prototxt.parse(text, "net"), prototxt.parse(neutral(text, names), "net")
    assert [names.get(each.name, each.name) for each in all_layers(other)] == [each.name for each in all_layers(own)]
    for what, view in VIEWS.items():
        assert view(own.copy()) == renamed(view(other.copy()), names), what
    possible = [each.name for each in candidates(other, DeriveOptions(kind=kind))]
    if not possible:
        return
    name = data.draw(st.sampled_from(possible))
    if {f"{names[name]}{ending}" for ending in ENDINGS} & set(names.values()):
        # Names that the split would make may be the user's own; neutral ones never are.
        return
    split_again(own, names[name], whole=whole, kind=kind)
    split_again(other, name, whole=whole, kind=kind)
    assert str(own) == renamed(str(other), names)
    # A picture tells the parts of the split, and folding undoes it.
    assert draw_svg(own, whole=True) == renamed(draw_svg(other, whole=True), names)
    for document, split in ((own, names[name]), (other, name)):
        made_by_us = {naming.reorder(split), *(naming.added(split, word) for word in added_words())}
        assert helper_names(all_layers(document)) <= made_by_us
        assert whole or naming.reorder(split) in helper_names(all_layers(document))


def test_an_own_layer_named_as_a_helper_is_split_drawn_and_folded_as_any_other(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_bytes(CASE.read_bytes())
    rng = np.random.default_rng(0)
    weights = {
        name: [rng.standard_normal((8, 8, 3, 3)).astype(np.float32), np.zeros(8, np.float32)]
        for name in ("frames_reorder", "conv2")
    }
    caffemodel.write_weights(tmp_path / "w.caffemodel", weights, types=dict.fromkeys(weights, "Convolution"))
    refused = caffe_split("fold", net, "w.caffemodel", "--out", "folded", cwd=tmp_path, status=1).stderr
    assert "nothing to fold: no split layers in it" in refused
    caffe_split("draw", net, "--out", "net.svg", cwd=tmp_path)
    assert "added" not in (tmp_path / "net.svg").read_text()
    series = caffe_split("instrument", net, "--window", "0:4", "--out", "watched.prototxt", cwd=tmp_path).stderr
    assert "frames_reorder" in series
    done = caffe_split(
        *("make-derived", net, "--weights", "w.caffemodel", "--layers", "frames_reorder", "--partition", "random:0"),
        *("--out", "derived", "--json"),
        cwd=tmp_path,
    )
    assert json.loads(done.stdout)["layers"][0]["parts"][-1] == "frames_reorder_reorder"
    whole = caffe_split(
        "fold", "derived/net.prototxt", "derived/init.caffemodel", "--out", "back", "--no-verify", cwd=tmp_path
    )
    assert "frames_reorder: residual, 7 layers -> 1" in whole.stdout
    assert (tmp_path / "back/net.prototxt").read_bytes() == net.read_bytes()


def test_names_that_a_split_would_make_twice_are_refused_with_the_way_out() -> None:
    document = prototxt.parse(
        DATA + layer("x", "Convolution", "b", CONV) + layer("x_reorder", "Convolution", "x", CONV), "net"
    )
    assert [each.name for each in choose_layers(document, ["x"], 1, [])] == ["x"]
    with pytest.raises(CaffeSplitError, match=r"splitting 'x' makes layers or blobs named x_reorder, which exist\."):
        split_again(document, "x")


def test_weights_without_a_net_are_taken_by_names_that_make_a_whole_split(tmp_path: Path) -> None:
    """A lone `frames_reorder` is scored; the helpers of a split, all of whose names are there, are not."""
    split = ["x_split1", "x_split2", "x_split2_residual_pre", "x_split2_residual_post", "x_reorder"]
    snapshots = {}
    for iteration in (10, 20):
        weights = {name: [np.full((4, 4, 3, 3), iteration, np.float32)] for name in ("frames_reorder", *split)}
        snapshots[iteration] = tmp_path / f"net_iter_{iteration}.caffemodel"
        caffemodel.write_weights(snapshots[iteration], weights, types=dict.fromkeys(weights, "Convolution"))
    assert [score.layer for score in measure_snapshots(snapshots)] == ["frames_reorder", *split[:3]]
    assert [*movements(*snapshots.values())["x"]] == ["split1", "split2", "residual_pre", "residual_post", "reorder"]
    assert [*movements(*snapshots.values())] == ["x"]


@pytest.mark.usefixtures("backend")
def test_verifying_asks_only_of_splits_that_they_are_in_the_net(tmp_path: Path) -> None:
    """An own layer named X_reorder, in the TRAIN phase alone, is none of them."""
    net = tmp_path / "net.prototxt"
    net.write_text(
        CASE.read_text().replace("frames_reorder", "frames")
        + layer("y_reorder", "Convolution", "conv2", "include { phase: TRAIN } " + CONV)
    )
    weights = {
        name: [np.ones((8, 8, 3, 3), np.float32), np.zeros(8, np.float32)] for name in ("frames", "conv2", "y_reorder")
    }
    caffemodel.write_weights(tmp_path / "w.caffemodel", weights, types=dict.fromkeys(weights, "Convolution"))
    files = ("--baseline-weights", "w.caffemodel", "--derived-weights", "w.caffemodel")
    result = caffe_split("verify", net, net, *files, "--ignore-extra-weights", cwd=tmp_path)
    assert "same function" in result.stdout
