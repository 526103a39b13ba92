"""Weights and solver states: `read_weights`, `write_weights`, `read_solverstate`, `write_solverstate`.

A file is HDF5 if its first bytes say so; it is written as HDF5 if its name ends in `.h5`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from caffe_split.errors import expect, expect_path
from caffe_split.files import PathLike
from caffe_split.formats.weights import hdf5, lookalikes
from caffe_split.formats.weights.binary import BinaryWeights, write_binary
from caffe_split.formats.weights.mapped import head_of, map_file
from caffe_split.formats.weights.model import Weights, nonfinite
from caffe_split.formats.weights.solverstate import SolverState, read_solverstate, write_solverstate

__all__ = [
    "SolverState",
    "Weights",
    "nonfinite",
    "read_solverstate",
    "read_weights",
    "write_solverstate",
    "write_weights",
]


def read_weights(path: PathLike) -> Weights:
    """The weights of a .caffemodel or .caffemodel.h5, as a mapping: layer name -> list of float32 arrays.

    Shapes are those stored; files of 2013-14 have four axes everywhere. Layers are read when they are asked
    for, and the arrays of binary files are read-only views of the mapped file.

    Raises `CaffeSplitError` when the file cannot be read, is cut short, is something else, holds two layers
    of one name, or a blob whose shape does not fit its values.

    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "tiny.caffemodel")
    >>> write_weights(path, {"conv1": [np.ones((2, 3, 1, 1)), np.zeros(2)]}, types={"conv1": "Convolution"})
    >>> weights = read_weights(path)
    >>> [array.shape for array in weights["conv1"]], weights.types["conv1"]
    ([(2, 3, 1, 1), (2,)], 'Convolution')
    """
    expect_path(path, "weights")
    name = os.fspath(path)
    if head_of(name, "weights").startswith(lookalikes.HDF5_MAGIC):
        return hdf5.Hdf5Weights(name)
    return BinaryWeights(name, map_file(name))


def write_weights(
    path: PathLike,
    weights: Mapping[str, Sequence[Any]],
    net_name: str = "",
    types: Mapping[str, str] | None = None,
    like: Weights | None = None,
) -> None:
    """Write weights for Caffe: binary, or HDF5 when `path` ends in `.h5`; whole or not at all.

    `weights` maps layer names to sequences of arrays, which are stored as float32 in their shapes. `types` gives layer
    types, `net_name` the net's name. `like` is a result of `read_weights` (by default `weights`, if that is
    one); its net name, types, layer options and unknown fields are kept for layers of the same name.

    Raises `CaffeSplitError` when a binary file would pass 2 GB (HDF5 has no such limit), when an array does
    not hold numbers, when a layer's name cannot be in HDF5, or when `like` is anything else.

    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "tiny.caffemodel.h5")
    >>> write_weights(path, {"ip": [np.arange(6.0).reshape(2, 3)]})
    >>> read_weights(path)["ip"][0].tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    """
    expect_path(path, "the weights to write")
    name = os.fspath(path)
    if like is None and isinstance(weights, Weights):
        like = weights
    if like is not None:
        expect(like, Weights, "for like= the weights that read_weights returns")
    known_types = {**(like.types if like else {}), **(types or {})}
    if name.endswith(".h5"):
        hdf5.write_weights(name, weights, known_types)
        return
    write_binary(name, weights, net_name or (like.net_name if like else ""), known_types, like)
