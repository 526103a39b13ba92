"""Losses and measures of forks that are not computed: a net is run forward without them where nothing reads them.

What a fork's loss computes is often not published, but everything before it can be run. Such a layer is left out, and
with it the layers of unknown types that give something to it alone. A training needs the loss, and is refused; a
measure (an accuracy, say) changes nothing of a training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from caffe_split.layertypes.foreign import may_be_a_slip, unread_fields
from caffe_split.layertypes.table import RECORDS, record_of
from caffe_split.net.layers import Layer

# The last word of the name of a type that measures. Other types are called so, too, but hardly one whose top is the
# result of a net.
_MEASURES = frozenset(("accuracy", "acc", "mae", "mse", "rmse", "iou", "miou", "psnr", "ssim", "auc", "evaluate"))
_MEASURE_TYPES = frozenset(("EvalDetection",))  # YOLO's
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# Known types that measure: they give no gradient, and a model does not have them.
KNOWN_MEASURES = frozenset(("Accuracy", "SegAccuracy", "DetectionEvaluate"))
# BVLC's own, of which a mistake in the text is refused and no fork's form. Forks give some of them a third bottom.
_BVLC = frozenset(("loss", "smooth_l1"))
_WEIGHTED = frozenset(("SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "EuclideanLoss", "Accuracy"))


def left_out(layers: Sequence[Layer]) -> dict[int, str]:
    """The layers of one phase, by index, without which the net is run, and why; empty where nothing would be left.

    Silence layers that read what is left out are among them.
    """
    readers = _readers(layers)
    out: dict[int, str] = {}
    for index in reversed(range(len(layers))):
        layer, reading = layers[index], readers[index]
        if layer.type == "Silence" or any(reader not in out and layers[reader].type != "Silence" for reader in reading):
            continue
        why = why_left_out(layer)
        if why is None and reading and layer.bottoms and layer.type not in RECORDS and reading & set(out):
            why = f"its type {layer.type} is not known, and only layers that are left out read what it computes"
        if why is not None and not set(layer.tops) & set(layer.bottoms):
            out[index] = why
    for index, reading in enumerate(readers):
        for reader in reading if index in out else ():
            out.setdefault(reader, "it silences what a layer computes that is left out")
    is_run = any(index not in out and layer.bottoms and layer.type != "Silence" for index, layer in enumerate(layers))
    return out if is_run else {}


def is_needed_to_train(layer: Layer) -> bool:
    """Whether a layer that is left out is a loss, or not known to be none: without it there is no training.

    Caffe gives each loss a weight of 1, so that the name of a type has to say that it is none: an accuracy, or a type
    that is known. So does a loss_weight of 0.
    """
    if why_left_out(layer) is None:
        return False
    weights = [float(weight) for weight in layer.message.get_all("loss_weight")]
    if weights:
        return any(weights)
    words = _words(layer.type)
    return not (layer.type in KNOWN_MEASURES | _MEASURE_TYPES or ("loss" not in words and words[-1:] == ["accuracy"]))


def why_left_out(layer: Layer) -> str | None:
    """Why the engine does not compute a loss or measure, if the layer is one in its own right; None for all others."""
    if not layer.bottoms:
        return None
    if layer.type not in RECORDS:
        weighs = any(float(weight) for weight in layer.message.get_all("loss_weight"))
        return f"its type {layer.type} is not known" if weighs or _measures(layer.type) else None
    record = record_of(layer.type)
    if record.engine is None or not (record.is_loss or layer.type in KNOWN_MEASURES):
        return None
    unread = unread_fields(layer, record.options)
    if any(may_be_a_slip(problem) for problem in unread):
        return None
    if unread:
        return f"{unread[0].message} (line {unread[0].line})"
    of_fork, most = record.engine.module not in _BVLC, record.engine.bottoms[1]
    if (of_fork or layer.type in _WEIGHTED) and most < len(layer.bottoms):
        return f"{layer.type} of {len(layer.bottoms)} bottoms is a form of a fork"
    return next(iter(record.engine.forms(layer)), None) if record.engine.forms is not None else None


def _readers(layers: Sequence[Layer]) -> list[set[int]]:
    """For each layer, the layers that read one of its tops."""
    made: dict[str, int] = {}
    found: list[set[int]] = [set() for _ in layers]
    for index, layer in enumerate(layers):
        for bottom in layer.bottoms:
            if bottom in made:
                found[made[bottom]].add(index)
        made.update(dict.fromkeys(layer.tops, index))
    return found


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def _measures(name: str) -> bool:
    """Whether the words of a type's name say that it is a loss or a measure."""
    words = _words(name)
    is_ctc = words[-1:] == ["ctc"]  # WarpCTC
    return "loss" in words or is_ctc or (words[-1:] != [] and words[-1] in _MEASURES) or name in _MEASURE_TYPES
