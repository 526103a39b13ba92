"""InnerProduct, Embed and the recurrent layers: products with a weight matrix."""

from __future__ import annotations

import math

from caffe_split.layertypes.batch_rules import along, by_record
from caffe_split.layertypes.record import Engine, LayerType, always
from caffe_split.layertypes.shape_rules import (
    Found,
    Shape,
    axis_of,
    need_bottoms,
    need_options,
    same,
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
        macs=inputs * count * math.prod(bottoms[0][1:axis]),
    )


def _inner_product_words(layer: Layer) -> list[str]:
    has_options = layer.message.has("inner_product_param")
    count = Options.of(layer.message, "inner_product_param").get("num_output") if has_options else "?"
    return [f"inner product to {count}"]


def _embed(layer: Layer, bottoms: list[Shape]) -> Found:
    """A row of the weight for each index of the bottom: looked up, so no multiply-adds."""
    need_bottoms(layer, bottoms, 1)
    param = Options.of(layer.message, "embed_param")
    count = int(param.get("num_output"))
    weight = (int(param.get("input_dim")), count)
    return Found([(*bottoms[0], count)], with_bias(weight, (count,), bool(param.get("bias_term"))))


def _recurrent(layer: Layer, bottoms: list[Shape]) -> Found:
    """LSTM and RNN over (time, batch, ...); multiply-adds are those of one sequence.

    Weights of x with a bias, of the static input if there is one, of h, and, in an RNN, of the output with a bias.
    """
    need_bottoms(layer, bottoms, 2, axes=2)
    param = Options.of(layer.message, "recurrent_param")
    count, gates = int(param.get("num_output")), 4 if layer.type == "LSTM" else 1
    steps, batch = bottoms[0][:2]
    rows = gates * count
    hidden = bool(param.get("expose_hidden"))
    states = 2 if layer.type == "LSTM" else 1
    static = bottoms[2] if len(bottoms) > 2 + (states if hidden else 0) else None
    weights: list[Shape] = [(rows, math.prod(bottoms[0][2:])), (rows,)]
    if static is not None:
        weights.append((rows, math.prod(static[1:])))
    weights.append((rows, count))
    if layer.type == "RNN":
        weights += [(count, count), (count,)]
    macs = sum(math.prod(weight) for weight in weights if len(weight) == 2) * steps
    ends: list[Shape] = [(1, batch, count)] * (states if hidden else 0)
    return Found([(steps, batch, count), *ends], weights, macs=macs)


_WEIGHTED = "num_output bias_term weight_filler bias_filler"

RECORDS = (
    LayerType(
        "InnerProduct",
        shapes=_inner_product,
        options={"inner_product_param": f"{_WEIGHTED} axis transpose"},
        batch=along("inner_product_param", "axis"),
        words=_inner_product_words,
        has_kernels=True,
        engine=Engine("dense", takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "Embed",
        shapes=_embed,
        options={"embed_param": f"{_WEIGHTED} input_dim"},
        batch=by_record,
        engine=Engine("dense"),
    ),
    LayerType("LSTM", shapes=_recurrent, options={"recurrent_param": ""}),
    LayerType("RNN", shapes=_recurrent, options={"recurrent_param": ""}),
    LayerType("LSTMUnit", shapes=same),
)
