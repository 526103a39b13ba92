"""Losses and measures, and Softmax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
from caffe_split.layertypes.shape_rules import Found, Shape, axis_of, need_bottoms, same, scalar
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _loss_and_probabilities(layer: Layer, bottoms: list[Shape]) -> Found:
    """The loss; a second top is the softmax after it."""
    need_bottoms(layer, bottoms, 2)
    return Found([(), bottoms[0]][: len(layer.tops)])


def _accuracy(layer: Layer, bottoms: list[Shape]) -> Found:
    """The accuracy; a second top is that of each class."""
    need_bottoms(layer, bottoms, 2)
    axis = axis_of(Options.of(layer.message, "accuracy_param").get("axis"), len(bottoms[0]), layer)
    return Found([(), (bottoms[0][axis],)][: len(layer.tops)])


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
        shapes=_loss_and_probabilities,
        options={"softmax_param": "axis", "loss_param": f"{_LOSS} weight_by_label_freqs class_weighting"},
        batch=_softmax_loss_batch,
        is_loss=True,
        engine=Engine("loss", (2, 2), (1, 1), ENGINE, rule_refuses=True),
    ),
    LayerType(
        "InfogainLoss",
        shapes=_loss_and_probabilities,
        options={"infogain_loss_param": "source axis", "loss_param": "ignore_label normalization"},
        batch=_infogain_batch,
        is_loss=True,
        engine=Engine("loss", (2, 3), (1, 2), files=_matrix_there),
    ),
    LayerType(
        "SigmoidCrossEntropyLoss",
        shapes=scalar,
        options={"loss_param": _LOSS},
        batch=_mean(),
        is_loss=True,
        engine=Engine("loss", (2, 2)),
    ),
    LayerType(
        "EuclideanLoss",
        shapes=scalar,
        batch=_mean(),
        is_loss=True,
        engine=Engine("loss", (2, 2), ignored={"loss_param": "Caffe does not read it here"}),
    ),
    LayerType(
        "HingeLoss",
        shapes=scalar,
        options={"hinge_loss_param": "norm"},
        batch=_mean(),
        is_loss=True,
        engine=Engine("loss", (2, 2)),
    ),
    LayerType(
        "MultinomialLogisticLoss",
        shapes=scalar,
        batch=_mean(),
        is_loss=True,
        engine=Engine("loss", (2, 2)),
    ),
    LayerType(
        "ContrastiveLoss",
        shapes=scalar,
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
        engine=Engine("smooth_l1", (2, 4)),
    ),
    LayerType(
        "Accuracy",
        shapes=_accuracy,
        options={"accuracy_param": "top_k axis ignore_label"},
        batch=_mean("accuracy_param"),
        engine=Engine("loss", (2, 2), (1, 2), rule_refuses=True),
    ),
)
