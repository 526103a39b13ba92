"""Small nets, and splitting a layer of one with random kernels."""

from __future__ import annotations

import numpy as np

from caffe_split.derivation.rewrite import rewrite
from caffe_split.formats import prototxt
from caffe_split.layertypes.shapes import document_inputs, infer_shapes
from caffe_split.net.geometry import convolution_geometry
from caffe_split.net.layers import all_layers
from caffe_split.split.algebra import Kernels
from caffe_split.split.branch_norm import ChannelStatistics, NormSettings, branch_ends, normalised
from caffe_split.split.layer import SplitOptions, split_convolution
from caffe_split.split.partition import Partition

CONV = "convolution_param { num_output: 8 kernel_size: 3 pad: 1 }"
ONE = "convolution_param { num_output: 16 kernel_size: 1 }"


def layer(name: str, kind: str, bottoms: str, param: str = "", top: str = "") -> str:
    given = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {given} top: "{top or name}" {param} }}\n'


DATA = 'layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 1 dim: 4 dim: 8 dim: 8 } } }\n'
NET = (
    DATA
    + layer("x", "Convolution", "b", "convolution_param { num_output: 16 kernel_size: 3 pad: 1 }", "t")
    + layer("r", "ReLU", "t", top="t")
    + layer("y", "Convolution", "t", CONV)
)


def net(text: str) -> prototxt.Document:
    return prototxt.parse(text, "net")


def split_again(
    document: prototxt.Document, name: str, norm: bool = False, whole: bool = False, **options: object
) -> None:
    """Split the convolution `name` of the document, its even kernels being the fast ones; `whole`: none of them."""
    found = next(each for each in all_layers(document) if each.name == name)
    param = found.message.sub("convolution_param")
    assert param is not None
    count, geometry = int(param.get("num_output")), convolution_geometry(found)
    rng = np.random.default_rng(0)
    kernels = Kernels(
        rng.standard_normal(infer_shapes(all_layers(document), document_inputs(document)).params[name][0]), None
    )
    if param.get("bias_term", True):
        kernels = Kernels(kernels.weight, rng.standard_normal(count))
    parts = split_convolution(
        name,
        found.bottoms[0],
        found.tops[0],
        geometry,
        kernels,
        Partition((), tuple(range(count)))
        if whole
        else Partition(tuple(range(0, count, 2)), tuple(range(1, count, 2))),
        options=SplitOptions(**options),  # type: ignore[arg-type]
    )
    if norm:
        ends = {end: ChannelStatistics(np.zeros(count), np.ones(count)) for end in branch_ends(parts)}
        parts = normalised(parts, ends, NormSettings())
    rewrite(document, {name: parts})
