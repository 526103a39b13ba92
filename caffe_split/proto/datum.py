"""Datum, one record of an LMDB that a Data layer reads, and the mean file that goes with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from caffe_split.errors import CaffeSplitError
from caffe_split.proto import caffe_pb2


def encode_datum(image: npt.NDArray[np.uint8], label: int) -> bytes:
    """The bytes of a Datum with a raw uint8 image of shape (channels, height, width)."""
    channels, height, width = image.shape
    record: bytes = caffe_pb2.Datum(
        channels=channels, height=height, width=width, data=np.ascontiguousarray(image).tobytes(), label=label
    ).SerializeToString()
    return record


def decode_datum(record: bytes | memoryview) -> tuple[npt.NDArray[np.uint8], int]:
    """(image, label) of a raw uint8 Datum. Raises `CaffeSplitError` for other records."""
    try:
        datum = caffe_pb2.Datum.FromString(bytes(record))
    except Exception as error:  # protobuf's DecodeError has moved between modules over its versions
        raise CaffeSplitError(f"a record of {len(record)} bytes is no Datum: {error}") from error
    shape = (datum.channels, datum.height, datum.width)
    if datum.encoded or len(datum.data) != shape[0] * shape[1] * shape[2]:
        raise CaffeSplitError(
            f"a Datum of shape {shape} holds {'an encoded image' if datum.encoded else f'{len(datum.data)} bytes'}; "
            "only raw uint8 records are read."
        )
    return np.frombuffer(datum.data, np.uint8).reshape(shape), int(datum.label)


def encode_mean(mean: npt.NDArray[np.float32]) -> bytes:
    """The bytes of a mean file (.binaryproto) from (channels, height, width): a BlobProto in the old form, num 1."""
    channels, height, width = mean.shape
    blob: bytes = caffe_pb2.BlobProto(
        num=1, channels=channels, height=height, width=width, data=mean.ravel().tolist()
    ).SerializeToString()
    return blob
