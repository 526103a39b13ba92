"""Ristretto's layers: convolutions and inner products on numbers of few bits (Gysel et al.)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from caffe_split.layertypes.checks import one_of
from caffe_split.layertypes.record import LayerType, never
from caffe_split.layertypes.records import convolution, product
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

_FIELDS = "precision rounding_scheme bw_layer_in bw_layer_out bw_params fl_layer_in fl_layer_out fl_params"
_NAMES = {
    "ConvolutionRistretto": "Convolution",
    "DeconvolutionRistretto": "Deconvolution",
    "FcRistretto": "InnerProduct",
}


def _check(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "quantization_param")
    yield from one_of("quantization_param", "precision", "DYNAMIC_FIXED_POINT")(layer)
    for name in ("bw_layer_in", "bw_layer_out", "bw_params"):
        if param.get(name) < 1:
            yield f"{name}: 0; expected 1 bit or more"


def _of(name: str, plain: str) -> LayerType:
    """The record of a type of which Ristretto has a quantised form."""
    record = next(each for each in (*convolution.RECORDS, *product.RECORDS) if each.name == plain)
    assert record.engine is not None
    options = {message: fields.replace(" normalize", "") for message, fields in record.options.items()}
    engine = replace(record.engine, module="quantised", check=_check, takes_bf16=False, lets_overwrite=never)
    return replace(record, name=name, options={**options, "quantization_param": _FIELDS}, engine=engine)


RECORDS = tuple(_of(name, plain) for name, plain in _NAMES.items())
