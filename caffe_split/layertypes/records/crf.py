"""CRF-RNN's layer: mean-field steps of a conditional random field over the pixels of an image."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import by_record
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.shape_rules import Found, Shape, need_images
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

_NEEDED = ("theta_alpha", "theta_beta", "theta_gamma", "num_iterations")


def _mean_field(layer: Layer, bottoms: list[Shape]) -> Found:
    """Scores of classes like the first bottom; weights of both filters and of the pairs of classes."""
    need_images(layer, bottoms, 3)
    scores, start, image = bottoms[:3]
    if scores != start or image[0] != scores[0] or image[2:] != scores[2:] or image[1] != 3:
        raise CaffeSplitError(
            f"{layer.where}: bottoms of {scores}, {start} and {image}; expected two of one shape, and images of three "
            "channels of their size."
        )
    blob = (1, 1, scores[1], scores[1])
    return Found([scores], [blob] * 3)


def _check_mean_field(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "multi_stage_meanfield_param")
    for name in _NEEDED:
        if not param.get(name):
            yield f"multi_stage_meanfield_param: {name} is missing or 0"


RECORDS = (
    LayerType(
        "MultiStageMeanfield",
        shapes=_mean_field,
        options={
            "multi_stage_meanfield_param": "compatibility_mode theta_alpha theta_beta theta_gamma num_iterations "
            "spatial_filter_weight bilateral_filter_weight"
        },
        batch=by_record,
        short="CRF",
        keeps_channels=True,
        engine=Engine(
            "crf",
            (3, 3),
            ignored={"threshold": "CRF-RNN's code does not read it"},
            check=_check_mean_field,
            rule_refuses=True,
        ),
        blob_names=("spatial", "bilateral", "compatibility"),
    ),
)
