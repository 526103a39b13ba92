"""What is installed here, which back ends run a net, and what each thing that is missing would bring."""

from __future__ import annotations

import importlib.util
import io
import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import caffe_split
from caffe_split.backends.choose import backends
from caffe_split.backends.protocol import Backend, Forwarding, NetFiles
from caffe_split.errors import CaffeSplitError
from caffe_split.files import scratch, write_atomic

NEEDED = ("numpy", "protobuf", "matplotlib", "click", "rich", "lmdb", "pillow")


@dataclass(frozen=True)
class Extra:
    """A package that is not needed: its module, the extra that brings it, and what it is for."""

    distribution: str
    module: str
    extra: str
    brings: str


EXTRAS = (
    Extra("h5py", "h5py", "hdf5", "HDF5 weights, snapshots and data"),
    Extra("scikit-learn", "sklearn", "digits", "`data digits`, and so the demo"),
    Extra("plyvel", "plyvel", "leveldb", "LevelDB data sets"),
    Extra("onnxruntime", "onnxruntime", "onnx", "`export` and its check"),
    Extra("snakemake", "snakemake", "study", "`study` (Python 3.11 or later)"),
)
_NET = b"""
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 2 dim: 2 } } }
layer { name: "y" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 1 kernel_size: 1 } }
"""


def installed() -> list[str]:
    """Lines for a report: this Python, each back end after it has run a tiny net, packages, and what is missing."""
    return [
        f"caffe-split {caffe_split.__version__} in {Path(caffe_split.__file__).parent}",
        f"Python {platform.python_version()} ({sys.executable}), {platform.system()} on {platform.machine()}, "
        f"{os.cpu_count()} cores",
        *(f"engine {each.name:<7} {_state(each)}" for each in backends(deploy_only=True)),
        "packages       " + ", ".join(f"{name} {_version(name) or 'MISSING'}" for name in NEEDED),
        *(f"{each.distribution:<14} {_extra(each)}" for each in EXTRAS),
        f"windows        {_windows()}",
    ]


def _state(backend: Backend) -> str:
    try:
        backend.require()
    except CaffeSplitError as error:
        what = "runs deploy nets only" if backend.deploy_only else "runs and trains any net that it knows"
        return f"not here ({what}): {error}"
    found = " ".join(filter(None, (backend.library, _version(backend.distribution))))
    try:
        return (
            f"works: {found}{_device(backend)}" if _runs(backend) else f"WRONG: {found} computes a convolution wrongly"
        )
    except CaffeSplitError as error:
        return f"FAILS: {found}: {' '.join(str(error).split())}"


def _runs(backend: Backend) -> bool:
    """Whether it computes 2 x + 1 by a convolution. Raises `CaffeSplitError` where it cannot be loaded."""
    import numpy as np

    from caffe_split.formats.weights.caffemodel import write_weights

    given = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    stream = io.BytesIO()
    np.save(stream, given)
    with scratch() as folder:
        net, weights, values = folder / "net.prototxt", folder / "net.caffemodel", folder / "x.npy"
        write_atomic(net, _NET)
        write_atomic(values, stream.getvalue())
        write_weights(weights, {"y": [np.full((1, 1, 1, 1), 2.0), np.ones(1)]})
        try:
            (gave,) = backend.forward([NetFiles(net, weights)], Forwarding(input_file=values))
        except (ImportError, OSError) as error:  # a library that is there and does not load
            raise CaffeSplitError(str(error)) from error
    (blobs,) = gave.batches
    return bool(np.allclose(blobs["y"], 2 * given + 1))


def _device(backend: Backend) -> str:
    if backend.module != "torch":
        return ""
    from caffe_split.engine.device import describe_devices

    return f", {describe_devices()}"


def _extra(extra: Extra) -> str:
    found = _version(extra.distribution)
    if found:
        return f"{found}: {extra.brings}"
    return f"not here; it brings {extra.brings}: pip install '.[{extra.extra}]' in the checkout"


def _version(name: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return version(name) if name else ""
    except PackageNotFoundError:
        return ""


def _windows() -> str:
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    toolkits = [name for name in ("tkinter", "PyQt6", "PySide6", "PyQt5", "gi") if importlib.util.find_spec(name)]
    if screen and toolkits:
        return f"plot_loss.py opens one, by {toolkits[0]}"
    lacks = " and ".join(
        [*([] if screen else ["a display"]), *([] if toolkits else ["a toolkit (Debian: python3-tk)"])]
    )
    return f"plot_loss.py has none to open, for want of {lacks}; --out FILE needs none"
