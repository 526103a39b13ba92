"""Datum, one record of the LMDB that a Data layer reads, by the generated protobuf module.

A record is one small message: protobuf reads it in C, all its forms, with no walker of ours to keep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import caffe_pb2


def encode_datum(image: npt.NDArray[np.uint8], label: int) -> bytes:
    """The bytes of a Datum with a raw uint8 image of shape (channels, height, width)."""
    channels, height, width = image.shape
    record: bytes = caffe_pb2.Datum(
        channels=channels, height=height, width=width, data=np.ascontiguousarray(image).tobytes(), label=label
    ).SerializeToString()
    return record


def encode_features(values: npt.NDArray[np.float32]) -> bytes:
    """The bytes of a Datum with float values of shape (channels, height, width), as extract_features writes them."""
    channels, height, width = values.shape
    record: bytes = caffe_pb2.Datum(
        channels=channels, height=height, width=width, float_data=values.ravel()
    ).SerializeToString()
    return record


@dataclass(frozen=True)
class Record:
    """A Datum: either `values`, an array (channels, height, width) of uint8 or float32, or an image file in `encoded`.

    `values` is None and `encoded` the file's bytes (JPEG, PNG) where the record holds a file; else `encoded` is empty.
    """

    values: npt.NDArray[np.uint8] | npt.NDArray[np.float32] | None
    encoded: bytes
    label: int


def read_datum(record: bytes | memoryview) -> Record:
    """What a Datum holds. Raises `CaffeSplitError` for other bytes, and for values that do not fill its shape."""
    try:
        datum = caffe_pb2.Datum.FromString(bytes(record))
    except Exception as error:  # protobuf's DecodeError has moved between modules over its versions
        raise CaffeSplitError(f"a record of {len(record)} bytes is no Datum: {error}") from error
    if datum.encoded:
        return Record(None, datum.data, int(datum.label))
    shape = (datum.channels, datum.height, datum.width)
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if min(shape) < 1 or values.size != shape[0] * shape[1] * shape[2]:
        raise CaffeSplitError(f"a Datum of shape {shape} holds {values.size} values")
    return Record(values.reshape(shape), b"", int(datum.label))


def decode_datum(record: bytes | memoryview) -> tuple[npt.NDArray[np.uint8], int]:
    """(image, label) of a raw uint8 Datum. Raises `CaffeSplitError` for other records."""
    read = read_datum(record)
    if read.values is None or read.values.dtype != np.uint8:
        what = "an encoded image" if read.values is None else "float values"
        raise CaffeSplitError(f"a Datum holds {what}; only raw uint8 records are read.")
    return read.values.view(np.uint8), read.label
