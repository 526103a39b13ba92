"""Folding back in every back end: the baseline's text and cost again, and the derived net's function."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.folding import make
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.net.layers import all_layers
from tests.support import ROOT, caffe_split, train

pytestmark = pytest.mark.usefixtures("any_backend")

BASE = "digits/train_val.prototxt"
LAYERS = "conv1,res1_conv2,res2_conv1,res3_proj"
KINDS = {
    "residual": ("--kind", "residual"),
    "skip": ("--kind", "skip"),
    "average": ("--kind", "skip", "--skip-pool", "average"),
    "extension": ("--kind", "extension"),
}


def derive(digits: Path, *options: object, layers: str = LAYERS, out: str = "derived1") -> None:
    caffe_split("make-derived", BASE, "--iter", 100, "--layers", layers, "--out", out, *options, cwd=digits)


def fold(digits: Path, net: str, weights: str, *options: object, status: int = 0) -> dict:
    result = caffe_split("fold", net, weights, "--json", *options, cwd=digits, status=status)
    return json.loads(result.stdout) if status == 0 else {"error": result.stderr}


def layers_for(kind: str) -> str:
    return LAYERS.replace(",res3_proj", "") if kind == "average" else LAYERS  # No 2x2 fits in a 1x1.


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_gives_the_baseline_back(digits: Path, kind: str) -> None:
    """The same bytes of text, watchers too, and the same weights."""
    derive(digits, *KINDS[kind], "--deploy", "digits/deploy.prototxt", layers=layers_for(kind))
    fold(digits, "derived1/train_val.prototxt", "derived1/init.caffemodel", "--deploy", "derived1/deploy.prototxt")
    for name in ("train_val.prototxt", "deploy.prototxt"):
        assert (digits / "folded" / name).read_bytes() == (digits / "digits" / name).read_bytes()
        assert (digits / "derived1" / name).read_bytes() != (digits / "digits" / name).read_bytes()
    before = caffemodel.read_weights(digits / "digits/digits_iter_100.caffemodel")
    after = caffemodel.read_weights(digits / "folded/folded.caffemodel")
    assert list(after) == [name for name in before if len(before[name]) and not name.endswith("_tpm")]
    for name in after:
        assert len(before[name]) == len(after[name])
        for old, new in zip(before[name], after[name]):
            assert np.abs(np.asarray(old) - np.asarray(new)).max() <= 1e-5 * np.abs(old).max()


@pytest.mark.parametrize("kind", KINDS)
def test_trained_folds_to_the_same_function_at_the_baselines_cost(digits: Path, kind: str, backend: str) -> None:
    derive(digits, *KINDS[kind], "--deploy", "digits/deploy.prototxt", layers=layers_for(kind))
    train("derived1/solver.prototxt", digits)
    weights = "derived1/digits_iter_100.caffemodel"
    start, end = (caffemodel.read_weights(digits / path) for path in ("derived1/init.caffemodel", weights))
    assert not np.array_equal(start["conv1_reorder"][0], end["conv1_reorder"][0])
    plan = fold(
        digits,
        "derived1/train_val.prototxt",
        weights,
        "--engine",
        backend,
        "--deploy",
        "derived1/deploy.prototxt",
        "--batches",
        2,
    )
    assert [layer["name"] for layer in plan["folded"]] == layers_for(kind).split(",") and plan["kept"] == {}
    assert len(plan["largest_difference"]) == 2 and max(plan["largest_difference"]) < 1e-4
    assert (digits / "folded/train_val.prototxt").read_bytes() == (digits / BASE).read_bytes()
    parent = json.loads((digits / "derived1/manifest.json").read_text())["plan"]
    assert plan["before"] == parent["after"] and plan["after"] == parent["before"]
    assert plan["after"]["macs"] < plan["before"]["macs"]
    # The same said by the command that compares, from the outside, with weights of both.
    verified = caffe_split(
        "verify",
        "derived1/train_val.prototxt",
        "folded/train_val.prototxt",
        "--baseline-weights",
        weights,
        "--derived-weights",
        "folded/folded.caffemodel",
        "--engine",
        backend,
        cwd=digits,
    )
    assert "same function" in verified.stdout and re.search(r"fc .*\n|^fc ", verified.stdout)


@pytest.mark.parametrize("kind", ["residual", "skip", "extension"])
def test_trained_branch_normalisation_folds(digits: Path, kind: str, backend: str) -> None:
    """What --branch-norm adds goes as it came: the baseline's text, no bias where it had none."""
    derive(digits, *KINDS[kind], "--branch-norm", "--engine", backend, layers="conv1,res2_conv1")
    train("derived1/solver.prototxt", digits)
    plan = fold(digits, "derived1/train_val.prototxt", "derived1/digits_iter_100.caffemodel", "--engine", backend)
    assert [layer["name"] for layer in plan["folded"]] == ["conv1", "res2_conv1"]
    assert all("taken off the mean of" in layer["note"] for layer in plan["folded"])
    assert plan["largest_difference"][0] < 1e-4
    assert (digits / "folded/train_val.prototxt").read_bytes() == (digits / BASE).read_bytes()


def test_rounds_fold_from_the_inside(digits: Path, backend: str) -> None:
    derive(digits, layers="conv1,res2_conv1")
    train("derived1/solver.prototxt", digits)
    caffe_split(
        "make-derived",
        "derived1/solver.prototxt",
        "--iter",
        100,
        "--kind",
        "skip",
        "--out",
        "derived2",
        "--layers",
        "conv1_split1,conv1_split2,conv1_split2_residual_pre,res2_conv1_split2,res2_conv2",
        cwd=digits,
    )
    train("derived2/solver.prototxt", digits)
    plan = fold(digits, "derived2/train_val.prototxt", "derived2/digits_iter_100.caffemodel", "--engine", backend)
    assert [layer["name"] for layer in plan["folded"]] == [
        "conv1_split2_residual_pre",
        "conv1_split1",
        "conv1_split2",
        "res2_conv1_split2",
        "conv1",
        "res2_conv1",
        "res2_conv2",
    ]
    assert (digits / "folded/train_val.prototxt").read_bytes() == (digits / BASE).read_bytes()
    assert max(plan["largest_difference"]) < 1e-4


def test_what_cannot_be_folded_stays(digits: Path) -> None:
    """A ReLU inside a residual: said, with the reason, and everything else folds, splits inside it too."""
    derive(digits, "--residual-activation", "relu", layers="conv1")
    caffe_split(
        "make-derived",
        "derived1/train_val.prototxt",
        "--weights",
        "derived1/init.caffemodel",
        "--kind",
        "skip",
        "--layers",
        "conv1_split2_residual_pre,res2_conv1",
        "--partition",
        "random:0",
        "--out",
        "derived2",
        cwd=digits,
    )
    plan = fold(digits, "derived2/train_val.prototxt", "derived2/init.caffemodel")
    assert [layer["name"] for layer in plan["folded"]] == ["conv1_split2_residual_pre", "res2_conv1"]
    assert "'conv1_split2_residual_relu'" in plan["kept"]["conv1"] and "is a ReLU" in plan["kept"]["conv1"]
    names = [layer.name for layer in all_layers(prototxt.read(digits / "folded/train_val.prototxt"))]
    assert sorted(names) == sorted(
        layer.name for layer in all_layers(prototxt.read(digits / "derived1/train_val.prototxt"))
    )
    result = caffe_split("fold", "derived1/train_val.prototxt", "derived1/init.caffemodel", cwd=digits, status=1)
    assert "folded exists" in result.stderr
    refused = fold(digits, "derived1/train_val.prototxt", "derived1/init.caffemodel", "--out", "f", status=1)
    assert "nothing to fold: conv1: layer 'conv1_split2_residual_relu'" in refused["error"]
    assert not (digits / "f").exists()


def test_batch_norm_folds_into_a_deploy_net_only(digits: Path, backend: str) -> None:
    derive(digits, "--deploy", "digits/deploy.prototxt")
    plan = fold(
        digits, "derived1/deploy.prototxt", "derived1/init.caffemodel", "--engine", backend, "--fold-batch-norm"
    )
    net = prototxt.read(digits / "folded/deploy.prototxt")
    assert {layer.type for layer in all_layers(net)}.isdisjoint({"BatchNorm", "Scale"})
    assert plan["batch_norm"]["res1_conv2"] == ["res1_conv2_bn", "res1_conv2_scale"] and len(plan["batch_norm"]) == 9
    assert plan["largest_difference"][0] < 1e-4
    weights = caffemodel.read_weights(digits / "folded/folded.caffemodel")
    assert [blob.shape for blob in weights["conv1"]] == [(16, 1, 3, 3), (16,)]
    assert not [name for name in weights if name.endswith(("_bn", "_scale"))]
    refused = fold(
        digits,
        "derived1/train_val.prototxt",
        "derived1/init.caffemodel",
        "--engine",
        backend,
        "--fold-batch-norm",
        "--out",
        "f",
        status=1,
    )
    assert "it is a net to train, by its layer 'loss'" in refused["error"]
    # A plain net without splits has BatchNorm to merge too.
    plain = fold(
        digits,
        "digits/deploy.prototxt",
        "digits/digits_iter_100.caffemodel",
        "--engine",
        backend,
        "--fold-batch-norm",
        "--out",
        "plain",
    )
    assert plain["folded"] == [] and len(plain["batch_norm"]) == 9
    nothing = fold(
        digits,
        "digits/deploy.prototxt",
        "digits/digits_iter_100.caffemodel",
        "--engine",
        backend,
        "--out",
        "f",
        status=1,
    )
    assert "no split layers in it" in nothing["error"]


NORMED = """\
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "apart" type: "Convolution" bottom: "data" top: "apart" convolution_param { num_output: 4 kernel_size: 3
  group: 1 bias_term: false } }
layer { name: "apart_bn" type: "BatchNorm" bottom: "apart" top: "apart_bn" batch_norm_param { eps: 0.01 } }
layer { name: "apart_scale" type: "Scale" bottom: "apart_bn" top: "apart_scale" }
layer { name: "biased" type: "Convolution" bottom: "apart_scale" top: "biased" convolution_param { num_output: 4
  kernel_size: 1 group: 2 } }
layer { name: "biased_bn" type: "BatchNorm" bottom: "biased" top: "biased" phase: TRAIN
  batch_norm_param { use_global_stats: true } }
layer { name: "biased_relu" type: "ReLU" bottom: "biased" top: "biased" }
layer { name: "read_twice" type: "Convolution" bottom: "biased" top: "read_twice" convolution_param { num_output: 4
  kernel_size: 1 } }
layer { name: "twice_bn" type: "BatchNorm" bottom: "read_twice" top: "twice_bn" }
layer { name: "sum" type: "Eltwise" bottom: "read_twice" bottom: "twice_bn" top: "sum" }
layer { name: "batchwise" type: "Convolution" bottom: "sum" top: "batchwise" convolution_param { num_output: 4
  kernel_size: 1 } }
layer { name: "batchwise_bn" type: "BatchNorm" bottom: "batchwise" top: "batchwise"
  batch_norm_param { use_global_stats: false } }
layer { name: "trained" type: "Convolution" bottom: "batchwise" top: "trained" convolution_param { num_output: 4
  kernel_size: 1 } }
layer { name: "trained_bn" type: "BatchNorm" bottom: "trained" top: "trained" phase: TRAIN }
"""


def test_a_net_without_batch_norm_has_none_to_fold(tmp_path: Path, backend: str) -> None:
    kernel = "convolution_param { num_output: 1 kernel_size: 1 }"
    plain = f'layer {{ name: "c" type: "Convolution" bottom: "data" top: "c" {kernel} }}'
    (tmp_path / "net.prototxt").write_text(NORMED.splitlines()[0] + plain)
    caffemodel.write_weights(tmp_path / "w.caffemodel", {"c": [np.ones((1, 3, 1, 1)), np.ones(1)]})
    words = ("net.prototxt", "w.caffemodel", "--engine", backend)
    said = fold(tmp_path, *words, "--fold-batch-norm", status=1)["error"]
    assert "nothing to fold: no split layers and no BatchNorm behind a convolution in it." in said
    assert "nothing to fold: no split layers in it; give a net that" in fold(tmp_path, *words, status=1)["error"]


def test_which_batch_norms_fold(tmp_path: Path, backend: str) -> None:
    """Outside splits: in place or not, with a bias or without, with Scale or without; and what must stay."""
    (tmp_path / "net.prototxt").write_text(NORMED)
    rng = np.random.default_rng(0)
    weights = {"apart": [rng.standard_normal((4, 3, 3, 3))], "apart_scale": [rng.standard_normal(4)]}
    for name, channels in (("biased", 2), ("read_twice", 4), ("batchwise", 4), ("trained", 4)):
        weights[name] = [rng.standard_normal((4, channels, 1, 1)), rng.standard_normal(4)]
    for name in ("apart_bn", "biased_bn", "twice_bn", "batchwise_bn", "trained_bn"):
        weights[name] = [rng.standard_normal(4) * 3, rng.uniform(1, 2, 4) * 3, np.array([3.0])]
    caffemodel.write_weights(tmp_path / "w.caffemodel", weights)
    plan = fold(tmp_path, "net.prototxt", "w.caffemodel", "--engine", backend, "--fold-batch-norm")
    assert plan["batch_norm"] == {"apart": ["apart_bn", "apart_scale"], "biased": ["biased_bn"]}
    assert set(plan["batch_norm_kept"]) == {"read_twice", "batchwise", "trained"}
    assert "read by other layers than its BatchNorm" in plan["batch_norm_kept"]["read_twice"]
    assert "uses each batch's own statistics in the TEST phase" in plan["batch_norm_kept"]["batchwise"]
    assert "uses each batch's own statistics, by its own phase: TRAIN" in plan["batch_norm_kept"]["trained"]
    assert plan["largest_difference"][0] < 1e-4
    layers = {layer.name: layer for layer in all_layers(prototxt.read(tmp_path / "folded/net.prototxt"))}
    assert layers["apart"].tops == ("apart_scale",) and "apart_bn" not in layers and "twice_bn" in layers


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ('} layer { name: "r" type: "ReLU" bottom: "conv" top: "r" }', "is read by other layers than its BatchNorm"),
        ("phase: TRAIN }", "by its own phase: TRAIN"),
        ("batch_norm_param { eps: 0.1 } }", "the nets do not normalise it alike"),
    ],
)
def test_a_batch_norm_that_one_of_two_nets_needs_stays_in_both(
    tmp_path: Path, backend: str, more: str, why: str
) -> None:
    """They share the weights, in which it would be."""
    text = NORMED.split('layer { name: "apart"')[0]
    text += """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" """
    (tmp_path / "net.prototxt").write_text(text + "}")
    (tmp_path / "other.prototxt").write_text(text + more)
    rng = np.random.default_rng(0)
    channels = 3
    weights = {"conv": [rng.standard_normal((4, channels, 3, 3)), rng.standard_normal(4)]}
    weights["bn"] = [rng.standard_normal(4), rng.uniform(1, 2, 4), np.ones(1)]
    caffemodel.write_weights(tmp_path / "w.caffemodel", weights)
    words = ("--engine", backend, "--fold-batch-norm", "--deploy", "other.prototxt")
    said = caffe_split("fold", "net.prototxt", "w.caffemodel", *words, cwd=tmp_path, status=1).stderr
    assert "conv" in said and why in said, said
    assert not (tmp_path / "folded").exists()


FORKS = {
    "nvcaffe": ("BatchNorm", "batch_norm_param { scale_bias: true eps: 0.000001 }", 5),
    "nvcaffe_scaled": ("BatchNorm", "batch_norm_param { scale_filler { value: 1 } eps: 0.01 }", 5),
    "intel": ("BatchNorm", "batch_norm_param { use_weight_bias: true filler { value: 1 } }", 5),
    "running": ("BN", "bn_param { eps: 0.01 momentum: 0.9 }", 4),
    "frozen": ("BN", "phase: TRAIN bn_param { frozen: true slope_filler { value: 1 } }", 4),
    "as_in_training": ("BN", "phase: TRAIN bn_param { eps: 0.01 momentum: 0.9 }", 4),
    "segnet": ("BN", "bn_param { bn_mode: INFERENCE }", 2),
    "learning": ("BN", "bn_param { bn_mode: LEARN }", 2),
}


def test_norms_of_forks_fold(tmp_path: Path) -> None:
    """With the factor and the shift inside, of means or of sums; what depends on the batch stays."""
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    rng = np.random.default_rng(1)
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }\n'
    weights: dict[str, list[np.ndarray]] = {}
    for name, (kind, options, count) in FORKS.items():
        text += f'layer {{ name: "{name}" type: "Convolution" bottom: "x" top: "{name}" convolution_param {{ '
        text += "num_output: 4 kernel_size: 3 pad: 1 } }\n"
        text += f'layer {{ name: "{name}_bn" type: "{kind}" bottom: "{name}" top: "{name}" {options} }}\n'
        text += f'layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" top: "{name}_top" }}\n'
        weights[name] = [rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)]
        factor, shift, mean, variance = rng.uniform(1, 2, 4), *rng.standard_normal((2, 4)), rng.uniform(1, 2, 4)
        weight = 3.0 if name in ("intel", "nvcaffe_scaled") else 0.0
        if kind == "BatchNorm":
            sums = weight or 1.0
            weights[f"{name}_bn"] = [mean * sums, variance * sums, np.array([weight]), factor, shift]
        else:
            weights[f"{name}_bn"] = [factor, shift, mean, variance][:count]
    # So small that the eps counts, which NVCaffe takes as at least 1e-5.
    weights["nvcaffe_bn"][1] *= 1e-5
    (tmp_path / "net.prototxt").write_text(text)
    caffemodel.write_weights(tmp_path / "w.caffemodel", weights)
    plan = fold(tmp_path, "net.prototxt", "w.caffemodel", "--engine", "torch", "--fold-batch-norm")
    assert plan["batch_norm"] == {name: [f"{name}_bn"] for name in FORKS if name not in ("learning", "as_in_training")}
    assert plan["batch_norm_kept"]["as_in_training"].endswith(
        "uses each batch's own statistics, by its own phase: TRAIN"
    )
    assert "with bn_mode: INFERENCE it does not, but wants" in plan["batch_norm_kept"]["learning"]
    assert plan["largest_difference"][0] < 1e-4


def add_norms(net: prototxt.Document, weights: dict[str, list[np.ndarray]], branch: str, in_place: bool) -> None:
    """BatchNorm and Scale with random numbers behind a layer of a branch."""
    rng = np.random.default_rng(len(weights))
    layers = {layer.name: layer for layer in all_layers(net)}
    top = layers[branch].tops[0]
    bn, scale = (top, top) if in_place else (f"{branch}_bn", f"{branch}_scale")
    for layer in layers.values():
        for field in layer.message.all_fields("bottom"):
            if field.values() == [top] and not in_place:
                layer.message.replace(field, [prototxt.field("bottom", scale)])
    settings = [("name", f"{branch}_bn"), ("type", "BatchNorm"), ("bottom", top), ("top", bn)]
    net.insert_after(layers[branch].field, prototxt.field("layer", settings))
    behind = next(layer for layer in all_layers(net) if layer.name == f"{branch}_bn")
    settings = [("name", f"{branch}_scale"), ("type", "Scale"), ("bottom", bn), ("top", scale)]
    net.insert_after(behind.field, prototxt.field("layer", [*settings, ("scale_param", [("bias_term", True)])]))
    count = len(weights[branch][0])
    # As Caffe keeps them: sums that the third blob divides.
    weights[f"{branch}_bn"] = [rng.standard_normal(count) * 2, rng.uniform(1, 3, count) * 2, np.array([2.0])]
    weights[f"{branch}_scale"] = [rng.uniform(0.5, 2, count), rng.standard_normal(count)]


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize(
    ("kind", "branches"),
    [
        ("residual", ["split1", "split2", "split2_residual_post"]),
        ("extension", ["split1", "split2_extension"]),
        ("skip", ["split1", "split2", "split2_skip"]),
    ],
)
def test_normalised_branches_fold(digits: Path, kind: str, branches: list[str], in_place: bool, backend: str) -> None:
    """conv1 and res2_conv1 have no bias, and the branches' shifts go into the mean of the BatchNorm behind them."""
    derive(digits, "--kind", kind, "--deploy", "digits/deploy.prototxt", layers="conv1,res2_conv1")
    net = prototxt.read(digits / "derived1/deploy.prototxt")
    source = caffemodel.read_weights(digits / "derived1/init.caffemodel")
    weights = {name: [np.array(blob) for blob in source[name]] for name in source}
    for name in ("conv1", "res2_conv1"):
        for branch in branches:
            add_norms(net, weights, f"{name}_{branch}", in_place)
    prototxt.write(net, digits / "derived1/deploy.prototxt")
    caffemodel.write_weights(digits / "normed.caffemodel", weights)
    plan = fold(digits, "derived1/deploy.prototxt", "normed.caffemodel", "--engine", backend)
    assert {layer["note"] for layer in plan["folded"]} == {
        "its new bias taken off the mean of 'conv1_bn'",
        "its new bias taken off the mean of 'res2_conv1_bn'",
    }
    assert plan["largest_difference"][0] < 1e-4
    assert (digits / "folded/deploy.prototxt").read_bytes() == (digits / "digits/deploy.prototxt").read_bytes()
    # The folded weights fit the baseline.
    ours, theirs = (
        caffemodel.read_weights(digits / path)
        for path in ("folded/folded.caffemodel", "digits/digits_iter_100.caffemodel")
    )
    assert all([b.shape for b in ours[name]] == [b.shape for b in theirs[name]] for name in ours)


NET = """\
name: "tiny"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 9 dim: 9 } } }
# the one to split
layer {
\tname: 'x'   # it
\ttype: "Convolution" bottom: "data"\ttop: "t"
\tparam { lr_mult: 1 }%s
\tconvolution_param { num_output: 6 kernel_size: 3 pad: 1 group: %d
\t\tbias_term: %s  # or not
\t\tengine: CAFFE }
}

layer { name: "relu" type: "ReLU" bottom: "t" top: "t" } layer { name: "ip" type: "InnerProduct" bottom: "t" top: "ip"
  inner_product_param { num_output: 3 } }"""


def net_text(group: int = 1, bias: bool = True) -> str:
    return NET % ("  param { lr_mult: 2 decay_mult: 0 }" if bias else "", group, str(bias).lower())


def tiny(folder: Path, group: int = 1, bias: bool = True) -> dict[str, list[np.ndarray]]:
    (folder / "net.prototxt").write_text(net_text(group, bias))
    rng = np.random.default_rng(0)
    weights = {
        "x": [rng.standard_normal((6, 4 // group, 3, 3))] + ([rng.standard_normal(6)] if bias else []),
        "ip": [rng.standard_normal((3, 6 * 81)), np.zeros(3)],
    }
    caffemodel.write_weights(folder / "w.caffemodel", weights)
    return weights


def split_tiny(folder: Path, *options: object) -> dict[str, list[np.ndarray]]:
    caffe_split(
        "make-derived",
        "net.prototxt",
        "--weights",
        "w.caffemodel",
        "--layers",
        "x",
        "--partition",
        "random:0",
        "--out",
        "d",
        *options,
        cwd=folder,
    )
    weights = caffemodel.read_weights(folder / "d/init.caffemodel")
    return {name: [np.array(blob) for blob in weights[name]] for name in weights}


def test_a_bias_that_nothing_can_take_is_added(tmp_path: Path, backend: str) -> None:
    tiny(tmp_path, bias=False)
    weights = split_tiny(tmp_path, "--kind", "extension")
    net = prototxt.read(tmp_path / "d/net.prototxt")
    add_norms(net, weights, "x_split1", in_place=True)
    prototxt.write(net, tmp_path / "d/net.prototxt")
    caffemodel.write_weights(tmp_path / "n.caffemodel", weights)
    plan = fold(tmp_path, "d/net.prototxt", "n.caffemodel", "--engine", backend)
    assert plan["folded"][0]["note"] == "with a bias, which it did not have" and plan["largest_difference"][0] < 1e-4
    before, after = net_text(bias=False).splitlines(), (tmp_path / "folded/net.prototxt").read_text().splitlines()
    assert [line for line in before if line not in after] == ["\t\tbias_term: false  # or not"]
    assert len(after) == len(before) - 1


def test_groups(tmp_path: Path, backend: str) -> None:
    """While no kernel looks into another group a grouped convolution holds it; later only one without groups."""
    tiny(tmp_path, group=2)
    weights = split_tiny(tmp_path, "--kind", "extension")
    fold(tmp_path, "d/net.prototxt", "d/init.caffemodel", "--engine", backend, "--out", "f1")
    assert (tmp_path / "f1/net.prototxt").read_text() == net_text(2)
    weights["x_reorder"][0] += np.random.default_rng(1).standard_normal(weights["x_reorder"][0].shape) * 0.1
    caffemodel.write_weights(tmp_path / "trained.caffemodel", weights)
    refused = fold(tmp_path, "d/net.prototxt", "trained.caffemodel", "--engine", backend, "--out", "f2", status=1)
    assert "x: its kernels have learnt to look into other groups" in refused["error"]
    plan = fold(tmp_path, "d/net.prototxt", "trained.caffemodel", "--engine", backend, "--out", "f2", "--ungroup")
    assert plan["folded"][0]["note"] == "group 2 -> 1" and plan["largest_difference"][0] < 1e-4
    assert caffemodel.read_weights(tmp_path / "f2/folded.caffemodel")["x"][0].shape == (6, 4, 3, 3)
    assert "group" not in (tmp_path / "f2/net.prototxt").read_text()


def test_both_phases_written_apart(tmp_path: Path) -> None:
    """X written once a phase, with rules of its own, comes back so."""
    tiny(tmp_path)
    head, x, tail = re.split(r"(layer \{\n\tname: 'x'.*?\n\}\n)", net_text(), flags=re.S)
    phased = "".join(x.replace('top: "t"', f'top: "t" include {{ phase: {phase} }}') for phase in ("TRAIN", "TEST"))
    (tmp_path / "net.prototxt").write_text(head + phased + tail)
    split_tiny(tmp_path)
    assert (tmp_path / "d/net.prototxt").read_text().count('"x_split1"') > 2
    fold(tmp_path, "d/net.prototxt", "d/init.caffemodel")
    assert (tmp_path / "folded/net.prototxt").read_text() == head + phased + tail


@pytest.mark.parametrize("parted", [False, True])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_any_text_comes_back(tmp_path: Path, ending: str, parted: bool) -> None:
    tiny(tmp_path)
    text = net_text()
    if parted:  # blank lines between layers, but not everywhere
        text = text.replace("\n# the one", "\n\n# the one").replace(" } layer {", " }\n\nlayer {")
        text = text.replace("}\n\nlayer", "}\nlayer", 1)
    source = text.replace("\n", ending).encode()
    (tmp_path / "net.prototxt").write_bytes(source)
    split_tiny(tmp_path, "--kind", "skip")
    fold(tmp_path, "d/net.prototxt", "d/init.caffemodel", "--no-verify")
    assert (tmp_path / "folded/net.prototxt").read_bytes() == source


def test_refuses_and_leaves_nothing_behind(tmp_path: Path) -> None:
    tiny(tmp_path)
    weights = split_tiny(tmp_path)
    start = {name: [blob.copy() for blob in found] for name, found in weights.items()}
    (tmp_path / "mine").mkdir()
    refused = fold(tmp_path, "d/net.prototxt", "d/init.caffemodel", "--out", "mine", status=1)
    assert "mine exists; nothing is overwritten unasked" in refused["error"]
    refused = fold(tmp_path, "d/net.prototxt", "w.caffemodel", status=1)
    assert "weights of 'x', which d/net.prototxt does not have" in refused["error"]
    weights["x_split1"][0][0, 0, 0, 0] = np.nan
    caffemodel.write_weights(tmp_path / "nan.caffemodel", weights)
    assert "not finite" in fold(tmp_path, "d/net.prototxt", "nan.caffemodel", status=1)["error"]
    # Branches that all but cancel: their sum has lost digits that the folded kernels have.
    large = {name: [np.array(blob) for blob in found] for name, found in start.items()}
    large["x_split2"][0] += 1e5
    large["x_split2_residual_pre"][0][...] = -1e5
    large["x_split2_residual_post"][0][...] = np.eye(len(large["x_split2"][0]))[:, :, None, None]
    caffemodel.write_weights(tmp_path / "large.caffemodel", large)
    refused = fold(tmp_path, "d/net.prototxt", "large.caffemodel", status=1)
    assert "folded, it would be another function: blob 't', the first, differs by" in refused["error"]
    assert "Nothing was written. If the weights are that badly conditioned" in refused["error"]
    assert refused["error"].count("\n") == 1
    text = (tmp_path / "d/net.prototxt").read_text()
    (tmp_path / "d/net.prototxt").write_text(text.replace('bottom: "x_split1"', 'bottom: "x_split7"'))
    refused = fold(tmp_path, "d/net.prototxt", "d/init.caffemodel", status=1)
    assert "bottom 'x_split7' is no top of a layer above it in this phase" in refused["error"]
    (tmp_path / "d/net.prototxt").write_text(text)
    plan = fold(tmp_path, "d/net.prototxt", "d/init.caffemodel", "--dry-run")
    assert plan["folded"][0]["name"] == "x" and plan["largest_difference"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "d",
        "large.caffemodel",
        "mine",
        "nan.caffemodel",
        "net.prototxt",
        "w.caffemodel",
    ]
    fold(tmp_path, "d/net.prototxt", "d/init.caffemodel", "--out", "mine", "--force")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "folded.caffemodel",
        "manifest.json",
        "net.prototxt",
    ]


@pytest.mark.parametrize(
    "old",
    [
        'input: "data"\ninput_dim: 1 input_dim: 1\ninput_dim: 8\ninput_dim: 8  # as they were\n',
        'input: "data" input_shape { dim: 1 dim: 1 dim: 8 dim: 8 }\n',
    ],
)
def test_a_deploy_net_of_an_old_form_is_copied(digits: Path, old: str) -> None:
    derive(digits, layers="conv1")
    text = (digits / "digits/deploy.prototxt").read_text()
    net = prototxt.read(digits / "digits/deploy.prototxt")
    first = net.subs("layer")[0]
    assert first.get("type") == "Input"
    net.remove(net.all_fields("layer")[0])
    (digits / "old.prototxt").write_text(old + str(net))
    assert 'type: "Input"' in text
    fold(digits, "derived1/train_val.prototxt", "derived1/init.caffemodel", "--deploy", "old.prototxt")
    assert (digits / "folded/old.prototxt").read_bytes() == (digits / "old.prototxt").read_bytes()


def test_a_large_difference_is_not_put_down_to_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny(tmp_path)
    split_tiny(tmp_path)
    plan = make.fold("d/net.prototxt", "d/init.caffemodel", out="folded")
    wrong = replace(plan, weights={name: [2 * blob for blob in blobs] for name, blobs in plan.weights.items()})
    with pytest.raises(CaffeSplitError, match=r"Nothing was written. So large a difference is rounding only"):
        wrong.write()
    assert not Path("folded").exists()


def test_the_net_of_a_solver(digits: Path) -> None:
    derive(digits, layers="conv1")
    fold(digits, "derived1/solver.prototxt", "derived1/init.caffemodel")
    assert (digits / "folded/train_val.prototxt").read_bytes() == (digits / BASE).read_bytes()
    assert str(ROOT) not in (digits / "folded/manifest.json").read_text()


def test_the_function_gives_the_plan_that_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path, group=2)
    split_tiny(tmp_path, "--kind", "extension")
    printed = caffe_split("fold", "d/net.prototxt", "d/init.caffemodel", "--ungroup", "--dry-run", cwd=tmp_path).stdout
    monkeypatch.chdir(tmp_path)
    plan = make.fold("d/net.prototxt", "d/init.caffemodel", out="folded", options=make.FoldOptions(ungroup=True))
    assert printed == f"{plan}\nnothing written (--dry-run)\n"
    assert plan.write(check=None) == []
    with pytest.raises(CaffeSplitError, match="folded exists"):
        plan.write()
    (result,) = plan.write(force=True)
    assert result.passed
    assert (tmp_path / "folded/net.prototxt").read_text() == net_text(2)
