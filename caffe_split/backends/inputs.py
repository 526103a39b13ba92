"""Random values for a net's inputs, such as the layers that read them take."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from caffe_split.files import write_atomic
from caffe_split.layertypes.shape_rules import Shape
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def drawn_input(
    layers: Sequence[Layer], name: str, shapes: Mapping[str, Shape], rng: np.random.Generator
) -> np.ndarray | None:
    """Values for the input `name` where a layer reads it that does not take any numbers; None elsewhere.

    shapes: of the net's blobs, as far as they are known.
    """
    shape = shapes[name]
    for layer in layers:
        places = [place for place, bottom in enumerate(layer.bottoms) if bottom == name]
        if layer.type == "Embed" and places:
            rows = int(Options.of(layer.message, "embed_param").get("input_dim"))
            return rng.integers(0, rows, shape).astype(np.float32)
        if layer.type in ("LSTM", "RNN", "Lstm") and 1 in places:
            go_on = (rng.random(shape) < 0.8).astype(np.float32)
            go_on[0] = 0
            return go_on
        if layer.type == "BatchReindex" and 1 in places:
            return np.zeros(shape, np.float32)
        if layer.type in _REGIONS and 1 in places and len(shapes.get(layer.bottoms[0], ())) == 4:
            scale = float(Options.of(layer.message, _REGIONS[layer.type]).get("spatial_scale"))
            return _regions(shape, shapes[layer.bottoms[0]], scale, rng)
        if layer.type == "Proposal" and 2 in places and len(shapes.get(layer.bottoms[0], ())) == 4:
            stride = int(Options.of(layer.message, "proposal_param").get("feat_stride"))
            return _image_info(shape, shapes[layer.bottoms[0]], stride)
    return None


def write_inputs(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a net's inputs as an .npz, for `Forwarding.input_file`."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    write_atomic(path, stream.getvalue())


_REGIONS = {"ROIPooling": "roi_pooling_param", "PSROIPooling": "psroi_pooling_param"}


def _regions(shape: Shape, features: Shape, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Regions (n, 5) in the first image: its number, left, top, right and bottom in whole pixels."""
    height, width = (max(int(side / scale), 1) for side in features[2:])
    rows = np.zeros(shape, np.float32)
    table = rows.reshape(-1, 5)
    for first, side in ((1, width), (2, height)):
        ends = np.sort(rng.integers(0, side, (len(table), 2)), axis=1)
        table[:, first], table[:, first + 2] = ends.T
    return rows


def _image_info(shape: Shape, scores: Shape, stride: int) -> np.ndarray:
    """Height and width of the image, and its scale, 1 (in some forks two of them)."""
    info = np.ones(shape, np.float32)
    info.reshape(-1)[:2] = [side * stride for side in scores[2:]]
    return info
