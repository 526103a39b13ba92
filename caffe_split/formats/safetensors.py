"""Writing weights as safetensors: eight bytes of length, a JSON header, and the arrays one after another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np

_KINDS = {"float32": "F32", "float16": "F16", "int64": "I64"}


def pieces(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, piece by piece.

    Source: the format's description in the README of the safetensors project. The header is padded with blanks to a
    multiple of eight bytes, so that the arrays can be mapped.

    >>> data = b"".join(pieces({"w": np.zeros((1, 2), np.float32)}))
    >>> data[8:-8].decode().strip()
    '{"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _KINDS[array.dtype.name], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for array in arrays.values():
        yield np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
