"""Stores, images, and layers that read them, here and in Caffe."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from PIL import Image

from caffe_split import engine
from caffe_split.formats import prototxt
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


def in_caffe(nets: dict[str, str], forwards: int = 1, **given: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """The blobs that pycaffe has for each net (name -> text) after `forwards` forward runs in the TEST phase."""
    jobs = []
    for name, text in nets.items():
        Path(f"{name}.prototxt").write_text(text)
        np.savez(f"{name}.in.npz", **{key.replace("_", ":"): value for key, value in given.items()})
        jobs.append({"name": name, "phase": "TEST", "back": False, "forwards": forwards})
    Path("jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("pycaffe_job.py")
    environment = {**os.environ, "GLOG_minloglevel": "2"}
    subprocess.run([sys.executable, str(script), "."], check=True, env=environment, timeout=120)
    found = {}
    for name in nets:
        out = np.load(f"{name}.out.npz")
        found[name] = {key[5:]: out[key] for key in out.files if key.startswith("blob:")}
    return found


def here(text: str, phase: str = "TEST", **options: Any) -> Any:
    """The net in the torch engine."""
    return engine.Net(prototxt.parse(text, kind="net"), phase, **options)


def near(net: Any, theirs: dict[str, np.ndarray], forwards: int = 1) -> None:
    """Compare the blobs after `forwards` forward runs with those of pycaffe."""
    for _ in range(forwards):
        ours = net.forward().blobs
    assert set(ours) == set(theirs)
    for name, blob in ours.items():
        assert np.allclose(blob.numpy(), theirs[name].reshape(blob.shape), rtol=1e-6, atol=1e-5), name
