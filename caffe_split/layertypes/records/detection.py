"""Layers of forks that find objects: SSD's prior boxes and detections, and pooling over regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import BatchKind, MixedRecordsError, Shapes, constant
from caffe_split.layertypes.record import Engine, LayerType, always
from caffe_split.layertypes.shape_rules import Found, Shape, need_bottoms, need_images, need_options
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

# -- SSD


def aspect_ratios(options: Options) -> list[float]:
    """The aspect ratios of a PriorBox, each once, 1 first; with `flip` also the inverse of each."""
    found = [1.0]
    for ratio in options.all("aspect_ratio"):
        if not any(abs(ratio - other) < 1e-6 for other in found):
            found += [ratio, 1.0 / ratio] if options.get("flip") else [ratio]
    return found


def _prior_box(layer: Layer, bottoms: list[Shape]) -> Found:
    """Four corners for each box of each place, and below them their variances."""
    need_images(layer, bottoms, 2)
    param = Options.of(layer.message, "prior_box_param")
    if 0 in param.all("aspect_ratio"):
        raise CaffeSplitError(f"{layer.where}: aspect_ratio: 0; expected numbers above 0.")
    boxes = len(aspect_ratios(param)) * len(param.all("min_size")) + len(param.all("max_size"))
    return Found([(1, 2, bottoms[0][2] * bottoms[0][3] * boxes * 4)])


def _check_prior_box(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "prior_box_param")
    least, most = param.all("min_size"), param.all("max_size")
    if not least or min(least) <= 0:
        yield "min_size is missing or not above 0"
    if most and (len(most) != len(least) or any(high <= low for low, high in zip(least, most))):
        yield "max_size: expected one above each min_size, or none"
    if any(ratio <= 0 for ratio in param.all("aspect_ratio")):
        yield "aspect_ratio: expected numbers above 0"
    if len(param.all("variance")) not in (0, 1, 4) or any(value <= 0 for value in param.all("variance")):
        yield "variance: expected none, one or four numbers above 0"
    for name in ("img", "step"):
        both = "img_size" if name == "img" else "step"
        sides = [side for side in (f"{name}_h", f"{name}_w") if param.has(side)]
        if param.has(both) and sides:
            yield f"{both} and {sides[0]}; one of the two forms is taken"
        elif len(sides) == 1:
            yield f"{sides[0]} alone; {name}_h and {name}_w go together"


def _detection_output(layer: Layer, bottoms: list[Shape]) -> Found:
    """One row of seven before anything is found; a run gives as many rows as there are detections."""
    need_bottoms(layer, bottoms, 3)
    need_options(layer, "detection_output_param")
    param = Options.of(layer.message, "detection_output_param")
    classes = int(param.get("num_classes"))
    _fit_priors(layer, bottoms, 4 * (1 if param.get("share_location") else classes), classes)
    if len(bottoms) == 5:
        _fit_priors(layer, [bottoms[4], bottoms[3], bottoms[2]], 4, 2)
    return Found([(1, 1, 1, 7)])


def _fit_priors(layer: Layer, bottoms: list[Shape], numbers: int, classes: int) -> None:
    """Raises `CaffeSplitError` unless each box has `numbers` numbers of a location, and a score per class."""
    loc, conf, prior = bottoms[:3]
    priors = prior[2] // 4 if len(prior) > 2 else 0
    if loc[1:2] != (priors * numbers,) or conf[1:2] != (priors * classes,):
        raise CaffeSplitError(
            f"{layer.where}: locations of {loc} and scores of {conf} for {priors} prior boxes and {classes} classes; "
            f"expected {priors * numbers} and {priors * classes} values per image."
        )


def _check_detection_output(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "detection_output_param")
    if not param.get("num_classes"):
        yield "num_classes is missing or 0"
    if len(layer.bottoms) == 4:
        yield "4 bottoms; expected three, or five with the scores and locations of RefineDet's first step"
    if param.has("objectness_score") and len(layer.bottoms) == 3:
        yield "objectness_score with 3 bottoms; RefineDet has five"
    nms = param.sub("nms_param")
    if nms.get("nms_threshold") < 0 or not 0 < nms.get("eta") <= 1:
        yield "nms_param: expected an nms_threshold of 0 or more and an eta above 0, up to 1"


def _multibox(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 4)
    need_options(layer, "multibox_loss_param")
    classes = int(Options.of(layer.message, "multibox_loss_param").get("num_classes"))
    _fit_priors(layer, bottoms, 4, classes)
    if not bottoms[3] or bottoms[3][-1] != 8:
        raise CaffeSplitError(f"{layer.where}: objects of {bottoms[3]}; expected rows of eight numbers.")
    return Found([()] * len(layer.tops))


def _check_multibox(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "multibox_loss_param")
    if param.get("num_classes") < 1:
        yield "num_classes is missing or 0"
    if param.has("do_neg_mining") and bool(param.get("do_neg_mining")) != (param.get("mining_type") != "NONE"):
        yield "do_neg_mining says otherwise than mining_type, which took its place"


def _forms_of_multibox(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "multibox_loss_param")
    usual = {
        "share_location": True,
        "use_prior_for_matching": True,
        "map_object_to_agnostic": False,
        "ignore_cross_boundary_bbox": False,
        "bp_inside": False,
    }
    for name, value in usual.items():
        if param.get(name) != value:
            written = str(param.get(name))
            yield f"{name}: {written if written.isupper() else written.lower()} is not handled"
    if param.get("conf_loss_type") == "LOGISTIC" and not param.get("background_label_id") < param.get("num_classes"):
        yield "conf_loss_type: LOGISTIC with a background_label_id that is no class is not handled"
    if param.get("mining_type") == "HARD_EXAMPLE":
        yield "mining_type: HARD_EXAMPLE is not handled; NONE and MAX_NEGATIVE are"


def _lists_images(_layer: Layer, _given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    raise MixedRecordsError("it lists what is found in all images of a batch")


# -- regions


def _roi_pooling(layer: Layer, bottoms: list[Shape]) -> Found:
    """The regions of the second bottom are rows of five: image, left, top, right, bottom."""
    need_bottoms(layer, bottoms, 2, axes=1)
    param = Options.of(layer.message, "roi_pooling_param")
    return _regions(layer, bottoms, bottoms[0][1:2], int(param.get("pooled_h")), int(param.get("pooled_w")))


def _ps_roi_pooling(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 2, axes=1)
    need_options(layer, "psroi_pooling_param")
    param = Options.of(layer.message, "psroi_pooling_param")
    count, group = int(param.get("output_dim")), int(param.get("group_size"))
    if bottoms[0][1:2] != (count * group**2,):
        raise CaffeSplitError(
            f"{layer.where}: its bottom of {bottoms[0]} has not the {count * group**2} channels of output_dim {count} "
            f"and group_size {group}."
        )
    return _regions(layer, bottoms, (count,), group, group)


def _regions(layer: Layer, bottoms: list[Shape], channels: Shape, height: int, width: int) -> Found:
    image, regions = bottoms[:2]
    five = 1
    for length in regions[1:]:
        five *= length
    if len(image) != 4 or five != 5:
        raise CaffeSplitError(
            f"{layer.where}: bottoms of {image} and {regions}; expected images, and regions of five numbers."
        )
    return Found([(regions[0], *channels, height, width)])


def _check_roi_pooling(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "roi_pooling_param")
    if not (param.get("pooled_h") and param.get("pooled_w")):
        yield "pooled_h or pooled_w is missing or 0"


def _names_images(_layer: Layer, _given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    raise MixedRecordsError("its regions name images of the whole batch")


_ONLY_SHOWS = dict.fromkeys(
    ("save_output_param", "save_file", "visualize", "visualize_threshold"), "it only shows or files what was found"
)

RECORDS = (
    LayerType(
        "PriorBox",
        shapes=_prior_box,
        options={
            "prior_box_param": "min_size max_size aspect_ratio flip clip variance img_size img_h img_w step step_h "
            "step_w offset"
        },
        batch=constant,
        engine=Engine("prior_box", (2, 2), check=_check_prior_box, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "DetectionOutput",
        shapes=_detection_output,
        options={
            "detection_output_param": "num_classes share_location background_label_id nms_param code_type "
            "variance_encoded_in_target keep_top_k confidence_threshold objectness_score"
        },
        batch=_lists_images,
        engine=Engine("detection", (3, 5), ignored=_ONLY_SHOWS, check=_check_detection_output, rule_refuses=True),
    ),
    LayerType(
        "MultiBoxLoss",
        shapes=_multibox,
        options={
            "multibox_loss_param": "loc_loss_type conf_loss_type loc_weight num_classes share_location match_type "
            "overlap_threshold use_prior_for_matching background_label_id use_difficult_gt do_neg_mining neg_pos_ratio "
            "neg_overlap code_type encode_variance_in_target map_object_to_agnostic ignore_cross_boundary_bbox "
            "bp_inside mining_type",
            "loss_param": "normalize normalization",
        },
        batch=_names_images,
        is_loss=True,
        engine=Engine(
            "multibox",
            (4, 4),
            ignored=dict.fromkeys(
                ("nms_param", "sample_size", "use_prior_for_nms"), "only mining_type: HARD_EXAMPLE reads it"
            ),
            check=_check_multibox,
            forms=_forms_of_multibox,
            rule_refuses=True,
        ),
    ),
    LayerType(
        "ROIPooling",
        shapes=_roi_pooling,
        options={"roi_pooling_param": "pooled_h pooled_w spatial_scale"},
        batch=_names_images,
        engine=Engine("regions", (2, 2), check=_check_roi_pooling, rule_refuses=True),
    ),
    LayerType(
        "PSROIPooling",
        shapes=_ps_roi_pooling,
        options={"psroi_pooling_param": "output_dim group_size spatial_scale"},
        batch=_names_images,
        engine=Engine("regions", (2, 2), rule_refuses=True),
    ),
)
