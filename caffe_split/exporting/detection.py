"""SSD's prior boxes and detections, and Fast R-CNN's pooling of regions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffe_split.exporting.site import CannotExpressError, Exporter, Site
from caffe_split.layertypes.prior_boxes import prior_boxes


def prior_box(site: Site) -> None:
    """A constant: the boxes depend on sizes alone."""
    if not all(bottom.is_fixed(2) for bottom in site.bottoms):
        raise CannotExpressError("its boxes are those of images of one size")
    boxes = prior_boxes(site.options("prior_box_param"), *(bottom.shape[2:4] for bottom in site.bottoms))
    site.same[0] = site.constant("boxes", boxes)


def roi_pooling(site: Site) -> None:
    """The maximum of each part of a region."""
    options = site.options("roi_pooling_param")
    pooled = (int(options.get("pooled_h")), int(options.get("pooled_w")))
    scale = float(options.get("spatial_scale"))
    regions = site.op("Reshape", [site.bottoms[1].name, site.constant("rows", [-1, 5])])
    site.op("MaxRoiPool", [site.x, regions], 0, pooled_shape=pooled, spatial_scale=scale)


def detection_output(site: Site) -> None:
    """Boxes that overlap none of a better score too much, of one image: (1, 1, found, 7), or a row of -1."""
    if len(site.bottoms) > 3:
        raise CannotExpressError("RefineDet's two steps are not written yet")
    options = site.options("detection_output_param")
    nms = options.sub("nms_param")
    if site.bottoms[0].axes[0] != (1,) * len(site.bottoms[0].axes[0]):
        raise CannotExpressError("its detections are expressed for one image at a time")
    if float(nms.get("eta")) < 1:
        raise CannotExpressError(f"eta: {nms.get('eta')} lowers the threshold as boxes are found")
    if not options.get("share_location"):
        raise CannotExpressError("share_location: false, other boxes for each class, is not expressed")
    if options.get("code_type") != "CENTER_SIZE" or options.get("variance_encoded_in_target"):
        raise CannotExpressError("code_type CENTER_SIZE without variance_encoded_in_target alone is expressed")
    if options.get("background_label_id") != 0:
        raise CannotExpressError("background_label_id: 0 alone is expressed")
    if not site.bottoms[2].is_fixed():
        raise CannotExpressError("its boxes would vary")
    count, classes = site.bottoms[2].shape[2] // 4, int(options.get("num_classes"))
    boxes = _decoded(site, count)
    scores = _scores(site, count, classes)
    least = float(options.get("confidence_threshold")) if options.has("confidence_threshold") else -1e30
    scores = _best(site, scores, min(int(nms.get("top_k")), count), least) if nms.has("top_k") else scores
    limits = [
        site.constant("most", [count]),
        site.constant("overlap", np.array([nms.get("nms_threshold")], np.float32), exact=True),
        site.constant("least", np.array([least], np.float32), exact=True),
    ]
    chosen = site.op("NonMaxSuppression", [boxes, scores, *limits])
    _rows(site, chosen, boxes, scores, int(options.get("keep_top_k")))


def _cut(site: Site, x: str, axis: int, start: int, stop: int) -> str:
    bounds = (("from", start), ("to", stop), ("along", axis))
    return site.op("Slice", [x, *(site.constant(name, [value]) for name, value in bounds)])


def _decoded(site: Site, count: int) -> str:
    """The boxes (1, count, 4) that the locations relative to the prior boxes mean."""
    shape = site.constant("four", [1, count, 4])
    prior, variances = (
        site.op("Reshape", [_cut(site, site.bottoms[2].name, 1, row, row + 1), shape]) for row in (0, 1)
    )
    scaled = site.op("Mul", [site.op("Reshape", [site.x, shape]), variances])
    first, last = (_cut(site, prior, 2, start, start + 2) for start in (0, 2))
    half = site.number(0.5, "half")
    sides = site.op("Sub", [last, first])
    middle = site.op("Mul", [site.op("Add", [first, last]), half])
    moved = site.op("Add", [middle, site.op("Mul", [_cut(site, scaled, 2, 0, 2), sides])])
    grown = site.op("Mul", [site.op("Exp", [_cut(site, scaled, 2, 2, 4)]), site.op("Mul", [sides, half])])
    return site.op("Concat", [site.op("Sub", [moved, grown]), site.op("Add", [moved, grown])], axis=2)


def _scores(site: Site, count: int, classes: int) -> str:
    """The scores (1, classes - 1, count) of all classes except the background."""
    table = site.op("Reshape", [site.bottoms[1].name, site.constant("table", [1, count, classes])])
    return _cut(site, site.op("Transpose", [table], perm=[0, 2, 1]), 1, 1, classes)


def _best(site: Site, scores: str, count: int, least: float) -> str:
    """The scores, those that are not among the `count` best of their class below what counts."""
    if count < 0:
        return scores
    values = site.op("TopK", [scores, site.constant("best", [count])], outputs=2, axis=2)
    last = _cut(site, values, 2, count - 1, count)
    low = site.number(min(least, 0.0) - 1.0, "low")
    return site.op("Where", [site.op("GreaterOrEqual", [scores, last]), scores, low])


def _rows(site: Site, chosen: str, boxes: str, scores: str, most: int) -> None:
    """(1, 1, found, 7) of what was chosen, (found, 3): image, class, box; the best `most`, by class and score."""
    found = site.op("GatherND", [scores, chosen])
    if most > -1:
        number = site.op("Min", [site.op("Shape", [found]), site.constant("keep", [most])])
        kept = site.op("TopK", [found, number], outputs=2, axis=0)
        chosen = site.op("Gather", [chosen, site.to.makers[kept].outputs[1]], axis=0)
        found = kept
    label = site.op("Cast", [_cut(site, chosen, 1, 1, 2)], to=1)
    score = site.op("Unsqueeze", [found, site.constant("column", [1])])
    # Scores are divided by more than their largest, so that classes come first.
    bound = site.op(
        "Add",
        [
            site.reduce("ReduceMax", site.op("Abs", [site.op("Reshape", [scores, site.constant("all", [-1])])]), [0]),
            site.number(1.0, "one"),
        ],
    )
    order = site.op("Sub", [label, site.op("Div", [score, site.op("Mul", [bound, site.number(2.0, "two")])])])
    flat = site.constant("line", [-1])
    keys = site.op("Reshape", [order, flat])
    sorted_keys = site.op("TopK", [keys, site.op("Shape", [keys])], outputs=2, axis=0, largest=0)
    places = site.to.makers[sorted_keys].outputs[1]
    corners = site.op(
        "Gather",
        [
            site.op("Reshape", [boxes, site.constant("list", [-1, 4])]),
            site.op("Reshape", [_cut(site, chosen, 1, 2, 3), flat]),
        ],
        axis=0,
    )
    named = site.op("Add", [label, site.number(1.0, "first")])
    image = site.op("Mul", [named, site.number(0.0, "image")])
    rows = site.op("Gather", [site.op("Concat", [image, named, score, corners], axis=1), places], axis=0)
    nothing = site.constant("nothing", np.array([[0, *[-1] * 6]], np.float32))
    number = site.op("Max", [site.op("Shape", [keys]), site.constant("row", [1])])
    with_nothing = site.op("Concat", [rows, nothing], axis=0)
    bounds = [site.constant("begin", [0]), number, site.constant("rows_axis", [0])]
    cut = site.op("Slice", [with_nothing, *bounds])
    site.op("Reshape", [cut, site.constant("seven", [1, 1, -1, 7])], 0)


EXPORTERS: Mapping[str, Exporter] = {
    "PriorBox": prior_box,
    "ROIPooling": roi_pooling,
    "DetectionOutput": detection_output,
}
