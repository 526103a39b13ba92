"""Bottoms of any shape: a layer refuses those that do not fit, and has the shapes of its rule for all others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.engine.cases import CASES
from tests.engine.fork_cases_more import JUDGED

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.model.net import Net
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.layertypes.table import RECORDS

REFUSING = {name for name, record in RECORDS.items() if record.engine and record.engine.rule_refuses}


def others(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """A shape changed in one axis, or with one less or more."""
    for axis in range(len(shape)):
        for length in (1, shape[axis] + 1):
            yield (*shape[:axis], length, *shape[axis + 1 :])
    yield from (shape[:-1], (*shape, 2))


@pytest.mark.parametrize(("name", "axis"), [("bn", 1), ("bn", 0), ("bn_test", 1), ("bn_segnet", 1), ("conv_lstm", 2)])
def test_a_bottom_without_channels_or_records_is_refused(name: str, axis: int) -> None:
    """Caffe divides by their number, and its process ends."""
    case = JUDGED[name].case if name in JUDGED else CASES[name](np.random.default_rng(1))
    shape = case.inputs["x"]
    case = replace(case, inputs={**case.inputs, "x": (*shape[:axis], 0, *shape[axis + 1 :])})
    with pytest.raises(CaffeSplitError, match=r"layer 'l' \(line \d\): "):
        Net(prototxt.parse(case.prototxt(), kind="net"), case.phase)


def test_misfits_are_refused_and_all_else_has_the_shapes_of_the_rule() -> None:
    torch.set_num_threads(1)
    ran, refused = set(), set()
    for name, make in CASES.items():
        if not set(re.findall(r'type: "(\w+)"', make(np.random.default_rng(1)).text)) <= REFUSING:
            continue
        shapes = make(np.random.default_rng(1)).inputs
        for bottom, shape in shapes.items():
            for other in others(shape):
                case = make(np.random.default_rng(1))
                case.inputs[bottom] = other
                try:
                    net = Net(prototxt.parse(case.prototxt(), kind="net"), case.phase)
                    blobs = net.forward(keep=True).blobs
                except CaffeSplitError:
                    refused.add(name)
                    continue
                ran.add(name)
                assert {blob: tuple(values.shape) for blob, values in blobs.items()} == net.shapes, (name, other)
    assert {"concat", "bias_bottom", "softmax_loss", "slice"} <= refused & ran
    assert len(ran) > 40 and "eltwise_sum" in refused
