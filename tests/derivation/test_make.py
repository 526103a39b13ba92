"""The main job with each back end: derive, verify, train on; and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.net.layers import all_layers
from caffe_split.split.kinds import KIND_NAMES
from tests.support import caffe_split, train

each_backend = pytest.mark.usefixtures("backend")

BASE = "digits/train_val.prototxt"


def derive(digits: Path, *options: object, out: str = "derived1") -> str:
    return caffe_split("make-derived", BASE, "--iter", 100, "--out", out, *options, cwd=digits).stdout


def accuracies(log: str) -> list[float]:
    return [float(value) for value in re.findall(r"Test net output #\d+: accuracy = (\S+)", log)]


STARTS = [
    *((kind, ()) for kind in KIND_NAMES),
    ("skip", ("--skip-pool", "average")),
    ("identity", ("--skip-pool", "average")),
    ("residual", ("--residual-activation", "relu")),
    ("extension", ("--noise", 0)),
    ("dbb", ("--partition", "all")),
]


@each_backend
@pytest.mark.parametrize(("kind", "options"), STARTS)
def test_exact_start(digits: Path, kind: str, options: tuple[object, ...]) -> None:
    """All layers that can be split at once, strided 1x1 projections among them."""
    layers = "conv1,res1_conv1,res1_conv2,res2_conv1,res2_conv2,res3_conv1,res3_conv2"
    if options != ("--skip-pool", "average") and kind not in ("acnet", "dbb"):
        layers += ",res2_proj,res3_proj"
    derive(digits, "--kind", kind, "--layers", layers, *options)
    for phase in ("TEST", "TRAIN"):
        result = caffe_split("verify", BASE, f"derived1/{Path(BASE).name}", "--phase", phase, "--json", cwd=digits)
        rows = json.loads(result.stdout)["blobs"]
        assert max(row["relative"] for row in rows) < 1e-4
        assert {"fc", "loss", "res3"} <= {row["blob"] for row in rows}


@each_backend
def test_study_start_is_another_function(digits: Path) -> None:
    derive(digits, "--num-splits", 2, "--init", "study")
    result = caffe_split("verify", BASE, "derived1/train_val.prototxt", cwd=digits, status=1)
    assert "NOT the same function" in result.stdout


@each_backend
@pytest.mark.parametrize("kind", ["residual", "skip"])
def test_generated_solver_alone_starts_where_the_baseline_was(digits: Path, kind: str) -> None:
    derive(digits, "--num-splits", 4, "--kind", kind)
    log = train("derived1/solver.prototxt", digits)
    # Not the last test in the training's log: a display's TRAIN forward comes after the snapshot and moves BatchNorm.
    parent = prototxt.read(digits / "digits/solver.prototxt")
    parent.set("max_iter", 1)
    prototxt.write(parent, digits / "digits/again.prototxt")
    again = train("digits/again.prototxt", digits, weights="digits/digits_iter_100.caffemodel")
    assert accuracies(log)[0] == accuracies(again)[0] > 0.85
    # The derived net is watched as its parent was, so that the next round needs no hand work.
    report = caffe_split("tpm", "derived1/solver.prototxt", "--iter", 100, cwd=digits).stdout
    assert "Mean TPM ratio entropy" in report and "_split1'" in report and "_reorder'" not in report
    if kind == "skip":
        before = caffemodel.read_weights(digits / "derived1/init.caffemodel")
        after = caffemodel.read_weights(digits / "derived1/digits_iter_100.caffemodel")
        skips = [name for name in before if name.endswith("_skip")]
        assert len(skips) == 4
        for name in skips:
            matrix = np.asarray(before[name][0])
            # Every row picks one input channel or, where there is none, nothing; conv1 has one alone.
            assert set(np.unique(matrix)) <= {0.0, 1.0} and matrix.sum() >= (matrix.shape[1] > 1)
            assert np.array_equal(matrix, np.asarray(after[name][0]))
            assert not np.array_equal(
                np.asarray(before[name.replace("_skip", "")][0]), np.asarray(after[name.replace("_skip", "")][0])
            )


def test_only_the_split_layers_change(digits: Path) -> None:
    derive(digits, "--layers", "res1_conv2,res3_proj")
    texts = []
    for path in (BASE, "derived1/train_val.prototxt"):
        net = prototxt.read(digits / path)
        for layer in all_layers(net):
            split = layer.name in ("res1_conv2", "res3_proj") or layer.name.startswith(("res1_conv2_", "res3_proj_"))
            if split and layer.type not in ("BatchNorm", "Scale"):
                net.remove(layer.field)
        texts.append(str(net))
    assert texts[0] == texts[1] and "res2_conv2" in texts[0]


@each_backend
def test_derived_documents(digits: Path) -> None:
    parent = digits / "digits/solver.prototxt"
    parent.write_text(parent.read_text() + 'weights: "old.caffemodel"\n')
    derive(digits, "--layers", "res2_conv1", "--kind", "skip", "--deploy", "digits/deploy.prototxt")
    solver = prototxt.read(digits / "derived1/solver.prototxt")
    assert solver.get("net") == "derived1/train_val.prototxt"
    assert solver.get_all("weights") == ["derived1/init.caffemodel"]
    assert solver.get("snapshot_prefix") == "derived1/digits"
    for name in ("train_val", "deploy"):
        net = prototxt.read(digits / f"derived1/{name}.prototxt")
        layers = {layer.name: layer for layer in all_layers(net)}
        assert "res2_conv1" not in layers
        assert layers["res2_conv1_reorder"].tops == ("res2_conv1",)
        (spec,) = layers["res2_conv1_split2_skip"].message.subs("param")
        assert (spec.get("lr_mult"), spec.get("decay_mult")) == (0, 0)
        assert ("res2_conv1_split1_tpm" in layers) == (name == "train_val")
    result = caffe_split("verify", "digits/deploy.prototxt", "derived1/deploy.prototxt", cwd=digits)
    # A deploy net has no TPM layers, whose state the snapshot holds: that is no misfit.
    assert "same function" in result.stdout


def test_same_seed_same_bytes(digits: Path) -> None:
    derive(digits, "--num-splits", 3)
    first = (digits / "derived1/init.caffemodel").read_bytes()
    derive(digits, "--num-splits", 3, "--force")
    assert (digits / "derived1/init.caffemodel").read_bytes() == first
    derive(digits, "--num-splits", 3, "--force", "--seed", 1)
    assert (digits / "derived1/init.caffemodel").read_bytes() != first


def test_manifest_and_dry_run(digits: Path) -> None:
    plan = json.loads(derive(digits, "--num-splits", 2, "--dry-run", "--json"))
    assert not (digits / "derived1").exists()
    derive(digits, "--num-splits", 2)
    manifest = json.loads((digits / "derived1/manifest.json").read_text())
    assert manifest["plan"] == plan
    assert plan["noise_form"] == "blocks of 16 channels"
    assert [layer["scores"]["steps"] for layer in plan["layers"]] == [10, 10]
    assert plan["after"]["parameters"] > plan["before"]["parameters"] > 0
    assert set(manifest["outputs"]) == {"train_val.prototxt", "solver.prototxt", "init.caffemodel"}
    assert sorted(path.name for path in digits.iterdir()) == ["data", "derived1", "digits"]


def test_a_kind_passes_over_layers_for_which_it_has_no_meaning(digits: Path) -> None:
    plan = json.loads(derive(digits, "--num-splits", 7, "--kind", "acnet", "--partition", "all", "--json"))
    assert len(plan["layers"]) == 7 and not {"res2_proj", "res3_proj"} & {layer["name"] for layer in plan["layers"]}
    assert all(layer["fast"] == [] and layer["scores"] is not None for layer in plan["layers"])
    words = ("--layers", "conv1,res3_proj", "--kind", "dbb", "--out", "derived2")
    said = caffe_split("make-derived", BASE, "--iter", 100, *words, cwd=digits, status=1).stderr
    assert "layer 'res3_proj' cannot be split: a 1x1 kernel has no places to average. Those that can: conv1" in said


def test_highest_entropy_is_chosen(digits: Path) -> None:
    report = caffe_split("tpm", "digits/solver.prototxt", "--iter", 100, cwd=digits).stdout.splitlines()
    names = [re.match(r"\('(\w+)', \d+, \d+\) \d", line) for line in report]
    best = {match.group(1) for match in names if match is not None and len(match.groups())}
    ordered = [match.group(1) for match in names if match]
    plan = json.loads(derive(digits, "--num-splits", 3, "--dry-run", "--json"))
    assert {layer["name"] for layer in plan["layers"]} == set(ordered[:3]) and len(best) == 9


@each_backend
def test_a_derived_net_is_split_again(digits: Path) -> None:
    derive(digits, "--layers", "conv1")
    solver = digits / "derived1/solver.prototxt"
    solver.write_text(solver.read_text().replace("max_iter: 100", "max_iter: 20"))
    train("derived1/solver.prototxt", digits)
    plan = caffe_split(
        "make-derived",
        "derived1/solver.prototxt",
        "--iter",
        20,
        "--layers",
        "conv1_split1,conv1_split2,conv1_split2_residual_pre",
        "--out",
        "derived2",
        cwd=digits,
    ).stdout
    assert "conv1_split2_residual_pre_split1" in plan
    result = caffe_split("verify", "derived1/train_val.prototxt", "derived2/train_val.prototxt", cwd=digits)
    assert "same function" in result.stdout
    helper = caffe_split(
        "make-derived",
        "derived1/solver.prototxt",
        "--iter",
        20,
        "--layers",
        "conv1_reorder",
        "--out",
        "d3",
        cwd=digits,
        status=1,
    )
    assert "it is a helper of an earlier split. Those that can: conv1_split1" in helper.stderr


REFUSED = [
    (["--iter", 55], "no snapshot of iteration 55.*Iterations with one: 10, 20"),
    (["--iter", 100, "--layers", "conv9"], "there is no such layer. Those that can: conv1, res1_conv1"),
    (["--iter", 100, "--layers", "fc"], "its type is InnerProduct. Those that can: conv1"),
    (["--iter", 100, "--partition", "halves"], "Expected one of median"),
    (["--iter", 100, "--num-splits", 99], "9 layers can be split by tpm-entropy .*99 were asked for"),
    (["--iter", 100, "--kind", "skip", "--skip-pool", "average", "--layers", "res2_proj"], "--skip-pool stride"),
    (["--iter", 100, "--out", "digits"], "digits exists and is no folder that caffe-split wrote: .*it is not replaced"),
    (["--iter", 100, "--out", "no/where"], "no/where: there is no folder 'no'."),
    (["--weights", "none.caffemodel", "--layers", "conv1", "--partition", "random:0"], "none.caffemodel"),
    (["--iter", 100, "--window", "0:50"], "no snapshot series over"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refused_in_one_line_and_nothing_written(digits: Path, options: list[object], message: str) -> None:
    before = sorted(str(path) for path in digits.rglob("*"))
    result = caffe_split("make-derived", "digits/solver.prototxt", *options, cwd=digits, status=1)
    assert re.search(message, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(str(path) for path in digits.rglob("*")) == before


def test_no_tpm_says_how_to_get_it(digits: Path) -> None:
    caffe_split("instrument", BASE, "--remove", "--in-place", cwd=digits)
    for path in digits.glob("digits/*_iter_*"):
        weights = caffemodel.read_weights(path) if path.suffix == ".caffemodel" else None
        if weights is not None:
            kept = {name: list(map(np.array, weights[name])) for name in weights if not name.endswith("_tpm")}
            caffemodel.write_weights(path, kept)
    result = caffe_split("make-derived", "digits/solver.prototxt", "--iter", 100, cwd=digits, status=1)
    assert "caffe-split instrument digits/train_val.prototxt" in result.stderr
    assert "--window START:STOP (there are snapshots of iterations 10, 20" in result.stderr
    done = caffe_split("make-derived", "digits/solver.prototxt", "--iter", 100, "--window", "10:100", cwd=digits)
    assert "train it: caffe-split train derived1/solver.prototxt" in done.stdout


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w.pop("fc"), "no weights of layer 'fc'"),
        (lambda w: w.update(other=[np.zeros(3)]), "weights of 'other', which digits/train_val.prototxt does not have"),
        (lambda w: w.update(conv1=[np.zeros((16, 1, 5, 5))]), r"layer 'conv1' .* has blobs .*5, 5.*3, 3"),
        (lambda w: w.update(conv1=[np.full((16, 1, 3, 3), np.nan)]), "not finite"),
    ],
)
def test_weights_that_do_not_fit(digits: Path, damage: object, message: str) -> None:
    path = digits / "digits/digits_iter_100.caffemodel"
    weights = caffemodel.read_weights(path)
    copy = {name: [np.array(blob) for blob in weights[name]] for name in weights if len(weights[name])}
    damage(copy)  # type: ignore[operator]
    caffemodel.write_weights(digits / "bad.caffemodel", copy)
    result = caffe_split(
        "make-derived",
        BASE,
        "--weights",
        "bad.caffemodel",
        "--layers",
        "conv1",
        "--partition",
        "random:0",
        cwd=digits,
        status=1,
    )
    assert re.search(message, result.stderr), result.stderr
    assert not (digits / "derived1").exists()


@each_backend
def test_lone_deploy_net(digits: Path) -> None:
    out = caffe_split(
        "make-derived",
        "digits/deploy.prototxt",
        "--weights",
        "digits/digits_iter_100.caffemodel",
        "--layers",
        "conv1,res2_conv2",
        "--partition",
        "random:0",
        "--out",
        "d",
        cwd=digits,
    ).stdout
    assert "8 fast / 8 slow; chosen by name" in out
    assert sorted(path.name for path in (digits / "d").iterdir()) == [
        "deploy.prototxt",
        "init.caffemodel",
        "manifest.json",
    ]
    assert "same function" in caffe_split("verify", "digits/deploy.prototxt", "d/deploy.prototxt", cwd=digits).stdout
