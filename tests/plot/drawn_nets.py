"""Nets to draw: ResNet-20, split once to three times, with random weights; and layers to write others with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffe_split.diagram.page import net_page
from caffe_split.diagram.picture import Picture
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.shapes import document_inputs, infer_shapes
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TEST, NetState
from tests.support import CAFFE, ROOT

SHARE = CAFFE.parents[1] / "share" / "caffe"
RESNET = ROOT / "prototxt/resnet20_cifar100/deploy.prototxt"
ROUNDS = [
    "conv1,res1a_conv2,res1c_conv1,res2a_conv1,res2b_conv1,res2c_conv2,res3a_conv1,res3b_conv2,res3c_conv1",
    "conv1_split2,res1a_conv2_split1,res1b_conv1,res2a_conv1_split2_residual_pre,res2b_conv2,res2c_conv2_split2,"
    "res3a_conv1_split1,res3b_conv1,res3c_conv2",
    "conv1_split2_split1,res1b_conv1_split2,res1b_conv2,res2a_conv2,res2b_conv2_split1,res2c_conv1,res3a_conv1_split2,"
    "res3b_conv2_split2,res3c_conv2_split1",
]


def random_weights(net: Path, path: Path) -> Path:
    """Weights that fit the net."""
    document = prototxt.read(net)
    layers = phase_layers(document, TEST)
    shapes = infer_shapes(layers, document_inputs(document))
    rng = np.random.default_rng(0)
    blobs = {
        layer.name: [
            rng.standard_normal(shape).astype(np.float32)
            for shape in shapes.params.get(layer.name, []) + shapes.state.get(layer.name, [])
        ]
        for layer in layers
    }
    caffemodel.write_weights(path, {name: arrays for name, arrays in blobs.items() if arrays})
    return path


NETS = ["baseline", "round1", "round2", "round3", "skip", "extension"]


def page(net: Path, whole: bool | None = None, phase: str = "TRAIN") -> Picture:
    return net_page(phase_layers(prototxt.read(net), NetState(phase)), whole)


def layer(name: str, kind: str, bottoms: str = "", top: str = "", more: str = "") -> str:
    words = [f'bottom: "{bottom}"' for bottom in bottoms.split()] + [f'top: "{top or name}"']
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(words)} {more} }}\n'


CONV = "convolution_param { num_output: 2 kernel_size: 3 }"
DATA = layer("d", "Input", "", "d", "input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } }")
