"""All layer types: Caffe's own, those of forks that are known, and TPM, a record each."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from caffe_split.layertypes.record import LayerType
from caffe_split.layertypes.records import (
    arrangement,
    convolution,
    crf,
    data,
    detection,
    faces,
    flow,
    fork_convolution,
    fork_data,
    fork_detection,
    fork_loss,
    fork_recurrent,
    loss,
    moving,
    norm,
    passing,
    pointwise,
    pooling,
    product,
    quantised,
    recurrent,
    sampling,
    tpm,
    upsampling,
    volumes,
)
from caffe_split.net.layers import Layer

_FAMILIES = (
    *(data, convolution, pooling, product, recurrent, norm, pointwise, arrangement, loss, tpm),
    *(upsampling, moving, detection, fork_data, fork_detection, fork_loss, flow, volumes),
    *(fork_convolution, fork_recurrent, faces, passing, sampling, quantised, crf),
)
RECORDS: Mapping[str, LayerType] = {record.name: record for family in _FAMILIES for record in family.RECORDS}


def record_of(name: str) -> LayerType:
    """The record of a type; of one that is not Caffe's own, a record that knows nothing but its name.

    >>> record_of("Pooling").keeps_channels, record_of("MyOwn").engine
    (True, None)
    """
    return RECORDS.get(name) or LayerType(name, shapes=f"the type is not one of Caffe's own{alike(name)}")


def alike(name: str, handled: bool = False) -> str:
    """A known type whose name differs from `name` by a slip, as the end of a sentence; "" for none.

    `handled`: one that the engine computes.
    """
    if name in RECORDS:
        return ""
    known = {each.lower(): each for each, record in RECORDS.items() if record.engine is not None or not handled}
    near = difflib.get_close_matches(name.lower(), known, 1, 0.9)
    return f"; did you mean {known[near[0]]}?" if near else ""


def record_for(layer: Layer) -> LayerType:
    """The record of a layer's type. One of an unknown type that reads no blob gives data, as a fork's data layers do.

    What such a layer reads is not known; its arrays can be given. So it is with a data layer with a fork's fields.
    """
    if layer.type in fork_data.READERS:
        return fork_data.of_a_fork(layer, RECORDS[layer.type])
    if layer.type not in RECORDS and layer.tops and not layer.bottoms:
        return fork_data.unknown_source(layer.type)
    return record_of(layer.type)
