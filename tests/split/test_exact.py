"""Exact starts in each back end, many convolutions to a net; the studies' starts against their formulas."""

from __future__ import annotations

import itertools
import json
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffe_split.backends.choose import get_backend
from caffe_split.backends.compare import compare_nets
from caffe_split.backends.protocol import Forwarding, NetFiles
from caffe_split.derivation.rewrite import rewrite
from caffe_split.errors import CaffeSplitError
from caffe_split.folding.merge import merge_stems
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.net.geometry import Geometry
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.state import NetState
from caffe_split.split.algebra import Kernels
from caffe_split.split.branch_norm import ChannelStatistics, NormSettings, branch_ends, normalised
from caffe_split.split.kinds import KIND_NAMES, KindName
from caffe_split.split.layer import SplitOptions, split_convolution
from caffe_split.split.partition import divide, parse_rule
from tests.support import caffe_split

each_backend = pytest.mark.usefixtures("backend")
TOLERANCE = 1e-4
Blobs = dict[str, "list[np.ndarray]"]


class Case(NamedTuple):
    """One convolution and the way it is split."""

    geometry: Geometry
    options: SplitOptions
    count: int = 8
    channels: int = 6
    bias: bool = True
    size: tuple[int, int] = (9, 10)
    rule: str = "random:1"
    norm: bool = False
    seed: int = 0

    def text(self, name: str) -> str:
        (kh, kw), (sh, sw), (ph, pw), (dh, dw), group = vars(self.geometry).values()
        return f"""\
layer {{ name: "{name}_b" type: "Input" top: "{name}_b" input_param {{ shape {{
  dim: 2 dim: {self.channels} dim: {self.size[0]} dim: {self.size[1]} }} }} }}
layer {{
  name: "{name}"
  type: "Convolution"
  bottom: "{name}_b"
  top: "{name}_t"
  convolution_param {{
    num_output: {self.count}
    kernel_h: {kh} kernel_w: {kw} stride_h: {sh} stride_w: {sw} pad_h: {ph} pad_w: {pw}
    dilation: {dh} dilation: {dw} group: {group} bias_term: {str(self.bias).lower()}
  }}
}}
"""


def differences(cases: list[Case], folder: Path, backend: str) -> dict[int, float]:
    """The largest relative difference of every case that can be split, all forwarded in one net."""
    net, splits, before, after = [], {}, {}, {}
    for index, case in enumerate(cases):
        name = f"c{index}"
        rng = np.random.default_rng(case.seed)
        shape = (case.count, case.channels // case.geometry.group, *case.geometry.kernel)
        blobs = [rng.standard_normal(shape).astype(np.float32)]
        blobs += [rng.standard_normal(case.count).astype(np.float32)] if case.bias else []
        kernels = Kernels(*[blob.astype(np.float64) for blob in blobs], *([] if case.bias else [None]))
        partition = divide(parse_rule(case.rule), np.zeros(case.count), case.geometry.group, name)
        try:
            parts = split_convolution(
                name,
                f"{name}_b",
                f"{name}_t",
                case.geometry,
                kernels,
                partition,
                options=case.options,
                input_sizes=(case.size,),
            )
        except CaffeSplitError as error:
            # These alone can be impossible, and say what it is that does not fit.
            said = "does not fit|no place" if case.options.kind in ("skip", "identity") else "cannot be split by"
            if not re.search(said, str(error)):
                raise
            continue
        if case.norm:
            # Whatever the statistics are: Scale starts as the inverse of the normalisation.
            ends = {part.top: part.num_output for part in parts if part.name in branch_ends(parts)}
            statistics = {
                top: ChannelStatistics(rng.standard_normal(count), rng.uniform(0.5, 2, count))
                for top, count in ends.items()
            }
            parts = normalised(parts, statistics, NormSettings())
        net.append(case.text(name))
        splits[name], before[name] = parts, blobs
        after.update({part.name: part.blobs for part in parts if part.blobs})
    if not splits:
        return {}
    paths = [folder / name for name in ("a.prototxt", "a.caffemodel", "b.prototxt", "b.caffemodel")]
    document = prototxt.parse("".join(net), "net")
    prototxt.write(document, paths[0])
    rewrite(document, splits)
    prototxt.write(document, paths[2])
    caffemodel.write_weights(paths[1], before)
    caffemodel.write_weights(paths[3], after)
    rows = compare_nets(get_backend(backend), NetFiles(*paths[:2]), NetFiles(*paths[2:]), Forwarding())
    found = {int(row.blob[1:-2]): row.relative for row in rows if row.blob.endswith("_t")}
    assert len(found) == len(splits)
    check_folding("".join(net), document, before, after)
    return found


def check_folding(text: str, document: prototxt.Document, before: Blobs, after: Blobs) -> None:
    """Folding, with no training between, gives every linear split's text and weights back."""
    stored = {name: [np.float32(blob) for blob in blobs] for name, blobs in after.items()}
    folded, kept, blobs, _ = merge_stems([document], stored)
    assert all("_residual_relu' " in reason for reason in kept.values())
    assert {layer.name for layer in folded} | set(kept) == set(before)
    texts = {layer.name: str(layer.message) for layer in all_layers(document)}
    original = {layer.name: str(layer.message) for layer in all_layers(prototxt.parse(text, "net"))}
    for layer in folded:
        # The shift of a normalised branch is not quite undone in float32: that is no bias.
        assert texts[layer.name] == original[layer.name] and not layer.note
        for old, new in zip(before[layer.name], blobs[layer.name]):
            assert old.shape == new.shape and np.abs(old - new).max() <= 1e-5 * np.abs(old).max()


def same(kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    return dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2


KINDS: list[dict[str, Any]] = [
    *({"kind": kind} for kind in KIND_NAMES),
    {"kind": "residual", "activation": "relu"},
    {"kind": "skip", "skip_pool": "average"},
    {"kind": "identity", "skip_pool": "average"},
]


def test_every_kind_stride_bias_kernel_and_partition(tmp_path: Path, backend: str) -> None:
    cases = [
        Case(Geometry((k, k), (s, s), same((k, k))), SplitOptions(**kind), bias=bias, rule=rule, seed=seed)
        for seed, (kind, k, s, bias, rule) in enumerate(
            itertools.product(KINDS, (1, 3), (1, 2), (True, False), ("random:1", "all"))
        )
    ]
    found = differences(cases, tmp_path, backend)
    lacking = [case for index, case in enumerate(cases) if index not in found]
    # Only what has no room in a 1x1: the 2x2 of an average, rows and columns, and DBB's own average.
    assert len(lacking) == 2 * 4 + 2 * 8 and {case.geometry.kernel for case in lacking} == {(1, 1)}
    for refused in lacking:
        assert refused.options.kind in ("acnet", "dbb") or refused.geometry.stride == (2, 2)
    assert max(found.values()) < TOLERANCE
    print(f"{len(found)} convolutions, largest relative difference {max(found.values()):.2e}")


pair = st.tuples(st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 2, 3, 5]))


@st.composite
def case(draw: st.DrawFn) -> Case:
    kernel, dilation = draw(pair), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pad = draw(st.sampled_from([same(kernel, dilation), (0, 0), (1, 2)]))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    stride = draw(st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 3)]))
    return Case(
        Geometry(kernel, stride, pad, dilation, group),
        SplitOptions(
            noise=draw(st.sampled_from([0.0, 0.01, 0.5])), seed=draw(st.integers(0, 9)), **draw(st.sampled_from(KINDS))
        ),
        count=group * draw(st.integers(2, 9)),
        channels=group * draw(st.integers(1, 9)),
        bias=draw(st.booleans()),
        size=draw(st.tuples(st.integers(9, 13), st.integers(9, 13))),
        rule=draw(st.sampled_from(["random:1", "ratio:0.3", "median", "all", "all"])),
        norm=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


@settings(deadline=None, max_examples=5, suppress_health_check=list(HealthCheck))
@given(cases=st.lists(case(), min_size=20, max_size=30))
def test_random_convolutions(cases: list[Case], tmp_path_factory: pytest.TempPathFactory, backend: str) -> None:
    cases = [replace_norm(case) for case in cases]
    found = differences(cases, tmp_path_factory.mktemp("random"), backend)
    worst = max(found, key=lambda index: found[index], default=None)
    assert worst is None or found[worst] < TOLERANCE, (cases[worst], found[worst])


def replace_norm(case: Case) -> Case:
    """Without normalised branches where there is a single way through the layer."""
    return case._replace(norm=case.norm and not (case.rule == "all" and case.options.kind == "extension"))


NET = """\
name: "all sorts"
layer { name: "data" type: "Input" top: "data" top: "aim"
  input_param { shape { dim: 2 dim: 4 dim: 10 dim: 9 } shape { dim: 2 dim: 5 } } }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 6 kernel_size: 3 pad: 1
  engine: CAFFE } }
layer { name: "c1_relu" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "c1_drop" type: "Dropout" bottom: "c1" top: "c1" }
# c1 is read three times, after it was changed in place
layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 8 kernel_size: 3 kernel_size: 1 stride: 2 pad: 1 pad: 0 force_nd_im2col: true } }
layer { name: "c2_bn" type: "BatchNorm" bottom: "c2" top: "c2_bn" }
layer { name: "c2_scale" type: "Scale" bottom: "c2_bn" top: "c2_scale" scale_param { bias_term: true } }
layer { name: "c3" type: "Convolution" bottom: "c1" top: "c3" convolution_param { num_output: 8 kernel_size: 1 stride: 2
  bias_term: false axis: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "c2_scale" bottom: "c3" top: "sum" }
layer { name: "aux" type: "InnerProduct" bottom: "c1" top: "aux" inner_product_param { num_output: 5 } }
layer { name: "aux_loss" type: "EuclideanLoss" bottom: "aux" bottom: "aim" top: "aux_loss" loss_weight: 0.3 }
layer { name: "c4" type: "Convolution" bottom: "sum" top: "c4" convolution_param { num_output: 4 kernel_size: 3
  dilation: 2 pad: 2 group: 2 } }
layer { name: "main" type: "InnerProduct" bottom: "c4" top: "main" inner_product_param { num_output: 5 } }
layer { name: "main_loss" type: "EuclideanLoss" bottom: "main" bottom: "aim" top: "main_loss" }
layer { name: "depthwise" type: "Convolution" bottom: "c4" top: "depthwise" convolution_param { num_output: 4
  kernel_size: 3 group: 4 } }
layer { name: "rows" type: "Convolution" bottom: "sum" top: "rows" convolution_param { num_output: 4 kernel_size: 1
  axis: 2 } }
"""
SHAPES = {
    "c1": [(6, 4, 3, 3), (6,)],
    "c2": [(8, 6, 3, 1), (8,)],
    "c2_bn": [(8,), (8,), (1,)],
    "c2_scale": [(8,), (8,)],
    "c3": [(8, 6, 1, 1)],
    "aux": [(5, 540), (5,)],
    "c4": [(4, 4, 3, 3), (4,)],
    "main": [(5, 100), (5,)],
    "depthwise": [(4, 1, 3, 3), (4,)],
    "rows": [(4, 5, 1), (4,)],
}


def write_net(folder: Path, text: str, shapes: dict[str, list[tuple[int, ...]]]) -> None:
    (folder / "net.prototxt").write_text(text)
    rng = np.random.default_rng(0)
    # Positive numbers are variances, too.
    blobs = {name: [np.abs(rng.standard_normal(shape)) + 0.1 for shape in found] for name, found in shapes.items()}
    for name in ("c1", "c2", "c3", "c4", "x"):
        if name in blobs:
            blobs[name] = [rng.standard_normal(blob.shape) for blob in blobs[name]]
    caffemodel.write_weights(folder / "w.caffemodel", blobs)


def derive(folder: Path, layers: str, *options: object, status: int = 0) -> str:
    result = caffe_split(
        "make-derived",
        "net.prototxt",
        "--weights",
        "w.caffemodel",
        "--partition",
        "random:0",
        "--out",
        "d",
        "--force",
        "--layers",
        layers,
        *options,
        cwd=folder,
        status=status,
    )
    return result.stderr if status else result.stdout


def without_rows(text: str) -> str:
    """The net as Caffe can build it: convolutions along other axes need N-D blobs that ours have not."""
    return text[: text.index('layer { name: "rows"')]


@each_backend
@pytest.mark.parametrize(
    ("kind", "rule"), [(kind, rule) for kind, rule in zip(KIND_NAMES, itertools.cycle(["random:0", "random:0", "all"]))]
)
def test_all_sorts_of_neighbours(tmp_path: Path, kind: KindName, rule: str) -> None:
    """In-place followers, a top with several readers, several losses, BatchNorm and Scale behind, N-D convolution."""
    shapes = {name: shape for name, shape in SHAPES.items() if name != "rows"}
    write_net(tmp_path, without_rows(NET), shapes)
    names = ["c1", "c2", "c3", "c4", "depthwise"]
    # c3 is a 1x1; what has one kernel a group is split whole or not at all.
    if kind in ("acnet", "dbb"):
        names.remove("c3")
    if rule != "all":
        names.remove("depthwise")
    derive(tmp_path, ",".join(names), "--kind", kind, "--partition", rule)
    text = (tmp_path / "d/net.prototxt").read_text()
    # The copies are the layer's own text, its engine and the like included; nothing else has changed.
    copies = {"residual": 2}.get(kind, 1) + (rule != "all")
    assert text.count("force_nd_im2col: true") == copies and text.count("engine: CAFFE") >= copies
    out = caffe_split("verify", "net.prototxt", "d/net.prototxt", cwd=tmp_path).stdout
    assert "same function" in out
    shared = {line.split()[0] for line in out.splitlines()}
    assert {"c1", "c2", "c2_scale", "c3", "c4", "aux_loss", "main_loss", "depthwise"} <= shared
    caffe_split("fold", "d/net.prototxt", "d/init.caffemodel", cwd=tmp_path)
    assert (tmp_path / "folded/net.prototxt").read_text() == without_rows(NET)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("depthwise", "layer 'depthwise' cannot be split: depthwise, one kernel a group"),
        ("rows", "convolves over axis 2; only axis 1 is handled"),
    ],
)
def test_what_cannot_be_split_says_why(tmp_path: Path, layer: str, reason: str) -> None:
    write_net(tmp_path, NET, SHAPES)
    assert reason in derive(tmp_path, layer, status=1)
    assert not (tmp_path / "d").exists()


def test_three_dimensional_convolutions_are_refused(tmp_path: Path) -> None:
    text = """layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 dim: 5 } } }
layer { name: "x" type: "Convolution" bottom: "data" top: "t" convolution_param { num_output: 4 kernel_size: 3 } }
"""
    write_net(tmp_path, text, {"x": [(4, 2, 3, 3, 3), (4,)]})
    assert "only 2-D convolutions can be split" in derive(tmp_path, "x", status=1)
    write_net(tmp_path, text.replace("kernel_size: 3", "kernel_size: [3, 3, 3]"), {"x": [(4, 2, 3, 3, 3), (4,)]})
    said = derive(tmp_path, "x", status=1)
    assert (
        "'x' cannot be split: it slides over 3 axes; only 2-D convolutions can be split. Those that can: none." in said
    )


def test_a_named_weight_leaves_the_multipliers_in_their_places(tmp_path: Path) -> None:
    """The names stay on the fast half: on both they would tie them together. The second `param` is still the bias's."""
    text = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } } }
layer { name: "x" type: "Convolution" bottom: "data" top: "t" param { name: "w" } param { name: "b" lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 } }
"""
    write_net(tmp_path, text, {"x": [(4, 2, 3, 3), (4,)]})
    derive(tmp_path, "x", "--kind", "extension")
    layers = {layer.name: layer for layer in all_layers(prototxt.read(tmp_path / "d/net.prototxt"))}
    for name, kept in (("x_split1", ("w", "b")), ("x_split2", ("", ""))):
        specs = layers[name].message.subs("param")
        assert [(spec.get("name"), spec.get("lr_mult")) for spec in specs] == [(kept[0], 1.0), (kept[1], 2.0)]


RULED = """\
name: "rules"
layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 2 dim: 4 dim: 8 dim: 8 }
  data_filler { type: "constant" value: 0.7 } } }
layer { name: "x" type: "Convolution" bottom: "data" top: "t" include { stage: "wide" not_stage: "off" }
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "y" type: "Convolution" bottom: "data" top: "t" exclude { stage: "wide" }
  convolution_param { num_output: 6 kernel_size: 1 } }
layer { name: "mean" type: "Reduction" bottom: "t" top: "mean" reduction_param { operation: SUMSQ } }
"""


@each_backend
def test_rules_and_stages(tmp_path: Path) -> None:
    """New layers are in the net exactly where the layer that they stand for was, and both stages run."""
    shapes = {"x": [(6, 4, 3, 3), (6,)], "y": [(6, 4, 1, 1), (6,)]}
    write_net(tmp_path, RULED, shapes)
    derive(tmp_path, "x,y", "--kind", "residual")
    document = prototxt.read(tmp_path / "d/net.prototxt")
    names = {layer.name for layer in all_layers(document)} - {"data", "mean"}
    for stages, stem in ((["wide"], "x"), ([], "y"), (["wide", "off"], "-")):
        present = {layer.name for layer in phase_layers(document, NetState("TEST", tuple(stages)))} - {"data", "mean"}
        assert present == {name for name in names if name.startswith(f"{stem}_")}
    for stage in (["--stage", "wide"], []):
        weights = ["--baseline-weights", "w.caffemodel", "--ignore-extra-weights"]
        said = caffe_split("verify", "net.prototxt", "d/net.prototxt", *weights, *stage, "--json", cwd=tmp_path).stdout
        rows = {row["blob"]: row for row in json.loads(said)["blobs"]}
        assert set(rows) == {"data", "t", "mean"} and all(row["relative"] <= 2 * TOLERANCE for row in rows.values())


# -- the studies' starts: the formulas of the method, written again


def study(folder: Path, kind: str, noise: float, seed: int, pool: str) -> tuple[dict, dict, list[int], list[int]]:
    """(X's blobs, the parts' blobs, fast indices, slow indices) of a strided 3x3 with more inputs than kernels."""
    text = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 5 dim: 8 dim: 8 } } }
layer { name: "x" type: "Convolution" bottom: "data" top: "t"
  convolution_param { num_output: 7 kernel_size: 3 pad: 1 stride: 2 } }
"""
    write_net(folder, text, {"x": [(7, 5, 3, 3), (7,)]})
    derive(
        folder,
        "x",
        "--init",
        "study",
        "--kind",
        kind,
        "--noise",
        noise,
        "--seed",
        seed,
        "--skip-pool",
        pool,
        "--partition",
        "list:6,1,3",
    )
    found = [caffemodel.read_weights(folder / path) for path in ("w.caffemodel", "d/init.caffemodel")]
    blobs = [{name: [np.array(blob) for blob in weights[name]] for name in weights} for weights in found]
    return blobs[0], blobs[1], [1, 3, 6], [0, 2, 4, 5]


@pytest.mark.parametrize(("noise", "seed"), [(0.0, 0), (0.01, 3)])
@pytest.mark.parametrize(
    ("kind", "pool"), [("residual", "stride"), ("skip", "stride"), ("skip", "average"), ("extension", "stride")]
)
def test_study_start_is_the_formulas_to_the_last_bit(
    tmp_path: Path, kind: str, pool: str, noise: float, seed: int
) -> None:
    before, after, fast, slow = study(tmp_path, kind, noise, seed, pool)
    (weight, bias) = before["x"]
    expected = {"x_split1": [weight[fast], bias[fast]], "x_split2": [weight[slow], bias[slow]]}
    # One stream of numbers for each layer: first the reorder's noise, then that of the slow half's 1x1.
    normal = np.random.default_rng([seed, zlib.crc32(b"x")]).standard_normal
    place = {channel: position for position, channel in enumerate(fast + slow)}
    drawn = noise * normal((7, 7)) if noise else np.zeros((7, 7))
    reorder = np.zeros((7, 7))
    for channel, position in place.items():
        reorder[channel] = drawn[position]
        reorder[channel, position] += 1.0
    square = np.eye(4) + (noise * normal((4, 4)) if noise else 0.0)
    expected["x_reorder"] = [reorder[:, :, None, None]]
    if kind == "residual":
        pre = np.float64(-0.2) * weight[slow]
        pre[:, :, 1, 1] += 2.0 * weight[slow][:, :, 1, 1].astype(np.float64)
        expected["x_split2_residual_pre"] = [pre]
        expected["x_split2_residual_post"] = [square[:, :, None, None]]
    elif kind == "extension":
        expected["x_split2_extension"] = [square[:, :, None, None]]
    else:
        side = 2 if pool == "average" else 1
        skip = np.zeros((4, 5, side, side))
        for row, channel in enumerate(slow):
            if channel < 5:  # There is no input channel 5: that row stays zero.
                skip[row, channel] = 1 / side**2
        expected["x_split2_skip"] = [skip]
    assert set(after) == set(expected)
    for name, blobs in expected.items():
        assert len(after[name]) == len(blobs)
        for found, wanted in zip(after[name], blobs):
            assert found.dtype == np.float32 and found.tobytes() == np.float32(wanted).tobytes(), name
