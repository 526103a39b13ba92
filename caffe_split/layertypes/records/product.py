"""InnerProduct and Embed: products with a weight matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator

from caffe_split.layertypes.batch_rules import along, by_record
from caffe_split.layertypes.record import Engine, LayerType, always
from caffe_split.layertypes.shape_rules import (
    Found,
    Shape,
    axis_of,
    need_bottoms,
    need_options,
    with_bias,
)
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _inner_product(layer: Layer, bottoms: list[Shape]) -> Found:
    """Weight (num_output, inputs), transposed with `transpose`."""
    need_bottoms(layer, bottoms, 1)
    need_options(layer, "inner_product_param")
    param = Options.of(layer.message, "inner_product_param")
    axis = axis_of(param.get("axis"), len(bottoms[0]), layer)
    inputs, count = math.prod(bottoms[0][axis:]), int(param.get("num_output"))
    weight = (inputs, count) if param.get("transpose") else (count, inputs)
    return Found(
        [(*bottoms[0][:axis], count)],
        with_bias(weight, (count,), bool(param.get("bias_term"))),
        macs=inputs * count * math.prod(bottoms[0][:axis]),
    )


def _inner_product_words(layer: Layer) -> list[str]:
    has_options = layer.message.has("inner_product_param")
    count = Options.of(layer.message, "inner_product_param").get("num_output") if has_options else "?"
    return [f"inner product to {count}"]


def _check_inner_product(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "inner_product_param")
    if param.get("normalize") and param.get("transpose"):
        yield "normalize with transpose is not handled"


def _embed(layer: Layer, bottoms: list[Shape]) -> Found:
    """A row of the weight for each index of the bottom: looked up, so no multiply-adds."""
    need_bottoms(layer, bottoms, 1)
    param = Options.of(layer.message, "embed_param")
    count = int(param.get("num_output"))
    weight = (int(param.get("input_dim")), count)
    return Found([(*bottoms[0], count)], with_bias(weight, (count,), bool(param.get("bias_term"))))


_WEIGHTED = "num_output bias_term weight_filler bias_filler"

RECORDS = (
    LayerType(
        "InnerProduct",
        shapes=_inner_product,
        options={"inner_product_param": f"{_WEIGHTED} axis transpose normalize"},
        batch=along("inner_product_param", "axis"),
        words=_inner_product_words,
        has_kernels=True,
        engine=Engine("dense", check=_check_inner_product, takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "Embed",
        shapes=_embed,
        options={"embed_param": f"{_WEIGHTED} input_dim"},
        batch=by_record,
        engine=Engine("dense"),
    ),
)
