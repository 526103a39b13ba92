"""Caffe's HDF5 files: weights as /data/<layer>/<index>, solver states as /iter, /history/<index>, ...

h5py is optional (`pip install caffe-split[hdf5]`): it is asked for when such a file comes along.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.files import replacing
from caffe_split.proto import blob as blobs
from caffe_split.proto.caffemodel import Array, Weights
from caffe_split.proto.solverstate import SolverState


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise CaffeSplitError("reading and writing HDF5 needs h5py: pip install h5py") from None
    return h5py


def _open(name: str) -> Any:
    try:
        return _h5py().File(name, "r")
    except OSError as error:
        raise CaffeSplitError(f"{name}: cannot open it as HDF5: {error}") from None


class Hdf5Weights(Weights):
    """Weights of an HDF5 file: layers are listed when it is opened and read when asked for.

    Caffe leaves out of such a file what a layer shares with an earlier one, so that a layer's first blob may be
    1: those before it are then arrays of shape (0,).
    """

    def __init__(self, path: str) -> None:
        self._file = _open(path)
        self._size = os.stat(path).st_size
        self._layers: dict[str, list[str]] = {}
        try:
            self._list(path)
        except (KeyError, OSError, RuntimeError, ValueError) as error:  # what h5py raises on damaged files
            self._file.close()
            raise CaffeSplitError(f"{path}: damaged: {error}") from None
        except CaffeSplitError:
            self._file.close()
            raise
        super().__init__(path, "", dict.fromkeys(self._layers, ""))

    def _list(self, path: str) -> None:
        data = self._file.get("data")
        if not isinstance(data, _h5py().Group):
            if "iter" in self._file:
                raise CaffeSplitError(f"{path}: this is a solver state, not weights; give the .caffemodel.h5")
            raise CaffeSplitError(f"{path}: no group /data in it, where Caffe keeps weights")
        self._find(path, data, "", 0)

    def _find(self, path: str, group: Any, name: str, depth: int) -> None:
        """List layers; one whose name has a `/` lies in groups within groups."""
        if depth > 32:
            raise CaffeSplitError(f"{path}: groups in /data are nested more than 32 deep")
        h5py = _h5py()
        indices = []
        subgroups = False
        for key in group:
            if group.get(key, getlink=True).__class__ is not h5py.HardLink:
                raise CaffeSplitError(f"{path}: /data/{name}/{key} is a link to elsewhere; not read")
            item = group[key]
            if isinstance(item, h5py.Group):
                subgroups = True
                self._find(path, item, f"{name}/{key}" if name else key, depth + 1)
            elif key.isdecimal() and name:
                self._check(path, item, name, key)
                indices.append(key)
            else:
                raise CaffeSplitError(f"{path}: expected /data/<layer>/<index>, found /data/{name}/{key}")
        if name and (indices or not subgroups):
            indices.sort(key=int)
            # Caffe leaves out what a layer shares with an earlier one: a weight, rarely its first two blobs.
            first = int(indices[0]) if indices else 0
            if first > 3 or [int(key) for key in indices] != list(range(first, first + len(indices))):
                raise CaffeSplitError(f"{path}: layer {name!r} has the blobs {', '.join(indices)}: some lack")
            self._layers[name] = indices

    def _check(self, path: str, item: Any, name: str, key: str) -> None:
        if item.dtype.kind not in "fiu":
            raise CaffeSplitError(f"{path}: layer {name!r}, blob {key}: expected numbers, found {item.dtype}")
        check_present(path, f"layer {name!r}, blob {key}", item, self._size)

    def __getitem__(self, name: str) -> list[Array]:
        keys = self._layers[name]
        shared = [np.empty(0, np.float32) for _ in range(int(keys[0]) if keys else 0)]
        return shared + [_read(self._file[f"data/{name}/{key}"]) for key in keys]


def check_present(path: str, where: str, item: Any, file_size: int) -> None:
    """Refuse a data set that claims far more values than the file can hold, before it is allocated."""
    if item.size and (item.size * 4 > 3 * file_size or item.id.get_storage_size() == 0):
        raise CaffeSplitError(
            f"{path}: {where}: its shape {blobs.text_of(item.shape)} needs {item.size * 4} bytes, but the "
            f"file has {file_size}"
        )


def _read(item: Any) -> Array:
    try:
        values: Array = np.asarray(item[()], dtype=np.float32)
    except (OSError, RuntimeError) as error:
        raise CaffeSplitError(f"{item.file.filename}: cannot read {item.name}: {error}") from None
    return values


def write_weights(name: str, weights: Mapping[str, Sequence[Any]]) -> None:
    """Write /data/<layer>/<index>; see `caffemodel.write_weights`."""
    for layer in weights:
        if not layer or "/" in layer or layer in (".", ".."):
            raise CaffeSplitError(
                f"{name}: layer {layer!r} cannot be in an HDF5 file: there `/` parts groups, and "
                "Caffe would not find the layer again; rename it, or write a .caffemodel"
            )
    with _create(name) as file:
        data = file.create_group("data")
        for layer in weights:
            group = data.create_group(layer)
            arrays = weights[layer]
            # Shared blobs, which the file that they come from left out too.
            shared = next((index for index, array in enumerate(arrays) if np.shape(array) != (0,)), 0)
            for index, array in list(enumerate(arrays))[shared:]:
                values = blobs.as_array(array, f"layer {layer!r}, blob {index}")
                group.create_dataset(str(index), data=np.asarray(values, "<f4", order="C"))


def read_solverstate(name: str) -> SolverState:
    """See `solverstate.read_solverstate`."""
    with _open(name) as file:
        size = os.stat(name).st_size
        if "iter" not in file or "history" not in file:
            hint = "these are weights" if "data" in file else "not Caffe's"
            raise CaffeSplitError(f"{name}: no /iter and /history in it ({hint}); give a .solverstate.h5")
        try:
            learned = file["learned_net"][()] if "learned_net" in file else b""
            step = int(np.ravel(file["current_step"][()])[0]) if "current_step" in file else 0
            iteration = int(np.ravel(file["iter"][()])[0])
            keys = sorted(file["history"], key=int)
            for key in keys:
                check_present(name, f"history blob {key}", file["history"][key], size)
            history = [_read(file["history"][key]) for key in keys]
        except (OSError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise CaffeSplitError(f"{name}: not a whole solver state: {error}") from None
    text = learned if isinstance(learned, str) else bytes(learned).rstrip(b"\0").decode("utf-8", "replace")
    return SolverState(iteration, text, step, history)


def write_solverstate(name: str, state: SolverState) -> None:
    """See `solverstate.write_solverstate`."""
    h5py = _h5py()
    with _create(name) as file:
        file.create_dataset("iter", data=np.array([state.iter], np.int32))
        file.create_dataset("current_step", data=np.array([state.current_step], np.int32))
        # Caffe reads a string that ends in NUL and is as long as its type says.
        text = state.learned_net.encode("utf-8", "surrogateescape") + b"\0"
        kind = h5py.h5t.C_S1.copy()
        kind.set_size(len(text))
        kind.set_strpad(h5py.h5t.STR_NULLTERM)
        space = h5py.h5s.create(h5py.h5s.SCALAR)
        data = h5py.h5d.create(file.id, b"learned_net", kind, space)
        data.write(space, space, np.array(text, dtype=f"S{len(text)}"), kind)
        history = file.create_group("history")
        for index, array in enumerate(state.history):
            values = blobs.as_array(array, f"history blob {index}")
            history.create_dataset(str(index), data=np.asarray(values, "<f4", order="C"))


class _create:
    """An HDF5 file that takes the place of `name` when the block ends well."""

    def __init__(self, name: str) -> None:
        self._replacing = replacing(name)

    def __enter__(self) -> Any:
        # The oldest layout of the format: Caffe's own HDF5 may be of any age.
        self._file = _h5py().File(self._replacing.__enter__(), "w", libver="earliest", track_order=False)
        return self._file

    def __exit__(self, *error: Any) -> None:
        self._file.close()
        self._replacing.__exit__(*error)
