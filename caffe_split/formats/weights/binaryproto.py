"""Files that hold one BlobProto (.binaryproto): mean images, and the matrix of an InfogainLoss."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights import blob as blobs
from caffe_split.formats.weights import wire
from caffe_split.formats.weights.mapped import map_file


def read_blob(path: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The array of a BlobProto file, float32 in its stored shape. Raises `CaffeSplitError` when it holds none."""
    buffer = map_file(path)
    try:
        values = blobs.array(buffer, blobs.locate(buffer, 0, len(buffer)))
    except (blobs.BlobError, ValueError) as error:
        raise CaffeSplitError(f"{path}: expected a BlobProto, such as a mean image: {error}") from None
    return np.array(values, np.float32)


def encode_mean(mean: npt.NDArray[np.float32]) -> bytes:
    """The bytes of a mean file from (channels, height, width): a BlobProto in the old form, num 1."""
    shape = (1, *mean.shape)
    head = b"".join(
        wire.encode_tag(number, wire.VARINT) + wire.encode_varint(dim) for number, dim in enumerate(shape, 1)
    )
    return head + wire.encode_bytes(blobs.DATA, np.asarray(mean, "<f4", order="C").tobytes())
