"""Where every training of the study begins: the recipe's files at a scale, and weights from the net's fillers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffe_split import read_net
from caffe_split.formats import prototxt
from caffe_split.net.layers import all_layers

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / "prototxt/resnet20_cifar10"


def with_inputs(net: Path, batch: int) -> prototxt.Document:
    """The net with Input layers of `batch` images in the place of its Data layers."""
    document = read_net(net).copy()
    for layer in all_layers(document):
        if layer.type == "Data":
            document.remove(layer.field)
    shapes = f"shape {{ dim: {batch} dim: 3 dim: 32 dim: 32 }} shape {{ dim: {batch} }}"
    text = f'layer {{ name: "data" type: "Input" top: "data" top: "label" input_param {{ {shapes} }} }}\n{document}'
    return prototxt.parse(text, filename=str(net))


def start_weights(net: Path, seed: int) -> dict[str, list[np.ndarray]]:
    """What the net's fillers draw under a seed."""
    from caffe_split.engine import Net

    drawn = Net(with_inputs(net, 2), "TRAIN", seed=seed).arrays()
    return {name: blobs for name, blobs in drawn.items() if blobs}
