"""Layers that compute as in training in a TEST net: those with a `phase: TRAIN` that makes a difference to them."""

from __future__ import annotations

import pytest

from caffe_split.formats import prototxt
from caffe_split.net.layers import all_layers
from caffe_split.net.own_phase import as_in_training


@pytest.mark.parametrize(
    ("text", "differs"),
    [
        ('type: "BatchNorm"', True),
        ('type: "BatchNorm" batch_norm_param { use_global_stats: true }', False),
        ('type: "BatchNorm" batch_norm_param { use_global_stats: false }', False),
        ('type: "BN" bn_param { momentum: 0.9 }', True),
        ('type: "BN" bn_param { momentum: 0.9 frozen: true }', False),
        ('type: "BN" bn_param { bn_mode: LEARN }', False),
        ('type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 }', True),
        ('type: "Pooling" pooling_param { pool: MAX kernel_size: 2 }', False),
        ('type: "Dropout"', True),
        ('type: "ReLU"', False),
    ],
)
def test_a_phase_of_its_own(text: str, differs: bool) -> None:
    for phase, expected in (("phase: TRAIN", differs), ("phase: TEST", False), ("", False)):
        (layer,) = all_layers(prototxt.parse(f'layer {{ name: "x" bottom: "a" top: "b" {text} {phase} }}', kind="net"))
        assert as_in_training(layer) == expected
