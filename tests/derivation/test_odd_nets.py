"""Nets that are written in unusual ways: derived right, or refused in a line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.net.layers import all_layers
from tests.derivation import odd
from tests.derivation.odd import convolution, input_layer
from tests.support import caffe_split, train

each_backend = pytest.mark.usefixtures("backend")

PLAIN = input_layer() + convolution("c1", "data", "c1") + convolution("c2", "c1", "c2")


def derive(folder: Path, *options: object, layers: str = "c1", net: str = "net", status: int = 0) -> str:
    result = caffe_split(
        "make-derived",
        f"{net}.prototxt",
        "--weights",
        f"{net}.caffemodel",
        "--layers",
        layers,
        "--partition",
        "random:0",
        "--out",
        "d",
        *options,
        cwd=folder,
        status=status,
    )
    if status:
        assert len(result.stderr.splitlines()) == 1 or status == 2, result.stderr
        assert not (folder / "d").exists()
    return result.stderr if status else result.stdout


def worst(folder: Path, *options: object, net: str = "net", status: int = 0) -> float:
    result = caffe_split(
        "verify",
        f"{net}.prototxt",
        f"d/{net}.prototxt",
        "--baseline-weights",
        "net.caffemodel",
        "--json",
        *options,
        cwd=folder,
        status=status,
    )
    rows = json.loads(result.stdout)["blobs"]
    return max(float("inf") if row["relative"] is None else row["relative"] for row in rows)


@each_backend
@pytest.mark.parametrize("kind", ["residual", "skip", "extension"])
def test_a_deploy_net_whose_blobs_have_other_names(tmp_path: Path, kind: str) -> None:
    odd.write(tmp_path, "net", PLAIN)
    deploy = input_layer().replace("data", "image")
    deploy += convolution("c1", "image", "one") + convolution("c2", "one", "out")
    (tmp_path / "deploy.prototxt").write_text(deploy)
    derive(tmp_path, "--kind", kind, "--deploy", "deploy.prototxt", layers="c1,c2")
    assert worst(tmp_path) < 1e-6
    assert worst(tmp_path, net="deploy") < 1e-6


@each_backend
def test_a_layer_written_once_for_each_phase(tmp_path: Path) -> None:
    train, test = "include { phase: TRAIN }", "include { phase: TEST }"
    text = (
        input_layer()
        + f'layer {{ name: "drop" type: "Dropout" bottom: "data" top: "dropped" {train} }}\n'
        # Fillers that draw: the derived net's draw more.
        + convolution("c", "dropped", "c", 'num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "msra" }', train)
        + convolution("c", "data", "out", more=test)
    )
    odd.write(tmp_path, "net", text)
    derive(tmp_path, "--kind", "residual", layers="c")
    assert worst(tmp_path) < 1e-6
    # The same seed drops the same values in both nets.
    assert worst(tmp_path, "--phase", "TRAIN") < 1e-6
    assert worst(tmp_path, "--phase", "TRAIN", "--seed", 5) < 1e-6


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (convolution("c1", "data", "c1", "num_output: 6 kernel_size: 5 pad: 2"), "is another convolution here"),
        (convolution("c1", "data", "c1", "num_output: 6 kernel_size: 3 pad: 1 bias_term: false"), "no bias, expected"),
        (
            'layer { name: "c1" type: "InnerProduct" bottom: "data" top: "c1" inner_product_param { num_output: 6 } }',
            "is a InnerProduct layer here",
        ),
        (convolution("c2", "data", "c1"), "none of the layers to split is in it"),
    ],
)
def test_a_deploy_net_that_does_not_belong(tmp_path: Path, other: str, message: str) -> None:
    odd.write(tmp_path, "net", PLAIN)
    (tmp_path / "deploy.prototxt").write_text(input_layer() + other)
    assert message in derive(tmp_path, "--deploy", "deploy.prototxt", status=1)


def test_two_layers_of_one_name(tmp_path: Path) -> None:
    odd.write(tmp_path, "net", input_layer() + convolution("c1", "data", "a") + convolution("c1", "data", "b"))
    assert "have one name in the TRAIN phase, which Caffe refuses" in derive(tmp_path, status=1)


STAGED = (
    input_layer()
    + convolution("pre", "data", "pre")
    + convolution("c1", "pre", "c", more='include { stage: "big" }')
    + convolution("c1n", "pre", "c", "num_output: 3 kernel_size: 1", more='include { not_stage: "big" }')
)


@each_backend
def test_stages(tmp_path: Path) -> None:
    weights = odd.random_weights(STAGED.replace('not_stage: "big"', 'stage: "none"').replace('stage: "big"', ""))
    assert set(weights) == {"pre", "c1"}
    odd.write(tmp_path, "net", STAGED, weights)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" train_state { stage: "big" } base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "s"'
    )
    plan = json.loads(derive(tmp_path, "--kind", "residual", "--json"))
    before = sum(blob.size for blobs in weights.values() for blob in blobs)
    assert plan["after"]["parameters"] > plan["before"]["parameters"] == before
    assert worst(tmp_path, "--stage", "big") < 1e-6
    said = caffe_split("verify", "net.prototxt", "d/net.prototxt", cwd=tmp_path, status=1).stderr
    assert "no weights of layer 'c1n'" in said
    said = caffe_split(
        "make-derived",
        "solver.prototxt",
        "--weights",
        "net.caffemodel",
        "--layers",
        "c1n",
        "--partition",
        "random:0",
        "--out",
        "e",
        cwd=tmp_path,
        status=1,
    ).stderr
    assert "layer 'c1n' (line 4) is not in the net of the TRAIN phase with stages big and level 0" in said


@each_backend
def test_verify_does_not_pass_without_the_splits(tmp_path: Path) -> None:
    odd.write(tmp_path, "net", PLAIN)
    derive(tmp_path, "--kind", "residual")
    derived = (tmp_path / "d/net.prototxt").read_text()
    assert worst(tmp_path) < 1e-6
    (tmp_path / "d/net.prototxt").write_text(
        derived.replace('type: "Convolution"', 'type: "Convolution" include { stage: "big" }')
        .replace('type: "Concat"', 'type: "Concat" include { stage: "big" }')
        .replace('type: "Eltwise"', 'type: "Eltwise" include { stage: "big" }')
    )
    said = caffe_split(
        "verify", "net.prototxt", "d/net.prototxt", "--baseline-weights", "net.caffemodel", cwd=tmp_path, status=1
    ).stderr
    assert "none of its splits is in the net of the TEST phase with no stages" in said


@each_backend
def test_an_output_that_is_gone_fails(tmp_path: Path) -> None:
    odd.write(tmp_path, "net", input_layer() + convolution("a", "data", "a") + convolution("b", "data", "b"))
    (tmp_path / "d").mkdir()
    odd.write(tmp_path / "d", "net", input_layer() + convolution("a", "data", "a"))
    weights = caffemodel.read_weights(tmp_path / "net.caffemodel")
    caffemodel.write_weights(tmp_path / "d/init.caffemodel", {"a": weights["a"]})
    assert worst(tmp_path, status=1) == float("inf")
    (tmp_path / "d/net.prototxt").write_text((tmp_path / "net.prototxt").read_text())
    caffemodel.write_weights(tmp_path / "d/init.caffemodel", weights)
    assert worst(tmp_path) == 0


@each_backend
def test_a_difference_that_no_output_shows_fails(tmp_path: Path) -> None:
    zero = 'layer { name: "z" type: "Power" bottom: "c2" top: "z" power_param { scale: 0 } }\n'
    odd.write(tmp_path, "net", PLAIN + zero)
    derive(tmp_path, "--kind", "skip")
    assert worst(tmp_path) < 1e-6
    weights = caffemodel.read_weights(tmp_path / "d/init.caffemodel")
    changed = {name: [np.array(blob) for blob in weights[name]] for name in weights}
    changed["c2"][0] += 1
    caffemodel.write_weights(tmp_path / "d/init.caffemodel", changed)
    assert worst(tmp_path, status=1) > 1e-3


@each_backend
def test_random_data_is_the_same_for_both(tmp_path: Path) -> None:
    noise = (
        'layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 2 dim: 4 dim: 8 dim: 8 } '
        'data_filler { type: "gaussian" std: 1 } } }\n'
    )
    odd.write(tmp_path, "net", noise + convolution("c1", "data", "c1"))
    derive(tmp_path, "--kind", "residual")
    assert worst(tmp_path, "--batches", 2) < 1e-6


FULL = (
    input_layer()
    + convolution("c1", "data", "c1")
    + 'layer { name: "bn" type: "BatchNorm" bottom: "c1" top: "c1" }\n'
    + 'layer { name: "sc" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } }\n'
    + 'layer { name: "ip" type: "InnerProduct" bottom: "c1" top: "ip" inner_product_param { num_output: 5 } }\n'
)


@pytest.mark.parametrize(
    ("layer", "blobs"),
    [
        ("ip", [(5, 383), (5,)]),
        ("ip", [(5, 384)]),
        ("c1", [(6, 3, 3, 3), (6,)]),
        ("c1", [(6, 4, 3, 3), (9,)]),
        ("c1", [(6, 4, 3, 3)]),
        ("c1", [(), (6,)]),
        ("sc", [(5,), (5,)]),
        ("bn", [(6,), (6,)]),
        ("bn", None),
        ("sc", None),
    ],
    ids=str,
)
def test_weights_of_another_shape(tmp_path: Path, layer: str, blobs: list[tuple[int, ...]] | None) -> None:
    weights = odd.random_weights(FULL)
    odd.write(tmp_path, "net", FULL, weights)
    derive(tmp_path, "--dry-run")
    if blobs is None:
        del weights[layer]
    else:
        weights[layer] = [np.ones(shape, np.float32) for shape in blobs]
    odd.write(tmp_path, "net", FULL, weights)
    said = derive(tmp_path, status=1)
    assert f"layer '{layer}' (line " in said and "Is it a snapshot of" in said


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    weights = odd.random_weights(FULL)
    weights["bn"][1][3] = np.inf
    odd.write(tmp_path, "net", FULL, weights)
    assert "the weights of layer 'bn' (line 3) are not finite (1 of 6)" in derive(tmp_path, status=1)


@pytest.mark.parametrize("settings", ["kernel_h: 5 kernel_w: 3", "kernel_size: 5 kernel_size: 3"])
def test_a_kernel_of_two_sides(tmp_path: Path, settings: str) -> None:
    # Without a data set the input's shape is not known, the kernel's is.
    data = 'layer { name: "data" type: "Data" top: "data" data_param { source: "none" batch_size: 2 } }\n'
    text = data + convolution("c1", "data", "c1", f"num_output: 6 {settings}")
    odd.write(tmp_path, "net", text, {"c1": [np.ones((6, 4, 5, 3)), np.ones(6)]})
    derive(tmp_path, "--dry-run")
    odd.write(tmp_path, "net", text, {"c1": [np.ones((6, 4, 3, 3)), np.ones(6)]})
    assert "asks for 6 kernels of 5x3 and a bias" in derive(tmp_path, status=1)


@each_backend
def test_a_head_that_only_training_needs(tmp_path: Path) -> None:
    odd.write(tmp_path, "net", PLAIN, {**odd.random_weights(PLAIN), "aux": [np.ones((2, 2))]})
    said = derive(tmp_path, status=1)
    assert "it has weights of 'aux', which net.prototxt does not have" in said and "--ignore-extra-weights" in said
    derive(tmp_path, "--ignore-extra-weights")
    assert "aux" not in caffemodel.read_weights(tmp_path / "d/init.caffemodel")
    assert worst(tmp_path, "--ignore-extra-weights") < 1e-6


@each_backend
@pytest.mark.parametrize("kind", ["residual", "extension"])
def test_kernels_of_very_different_size_start_exactly(tmp_path: Path, kind: str) -> None:
    """A small kernel takes noise of its own size only: seen through a BatchNorm that makes all channels alike."""
    text = (
        input_layer(images=8)
        + convolution("c1", "data", "c1", "num_output: 8 kernel_size: 3 pad: 1 bias_term: false")
        + 'layer { name: "bn" type: "BatchNorm" bottom: "c1" top: "bn" '
        "batch_norm_param { use_global_stats: false eps: 0 } }\n"
    )
    weights = odd.random_weights(text)
    weights["c1"][0] *= (10.0 ** -np.arange(8, dtype=np.float32))[:, None, None, None]
    odd.write(tmp_path, "net", text, weights)
    derive(tmp_path, "--kind", kind)
    assert worst(tmp_path) < 1e-5


def test_a_skip_beside_small_kernels_is_warned_of(tmp_path: Path) -> None:
    for scale, warned in ((1.0, False), (1e-4, True)):
        odd.write(tmp_path, "net", PLAIN, odd.random_weights(PLAIN, scale=scale))
        said = derive(tmp_path, "--kind", "skip", "--dry-run")
        assert ("times a kernel's size: the start is exact to about" in said) == warned


@each_backend
def test_an_averaging_skip_in_a_deploy_net_of_another_size(tmp_path: Path) -> None:
    layer = convolution("c1", "data", "c1", "num_output: 6 kernel_size: 3 pad: 1 stride: 2")
    odd.write(tmp_path, "net", input_layer(8) + layer)
    (tmp_path / "deploy.prototxt").write_text(input_layer(9) + layer)
    for deploy, side in ((["--deploy", "deploy.prototxt"], 3), ([], 2)):
        derive(tmp_path, "--kind", "skip", "--skip-pool", "average", "--force", *deploy)
        assert caffemodel.read_weights(tmp_path / "d/init.caffemodel")["c1_split2_skip"][0].shape[2:] == (side, side)
        assert worst(tmp_path) < 1e-6
        assert not deploy or worst(tmp_path, net="deploy") < 1e-6


def test_new_layers_learn_as_the_split_one(tmp_path: Path) -> None:
    more = "propagate_down: false param { lr_mult: 3 decay_mult: 0.5 } param { lr_mult: 6 decay_mult: 0 }"
    odd.write(tmp_path, "net", input_layer() + convolution("c1", "data", "c1", more=more))
    for kind, helpers in (
        ("residual", {"c1_split2_residual_post": (3, 0.5), "c1_reorder": (3, 0.5)}),
        ("skip", {"c1_split2_skip": (0, 0), "c1_reorder": (3, 0.5)}),
        ("extension", {"c1_split2_extension": (3, 0.5), "c1_reorder": (3, 0.5)}),
    ):
        derive(tmp_path, "--kind", kind, "--force")
        layers = {layer.name: layer.message for layer in all_layers(prototxt.read(tmp_path / "d/net.prototxt"))}
        for name, expected in helpers.items():
            (spec,) = layers[name].subs("param")
            assert (spec.get("lr_mult"), spec.get("decay_mult")) == expected
        for name, message in layers.items():
            # What stands on the bottom of c1 hands no gradient down, as c1 did not.
            if message.get_all("bottom") == ["data"]:
                assert message.get_all("propagate_down") == [False], name
        assert [s.get("lr_mult") for s in layers["c1_split2"].subs("param")] == [3, 6]


@pytest.mark.parametrize(("more", "own"), [("", 0.1), ("param { lr_mult: 3 } param { lr_mult: 6 }", 0.3)])
def test_added_layers_learn_at_a_rate_of_their_own(tmp_path: Path, more: str, own: float) -> None:
    odd.write(tmp_path, "net", input_layer() + convolution("c1", "data", "c1", more=more))
    added = {"residual": ("residual_pre", "residual_post"), "skip": (), "extension": ("extension",)}
    for kind, names in added.items():
        derive(tmp_path, "--kind", kind, "--added-lr", "0.1", "--force")
        layers = {layer.name: layer.message for layer in all_layers(prototxt.read(tmp_path / "d/net.prototxt"))}
        for name in (*(f"c1_split2_{name}" for name in names), "c1_reorder"):
            assert [spec.get("lr_mult") for spec in layers[name].subs("param")] == [own], name
        for name in ("c1_split1", "c1_split2"):
            assert [spec.get("lr_mult") for spec in layers[name].subs("param")] == ([3, 6] if more else [])
    derive(tmp_path, "--kind", "skip", "--added-lr", "0.1", "--force")
    (frozen,) = {layer.name: layer.message for layer in all_layers(prototxt.read(tmp_path / "d/net.prototxt"))}[
        "c1_split2_skip"
    ].subs("param")
    assert frozen.get("lr_mult") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (convolution("c1", "data", "c1", more="param { lr_mult: 0 }"), "it is frozen (lr_mult 0)"),
        (convolution("c1", "data", "c1", more="loss_weight: 1"), "its top is a loss"),
        (
            convolution("c1", "data", "c1", more='param { name: "w" }')
            + convolution("c2", "data", "c2", more='param { name: "w" }'),
            "it shares its weight with c2",
        ),
        (convolution("c1", "data", "c1", "num_output: 4 kernel_size: 3 group: 4"), "depthwise, one kernel a group"),
        (convolution("c1", "data", "c1", "num_output: 1 kernel_size: 3"), "it has one kernel"),
        (convolution("c1", "data", "c1", "num_output: 6 kernel_size: 3 group: 0"), "group"),
    ],
    ids=["frozen", "loss", "shared", "depthwise", "one", "group 0"],
)
def test_what_cannot_be_split(tmp_path: Path, text: str, message: str) -> None:
    text = input_layer() + text
    weights = {"c1": [np.ones((6, 4, 3, 3)), np.ones(6)]} if "group: 0" in text else odd.random_weights(text)
    odd.write(tmp_path, "net", text, weights)
    assert message in derive(tmp_path, layers="c1_reorder" if "c1_reorder" in text else "c1", status=1)


@each_backend
def test_a_layer_of_ones_own_called_skip_can_be_split(tmp_path: Path) -> None:
    odd.write(tmp_path, "net", input_layer() + convolution("block_skip", "data", "s", "num_output: 6 kernel_size: 1"))
    derive(tmp_path, layers="block_skip")
    assert worst(tmp_path) < 1e-6


def test_a_shared_weight_of_an_hdf5_snapshot_is_whole_in_the_derived_weights(tmp_path: Path) -> None:
    """Such a file has it once, and a binary caffemodel in each layer: Caffe aborts where it is empty."""
    pytest.importorskip("h5py")
    text = input_layer() + convolution("c0", "data", "c0")
    for name in ("one", "two"):
        text += convolution(
            name, "c0", name, "num_output: 3 kernel_size: 3", 'param { name: "w" } param { lr_mult: 2 }'
        )
    weights = odd.random_weights(text)
    weights["two"][0] = weights["one"][0]
    odd.write(tmp_path, "net", text, weights)
    for ending, blobs in (
        ("caffemodel", weights),
        ("caffemodel.h5", {**weights, "two": [np.empty(0), weights["two"][1]]}),
    ):
        caffemodel.write_weights(tmp_path / f"w.{ending}", blobs)
        words = ["--weights", f"w.{ending}", "--layers", "c0", "--partition", "random:1", "--out", ending]
        caffe_split("make-derived", "net.prototxt", *words, cwd=tmp_path)
    found = [caffemodel.read_weights(tmp_path / name / "init.caffemodel") for name in ("caffemodel", "caffemodel.h5")]
    assert [list(each) for each in found] == [list(found[0])] * 2
    for name in found[0]:
        for one, other in zip(*(each[name] for each in found)):
            np.testing.assert_array_equal(one, other, name)
    assert found[1]["two"][0].shape == (3, 6, 3, 3)


def test_names_in_latin_1(tmp_path: Path) -> None:
    name = b"caf\xe9"
    text = (input_layer() + convolution("NAME", "data", "c")).encode().replace(b"NAME", name)
    (tmp_path / "net.prototxt").write_bytes(text)
    key = name.decode("utf-8", "surrogateescape")
    caffemodel.write_weights(tmp_path / "net.caffemodel", {key: [np.ones((6, 4, 3, 3)), np.ones(6)]})
    derive(tmp_path, layers=os.fsdecode(name))
    assert f"{key}_split1" in [layer.name for layer in all_layers(prototxt.read(tmp_path / "d/net.prototxt"))]


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--noise", "nan"], 2, "'--noise': 'nan' is not a finite number"),
        (["--noise", "inf"], 2, "'--noise': 'inf' is not a finite number"),
        (["--layers", ","], 2, "--layers names no layer"),
        (["--partition", "threshold:nan"], 1, "the threshold is not a number"),
        (["--out", "x" * 300], 1, "cannot be written"),
    ],
    ids=str,
)
def test_values_that_make_no_sense(tmp_path: Path, options: list[str], status: int, message: str) -> None:
    odd.write(tmp_path, "net", PLAIN)
    assert message in derive(tmp_path, *options, status=status)


def test_force_replaces_only_what_was_derived(tmp_path: Path) -> None:
    odd.write(tmp_path, "net", PLAIN)
    out = tmp_path / "d"
    command = [
        "make-derived",
        "net.prototxt",
        "--weights",
        "net.caffemodel",
        "--layers",
        "c1",
        "--partition",
        "random:0",
        "--out",
        "d",
        "--force",
    ]

    def refused() -> str:
        return caffe_split(*command, cwd=tmp_path, status=1).stderr

    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    assert "d is no folder that caffe-split wrote" in refused() and (out / "thesis.tex").read_text() == "mine"
    (out / "thesis.tex").unlink()
    out.rmdir()
    out.write_text("mine")
    assert "d is not a folder" in refused() and out.read_text() == "mine"
    out.unlink()
    caffe_split(*command, cwd=tmp_path)
    caffe_split(*command, "--seed", 1, cwd=tmp_path)
    (out / "net_iter_100.caffemodel").write_text("trained")
    assert "d holds more than was written into it: net_iter_100.caffemodel" in refused()
    assert (out / "net_iter_100.caffemodel").exists()
    (tmp_path / "elsewhere").symlink_to(out)
    command[command.index("d")] = "elsewhere"
    assert "elsewhere is not a folder" in refused()
    assert re.search("manifest", " ".join(path.name for path in out.iterdir()))


@each_backend
def test_watching_a_net_with_stages(tmp_path: Path) -> None:
    """The TPM layer is where its convolution is, and real Caffe trains both nets."""
    noise = (
        'layer { name: "data" type: "DummyData" top: "data" top: "y" dummy_data_param { shape { dim: 2 dim: 4 dim: 8 '
        'dim: 8 } shape { dim: 2 dim: 6 dim: 8 dim: 8 } data_filler { type: "gaussian" } '
        'data_filler { type: "gaussian" } } }\n'
    )
    filler = 'num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "msra" }'
    text = (
        noise
        + convolution("big", "data", "c", filler, 'include { stage: "big" }')
        + convolution("small", "data", "c", filler, 'exclude { stage: "big" } exclude { phase: TEST }')
        + convolution("tested", "data", "t", filler, "include { phase: TEST }")
        + 'layer { name: "loss" type: "EuclideanLoss" bottom: "c" bottom: "y" top: "loss" include { phase: TRAIN } }\n'
    )
    (tmp_path / "net.prototxt").write_text(text)
    for stage, watched in (('stage: "big"', "big"), ("", "small")):
        solver = f'net: "watched.prototxt" train_state {{ {stage} }} base_lr: 0.01 lr_policy: "fixed" max_iter: 4 '
        (tmp_path / "solver.prototxt").write_text(solver + 'snapshot_prefix: "s" solver_mode: CPU')
        (tmp_path / "watched.prototxt").write_text(text)
        command = ["instrument", "solver.prototxt", "--window", "0:4", "--in-place"]
        assert f"watched: {watched};" in caffe_split(*command, cwd=tmp_path).stderr
        train("solver.prototxt", tmp_path)
        report = caffe_split("tpm", "solver.prototxt", "--iter", 4, cwd=tmp_path).stdout
        assert f"('{watched}', 6, 216)" in report
        said = caffe_split(*command, "--layers", "tested", cwd=tmp_path, status=1).stderr
        assert "no convolution 'tested'" in said
        caffe_split("instrument", "watched.prototxt", "--remove", "--in-place", cwd=tmp_path)
        assert (tmp_path / "watched.prototxt").read_text() == text


def test_instrument_gives_back_an_empty_param(tmp_path: Path) -> None:
    """Without it the bias's multipliers would become the weight's."""
    text = input_layer() + convolution("a", "data", "a", more="param {} param { lr_mult: 2 }")
    text += convolution("b", "a", "b")
    (tmp_path / "net.prototxt").write_text(text)
    caffe_split("instrument", "net.prototxt", "--window", "0:10", "--in-place", cwd=tmp_path)
    assert (tmp_path / "net.prototxt").read_text().count("TPM") == 2
    said = caffe_split("instrument", "net.prototxt", "--remove", "--layers", "c", "--in-place", cwd=tmp_path, status=1)
    assert "no TPM layer watches c. Watched: a, b." in said.stderr
    caffe_split("instrument", "net.prototxt", "--remove", "--in-place", cwd=tmp_path)
    assert (tmp_path / "net.prototxt").read_text() == text


def test_a_plan_says_what_is_known_of_the_totals_beside_a_layer_of_a_fork(tmp_path: Path) -> None:
    weights = odd.random_weights(PLAIN)
    odd.write(tmp_path, "net", PLAIN + 'layer { name: "bn" type: "BN" bottom: "c2" top: "c2" }', weights)
    known = sum(blob.size for blobs in weights.values() for blob in blobs)
    lines = derive(tmp_path).splitlines()
    (line,) = [line for line in lines if line.startswith("parameters")]
    assert re.fullmatch(rf"parameters at least {known:,} -> at least [\d,]+", line)
    assert "the totals are without bn" in lines
