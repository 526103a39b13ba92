"""Losses and measures, and Softmax."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import (
    EACH,
    MEAN,
    SAME,
    BatchKind,
    BatchRule,
    MixedRecordsError,
    Shapes,
    along,
    by_record,
    named,
)
from caffe_split.layertypes.checks import ENGINE, file_there
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.shape_rules import Found, Shape, ShapeRule, axis_of, need_bottoms, same, scalar
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def need_same_records(layer: Layer, bottoms: Sequence[Shape]) -> None:
    """Raises `CaffeSplitError` unless the first two bottoms hold as many records: Caffe's check of all losses."""
    need_bottoms(layer, bottoms, 2)
    if not bottoms[0] or bottoms[0][:1] != bottoms[1][:1]:
        raise CaffeSplitError(
            f"{layer.where}: bottoms of shapes {bottoms[0]} and {bottoms[1]}; their first axes have to be equal."
        )


def need_labels(layer: Layer, scores: Shape, labels: Shape, axis: int) -> None:
    """Raises `CaffeSplitError` unless there is a label for each place of the scores, whose classes lie along `axis`."""
    places = math.prod(scores[:axis]) * math.prod(scores[axis + 1 :])
    if math.prod(labels) != places:
        raise CaffeSplitError(
            f"{layer.where}: {math.prod(labels)} labels for scores of shape {scores}; expected {places}, one per place "
            f"(axis {axis} counts the classes)."
        )


def _labelled_loss(message: str) -> ShapeRule:
    """The loss; a second top is the softmax after it. `message` are the options with the axis of the classes."""

    def rule(layer: Layer, bottoms: list[Shape]) -> Found:
        need_same_records(layer, bottoms)
        axis = axis_of(Options.of(layer.message, message).get("axis"), len(bottoms[0]), layer)
        need_labels(layer, bottoms[0], bottoms[1], axis)
        classes = bottoms[0][axis]
        if len(bottoms) > 2 and layer.type == "InfogainLoss" and math.prod(bottoms[2]) != classes**2:
            raise CaffeSplitError(f"{layer.where}: an infogain matrix of shape {bottoms[2]} for {classes} classes.")
        return Found([(), bottoms[0]][: len(layer.tops)])

    return rule


def _accuracy(layer: Layer, bottoms: list[Shape]) -> Found:
    """The accuracy; a second top is that of each class."""
    need_bottoms(layer, bottoms, 2)
    axis = axis_of(Options.of(layer.message, "accuracy_param").get("axis"), len(bottoms[0]), layer)
    need_labels(layer, bottoms[0], bottoms[1], axis)
    return Found([(), (bottoms[0][axis],)][: len(layer.tops)])


def _euclidean(layer: Layer, bottoms: list[Shape]) -> Found:
    need_same_records(layer, bottoms)
    if math.prod(bottoms[0][1:]) != math.prod(bottoms[1][1:]):
        raise CaffeSplitError(
            f"{layer.where}: bottoms of shapes {bottoms[0]} and {bottoms[1]}; expected as many values in each record."
        )
    return scalar(layer, bottoms)


def _cross_entropy(layer: Layer, bottoms: list[Shape]) -> Found:
    need_same_records(layer, bottoms)
    if math.prod(bottoms[0]) != math.prod(bottoms[1]):
        raise CaffeSplitError(
            f"{layer.where}: bottoms of shapes {bottoms[0]} and {bottoms[1]}; expected as many targets as scores."
        )
    return scalar(layer, bottoms)


def _hinge(layer: Layer, bottoms: list[Shape]) -> Found:
    need_same_records(layer, bottoms)
    return scalar(layer, bottoms)


def _multinomial(layer: Layer, bottoms: list[Shape]) -> Found:
    need_same_records(layer, bottoms)
    if len(bottoms[1]) > 4 or math.prod(bottoms[1][1:]) != 1:
        raise CaffeSplitError(
            f"{layer.where}: labels of shape {bottoms[1]}; expected one per record, with at most 4 axes."
        )
    return scalar(layer, bottoms)


def _contrastive(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 3)
    need_same_records(layer, bottoms)
    vectors = [shape for shape in bottoms[:2] if 1 <= len(shape) <= 4 and math.prod(shape[2:]) == 1]
    if len(vectors) < 2 or math.prod(bottoms[0]) != math.prod(bottoms[1]):
        raise CaffeSplitError(
            f"{layer.where}: bottoms of shapes {bottoms[0]} and {bottoms[1]}; expected two of (N, C) or (N, C, 1, 1), "
            "alike."
        )
    if len(bottoms[2]) > 4 or bottoms[2][:1] != bottoms[0][:1] or math.prod(bottoms[2][1:]) != 1:
        raise CaffeSplitError(
            f"{layer.where}: labels of shape {bottoms[2]}; expected one per pair, ({bottoms[0][0]},)."
        )
    return scalar(layer, bottoms)


def _mean(message: str = "") -> BatchRule:
    """A mean over the records; `message` are the options with the axis of the classes, if one can be chosen."""

    def rule(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> BatchKind:
        kind = (along(message, "axis") if message else by_record)(layer, given, shapes)
        if kind != EACH:
            raise MixedRecordsError(f"its bottoms ({named(layer, given)}) do not hold records")
        return MEAN

    return rule


def _softmax_loss_batch(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> BatchKind | list[BatchKind]:
    """A mean over the records, except where SegNet counts each label in the whole batch."""
    param = Options.of(layer.message, "loss_param")
    if param.get("weight_by_label_freqs") and not param.has("class_weighting"):
        raise MixedRecordsError("it divides by the number of each label in the whole batch")
    return _mean("softmax_param")(layer, given, shapes)


def _infogain_batch(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> list[BatchKind]:
    """The matrix, a third bottom, has to be the same for all; a second top holds probabilities by record."""
    if len(given) > 2 and given[2] != SAME:
        raise MixedRecordsError(f"its matrix '{layer.bottoms[2]}' is not the same in all processes")
    kind = _mean("infogain_loss_param")(layer, given[:2], shapes)
    assert isinstance(kind, BatchKind)
    return [kind, *[EACH] * (len(layer.tops) - 1)]


def check_sigma(layer: Layer) -> Iterator[str]:
    """A sigma by which a SmoothL1 loss can divide."""
    if not Options.of(layer.message, "smooth_l1_loss_param").get("sigma"):
        yield "sigma: 0; expected another number"


def _matrix_there(layer: Layer) -> Iterator[str]:
    """Its matrix, where that is no bottom, has to be in a file."""
    if len(layer.bottoms) < 3:
        yield from file_there("infogain_loss_param")(layer)


_LOSS = "ignore_label normalize normalization"

RECORDS = (
    LayerType(
        "Softmax",
        shapes=same,
        options={"softmax_param": "axis"},
        batch=along("softmax_param", "axis"),
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("loss", ignored=ENGINE, rule_refuses=True),
    ),
    # A second top for the probabilities dies in Caffe, too, of its own check on loss_weight.
    LayerType(
        "SoftmaxWithLoss",
        shapes=_labelled_loss("softmax_param"),
        options={"softmax_param": "axis", "loss_param": f"{_LOSS} weight_by_label_freqs class_weighting"},
        batch=_softmax_loss_batch,
        is_loss=True,
        engine=Engine("loss", (2, 2), (1, 1), ENGINE, rule_refuses=True),
    ),
    LayerType(
        "InfogainLoss",
        shapes=_labelled_loss("infogain_loss_param"),
        options={"infogain_loss_param": "source axis", "loss_param": "ignore_label normalization"},
        batch=_infogain_batch,
        is_loss=True,
        engine=Engine("loss", (2, 3), (1, 2), files=_matrix_there),
    ),
    LayerType(
        "SigmoidCrossEntropyLoss",
        shapes=_cross_entropy,
        options={"loss_param": _LOSS},
        batch=_mean(),
        is_loss=True,
        engine=Engine("loss", (2, 2)),
    ),
    LayerType(
        "EuclideanLoss",
        shapes=_euclidean,
        batch=_mean(),
        is_loss=True,
        engine=Engine("loss", (2, 2), ignored={"loss_param": "Caffe does not read it here"}),
    ),
    LayerType(
        "HingeLoss",
        shapes=_hinge,
        options={"hinge_loss_param": "norm"},
        batch=_mean(),
        is_loss=True,
        engine=Engine("loss", (2, 2)),
    ),
    LayerType(
        "MultinomialLogisticLoss",
        shapes=_multinomial,
        batch=_mean(),
        is_loss=True,
        engine=Engine("loss", (2, 2)),
    ),
    LayerType(
        "ContrastiveLoss",
        shapes=_contrastive,
        options={"contrastive_loss_param": "margin legacy_version"},
        batch=_mean(),
        is_loss=True,
        engine=Engine("loss", (3, 3)),
    ),
    LayerType(
        "SmoothL1Loss",
        shapes=scalar,
        options={"smooth_l1_loss_param": "sigma"},
        batch=_mean(),
        is_loss=True,
        engine=Engine("smooth_l1", (2, 4), check=check_sigma),
    ),
    LayerType(
        "Accuracy",
        shapes=_accuracy,
        options={"accuracy_param": "top_k axis ignore_label"},
        batch=_mean("accuracy_param"),
        engine=Engine("loss", (2, 2), (1, 2), rule_refuses=True),
    ),
)
# The losses and the measure, which have no parameters, and whose first top is a number.
NUMBERS = frozenset(record.name for record in RECORDS if record.name != "Softmax")
