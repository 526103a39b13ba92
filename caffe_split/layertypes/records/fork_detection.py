"""Layers of forks that propose regions (Faster R-CNN), and that judge and file what was found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import BatchKind, MixedRecordsError, Shapes, as_first
from caffe_split.layertypes.record import ANY, Engine, LayerType
from caffe_split.layertypes.shape_rules import Found, Shape, need_bottoms, no_tops
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _detection_evaluate(layer: Layer, bottoms: list[Shape]) -> Found:
    """A row per class but the background, and one per detection."""
    need_bottoms(layer, bottoms, 2, axes=1)
    if bottoms[0][-1] != 7 or bottoms[1][-1] != 8:
        raise CaffeSplitError(
            f"{layer.where}: detections of {bottoms[0]} and objects of {bottoms[1]}; expected rows of seven and of "
            "eight numbers."
        )
    param = Options.of(layer.message, "detection_evaluate_param")
    classes = int(param.get("num_classes"))
    rows = classes - (0 <= int(param.get("background_label_id")) < classes)
    return Found([(1, 1, rows + math.prod(bottoms[0][:-1]), 5)])


def _check_detection_evaluate(layer: Layer) -> Iterator[str]:
    if not Options.of(layer.message, "detection_evaluate_param").get("num_classes"):
        yield "num_classes is missing or 0"


def _sizes_there(layer: Layer) -> Iterator[str]:
    path = Options.of(layer.message, "detection_evaluate_param").get("name_size_file")
    if path and not Path(path).is_file():
        yield f"name_size_file: no file '{path}' seen from {Path.cwd()}"


def _proposal(layer: Layer, bottoms: list[Shape]) -> Found:
    """One region, before anything is found; a run gives as many as there are; with a second top, their scores."""
    need_bottoms(layer, bottoms, 3)
    scores, boxes = bottoms[:2]
    anchors = anchor_count(layer)
    if len(scores) != 4 or len(boxes) != 4 or (scores[1], boxes[1]) != (2 * anchors, 4 * anchors):
        raise CaffeSplitError(
            f"{layer.where}: scores of {scores} and boxes of {boxes} for {anchors} anchors; expected {2 * anchors} and "
            f"{4 * anchors} channels."
        )
    if scores[0] != 1:
        raise CaffeSplitError(f"{layer.where}: a batch of {scores[0]} images; a {layer.type} takes one.")
    ones = (1, 1) if layer.type == "RPN" else ()
    return Found([(1, 5, *ones), (1, 1, *ones)][: len(layer.tops)])


def anchor_count(layer: Layer) -> int:
    """The number of a Proposal's or an RPN's anchors at each place."""
    param = Options.of(layer.message, "rpn_param" if layer.type == "RPN" else "proposal_param")
    return len(param.all("ratio")) * len(param.all("scale"))


def _check_proposal(layer: Layer) -> Iterator[str]:
    if not anchor_count(layer):
        yield "proposal_param gives no ratio or no scale"
    param = Options.of(layer.message, "proposal_param")
    if not (param.get("base_size") and param.get("feat_stride")):
        yield "proposal_param: base_size or feat_stride is 0"


def _check_rpn(layer: Layer) -> Iterator[str]:
    if not anchor_count(layer):
        yield "rpn_param gives no ratio or no scale"
    param = Options.of(layer.message, "rpn_param")
    if not (param.get("basesize") and param.get("feat_stride")):
        yield "rpn_param: basesize or feat_stride is 0"


def _mil(layer: Layer, bottoms: list[Shape]) -> Found:
    """A row for each context_per_roi rows."""
    need_bottoms(layer, bottoms, 1, axes=2)
    count = int(Options.of(layer.message, "mil_param").get("context_per_roi") or 0)
    rows, classes = bottoms[0][:2]
    if count < 1 or rows % count or math.prod(bottoms[0][2:]) != 1:
        raise CaffeSplitError(
            f"{layer.where}: a bottom of {bottoms[0]}; expected (rows, classes), and rows in parts of {count} "
            "(context_per_roi)."
        )
    return Found([(rows // count, classes, 1, 1)])


def _check_mil(layer: Layer) -> Iterator[str]:
    if not Options.of(layer.message, "mil_param").get("context_per_roi"):
        yield "without context_per_roi it may be another fork's MIL; R*CNN's has it"


def _lists_images(_layer: Layer, _given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    raise MixedRecordsError("it lists what is found in all images of a batch")


def _mixes_regions(layer: Layer, given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    if BatchKind.EACH in given:
        raise MixedRecordsError("its rows are regions of several images")
    return given[0]


RECORDS = (
    LayerType(
        "DetectionEvaluate",
        shapes=_detection_evaluate,
        options={
            "detection_evaluate_param": "num_classes background_label_id overlap_threshold evaluate_difficult_gt "
            "name_size_file"
        },
        batch=_lists_images,
        # It counts the images, whose sizes a file has.
        remembers=lambda layer: bool(Options.of(layer.message, "detection_evaluate_param").get("name_size_file")),
        engine=Engine("fork_measure", (2, 2), check=_check_detection_evaluate, files=_sizes_there, rule_refuses=True),
    ),
    LayerType(
        "Proposal",
        shapes=_proposal,
        options={"proposal_param": "base_size feat_stride ratio scale pre_nms_topn post_nms_topn nms_thresh min_size"},
        batch=_lists_images,
        engine=Engine("proposal", (3, 3), (1, 2), check=_check_proposal, rule_refuses=True),
    ),
    LayerType(
        "RPN",
        shapes=_proposal,
        options={"rpn_param": "feat_stride basesize ratio scale per_nms_topn post_nms_topn nms_thresh boxminsize"},
        batch=_lists_images,
        engine=Engine("proposal", (3, 3), (1, 2), check=_check_rpn, rule_refuses=True),
    ),
    LayerType(
        "MIL",
        shapes=_mil,
        options={"mil_param": "context_per_roi"},
        batch=_mixes_regions,
        engine=Engine("fork_measure", check=_check_mil, rule_refuses=True),
    ),
    LayerType(
        "MatWrite",
        shapes=no_tops,
        batch=as_first,
        engine=Engine(
            "fork_measure",
            (1, ANY),
            (0, 0),
            ignored={"*": "no MATLAB files are written; `caffe-split extract` writes blobs"},
        ),
    ),
)
