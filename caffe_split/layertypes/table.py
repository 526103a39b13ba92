"""All layer types: Caffe's own, those of forks that are known, and TPM, a record each."""

from __future__ import annotations

from collections.abc import Mapping

from caffe_split.layertypes.record import LayerType
from caffe_split.layertypes.records import (
    arrangement,
    convolution,
    data,
    detection,
    fork_data,
    loss,
    norm,
    pointwise,
    pooling,
    product,
    recurrent,
    tpm,
    upsampling,
)

_FAMILIES = (
    *(data, convolution, pooling, product, recurrent, norm, pointwise, arrangement, loss, tpm),
    *(upsampling, detection, fork_data),
)
RECORDS: Mapping[str, LayerType] = {record.name: record for family in _FAMILIES for record in family.RECORDS}


def record_of(name: str) -> LayerType:
    """The record of a type; of one that is not Caffe's own, a record that knows nothing but its name.

    >>> record_of("Pooling").keeps_channels, record_of("MyOwn").engine
    (True, None)
    """
    return RECORDS.get(name) or LayerType(name, shapes="the type is not one of Caffe's own")
