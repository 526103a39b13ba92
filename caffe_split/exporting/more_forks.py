"""More layers of forks: activations, Lstm, and what passes its bottom on outside of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from caffe_split.exporting.conv import attributes_of, single_ones
from caffe_split.exporting.pointwise import refuse_training
from caffe_split.exporting.recurrent import projected, steps
from caffe_split.exporting.site import CannotExpressError, Exporter, Site
from caffe_split.layertypes.records.sampling import THETA
from caffe_split.layertypes.records.volumes import nd_window, volume_window
from caffe_split.net.geometry import Window, convolution_window


def passing(site: Site) -> None:
    """Nothing, outside of training; of gradients in training neither."""
    if site.layer.type != "GradientScaler":
        refuse_training(site)
    for number in range(len(site.tops)):
        site.same[number] = site.bottoms[number].name


def selu(site: Site) -> None:
    """Lambda times the value or, below 0, times alpha (e^x - 1)."""
    options = site.options("selu_param")
    site.op("Selu", [site.x], 0, alpha=float(options.get("alpha")), gamma=float(options.get("lambda")))


def apl(site: Site) -> None:
    """The positive part, and the sum of slope max(0, offset - x); the slopes of a value lie behind each other."""
    bottom = site.bottoms[0]
    if not bottom.is_fixed(1):
        raise CannotExpressError("the size of a record would vary")
    names = []
    for index, (_, blob) in enumerate(site.blobs):
        array = blob.reshape(*bottom.shape[1:], blob.shape[2])
        names.append(site.blob(index, np.ascontiguousarray(array)))
    below = site.op("Relu", [site.op("Sub", [names[1], site.pad_axes(site.x, 1)])])
    parts = site.reduce("ReduceSum", site.op("Mul", [names[0], below]), [bottom.rank], keepdims=False)
    site.op("Add", [site.op("Relu", [site.x]), parts], 0)


def lstm(site: Site) -> None:
    """CTPN's, step by step: gates i, f, o and g; with a second bottom the state is kept where that is not 0."""
    count = int(site.options("lstm_param").get("num_output"))
    inputs = steps(site, projected(site, 0, 0, 2, "steps"), "step")
    marks: list[str] = [""] * len(inputs)
    if len(site.bottoms) > 1:
        shape = [len(inputs), site.bottoms[0].shape[1] if site.bottoms[0].is_fixed(1, 2) else -1, 1]
        kept = site.op("Cast", [site.bottoms[1].name], to=9)
        ones = site.op("Reshape", [site.op("Cast", [kept], to=1), site.constant("marks", shape)])
        marks = steps(site, ones, "mark")
    h = c = ""
    outputs = []
    for x, mark in zip(inputs, marks):
        gates = x
        if h:
            product = site.op("Gemm", [h, site.blob(1)], transB=1)
            gates = site.op("Add", [x, site.op("Mul", [mark, product]) if mark else product])
        parts = site.op("Split", [gates, site.constant("gates", [count] * 4)], outputs=4, axis=1)
        i, f, o, g = site.to.makers[parts].outputs
        made = site.op("Mul", [site.op("Sigmoid", [i]), site.op("Tanh", [g])])
        if c:
            forget = site.op("Sigmoid", [f])
            forget = site.op("Mul", [mark, forget]) if mark else forget
            made = site.op("Add", [site.op("Mul", [forget, c]), made])
        c = made
        h = site.op("Mul", [site.op("Sigmoid", [o]), site.op("Tanh", [c])])
        outputs.append(h)
    axis = site.constant("time", [0])
    site.op("Concat", [site.op("Unsqueeze", [output, axis]) for output in outputs], 0, axis=0)


def brelu(site: Site) -> None:
    """Limited to minval and maxval."""
    options = site.options("brelu_param")
    limits = [site.number(float(options.get(name)), name) for name in ("minval", "maxval")]
    site.op("Clip", [site.x, *limits], 0)


def padding(site: Site) -> None:
    """Zeros around images; numbers below 0 cut."""
    first, last = (int(site.options("padding_param").get(name)) for name in ("pad_beg", "pad_end"))
    site.op("Pad", [site.x, site.constant("pads", [0, 0, first, first, 0, 0, last, last])], 0)


def flip(site: Site) -> None:
    """The rows, the columns or both from the last one on."""
    options = site.options("flip_param")
    axes = [axis for axis, name in ((2, "flip_height"), (3, "flip_width")) if options.get(name)]
    if not axes:
        site.same[0] = site.x
        return
    bounds = [("start", [-1]), ("end", [-(2**62)]), ("axes", axes), ("step", [-1])]
    values = [site.constant(name, value if name == "axes" else value * len(axes)) for name, value in bounds]
    site.op("Slice", [site.x, *values], 0)


def group_norm(site: Site) -> None:
    """Each group of channels as one channel of an instance norm without factor and shift."""
    options = site.options("group_norm_param")
    groups = int(options.get("group_num"))
    rows = site.op("Reshape", [site.x, site.constant("groups", [0, groups, -1])])
    blobs = [site.constant(name, np.full(groups, value, np.float32)) for name, value in (("one", 1.0), ("zero", 0.0))]
    normal = site.op("InstanceNormalization", [rows, *blobs], epsilon=float(options.get("eps")))
    site.op("Reshape", [normal, site.op("Shape", [site.x])], 0)


def convolution(site: Site) -> None:
    """Kernels over one to three axes behind the channels."""
    window, options = _window(site), site.options("convolution_param")
    blobs = [site.blob(index) for index in range(len(site.blobs))]
    _squeezed(site, "Conv", blobs, attributes_of(window, int(options.get("group"))))


def pooling(site: Site) -> None:
    """The maximum or mean of windows; those that stand out at the end are padded, which counts in neither."""
    window, bottom = _window(site), site.bottoms[0]
    if not bottom.is_fixed(2):
        raise CannotExpressError("the sides of its volumes would vary")
    counts = window.pool(bottom.shape[2:], ceil=not site.layer.type.startswith("Nd"))
    ends = [
        max(0, (count - 1) * stride + kernel - length - pad)
        for length, count, kernel, stride, pad in zip(
            bottom.shape[2:], counts, window.kernel, window.stride, window.pad
        )
    ]
    op = "MaxPool" if site.options("pooling_param").get("pool") == "MAX" else "AveragePool"
    pads = (*window.pad, *ends)
    _squeezed(site, op, [], {"kernel_shape": window.kernel, "strides": window.stride, "pads": pads})


def _squeezed(site: Site, op: str, others: list[str], attributes: Mapping[str, Any]) -> None:
    """The operator, and behind it what drops the axes of one value that the layer drops."""
    bottom, top = site.bottoms[0], site.tops[0]
    if top.rank == bottom.rank:
        site.op(op, [site.x, *others], 0, **attributes)
        return
    if not top.is_fixed(1):
        raise CannotExpressError("the sides of its volumes would vary, and those of 1 are dropped")
    whole = site.op(op, [site.x, *others], **attributes)
    site.op("Reshape", [whole, site.constant("sides", [0, *top.shape[1:]])], 0)


def transformer(site: Site) -> None:
    """An affine grid over the image, and what lies there; corners of ONNX's grid are those of pixels, not centres."""
    if site.to.opset < _GRIDS:
        raise CannotExpressError(f"operators of version {site.to.opset} have no GridSample; {_GRIDS} has")
    options, images, top = site.options("st_param"), site.bottoms[0], site.tops[0]
    if not (images.is_fixed(2) and top.is_fixed(2)):
        raise CannotExpressError("the sides of its images would vary")
    lacking = [place for place, name in enumerate(THETA) if not options.has(name)]
    # theta's second row, of the columns, comes first in a grid.
    choose, written = np.zeros((len(lacking), 6), np.float32), np.zeros(6, np.float32)
    for given, place in enumerate(lacking):
        choose[given, (place + 3) % 6] = 1
    for place, name in enumerate(THETA):
        written[(place + 3) % 6] = float(options.get(name)) if options.has(name) else 0
    rows = site.op("Flatten", [site.bottoms[1].name], axis=1)
    whole = site.op(
        "Add", [site.op("MatMul", [rows, site.constant("choose", choose)]), site.constant("theta", written)]
    )
    height, width = top.shape[2:]
    down, right = np.meshgrid(np.arange(height) / height * 2 - 1, np.arange(width) / width * 2 - 1, indexing="ij")
    base = np.stack([down.ravel(), right.ravel(), np.ones(height * width)]).astype(np.float32)
    half = np.array([[1 / images.shape[3]], [1 / images.shape[2]]], np.float32)
    matrix = site.op("Reshape", [whole, site.constant("matrix", [-1, 2, 3])])
    places = site.op("Add", [site.op("MatMul", [matrix, site.constant("base", base)]), site.constant("half", half)])
    turned = site.op("Transpose", [places], perm=[0, 2, 1])
    grid = site.op("Reshape", [turned, site.constant("grid", [-1, height, width, 2])])
    mode = "linear" if site.to.opset >= 20 else "bilinear"
    site.op("GridSample", [site.x, grid], 0, mode=mode, padding_mode="zeros", align_corners=0)


# The version of operators since which there is GridSample.
_GRIDS = 16


def local(site: Site) -> None:
    """The values under the kernel at each place as channels, times weights of each place, added up."""
    bottom, top = site.bottoms[0], site.tops[0]
    if not (bottom.is_fixed(1) and top.is_fixed(1)):
        raise CannotExpressError("the sides of its images would vary")
    window, channels = convolution_window(site.layer, 2, "local_param"), bottom.shape[1]
    ones = single_ones(channels, window.kernel)
    columns = site.op("Conv", [site.x, site.constant("places", ones)], **attributes_of(window, channels))
    rows = site.op("Reshape", [columns, site.constant("rows", [0, 1, len(ones), -1])])
    weight = site.blob(0, site.blobs[0][1][:, 0])
    summed = site.reduce("ReduceSum", site.op("Mul", [rows, weight]), [2], keepdims=False)
    if len(site.blobs) > 1:
        summed = site.op("Add", [summed, site.blob(1, site.blobs[1][1][0])])
    site.op("Reshape", [summed, site.constant("image", [0, *top.shape[1:]])], 0)


def _window(site: Site) -> Window:
    if site.layer.type.startswith("Nd"):
        return nd_window(site.layer, site.bottoms[0].shape[2:])
    return volume_window(site.layer)


EXPORTERS: Mapping[str, Exporter] = {
    **dict.fromkeys(("Noise", "SpatialDropout", "GradientScaler", "LabelSpecificAdd"), passing),
    "SeLu": selu,
    "APL": apl,
    "Lstm": lstm,
    "BReLU": brelu,
    "SpatialTransformer": transformer,
    "Local": local,
    "Padding": padding,
    "Flip": flip,
    "GroupNorm": group_norm,
    **dict.fromkeys(("Convolution3D", "NdConvolution"), convolution),
    **dict.fromkeys(("Pooling3D", "NdPooling"), pooling),
}
