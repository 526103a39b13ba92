"""Stores, images and layers that read them, for the tests of the sources of data."""

from __future__ import annotations

import io
from typing import Any

import lmdb
import numpy as np
from PIL import Image

from caffe_split.formats.prototxt import caffe_pb2

LIST = 'hdf5_data_param { source: "list" batch_size: %d %s }'
IMAGES = 'source: "list.txt" batch_size: %d %s'


def layer(kind: str, options: str, tops: str = "data label") -> str:
    wires = " ".join(f'top: "{top}"' for top in tops.split())
    return f'layer {{ name: "data" type: "{kind}" {wires} {options} }}'


def write_records(records: list[dict[str, Any]], path: str = "store") -> None:
    with lmdb.open(path, map_size=1 << 24) as store, store.begin(write=True) as transaction:
        for index, fields in enumerate(records):
            datum = caffe_pb2.Datum(label=index, **fields).SerializeToString()
            transaction.put(f"{index:08d}".encode(), datum)


def picture(seed: int, size: tuple[int, int] = (9, 11), channels: int = 3) -> np.ndarray:
    """Smooth, as photographs are, so that a JPEG of it is near to it: (height, width, channels)."""
    rng = np.random.default_rng(seed)
    grid = np.add.outer(np.arange(size[0]), np.arange(size[1]))[..., None]
    return (128 + 100 * np.sin(grid * rng.uniform(0.1, 0.4, channels) + rng.uniform(0, 6, channels))).astype(np.uint8)


def encoded(values: np.ndarray, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values.squeeze()).save(stream, form, **options)
    return stream.getvalue()


def image_data(batch: int, options: str = "", transform: str = "") -> str:
    options = f'root_folder: "root/" {options}'
    return layer("ImageData", f"image_data_param {{ {IMAGES % (batch, options)} }} transform_param {{ {transform} }}")
