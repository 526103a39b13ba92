"""Layers that change each value by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from caffe_split.exporting.site import CannotExpressError, Exporter, Site


def _plain(op: str) -> Exporter:
    def exporter(site: Site) -> None:
        site.op(op, [site.x], 0)

    return exporter


def relu(site: Site) -> None:
    """The negative half times negative_slope."""
    slope = float(site.options("relu_param").get("negative_slope"))
    if slope:
        site.op("LeakyRelu", [site.x], 0, alpha=slope)
    else:
        site.op("Relu", [site.x], 0)


def prelu(site: Site) -> None:
    """The negative half times the learnt slope of the channel, or of all channels."""
    _, slope = site.blobs[0]
    if slope.size == 1:
        site.op("PRelu", [site.x, site.constant("slope", slope.reshape(()))], 0)
        return
    ones = (1,) * (site.bottoms[0].rank - 2)
    site.op("PRelu", [site.x, site.blob(0, slope.reshape(-1, *ones))], 0)


def elu(site: Site) -> None:
    """The negative half as alpha * (e^x - 1)."""
    site.op("Elu", [site.x], 0, alpha=float(site.options("elu_param").get("alpha")))


def swish(site: Site) -> None:
    """The value times the sigmoid of beta times the value."""
    beta = float(site.options("swish_param").get("beta"))
    inner = site.x if beta == 1 else site.op("Mul", [site.x, site.number(beta, "beta")])
    site.op("Mul", [site.x, site.op("Sigmoid", [inner])], 0)


def clip(site: Site) -> None:
    """Limited to min and max."""
    options = site.options("clip_param")
    limits = [site.number(float(options.get(name)), name) for name in ("min", "max")]
    site.op("Clip", [site.x, *limits], 0)


def threshold(site: Site) -> None:
    """1 above the threshold, else 0."""
    limit = float(site.options("threshold_param").get("threshold"))
    site.op("Cast", [site.op("Greater", [site.x, site.number(limit, "threshold")])], 0, to=1)


def _linear(site: Site, scale: float, shift: float) -> list[tuple[str, list[str]]]:
    """The steps of scale * x + shift."""
    steps = []
    if scale != 1:
        steps.append(("Mul", [site.number(scale, "scale")]))
    if shift != 0:
        steps.append(("Add", [site.number(shift, "shift")]))
    return steps


def power(site: Site) -> None:
    """(shift + scale * x)^power."""
    exponent, scale, shift = (float(site.options("power_param").get(name)) for name in ("power", "scale", "shift"))
    if exponent * scale == 0:
        value = np.array([1.0 if exponent == 0 else shift**exponent], np.float32)
        site.op("ConstantOfShape", [site.op("Shape", [site.x])], 0, value=value)
        return
    steps = _linear(site, scale, shift)
    if exponent != 1:
        steps.append(("Pow", [site.number(exponent, "power")]))
    site.chain(steps)


def _base(message: str, then: Callable[[Site, float, float, float], None]) -> Exporter:
    def exporter(site: Site) -> None:
        base, scale, shift = (float(site.options(message).get(name)) for name in ("base", "scale", "shift"))
        then(site, 1.0 if base == -1 else math.log(base), scale, shift)

    return exporter


def _exp(site: Site, log: float, scale: float, shift: float) -> None:
    """e^(log * (scale * x + shift))."""
    site.chain([*_linear(site, scale * log, shift * log), ("Exp", [])])


def _log(site: Site, log: float, scale: float, shift: float) -> None:
    """The logarithm of scale * x + shift, divided by that of the base."""
    last: list[tuple[str, list[str]]] = [("Log", [])]
    if log != 1:
        last.append(("Div", [site.number(log, "base")]))
    site.chain([*_linear(site, scale, shift), *last])


def refuse_training(site: Site) -> None:
    """Raises `CannotExpressError` for a layer that draws random numbers, or reads labels, in the TRAIN phase alone."""
    if site.training:
        own = site.layer.message.has("phase")
        why = "by its own phase: TRAIN; take that out if it is not meant" if own else "in the TRAIN phase"
        raise CannotExpressError(f"it computes as in training, {why}")


def dropout(site: Site) -> None:
    """Nothing, outside of training; without scale_train (Faster R-CNN) a factor."""
    options = site.options("dropout_param")
    if options.get("sample_weights_test"):
        raise CannotExpressError("sample_weights_test: what it drops is drawn anew in each run")
    refuse_training(site)
    if options.get("scale_train"):
        site.same[0] = site.x
    else:
        site.op("Mul", [site.x, site.number(1 - float(options.get("dropout_ratio")), "kept")], 0)


EXPORTERS: Mapping[str, Exporter] = {
    "ReLU": relu,
    "PReLU": prelu,
    "ELU": elu,
    "Sigmoid": _plain("Sigmoid"),
    "TanH": _plain("Tanh"),
    "AbsVal": _plain("Abs"),
    "BNLL": _plain("Softplus"),
    "Swish": swish,
    "Clip": clip,
    "Threshold": threshold,
    "Power": power,
    "Exp": _base("exp_param", _exp),
    "Log": _base("log_param", _log),
    "Dropout": dropout,
}
