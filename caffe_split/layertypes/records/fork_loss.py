"""Losses and measures of forks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import EACH, MEAN, BatchKind, MixedRecordsError, Shapes, named
from caffe_split.layertypes.checks import ENGINE
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.records.loss import check_sigma
from caffe_split.layertypes.shape_rules import Found, Shape, axis_of, need_bottoms, need_options, scalar
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _mean(layer: Layer, given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    if set(given) != {EACH}:
        raise MixedRecordsError(f"its bottoms ({named(layer, given)}) do not hold records")
    return MEAN


def _whole_batch(_layer: Layer, _given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    raise MixedRecordsError("it compares all records of a batch")


def _center_loss(layer: Layer, bottoms: list[Shape]) -> Found:
    """A learnt centre per class."""
    need_bottoms(layer, bottoms, 2)
    need_options(layer, "center_loss_param")
    param = Options.of(layer.message, "center_loss_param")
    axis = axis_of(param.get("axis"), len(bottoms[0]), layer)
    return Found([()], [(int(param.get("num_output")), math.prod(bottoms[0][axis:]))])


def _check_center_loss(layer: Layer) -> Iterator[str]:
    if not Options.of(layer.message, "center_loss_param").get("num_output"):
        yield "center_loss_param: num_output is missing or 0"


def _forms_of_focal_loss(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "focal_loss_param")
    lacking = [name for name in ("alpha", "gamma") if not param.has(name)]
    if lacking:
        yield f"focal_loss_param without {' and '.join(lacking)}: forks have other defaults; write them"
    if len(param.all("alpha")) > 1:
        yield "focal_loss_param: several alpha, one per class, are not handled"
    if param.get("type") != "ORIGIN":
        yield f"focal_loss_param: type {param.get('type')} is not handled; ORIGIN is"


def _forms_of_l1_loss(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "l1_loss_param")
    if param.get("l2_prescale_by_channels"):
        yield "l2_prescale_by_channels: true is not handled"
    if param.get("plateau"):
        yield "plateau is not handled"


def _softmax_loss_ohem(layer: Layer, bottoms: list[Shape]) -> Found:
    """The loss, the probabilities, and the loss of each label."""
    need_bottoms(layer, bottoms, 2)
    return Found([(), *bottoms[:2]][: len(layer.tops)])


def _smooth_l1_loss_ohem(layer: Layer, bottoms: list[Shape]) -> Found:
    """The loss, and that of each place, summed over its channels."""
    need_bottoms(layer, bottoms, 2, axes=2)
    first = bottoms[0]
    sides = (*first[2:], 1, 1)[:2]
    return Found([(), (first[0], 1, *sides)][: len(layer.tops)])


def _box_annotator(layer: Layer, bottoms: list[Shape]) -> Found:
    """Labels and weights as the third and the fourth bottom."""
    need_bottoms(layer, bottoms, 4)
    regions, losses, labels = (math.prod(shape) for shape in bottoms[:3])
    if regions != 5 * losses or labels != losses:
        raise CaffeSplitError(
            f"{layer.where}: regions of {bottoms[0]}, losses of {bottoms[1]} and labels of {bottoms[2]}; expected five "
            "numbers, one loss and one label for each region."
        )
    return Found(bottoms[2:4])


def _check_box_annotator(layer: Layer) -> Iterator[str]:
    if not layer.message.has("box_annotator_ohem_param"):
        yield "box_annotator_ohem_param is missing"


def _seg_accuracy(layer: Layer, bottoms: list[Shape]) -> Found:
    """The accuracy of pixels, its mean over the classes, and the mean intersection over union."""
    need_bottoms(layer, bottoms, 2, axes=2)
    scores, labels = bottoms[:2]
    if labels != (scores[0], 1, *scores[2:]):
        raise CaffeSplitError(f"{layer.where}: labels of {labels} for scores of {scores}; expected one per pixel.")
    return Found([(1, 1, 1, 3)])


def _forms_of_seg_accuracy(layer: Layer) -> Iterator[str]:
    if not Options.of(layer.message, "seg_accuracy_param").get("reset"):
        yield "seg_accuracy_param: reset: false, the accuracy over all batches so far, is not handled"


_LOSS = "ignore_label normalize normalization"

RECORDS = (
    LayerType(
        "L1Loss",
        shapes=scalar,
        options={"l1_loss_param": "l2_per_location normalize_by_num_entries epsilon l2_prescale_by_channels plateau"},
        batch=_mean,
        is_loss=True,
        engine=Engine("fork_loss", (1, 2), forms=_forms_of_l1_loss),
    ),
    LayerType(
        "CenterLoss",
        shapes=_center_loss,
        options={"center_loss_param": "num_output center_filler axis"},
        batch=_mean,
        is_loss=True,
        engine=Engine("fork_loss", (2, 2), check=_check_center_loss),
        blob_names=("centers",),
    ),
    LayerType(
        "FocalLoss",
        shapes=scalar,
        options={"softmax_param": "axis", "focal_loss_param": "type alpha gamma", "loss_param": _LOSS},
        batch=_mean,
        is_loss=True,
        engine=Engine("fork_loss", (2, 2), forms=_forms_of_focal_loss, ignored={"beta": "only type: LINEAR reads it"}),
    ),
    LayerType(
        "WeightedSoftmaxWithLoss",
        shapes=scalar,
        options={"softmax_param": "axis pos_cid pos_mult", "loss_param": _LOSS},
        batch=_mean,
        is_loss=True,
        engine=Engine("fork_loss", (2, 2), ignored=ENGINE),
    ),
    LayerType(
        "LiftedStructSimilaritySoftmaxLoss",
        shapes=scalar,
        options={"lifted_struct_sim_softmax_loss_param": "margin"},
        batch=_whole_batch,
        is_loss=True,
        engine=Engine("fork_loss", (2, 2)),
    ),
    LayerType(
        "SoftmaxWithLossOHEM",
        shapes=_softmax_loss_ohem,
        options={"softmax_param": "axis", "loss_param": f"{_LOSS} pre_fixed_normalizer"},
        batch=_whole_batch,
        is_loss=True,
        engine=Engine("ohem", (2, 2), (1, 3)),
    ),
    LayerType(
        "SmoothL1LossOHEM",
        shapes=_smooth_l1_loss_ohem,
        options={"smooth_l1_loss_param": "sigma", "loss_param": "normalize normalization pre_fixed_normalizer"},
        batch=_whole_batch,
        is_loss=True,
        engine=Engine("ohem", (2, 3), (1, 2), check=check_sigma, rule_refuses=True),
    ),
    LayerType(
        "BoxAnnotatorOHEM",
        shapes=_box_annotator,
        options={"box_annotator_ohem_param": "roi_per_img ignore_label"},
        batch=_whole_batch,
        engine=Engine("ohem", (4, 4), (2, 2), check=_check_box_annotator, rule_refuses=True),
    ),
    LayerType(
        "SegAccuracy",
        shapes=_seg_accuracy,
        options={"seg_accuracy_param": "ignore_label reset"},
        batch=_whole_batch,
        engine=Engine("fork_measure", (2, 2), forms=_forms_of_seg_accuracy, rule_refuses=True),
    ),
)
