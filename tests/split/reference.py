"""A convolution and the parts of a split, computed the slow and plain way in float64; geometries to try them on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from caffe_split.net.geometry import Geometry
from caffe_split.split.parts import Part


@st.composite
def geometries(draw: st.DrawFn) -> tuple[Geometry, int]:
    """A geometry and the side of a square input that it fits into."""
    kernel = draw(st.tuples(st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 3])))
    stride, dilation, group = (draw(st.sampled_from([1, 2])) for _ in range(3))
    pad, side = draw(st.sampled_from([None, 0, 1])), draw(st.sampled_from([9, 10]))
    same = tuple(dilation * (k - 1) // 2 for k in kernel)
    geometry = Geometry(kernel, (stride, stride), same if pad is None else (pad, pad), (dilation, dilation), group)
    assume(min(geometry.slide((side, side))) > 0)
    return geometry, side


def convolve(image: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, geometry: Geometry) -> np.ndarray:
    """`image` [C, H, W] through one convolution: [kernels, H', W'], straight from the definition."""
    pad_h, pad_w = geometry.pad
    padded = np.pad(image, ((0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    height, width = geometry.slide((image.shape[1], image.shape[2]))
    count, per_group = weight.shape[:2]
    out = np.zeros((count, height, width))
    for k in range(count):
        first = k // (count // geometry.group) * per_group
        for y in range(height):
            for x in range(width):
                top, left = y * geometry.stride[0], x * geometry.stride[1]
                window = padded[
                    first : first + per_group,
                    top : top + geometry.dilation[0] * (geometry.kernel[0] - 1) + 1 : geometry.dilation[0],
                    left : left + geometry.dilation[1] * (geometry.kernel[1] - 1) + 1 : geometry.dilation[1],
                ]
                out[k, y, x] = (window * weight[k]).sum()
    return out if bias is None else out + bias[:, None, None]


def forward(parts: Sequence[Part], bottom: str, image: np.ndarray) -> dict[str, np.ndarray]:
    """All blobs of a split's parts for one image, with the weights as they are stored (float32)."""
    blobs = {bottom: image}
    for part in parts:
        inputs = [blobs[name] for name in part.bottoms]
        stored = [np.asarray(blob, dtype=np.float32).astype(np.float64) for blob in part.blobs]
        if part.form in ("copy", "helper"):
            assert part.geometry is not None
            blobs[part.top] = convolve(inputs[0], stored[0], stored[1] if len(stored) > 1 else None, part.geometry)
        elif part.form == "sum":
            blobs[part.top] = np.sum(inputs, axis=0)
        elif part.form == "concat":
            blobs[part.top] = np.concatenate(inputs)
        elif part.form == "batch_norm":
            mean, variance = (values[:, None, None] for values in stored[:2])
            blobs[part.top] = (inputs[0] - mean) / np.sqrt(variance + 1e-5)
        elif part.form == "scale":
            factor, shift = (values[:, None, None] for values in stored)
            blobs[part.top] = factor * inputs[0] + shift
        else:
            assert part.form == "relu"
            blobs[part.top] = np.maximum(inputs[0], 0)
    return blobs
