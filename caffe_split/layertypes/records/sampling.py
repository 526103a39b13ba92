"""Layers of forks that read images between their pixels: spatial transformers, and FlowNet's warps and resizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import as_first, by_record
from caffe_split.layertypes.record import Engine, LayerType, always
from caffe_split.layertypes.shape_rules import Found, Shape, ShapeRule, need_bottoms, need_images
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

THETA = tuple(f"theta_{row}_{column}" for row in (1, 2) for column in (1, 2, 3))


def _transformer(layer: Layer, bottoms: list[Shape]) -> Found:
    """Images of output_H x output_W, or of the bottom's size; the second bottom gives what is not written of theta."""
    need_bottoms(layer, bottoms, 2, axes=1)
    need_images(layer, bottoms, 1)
    param, images, given = Options.of(layer.message, "st_param"), bottoms[0], bottoms[1]
    lacking = len([name for name in THETA if not param.has(name)])
    if given[0] != images[0] or math.prod(given[1:]) != lacking:
        raise CaffeSplitError(
            f"{layer.where}: images of {images} and transformations of {given}; expected {lacking} numbers for each of "
            f"{images[0]} images."
        )
    sides = [
        int(param.get(name)) if param.has(name) else side for name, side in zip(("output_H", "output_W"), images[2:])
    ]
    if min(sides) < 1:
        raise CaffeSplitError(f"{layer.where}: its top would have the sides {sides}.")
    return Found([(*images[:2], *sides)])


def _check_transformer(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "st_param")
    for name, handled in (("transform_type", "affine"), ("sampler_type", "bilinear")):
        if param.get(name) != handled:
            yield f"{name}: {param.get(name)} is not handled; {handled} is"


def _flow_warp(layer: Layer, bottoms: list[Shape]) -> Found:
    need_images(layer, bottoms, 2)
    images, flow = bottoms[:2]
    if flow != (images[0], 2, *images[2:]):
        raise CaffeSplitError(
            f"{layer.where}: images of {images} and a flow of {flow}; expected (N, 2, H, W), to the right and down."
        )
    return Found([images])


def _resized(message: str, height: str, width: str) -> ShapeRule:
    """Images of a size that is written, or of a second bottom's."""

    def rule(layer: Layer, bottoms: list[Shape]) -> Found:
        need_images(layer, bottoms, 1)
        param = Options.of(layer.message, message)
        sides = (int(param.get(height) or 0), int(param.get(width) or 0))
        if len(bottoms) > 1:
            need_images(layer, bottoms, 2)
            sides = bottoms[1][2], bottoms[1][3]
        if min(sides) < 1:
            raise CaffeSplitError(f"{layer.where}: {height} and {width} are {sides[0]} and {sides[1]}; expected sides.")
        return Found([(*bottoms[0][:2], *sides)])

    return rule


def _check_resample(layer: Layer) -> Iterator[str]:
    kind = Options.of(layer.message, "resample_param").get("type")
    if kind not in ("LINEAR", "CUBIC", "NEAREST"):
        yield f"type: {kind}; FlowNet's Resample has LINEAR, CUBIC and NEAREST"


RECORDS = (
    LayerType(
        "SpatialTransformer",
        shapes=_transformer,
        options={"st_param": f"transform_type sampler_type output_H output_W to_compute_dU {' '.join(THETA)}"},
        batch=by_record,
        keeps_channels=True,
        pairs_channels=True,
        engine=Engine("sampling", (2, 2), check=_check_transformer, rule_refuses=True),
    ),
    LayerType(
        "FlowWarp",
        shapes=_flow_warp,
        options={"flow_warp_param": "fill_value"},
        batch=by_record,
        keeps_shape=True,
        keeps_channels=True,
        pairs_channels=True,
        engine=Engine("sampling", (2, 2), rule_refuses=True),
    ),
    LayerType(
        "Resample",
        shapes=_resized("resample_param", "height", "width"),
        options={"resample_param": "width height type antialias"},
        batch=as_first,
        keeps_channels=True,
        pairs_channels=True,
        engine=Engine(
            "resize",
            (1, 2),
            ignored={"factor": "FlowNet's code does not read it"},
            check=_check_resample,
            rule_refuses=True,
            lets_overwrite=always,
        ),
    ),
    LayerType(
        "Downsample",
        shapes=_resized("downsample_param", "top_height", "top_width"),
        options={"downsample_param": "top_height top_width"},
        batch=as_first,
        keeps_channels=True,
        pairs_channels=True,
        engine=Engine("resize", (1, 2), rule_refuses=True, lets_overwrite=always),
    ),
)
