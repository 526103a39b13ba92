"""Trainings in which Caffe stops at a layer that has no gradient are refused; those in which none is needed are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_split.engine.spec.backward import backward_problems
from caffe_split.engine.spec.support import layers_of
from caffe_split.formats import prototxt
from caffe_split.net.state import TRAIN

HEAD = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 3 } }
"""


def layer(name: str, kind: str, wires: str, options: str = "") -> str:
    before, _, after = wires.partition(">")
    blobs = [f'bottom: "{blob}"' for blob in before.split()] + [f'top: "{blob}"' for blob in after.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(blobs)} {options} }}\n'


LAST = layer("last", "InnerProduct", "l > last", "inner_product_param { num_output: 3 }") + layer(
    "loss", "SoftmaxWithLoss", "last t > loss"
)
FLAT = layer("flat", "Reshape", "one > flat", "reshape_param { shape { dim: 2 } }")
ONE = layer("one", "InnerProduct", "x > one", "inner_product_param { num_output: 1 }")
AXIS = "argmax_param { axis: 1 }"
NO_LABELS = "propagate_down: true propagate_down: false"
EMBED = "embed_param { num_output: 3 input_dim: 9 }"
# One step of two streams, with marks from outside and learnt ones.
STEPS = (
    'layer { name: "marks" type: "Input" top: "marks" input_param { shape { dim: 1 dim: 2 } } }\n'
    'layer { name: "x3" type: "Input" top: "x3" input_param { shape { dim: 1 dim: 2 dim: 3 } } }\n'
    'layer { name: "gates" type: "Input" top: "gates" input_param { shape { dim: 1 dim: 2 dim: 12 } } }\n'
    + layer("steps", "Reshape", "ip > steps", "reshape_param { shape { dim: 1 dim: 2 dim: 3 } }")
    + layer("learn", "InnerProduct", "x > two", "inner_product_param { num_output: 1 }")
    + layer("learnt", "Reshape", "two > learnt", "reshape_param { shape { dim: 1 dim: 2 } }")
    + layer("cells", "Power", "x3 > cells")
)
CARRY = "recurrent_param { num_output: 3 } "
FROZEN = "param { lr_mult: 0 } " * 3
SUM = layer("sum", "Reduction", "l > sum", "loss_weight: 1")
ONES = layer("ones", "DummyData", "> ones", "dummy_data_param { shape { dim: 2 } data_filler { value: 1 } }")
TWO = LAST.replace("last t", "last u")
# Nets, and whether Caffe trains them.
NETS = {
    HEAD + layer("l", "Threshold", "ip > l") + LAST: False,
    HEAD + layer("l", "Threshold", "x > l") + LAST: True,
    HEAD + layer("l", "Threshold", "ip > l", "propagate_down: false") + LAST: False,
    HEAD + layer("l", "Threshold", "ip > l") + LAST.replace('bottom: "l"', 'bottom: "l" propagate_down: false'): True,
    HEAD + layer("l", "Threshold", "ip > l") + layer("quiet", "Silence", "l >"): True,
    HEAD + layer("l", "ArgMax", "ip > l", AXIS) + LAST: False,
    HEAD + layer("l", "ArgMax", "ip > l", AXIS) + layer("loss", "SoftmaxWithLoss", "ip t > loss"): True,
    HEAD + layer("norm", "BatchNorm", "x > n") + layer("l", "Threshold", "n > l") + LAST: False,
    HEAD.replace("inner_product_param", "param { lr_mult: 0 } param { lr_mult: 0 } inner_product_param")
    + layer("l", "Threshold", "ip > l")
    + LAST: True,
    HEAD + layer("scale", "Scale", "x ip > s") + layer("l", "Threshold", "s > l") + LAST: False,
    HEAD + layer("l", "Embed", "t > l", EMBED) + LAST.replace("axis", ""): True,
    HEAD + ONE + FLAT + layer("l", "Embed", "flat > l", EMBED) + LAST: False,
    HEAD + ONE + FLAT + layer("l", "BatchReindex", "ip flat > l") + LAST: False,
    HEAD + layer("l", "BatchReindex", "ip t > l") + LAST: True,
    HEAD + ONE + FLAT + layer("l", "Filter", "ip t flat > l u") + TWO: False,
    HEAD + ONES + layer("l", "Filter", "ip t ones > l u") + TWO: True,
    HEAD + STEPS + layer("l", "LSTM", "steps marks > l", CARRY) + SUM: True,
    HEAD + STEPS + layer("l", "RNN", "steps marks > l", CARRY + FROZEN) + SUM: True,
    HEAD + STEPS + layer("l", "LSTM", "steps learnt > l", CARRY) + SUM: False,
    HEAD + STEPS + layer("l", "RNN", "steps learnt > l", CARRY) + SUM: False,
    HEAD + STEPS + layer("l", "LSTMUnit", "cells gates learnt > c l") + SUM: False,
    HEAD + STEPS + layer("k", "LSTM", "x3 marks > k", CARRY) + layer("l", "Threshold", "k > l") + SUM: False,
    HEAD + STEPS + layer("k", "LSTM", "x3 marks > k", CARRY + FROZEN) + layer("l", "Threshold", "k > l") + SUM: True,
    HEAD + ONE + FLAT + layer("l", "SoftmaxWithLoss", "ip flat > loss"): False,
    HEAD + ONE + FLAT + layer("l", "SoftmaxWithLoss", "ip flat > loss", NO_LABELS): True,
    HEAD + ONE + layer("l", "EuclideanLoss", "one t > loss"): True,
    HEAD
    + ONE
    + layer("two", "InnerProduct", "x > two", "inner_product_param { num_output: 1 }")
    + layer("l", "EuclideanLoss", "one two > loss"): True,
    HEAD + layer("l", "SigmoidCrossEntropyLoss", "ip x > loss"): True,
    HEAD
    + layer("two", "InnerProduct", "x > two", "inner_product_param { num_output: 3 }")
    + layer("l", "SigmoidCrossEntropyLoss", "ip two > loss"): False,
}


def test_what_needs_a_gradient_that_caffe_does_not_have_is_refused_by_name() -> None:
    for text, trains in NETS.items():
        document = prototxt.parse(text, kind="net")
        found = [layer.name for layer, _ in backward_problems(layers_of(document, TRAIN))]
        assert found == ([] if trains else ["l"]), text


@pytest.mark.caffe
def test_caffe_stops_there(tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(list(NETS)))
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("setup_job.py")), "texts.json", "results.json", "back"],
        cwd=tmp_path,
        env={**os.environ, "GLOG_minloglevel": "4", "OPENBLAS_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        timeout=300,
        check=True,
    )
    assert dict(zip(NETS, json.loads((tmp_path / "results.json").read_text()))) == NETS
