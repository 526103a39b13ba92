"""More layers of forks: activations, Lstm, and what passes its bottom on outside of training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffe_split.exporting.recurrent import projected, steps
from caffe_split.exporting.site import CannotExpressError, Exporter, Site
from caffe_split.layertypes.records.volumes import nd_window, volume_window
from caffe_split.net.geometry import Window


def passing(site: Site) -> None:
    """Nothing, outside of training."""
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
    for name, blob in site.blobs:
        array = blob.reshape(*bottom.shape[1:], blob.shape[2])
        site.to.constants.setdefault(name, np.ascontiguousarray(array))
        names.append(name)
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
    site.op(
        "Conv",
        [site.x, *blobs],
        0,
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=(*window.pad, *window.pad),
        group=int(options.get("group")),
    )


def pooling(site: Site) -> None:
    """The maximum or mean of windows; those that stand out at the end are padded, which counts in neither."""
    window, bottom, top = _window(site), site.bottoms[0], site.tops[0]
    if not (bottom.is_fixed(2) and top.is_fixed(2)):
        raise CannotExpressError("the sides of its volumes would vary")
    ends = [
        max(0, (count - 1) * stride + kernel - length - pad)
        for length, count, kernel, stride, pad in zip(
            bottom.shape[2:], top.shape[2:], window.kernel, window.stride, window.pad
        )
    ]
    op = "MaxPool" if site.options("pooling_param").get("pool") == "MAX" else "AveragePool"
    site.op(op, [site.x], 0, kernel_shape=window.kernel, strides=window.stride, pads=(*window.pad, *ends))


def _window(site: Site) -> Window:
    if site.layer.type.startswith("Nd"):
        return nd_window(site.layer, site.bottoms[0].rank - 2)
    return volume_window(site.layer)


EXPORTERS: Mapping[str, Exporter] = {
    **dict.fromkeys(("Noise", "SpatialDropout", "GradientScaler", "LabelSpecificAdd"), passing),
    "SeLu": selu,
    "APL": apl,
    "Lstm": lstm,
    "BReLU": brelu,
    "Padding": padding,
    "Flip": flip,
    "GroupNorm": group_norm,
    **dict.fromkeys(("Convolution3D", "NdConvolution"), convolution),
    **dict.fromkeys(("Pooling3D", "NdPooling"), pooling),
}
