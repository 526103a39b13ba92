"""More layers of forks: activations, Lstm, and what passes its bottom on outside of training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffe_split.exporting.recurrent import projected, steps
from caffe_split.exporting.site import CannotExpressError, Exporter, Site


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


EXPORTERS: Mapping[str, Exporter] = {
    **dict.fromkeys(("Noise", "SpatialDropout", "GradientScaler", "LabelSpecificAdd"), passing),
    "SeLu": selu,
    "APL": apl,
    "Lstm": lstm,
}
