"""Random weights with which a net of any depth gives outputs that are not saturated.

Layer by layer, on one batch: weights are drawn as He et al. 2015 draw them and scaled so that the layer's top has a
standard deviation of 1 (Mishkin and Matas 2015), and BatchNorm gets the statistics of what it reads. The last Scale of
a residual branch is small, as it is where training begins at 0 (Goyal et al. 2017), and the biases of all are about
0.5: without that, a random net of 150 layers multiplies roundings by 10,000.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from caffe_split.engine.layers.base import Layer
from caffe_split.engine.model.net import Net
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.formats.weights.caffemodel import write_weights
from caffe_split.net.layers import all_layers


def write_random_weights(net: Path, out: Path, inputs: Mapping[str, np.ndarray], seed: int = 0) -> None:
    """Write weights for a net whose data come from Input layers; `inputs` are the batch that sets their scale.

    Python layers, which have no weights, are not run: they may only be the last of a net.
    """
    document = read_net(net, upgrade=True)
    for layer in all_layers(document):
        if layer.type == "Python":
            document.remove(layer.field)
    made = Net(document, "TEST", seed=seed, inputs={name: array.shape for name, array in inputs.items()})
    generator = torch.Generator().manual_seed(seed)
    blobs: dict[str, torch.Tensor] = {}
    memory: dict[int, object] = {}
    seen: set[int] = set()
    ends = _branch_ends(made)
    made._give(inputs)  # noqa: SLF001 - the engine runs whole nets; here weights change between the layers
    with torch.no_grad():
        for call in made.plain_calls:
            layer = call.layer
            mine = [blob for blob in layer.blobs if blob.data_ptr() not in seen]
            seen.update(blob.data_ptr() for blob in mine)
            given = [blobs[name].clone() for name in call.bottoms]
            if mine:
                _draw(layer, given, generator)
                if layer.name in ends:
                    mine[0] *= 0.2
                top = call.run({**blobs, **dict(zip(call.bottoms, [each.clone() for each in given]))}, memory)[0]
                if layer.text.type in _SCALED:
                    mine[0] /= top.std().clamp_min(1e-6)
            blobs.update(zip(call.bottoms, given))
            blobs.update(zip(call.tops, call.run(blobs, memory)))
    write_weights(out, made.arrays(), made.name, made.types())


def _branch_ends(net: Net) -> set[str]:
    """The names of the Scale layers whose top is the last bottom of an Eltwise: there ends a residual branch."""
    writers: dict[str, Layer] = {}
    found = set()
    for call in net.plain_calls:
        if call.layer.text.type == "Eltwise":
            end = writers[call.bottoms[-1]]
            found.update([end.name] if end.text.type == "Scale" else [])
        writers.update(dict.fromkeys(call.tops, call.layer))
    return found


_SCALED = ("Convolution", "Deconvolution", "InnerProduct", "DepthwiseConvolution", "ConvolutionDepthwise")


def _draw(layer: Layer, bottoms: list[torch.Tensor], generator: torch.Generator) -> None:
    """New values of a layer's blobs; those of types that are not named here stay as their fillers have them."""
    kind, blobs = layer.text.type, layer.blobs
    if kind in _SCALED:
        fan_in = blobs[0].numel() / blobs[0].shape[0]
        blobs[0].normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        for bias in blobs[1:]:
            bias.normal_(0, 0.1, generator=generator)
    elif kind == "BatchNorm":
        channels = bottoms[0].transpose(0, 1).flatten(1)
        blobs[0].copy_(channels.mean(1))
        blobs[1].copy_(channels.var(1, unbiased=False).clamp_min(1e-3))
        blobs[2].fill_(1)
    elif kind == "Scale":
        blobs[0].uniform_(0.8, 1.2, generator=generator)
        for bias in blobs[1:]:
            bias.normal_(0.5, 0.1, generator=generator)
    elif kind in ("LSTM", "RNN"):
        for blob in blobs:
            blob.uniform_(-1, 1, generator=generator).mul_(blob.shape[-1] ** -0.5)
