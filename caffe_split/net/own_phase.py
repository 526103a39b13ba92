"""Layers that compute as in training in a net of the TEST phase, since their text has a `phase` of its own."""

from __future__ import annotations

from caffe_split.net.layers import Layer
from caffe_split.net.norm_forks import bn_kind
from caffe_split.net.options import Options

# Types that draw random numbers or read labels in the TRAIN phase alone.
_IN_TRAINING = ("Dropout", "Noise", "SpatialDropout", "LabelSpecificAdd")


def as_in_training(layer: Layer) -> bool:
    """Whether a layer has `phase: TRAIN` of its own, and computes otherwise by it."""
    return layer.phase_in("TEST") == "TRAIN" and _by_phase(layer)


def _by_phase(layer: Layer) -> bool:
    if layer.type == "BatchNorm":
        return not Options.of(layer.message, "batch_norm_param").has("use_global_stats")
    if layer.type == "BN":
        return bn_kind(layer) == "running" and not Options.of(layer.message, "bn_param").get("frozen")
    if layer.type == "Pooling":
        return bool(Options.of(layer.message, "pooling_param").get("pool") == "STOCHASTIC")
    return layer.type in _IN_TRAINING
