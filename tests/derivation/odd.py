"""Small nets by hand, with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TRAIN, NetState

Blobs = dict[str, list[np.ndarray]]


def input_layer(side: int = 8, channels: int = 4, images: int = 2) -> str:
    return (
        f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: {images} dim: {channels} '
        f"dim: {side} dim: {side} }} }} }}\n"
    )


def convolution(
    name: str, bottom: str, top: str, settings: str = "num_output: 6 kernel_size: 3 pad: 1", more: str = ""
) -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{top}" {more} '
        f"convolution_param {{ {settings} }} }}\n"
    )


def random_weights(text: str, seed: int = 0, scale: float = 1.0, state: NetState = TRAIN) -> Blobs:
    """Gaussian parameters for every layer of a net; BatchNorm's variances are positive."""
    rng = np.random.default_rng(seed)
    layers = phase_layers(prototxt.parse(text, "net"), state)
    shapes = infer_shapes(layers)
    assert not shapes.unknown, shapes.unknown
    blobs: Blobs = {}
    for layer in layers:
        params, state = shapes.params.get(layer.name, []), shapes.state.get(layer.name, [])
        if params or state:
            blobs[layer.name] = [scale * rng.standard_normal(shape).astype(np.float32) for shape in params]
            blobs[layer.name] += [np.abs(rng.standard_normal(shape)).astype(np.float32) + 0.1 for shape in state]
    return blobs


def write(folder: Path, name: str, text: str, weights: Blobs | None = None) -> None:
    """`name`.prototxt and `name`.caffemodel."""
    (folder / f"{name}.prototxt").write_text(text)
    caffemodel.write_weights(folder / f"{name}.caffemodel", random_weights(text) if weights is None else weights)
