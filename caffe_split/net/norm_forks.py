"""What forks made of BatchNorm: whose meaning a layer has, told by its fields."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

_OF_SEGNET = ("scale_filler", "shift_filler", "bn_mode")
_WITH_RUNNING_MEANS = ("slope_filler", "bias_filler", "momentum", "eps", "frozen")
WHICH_BN = (
    "a BN is SegNet's, with two blobs (bn_param: scale_filler, shift_filler, bn_mode), or that of temporal segment "
    "networks and PSPNet, with four (slope_filler, bias_filler, momentum, eps, frozen); write fields of one of them"
)


def bn_kind(layer: Layer) -> str | None:
    """Whose BN it is: "segnet", or "running" for the one that keeps running means; None where that is not known.

    Its fields tell, and if there are none of either, how many blobs have a `param`.
    """
    options = Options.of(layer.message, "bn_param")
    segnet = any(options.has(name) for name in _OF_SEGNET)
    running = any(options.has(name) for name in _WITH_RUNNING_MEANS)
    if segnet != running:
        return "segnet" if segnet else "running"
    if segnet:
        return None
    return {2: "segnet", 4: "running"}.get(len(layer.message.subs("param")))


def is_nvcaffes(layer: Layer) -> bool:
    """Whether a BatchNorm has its scale inside as NVCaffe writes it."""
    options = Options.of(layer.message, "batch_norm_param")
    if options.has("scale_bias") and not options.get("scale_bias"):
        return options.has("scale_filler") or options.has("bias_filler")
    return any(options.has(name) for name in ("scale_bias", "scale_filler")) or (
        options.has("bias_filler") and not is_intels(layer)
    )


def is_intels(layer: Layer) -> bool:
    """Whether a BatchNorm has its scale inside as Intel's Caffe writes it."""
    options = Options.of(layer.message, "batch_norm_param")
    written = any(options.has(name) for name in ("use_weight_bias", "bias_term", "filler"))
    return written and bool(options.get("use_weight_bias"))


def scale_inside(layer: Layer) -> bool:
    """Whether a BatchNorm has two blobs more than BVLC's: a factor and a shift per channel."""
    return is_nvcaffes(layer) or is_intels(layer)


def check_batch_norm(layer: Layer) -> Iterator[str]:
    """What is refused of the fields of forks in a BatchNorm."""
    options = Options.of(layer.message, "batch_norm_param")
    if is_nvcaffes(layer) and is_intels(layer):
        yield "fields of NVCaffe (scale_bias, scale_filler) and of Intel's Caffe (use_weight_bias, bias_term, filler)"
    if is_intels(layer) and not options.get("bias_term"):
        yield "bias_term: false; a factor without a shift is not handled"
