"""Convolution, Deconvolution, Im2col, InnerProduct and Embed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caffe_split.exporting.site import CannotExpressError, Exporter, Site, Value
from caffe_split.net.geometry import Window, convolution_window


def _window(site: Site, first: int) -> Window:
    return convolution_window(site.layer, site.bottoms[0].rank - first - 1)


def attributes_of(window: Window, group: int) -> dict[str, Any]:
    """The attributes of a Conv or ConvTranspose."""
    return {
        "kernel_shape": window.kernel,
        "strides": window.stride,
        "pads": (*window.pad, *window.end),
        "dilations": window.dilation,
        "group": group,
    }


def convolution(site: Site) -> None:
    """Each bottom with the same weights. Axes before that of the channels are made one, as ONNX knows one only."""
    options = site.options("convolution_param")
    first = site.axis(options.get("axis"))
    window = _window(site, first)
    depthwise = site.layer.type in ("DepthwiseConvolution", "ConvolutionDepthwise")
    group = site.bottoms[0].shape[first] if depthwise else int(options.get("group"))
    if len(window.kernel) > 3:
        raise CannotExpressError(f"its kernel has {len(window.kernel)} axes; 1 to 3 are handled")
    op = "ConvTranspose" if site.layer.type == "Deconvolution" else "Conv"
    blobs = [site.blob(index) for index in range(len(site.blobs))]
    for number, (bottom, top) in enumerate(zip(site.bottoms, site.tops)):
        if first == 1:
            site.op(op, [bottom.name, *blobs], number, **attributes_of(window, group))
            continue
        flat = _flat_batch(bottom, first)
        made = site.op(op, [site.reshape(bottom.name, bottom, flat), *blobs], **attributes_of(window, group))
        site.reshape(made, _flat_batch(top, first), top, number)


def _flat_batch(value: Value, first: int) -> Value:
    """The value with the axes before axis `first` as one."""
    lengths = tuple(math.prod(probe) for probe in zip(*value.axes[:first])) if first else (1,) * len(value.axes[0])
    return Value(value.name, (lengths, *value.axes[first:]))


def single_ones(channels: int, kernel: Sequence[int]) -> np.ndarray:
    """For each channel a kernel for each place, 1 there and 0 elsewhere: float32 (channels x places, 1, *kernel)."""
    places = math.prod(kernel)
    return np.tile(np.eye(places, dtype=np.float32), (channels, 1)).reshape(channels * places, 1, *kernel)


def im2col(site: Site) -> None:
    """The values under the kernel as channels: a convolution of each channel with kernels of a single 1."""
    first = site.axis(site.options("convolution_param").get("axis"))
    bottom, top = site.bottoms[0], site.tops[0]
    if not bottom.is_fixed(first, first + 1):
        raise CannotExpressError("its channels would vary")
    window, channels = _window(site, first), bottom.shape[first]
    weight, attributes = site.constant("places", single_ones(channels, window.kernel)), attributes_of(window, channels)
    if first == 1:
        site.op("Conv", [site.x, weight], 0, **attributes)
        return
    flat = site.reshape(site.x, bottom, _flat_batch(bottom, first))
    site.reshape(site.op("Conv", [flat, weight], **attributes), _flat_batch(top, first), top, 0)


def inner_product(site: Site) -> None:
    """A matrix product over the axes from `axis` on, as one."""
    options = site.options("inner_product_param")
    first = site.axis(options.get("axis"))
    bottom, top = site.bottoms[0], site.tops[0]
    blobs = [site.blob(index) for index in range(len(site.blobs))]
    if options.get("normalize"):
        weight = site.blobs[0][1]
        blobs[0] = site.constant("unit", weight / np.sqrt((weight**2).sum(1, keepdims=True) + np.float32(1e-6)))
    turned = 0 if options.get("transpose") else 1
    rows = site.x if first == 1 and bottom.rank == 2 else site.op("Flatten", [site.x], axis=first)
    if first == 1:
        site.op("Gemm", [rows, *blobs], 0, transB=turned)
        return
    made = site.op("Gemm", [rows, *blobs], transB=turned)
    site.reshape(made, _flat_batch(top, first), top, 0)


def embed(site: Site) -> None:
    """The rows of the weight that the bottom names, and the bias."""
    places = site.op("Cast", [site.x], to=7)
    biased = len(site.blobs) > 1
    rows = site.op("Gather", [site.blob(0), places], None if biased else 0)
    if biased:
        site.op("Add", [rows, site.blob(1)], 0)


EXPORTERS: Mapping[str, Exporter] = {
    "Convolution": convolution,
    "Deconvolution": convolution,
    "DepthwiseConvolution": convolution,
    "ConvolutionDepthwise": convolution,
    "Im2col": im2col,
    "InnerProduct": inner_product,
    "Embed": embed,
}
