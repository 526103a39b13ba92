"""A split's layers multiplied out: the algebra against the plain convolution, over many geometries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from caffe_split.derivation.rewrite import rewrite
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.geometry import Geometry
from caffe_split.net.graph import Graph
from caffe_split.net.layers import all_layers
from caffe_split.split.affine import CannotFoldError
from caffe_split.split.algebra import Kernels
from caffe_split.split.groups import grouped
from caffe_split.split.kinds import KIND_NAMES, KindName
from caffe_split.split.layer import SplitOptions, split_convolution
from caffe_split.split.partition import divide, parse_rule
from caffe_split.split.parts import Part
from caffe_split.split.recognise import find_splits
from caffe_split.split.unsplit import Unsplit, innermost_first, unsplit
from tests.split.reference import convolve, forward, geometries


def text(geometry: Geometry, count: int, channels: int, bias: bool, side: int) -> str:
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = geometry.kernel, geometry.stride, geometry.pad, geometry.dilation
    return f"""layer {{ name: "b" type: "Input" top: "b" input_param {{ shape: {{ dim: 1 dim: {channels} dim: {side}
dim: {side} }} }} }}
layer {{
  name: "x"  # of interest
  type: "Convolution" bottom: "b" top: "t"
  convolution_param {{
    num_output: {count} kernel_h: {kh} kernel_w: {kw} stride_h: {sh} stride_w: {sw} pad_h: {ph} pad_w: {pw}
    dilation: {dh} dilation: {dw} group: {geometry.group} bias_term: {str(bias).lower()}
  }}
}}
layer {{ name: "r" type: "ReLU" bottom: "t" top: "t" }}
"""


def split(
    geometry: Geometry, kernels: Kernels, options: SplitOptions, side: int, rule: str = "random:1"
) -> tuple[prototxt.Document, list[Part]]:
    count, channels = len(kernels.weight), kernels.weight.shape[1] * geometry.group
    document = prototxt.parse(text(geometry, count, channels, kernels.bias is not None, side), "net")
    partition = divide(parse_rule(rule), np.zeros(count), geometry.group)
    parts = split_convolution("x", "b", "t", geometry, kernels, partition, options=options, input_sizes=((side, side),))
    rewrite(document, {"x": parts})
    return document, parts


def random_kernels(geometry: Geometry, count: int, channels: int, bias: bool, rng: np.random.Generator) -> Kernels:
    weight = rng.standard_normal((count, channels // geometry.group, *geometry.kernel))
    return Kernels(weight, rng.standard_normal(count) if bias else None)


def multiplied_out(document: prototxt.Document, blobs: dict[str, list[np.ndarray]]) -> Unsplit:
    graph = Graph(all_layers(document))
    (split,) = find_splits(graph)
    return unsplit(graph, split, blobs)


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(KIND_NAMES),
    fitting=geometries(),
    bias=st.booleans(),
    pool=st.sampled_from(["stride", "average"]),
    trained=st.booleans(),
    rule=st.sampled_from(["random:1", "all"]),
    seed=st.integers(0, 50),
)
def test_one_convolution_computes_what_the_split_computes(
    *,
    kind: KindName,
    fitting: tuple[Geometry, int],
    bias: bool,
    pool: str,
    trained: bool,
    rule: str,
    seed: int,
) -> None:
    geometry, side = fitting
    rng = np.random.default_rng(seed)
    original = random_kernels(geometry, 8, 6, bias, rng)
    try:
        document, parts = split(geometry, original, SplitOptions(kind=kind, seed=seed, skip_pool=pool), side, rule)
    except CaffeSplitError:
        assume(False)
    if trained:  # Every number that learns has moved, and none as the split had set it.
        parts = [
            replace(part, blobs=tuple(np.asarray(b) + 0.3 * rng.standard_normal(b.shape) for b in part.blobs))
            if not part.frozen
            else part
            for part in parts
        ]
    blobs = {part.name: [np.float32(blob) for blob in part.blobs] for part in parts if part.blobs}
    found = multiplied_out(document, blobs)
    assert found.geometry == geometry and found.kind == kind and found.top == "t"
    assert {layer.name for layer in found.members} == {part.name for part in parts}
    image = rng.standard_normal((6, side, side))
    expected = forward(parts, "b", image)["t"]
    whole = convolve(image, found.kernels.weight, found.kernels.bias, Geometry(**{**vars(geometry), "group": 1}))
    assert np.abs(whole - expected).max() <= 1e-9 * np.abs(expected).max()
    # Without a reorder only what multiplies the channels of the slow half can mix the groups.
    mixing = rule != "all" or kind in ("residual", "extension")
    if geometry.group == 2 and trained and mixing:
        with pytest.raises(CannotFoldError, match=r"other groups than their own.*--ungroup"):
            grouped(found.kernels.weight, geometry.group)
        return
    weight = grouped(found.kernels.weight, geometry.group)
    small = convolve(image, weight, found.kernels.bias, geometry)
    assert np.abs(small - expected).max() <= 1e-5 * np.abs(expected).max()
    if not trained:
        assert np.abs(weight - original.weight).max() <= 1e-5 * np.abs(original.weight).max()


GEOMETRY = Geometry((3, 3), (1, 1), (1, 1))


def derived(**options: object) -> tuple[prototxt.Document, dict[str, list[np.ndarray]]]:
    kernels = random_kernels(GEOMETRY, 6, 4, True, np.random.default_rng(0))
    document, parts = split(GEOMETRY, kernels, SplitOptions(**options), 8)  # type: ignore[arg-type]
    return document, {part.name: [np.float32(blob) for blob in part.blobs] for part in parts if part.blobs}


@pytest.mark.parametrize(
    ("kind", "old", "new", "reason"),
    [
        (
            "skip",
            'name: "r" type: "ReLU" bottom: "t"',
            'name: "r" type: "ReLU" bottom: "x_split2"',
            r"layer 'r' .* reads 'x_split2', which would be gone",
        ),
        ("skip", 'type: "Eltwise"', 'type: "Eltwise" loss_weight: 1', "top of layer 'x_split2_sum' .* is a loss"),
        ("extension", 'bottom: "x_concat"', 'bottom: "x_concat" include { phase: TEST }', "different include"),
        (
            "residual",
            'name: "x_split2_residual_pre"',
            'name: "x_split2_residual_pre" param { name: "w" }',
            "shares its parameter 'w' with layer 'r'",
        ),
    ],
)
def test_what_cannot_be_merged_says_why(kind: str, old: str, new: str, reason: str) -> None:
    document, blobs = derived(kind=kind)
    source = str(document)
    if "param { name" in new:
        source = source.replace('type: "ReLU"', 'type: "PReLU" param { name: "w" }')
    assert old in source
    broken = prototxt.parse(source.replace(old, new, 1), "net")
    with pytest.raises(CannotFoldError, match=reason):
        multiplied_out(broken, blobs)


def test_relu_between_pre_and_post_is_not_linear() -> None:
    document, blobs = derived(kind="residual", activation="relu")
    with pytest.raises(CannotFoldError, match=r"layer 'x_split2_residual_relu' \(line 0\) is a ReLU"):
        multiplied_out(document, blobs)


def test_an_operation_in_place_between_the_parts_is_no_part_of_a_convolution() -> None:
    document, blobs = derived(kind="extension")
    first = next(layer for layer in all_layers(document) if layer.name == "x_split1")
    between = prototxt.field("layer", {"name": "p", "type": "Power", "bottom": "x_split1", "top": "x_split1"})
    document.insert_after(first.field, between)
    with pytest.raises(CannotFoldError, match=r"layer 'p' .* is a Power, which no convolution can take in"):
        multiplied_out(document, blobs)


def test_a_kernel_that_looks_further_than_xs_own() -> None:
    document, blobs = derived(kind="skip")
    source = str(document).replace("kernel_size: 1", "kernel_size: 5\n    pad: 2", 1)
    blobs["x_split2_skip"] = [np.ones((3, 4, 5, 5), np.float32)]
    with pytest.raises(CannotFoldError, match=r"'x_split2_skip' .* looks at pixels that the 3x3 kernel of 'x'"):
        multiplied_out(prototxt.parse(source, "net"), blobs)


def test_inner_splits_come_first() -> None:
    names = ["a", "conv1_split1", "conv1", "conv1_split1_split2_residual_pre", "conv11", "a"]
    assert innermost_first(names) == [["conv1_split1_split2_residual_pre"], ["conv1_split1"], ["a", "conv1", "conv11"]]
