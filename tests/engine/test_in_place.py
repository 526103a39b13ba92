"""Layers in place: what Caffe computes, forward and back, also where it reads memory that was overwritten."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from tests.engine.case import Case
from tests.engine.chains import ALIASES, IN_PLACE, SHAPE, chains, over_what_learns_nothing, single
from tests.engine.runs import compare, ours, theirs, write_training

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

import caffe_split
from caffe_split.engine.model.net import Net
from caffe_split.layertypes.table import RECORDS
from tests.engine.judge import built, misses, run_pycaffe, values

HEAD = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }\n'


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def hold(folder: Path, cases: dict[str, Case], finite: float) -> None:
    """Hold all cases against one pycaffe. At least the share `finite` of them has to give numbers."""
    rng = np.random.default_rng(5)
    given = {name: values(case, built(case), rng) for name, case in cases.items()}
    found = run_pycaffe(folder, cases, given)
    numbers = [name for name in cases if all(np.isfinite(array).all() for array in found[name].values())]
    assert len(numbers) >= finite * len(cases)
    wrong = {
        (name, fuse): missed
        for name in numbers
        for fuse in (False, True)
        if (missed := misses(cases[name], given[name], found[name], fuse))
    }
    assert not wrong


@pytest.mark.caffe
def test_each_layer_in_place_and_random_chains_match_caffe(tmp_path: Path) -> None:
    hold(tmp_path, {name: single(name) for name in IN_PLACE} | chains(1, 40) | over_what_learns_nothing(), 0.95)


@pytest.mark.caffe
@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_hundreds_of_random_chains_match_caffe(tmp_path: Path, seed: int) -> None:
    hold(tmp_path, chains(seed, 400), 0.95)


def overwritten(kind: str, options: str, top: str) -> str:
    """A convolution y, a layer of which the tops are y's memory, and a layer in place on the first of them, v."""
    alias = f'layer {{ name: "alias" type: "{kind}" bottom: "y" top: "v"{top} {options} }}'
    return "\n".join((CONV, alias, link("power", "Power", "power_param { power: 2 shift: 1 }", "v")))


@pytest.mark.caffe
def test_blobs_and_outputs_that_share_overwritten_memory_are_caffes(tmp_path: Path) -> None:
    inputs: dict[str, tuple[int, ...]] = {"x": SHAPE}
    cases = {
        name: Case(
            overwritten(*layer, ' top: "u"' if name == "split" else ""),
            inputs,
            ["v", "u"] if name == "split" else ["v"],
        )
        for name, layer in ALIASES.items()
    }
    hold(tmp_path, cases, 1)
    for name, case in cases.items():
        found, given = np.load(tmp_path / f"{name}.out.npz"), np.load(tmp_path / f"{name}.in.npz")
        (tmp_path / "net.prototxt").write_text(case.prototxt())
        module = caffe_split.load(tmp_path / "net.prototxt", inputs=inputs)
        module.load_state_dict(
            {f"conv.{part}": torch.tensor(given[f"param:conv:{at}"]) for at, part in enumerate(("weight", "bias"))}
        )
        net = built(case)
        net.load({"conv": [given["param:conv:0"], given["param:conv:1"]]}, "w")
        blobs = net.forward({"x": given["blob:x"]}, keep=True).blobs
        assert set(blobs) == {"x", "y", *case.tops}
        for blob, value in blobs.items():
            theirs = torch.tensor(found[f"blob:{blob}"])
            torch.testing.assert_close(value.detach(), theirs, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(
                module(given["blob:x"], blobs=[blob])[blob].detach(), theirs, rtol=1e-4, atol=1e-4
            )


def test_a_module_reads_memory_as_it_stands(tmp_path: Path) -> None:
    text = HEAD + overwritten("Flatten", "", "") + 'layer { name: "sum" type: "Reduction" bottom: "y" top: "sum" }'
    (tmp_path / "net.prototxt").write_text(text)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    found = caffe_split.load(tmp_path / "net.prototxt", seed=0)(x, blobs=["v", "sum"])
    torch.testing.assert_close(found["sum"], found["v"].sum())


def test_the_chains_hold_every_type_that_may_stand_in_place() -> None:
    from caffe_split.engine.spec.setup import IN_PLACE as TYPES

    # Threshold has no gradient.
    assert {kind for kind, _ in IN_PLACE.values()} == TYPES - {"Threshold"}
    assert set(RECORDS) >= TYPES


def layers(*chain: str) -> str:
    return HEAD + "\n".join(chain)


CONV = (
    'layer { name: "conv" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 3 kernel_size: 1 } }'
)


def link(name: str, kind: str, options: str = "", blob: str = "y") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{blob}" top: "{blob}" {options} }}'


@pytest.mark.parametrize(
    ("chain", "late"),
    [
        ([link("bn", "BatchNorm"), link("scale", "Scale"), link("relu", "ReLU")], []),
        ([link("relu", "ReLU"), link("drop", "Dropout")], []),
        ([link("prelu", "PReLU"), link("bn", "BatchNorm")], []),
        ([link("elu", "ELU")], []),
        ([link("sigmoid", "Sigmoid")], []),
        ([link("relu", "ReLU"), link("bn", "BatchNorm")], ["relu"]),
        ([link("sigmoid", "Sigmoid"), link("drop", "Dropout")], ["sigmoid"]),
        ([link("relu", "ReLU", "relu_param { negative_slope: -0.3 }")], ["relu"]),
        ([link("power", "Power", "power_param { scale: 2 }")], ["power"]),
    ],
)
def test_gradients_that_are_not_the_derivative_are_named_and_others_are_left_to_autograd(
    chain: list[str], late: list[str]
) -> None:
    net = Net(prototxt.parse(layers(CONV, *chain), kind="net"), "TRAIN", fuse=True)
    assert [re.findall(r"layer '(\w+)'", line)[0] for line in net.late] == late
    assert [call.layer.name for call in net.calls if not call.access.is_plain and call.access.late] == late


def test_a_relu_in_place_under_dropout_has_the_gradient_of_both() -> None:
    text = layers(CONV, link("relu", "ReLU"), link("drop", "Dropout"))
    net = Net(prototxt.parse(text, kind="net"), "TRAIN", fuse=True)
    bias = next(param.values for param in net.params if param.index == 1)
    out = net.forward({"x": np.random.default_rng(0).normal(size=(2, 3, 4, 4))}).blobs["y"]
    out.sum().backward()
    assert bias.grad is not None
    assert torch.allclose(bias.grad, 2.0 * (out.detach() > 0).sum((0, 2, 3)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            layers(CONV, link("c", "Convolution", "convolution_param { num_output: 3 kernel_size: 1 }")),
            "'c': Convolution",
        ),
        (
            layers(CONV, link("p", "Pooling", "pooling_param { kernel_size: 1 }")),
            "'p': Pooling in place is not handled",
        ),
        (layers(CONV, link("a", "AbsVal")), "'a': Caffe refuses AbsVal in place"),
        (layers(CONV, link("r", "ReLU", "loss_weight: 1")), "'r': 'y' is a loss that stands in place"),
        (
            'layer { name: "w" type: "Parameter" top: "w" parameter_param { shape { dim: 3 } } }'
            + link("r", "ReLU", blob="w"),
            "'r': it writes over 'w', in Caffe the parameter itself of layer 'w'",
        ),
        (
            'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 3 } } }'
            + link("r", "ReLU", blob="d"),
            "'r': it writes over 'd', in Caffe values that are filled once of layer 'd'",
        ),
        (
            # Caffe sets its top to 0 before it adds, and with that both bottoms.
            layers(CONV, 'layer { name: "s" type: "Split" bottom: "y" top: "a" top: "b" }')
            + 'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "a" }',
            "'sum': in place it writes over the memory of 'b', which it reads, too: give its top another name",
        ),
    ],
)
def test_what_is_not_computed_as_in_caffe_is_refused_by_name(text: str, expected: str) -> None:
    with pytest.raises(CaffeSplitError, match=re.escape(f"layer {expected}")):
        Net(prototxt.parse(text, kind="net"), "TRAIN")


# Of each, conv, then these in place, then an InnerProduct and a loss.
NET = """
layer {{ name: "data" type: "Data" top: "data" top: "label" data_param {{ source: "train" batch_size: 8 backend: LMDB }}
  transform_param {{ scale: 0.01 mean_value: 128 }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "y" convolution_param {{ num_output: 6 kernel_size: 3
  weight_filler {{ type: "msra" }} }} }}
{chain}
layer {{ name: "ip" type: "InnerProduct" bottom: "y" top: "ip"
  inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""


@pytest.mark.caffe
def test_a_training_with_relu_and_batch_norm_in_place_is_caffes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = NET.format(chain=link("relu", "ReLU") + link("bn", "BatchNorm") + link("scale", "Scale"))
    write_training(tmp_path, 'base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" test_initialization: false', 12, net=net)
    trained, _ = ours("solver.prototxt")
    trained.iter = 0
    weights = trained.snapshot()[0].rename("start.caffemodel")
    log = ours("solver.prototxt", weights=[str(weights)])[1]
    assert "Gradient of layer 'relu' (line" in log
    compare(log, theirs("solver.prototxt", tmp_path, weights=str(weights)), 1e-3)
