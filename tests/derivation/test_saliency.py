"""Layers and kernels chosen by the gradient of the loss: both back ends, numpy, and how scores scale with weights."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs
from caffe_split.backends.choose import get_backend
from caffe_split.data.store import read_store
from caffe_split.derivation.choose import ranking
from caffe_split.derivation.compare_scores import ScoreTable, spearman
from caffe_split.errors import CaffeSplitError, WrongUseError
from caffe_split.formats import prototxt
from caffe_split.split.partition import divide, parse_rule
from caffe_split.split.saliency import Saliency
from tests.support import Trained, caffe_split, inside

NOTHING = prototxt.parse("", "net")
SCALE, BATCH = 0.00390625, 16
DATA = f"""
layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ scale: {SCALE} }}
        data_param {{ source: "data/digits_train_lmdb" batch_size: {BATCH} backend: LMDB }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" param {{ lr_mult: 1 }}
        convolution_param {{ num_output: 10 kernel_size: 8 bias_term: false }} }}
"""
SOFTMAX = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "conv" bottom: "label" top: "loss" }'
LINEAR = 'layer { name: "loss" type: "Reduction" bottom: "conv" top: "loss" loss_weight: 1 }'
SQUARE = LINEAR.replace('top: "loss"', 'top: "loss" reduction_param { operation: SUMSQ }')
NORM = 'layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { eps: 0.00000001 } }'


@pytest.fixture
def folder(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the digits are, and a net can be written."""
    os.symlink(trained.folder / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measured(net: str, weight: np.ndarray, batches: int = 3) -> Saliency:
    Path("net.prototxt").write_text(DATA + net)
    norm = {"norm": [np.zeros(10), np.ones(10), np.ones(1)]} if "BatchNorm" in net else {}
    cs.write_weights("w.caffemodel", {"conv": [weight], **norm})
    (found,) = cs.measure_saliency(cs.open_training("net.prototxt"), weights="w.caffemodel", batches=batches)
    return found


def weight(scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(0).normal(size=(10, 1, 8, 8))


@pytest.mark.usefixtures("backend")
def test_one_layer_is_as_numpy_computes_it(folder: Path) -> None:
    found = measured(SOFTMAX, weight())
    records = list(read_store(folder / "data/digits_train_lmdb"))[: 3 * BATCH]
    images = np.stack([image for image, _ in records]).reshape(-1, 64) * SCALE
    truth = np.eye(10)[[label for _, label in records]]
    w = weight().astype(np.float32).astype(np.float64).reshape(10, 64)
    odds = np.exp(images @ w.T)
    gradient = (odds / odds.sum(axis=1, keepdims=True) - truth).T @ images / len(records)
    expected = {
        "grad-norm": np.linalg.norm(gradient, axis=1),
        "snip": np.abs(gradient * w).sum(axis=1),
        "synflow": (gradient * w).sum(axis=1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found.kernels[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    assert found.whole["grad-norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
    assert found.whole["synflow"] == pytest.approx((gradient * w).sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("net", "powers"),
    [
        (LINEAR, {"grad-norm": 0, "snip": 1, "synflow": 1}),
        (SQUARE, {"grad-norm": 1, "snip": 2, "synflow": 2}),
        (NORM + SOFTMAX, {"grad-norm": -1, "snip": 0}),
    ],
    ids=["linear", "square", "norm"],
)
def test_weights_times_c_scale_each_score_by_its_power_of_c(folder: Path, net: str, powers: dict[str, int]) -> None:
    """A loss that is homogeneous of degree d in w has a gradient of degree d - 1, and sum g w = d times the loss."""
    once, scaled = (measured(net, weight(c)) for c in (1.0, 3.0))
    for name, power in powers.items():
        np.testing.assert_allclose(scaled.kernels[name], 3.0**power * once.kernels[name], rtol=1e-3, err_msg=name)
    assert once.cancels == scaled.cancels == ("synflow" not in powers)


@pytest.mark.caffe
@pytest.mark.skipif(not get_backend("torch").is_there(), reason="PyTorch is not installed: ./tools/environment --torch")
def test_both_back_ends_give_the_same_gradients(digits: Path) -> None:
    with inside(digits):
        training = cs.open_training("digits/solver.prototxt")
        ours, theirs = (cs.measure_saliency(training, 100, batches=5, engine=name) for name in ("torch", "caffe"))
    assert [each.layer for each in ours] == [each.layer for each in theirs] != []
    for one, other in zip(ours, theirs):
        for name, values in one.kernels.items():
            # Synflow cancels in front of a BatchNorm: there the size of its terms counts.
            size = other.kernels["snip" if name == "synflow" else name].max()
            np.testing.assert_allclose(values, other.kernels[name], rtol=1e-4, atol=1e-4 * size, err_msg=name)


def saliency(layer: str, *kernels: float) -> Saliency:
    return Saliency.of(layer, np.array(kernels).reshape(-1, 1, 1, 1), np.ones((len(kernels), 1, 1, 1)))


def test_the_best_layers_and_kernels_come_first() -> None:
    found = [saliency("a", 1, -1), saliency("b", 3, -5), saliency("c", 2, 2)]
    orders = {"grad-norm": ["b", "c", "a"], "snip": ["b", "c", "a"], "synflow": ["c", "a", "b"]}
    for name, order in orders.items():
        assert ranking(NOTHING, [], found, cs.DeriveOptions(choose_by=name)) == order
    values = saliency("d", 1, -4, 3, 2).kernels
    assert divide(parse_rule("score:grad-norm"), values["grad-norm"]).fast == (1, 2)
    assert divide(parse_rule("score:synflow"), values["synflow"]).fast == (2, 3)


def test_chosen_and_divided_by_saliency_as_the_manifest_says(digits: Path) -> None:
    options = ("--num-splits", 2, "--choose-by", "snip", "--partition", "score:grad-norm", "--calibrate", 2)
    weights = ("--weights", "digits/digits_iter_100.caffemodel")
    said = caffe_split("make-derived", "digits/solver.prototxt", *weights, *options, cwd=digits).stdout
    assert "chosen by snip, partition score:grad-norm" in said and "scores measured by 2 batches, run in" in said
    plan = json.loads((digits / "derived1/manifest.json").read_text())["plan"]
    kept = plan["saliency"]["layers"]
    assert (plan["options"]["choose_by"], plan["saliency"]["batches"], len(kept)) == ("snip", 2, 9)
    best = sorted(kept, key=lambda name: -kept[name]["whole"]["snip"])[:2]
    assert {layer["name"] for layer in plan["layers"]} == set(best)
    for layer in plan["layers"]:
        values = np.array(kept[layer["name"]]["kernels"]["grad-norm"])
        assert values[layer["fast"]].min() >= values[layer["slow"]].max()


def test_layers_by_chance_depend_on_the_seed_alone(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(digits)
    training, weights = cs.open_training("digits/solver.prototxt"), "digits/digits_iter_100.caffemodel"

    def layers(seed: int) -> list[str]:
        options = cs.DeriveOptions(choose_by=f"random:{seed}", partition="random:0")
        return [each.name for each in cs.derive(training, weights=weights, layers=3, options=options, out="d").layers]

    assert layers(1) == layers(1)
    assert len({tuple(layers(seed)) for seed in range(6)}) > 2


def test_all_scores_side_by_side(digits: Path) -> None:
    words = ("tpm", "digits/solver.prototxt", "--scores", "--calibrate", 2)
    said = caffe_split(*words, cwd=digits)
    assert "| res3_conv2 | 32      | 9216    |" in said.stdout and "(Spearman)" in said.stdout
    assert "synflow is 0 to rounding in" in said.stderr
    found = json.loads(caffe_split(*words, "--json", cwd=digits).stdout)
    rows = {row["layer"]: row for row in found["layers"]}
    for row in rows.values():
        assert len(row["kernels"]["tpm"]) == row["num_output"] and row["snip"] == pytest.approx(
            sum(row["kernels"]["snip"])
        )
    of_layers = found["spearman"]["layers"]
    by_hand = spearman([row["snip"] for row in rows.values()], [row["tpm-entropy"] for row in rows.values()])
    assert of_layers["snip"]["tpm-entropy"] == of_layers["tpm-entropy"]["snip"] == pytest.approx(by_hand)


def test_spearman_is_the_closed_formula_and_shares_the_ranks_of_ties() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 5, 40):
        a, b = rng.permutation(count) * 2.5, rng.permutation(count) - 7.0
        d = np.argsort(np.argsort(a)) - np.argsort(np.argsort(b))
        assert spearman(a, b) == pytest.approx(1 - 6 * (d**2).sum() / (count * (count**2 - 1)))
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    assert spearman([0, 5, 5, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman([1, math.nan, 2], [2, 5, 1]) == pytest.approx(-1)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3])) and math.isnan(spearman([1, math.nan], [1, 2]))


def test_a_layer_without_tpm_has_none_in_the_table() -> None:
    (row,) = ScoreTable.of([], [saliency("a", 1, 2)]).rows
    assert math.isnan(row.values["tpm-entropy"]) and np.isnan(row.kernels["tpm"]).all()
    assert "not known" in ScoreTable.of([], [saliency("a", 1, 2)]).lines()[2]


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("", "no gradient of a loss reaches conv"),
        (SOFTMAX.replace("SoftmaxWithLoss", "Accuracy"), "no gradient of a loss reaches conv"),
        (SOFTMAX.replace('top: "loss"', 'top: "loss" loss_weight: 0'), "no gradient of a loss reaches conv"),
        (
            SOFTMAX.replace('top: "loss"', f'top: "loss" {2 * "propagate_down: false "}'),
            "no gradient of a loss reaches",
        ),
        (SOFTMAX.replace('top: "loss"', 'top: "loss" propagate_down: false'), "1 propagate_down for 2 bottoms"),
        (SOFTMAX.replace('bottom: "conv"', 'bottom: "cone"'), "no layer before it writes its bottom 'cone'"),
        (
            'layer { name: "max" type: "ArgMax" bottom: "conv" top: "max" } '
            + LINEAR.replace('bottom: "conv"', 'bottom: "max"'),
            "ArgMax has no gradient",
        ),
    ],
    ids=["no loss", "accuracy", "weight 0", "held back", "one of two", "no bottom", "argmax"],
)
def test_a_net_whose_loss_has_no_gradient_is_refused(folder: Path, net: str, words: str) -> None:
    with pytest.raises(CaffeSplitError, match=words):
        measured(net, weight())


def test_what_is_measured_must_say_something(folder: Path) -> None:
    dead = 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" } ' + LINEAR
    with pytest.raises(CaffeSplitError, match="the gradient of the loss over 3 batches is 0 in all of conv"):
        measured(dead, -np.abs(weight()))
    os.unlink("data")
    with pytest.raises(CaffeSplitError, match="data are missing"):
        measured(SOFTMAX, weight())


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"choose_by": "snap"}, r"'snap' is not known \(did you mean 'snip'\?\)"),
        ({"choose_by": "random"}, "the seed '' is no whole number"),
        ({"choose_by": "random:-1"}, "the seed '-1' is no whole number"),
        ({"choose_by": "snip:3"}, "did you mean 'snip'"),
        ({"calibrate": 0}, "calibrate is 0, expected a whole number of 1 or more"),
    ],
)
def test_other_words_are_refused_with_the_nearest(choices: dict[str, object], words: str) -> None:
    with pytest.raises(WrongUseError, match=words):
        cs.DeriveOptions(**choices)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["score:", "score", "score:sinp", "score:grad_norm", "scores:snip"])
def test_other_partitions_are_refused(rule: str) -> None:
    with pytest.raises(CaffeSplitError, match="Expected one of median"):
        parse_rule(rule)


def test_choices_that_contradict_each_other(digits: Path) -> None:
    common = ("make-derived", "digits/solver.prototxt", "--dry-run")
    weights = ("--weights", "digits/digits_iter_100.caffemodel")
    for options, words, status in (
        (("--iter", 100, "--layers", "conv1", "--choose-by", "snip"), "--layers names them", 2),
        ((*weights, "--choose-by", "snip"), "--weights alone has no TPM", 2),
        ((*weights, "--choose-by", "snip", "--calibrate", 0), "0 is not in the range", 2),
        (
            (*weights, "--num-splits", 12, "--choose-by", "random:0", "--partition", "random:0"),
            "9 layers can be",
            1,
        ),
    ):
        assert words in caffe_split(*common, *options, cwd=digits, status=status).stderr
