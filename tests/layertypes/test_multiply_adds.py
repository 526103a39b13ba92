"""Multiply-adds of a layer for one image, or for one sequence of a net without images."""

from __future__ import annotations

import pytest

from caffe_split.formats import prototxt
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TRAIN

LSTM = """layer { name: "l" type: "LSTM" bottom: "x" bottom: "m" top: "l" recurrent_param { num_output: 4 } }
layer { name: "o" type: "InnerProduct" bottom: "l" top: "o" inner_product_param { num_output: 5 axis: 2 } }"""
CAPTION = """layer { name: "e" type: "Embed" bottom: "x" top: "e" embed_param { input_dim: 9 num_output: 8 } }
layer { name: "l" type: "LSTM" bottom: "e" bottom: "m" bottom: "image" top: "l" recurrent_param { num_output: 4 } }"""
ROWS = """layer { name: "p" type: "Permute" bottom: "image" top: "p"
  permute_param { order: 3 order: 2 order: 0 order: 1 } }
layer { name: "q" type: "Reshape" bottom: "p" top: "q" reshape_param { shape { dim: 6 dim: 5 dim: 8 } } }
layer { name: "l" type: "Lstm" bottom: "q" top: "l" lstm_param { num_output: 4 } }"""
REGIONS = """layer { name: "p" type: "ROIPooling" bottom: "image" bottom: "rois" top: "p"
  roi_pooling_param { pooled_h: 2 pooled_w: 2 } }
layer { name: "o" type: "InnerProduct" bottom: "p" top: "o" inner_product_param { num_output: 10 } }"""
TWO = """layer { name: "c" type: "Convolution" bottom: "x" bottom: "y" top: "c" top: "d"
  convolution_param { num_output: 4 kernel_size: 3 } }"""
WHOLE = """layer { name: "o" type: "InnerProduct" bottom: "x" top: "o" inner_product_param { num_output: 5 axis: 0 } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 4 kernel_size: 3 axis: 0 } }"""


@pytest.mark.parametrize(
    ("text", "inputs", "macs"),
    [
        pytest.param(
            LSTM, {"x": (20, 2, 8), "m": (20, 2)}, {"l": 20 * 192, "o": 20 * 20}, id="every step of a sequence"
        ),
        pytest.param(
            CAPTION,
            {"x": (20, 2), "m": (20, 2), "image": (2, 3, 4, 4)},
            {"l": 20 * 192 + 16 * 48},
            id="the caption of an image",
        ),
        pytest.param(ROWS, {"image": (1, 8, 5, 6)}, {"l": 5 * 6 * 192}, id="an image whose rows are sequences"),
        pytest.param(
            REGIONS, {"image": (2, 3, 16, 16), "rois": (30, 5)}, {"o": 15 * 120}, id="all regions of an image"
        ),
        pytest.param(REGIONS, {"image": (2, 3, 16, 16), "rois": (1, 5)}, {"o": 60}, id="half a region"),
        pytest.param(TWO, {"x": (2, 3, 8, 8), "y": (2, 3, 8, 8)}, {"c": 2 * 3888}, id="each bottom of a convolution"),
        pytest.param(WHOLE, {"x": (2, 3, 8, 8)}, {"o": 192 * 5, "c": 3888}, id="layers over the whole batch"),
    ],
)
def test_multiply_adds_of_one_image_or_sequence(
    text: str, inputs: dict[str, tuple[int, ...]], macs: dict[str, int]
) -> None:
    found = infer_shapes(phase_layers(prototxt.parse(text, "net"), TRAIN), inputs)
    assert not found.unknown and found.macs == macs
