"""Caffe's HDF5 files: weights as /data/<layer>/<index>, solver states as /iter, /history/<index>, ...

h5py is optional (`pip install h5py`) and is imported when the first such file is read or written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.files import replacing
from caffe_split.formats.weights import blob as blobs
from caffe_split.formats.weights.hdf5_heap import check_member, check_root
from caffe_split.formats.weights.mapped import map_file
from caffe_split.formats.weights.model import Array, SolverState, Weights


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise CaffeSplitError("reading and writing HDF5 needs h5py: pip install h5py") from None
    return h5py


def _open(name: str) -> Any:
    h5py = _h5py()
    with _guarded(name, "cannot open it as HDF5"):
        return h5py.File(name, "r")


# No layer that shares blobs has so many: where a number is higher, a gap before it is damage.
_MOST_BLOBS = 16
# As many layers, or blobs of history, as in a binary file.
MAX_NAMES = 100_000

# What h5py raises on damaged files; the C library below it trusts much that it reads.
_DAMAGE = (AttributeError, ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)


@contextlib.contextmanager
def _guarded(name: str, what: str = "damaged") -> Iterator[None]:
    """Turn whatever h5py raises into one `CaffeSplitError`."""
    try:
        yield
    except CaffeSplitError:
        raise
    except _DAMAGE as error:
        said = " ".join(str(error.args[0] if error.args else error).split())
        raise CaffeSplitError(f"{name}: {what}: {said or type(error).__name__}") from None


class Hdf5Weights(Weights):
    """Weights of an HDF5 file: layers are listed when it is opened and read when asked for.

    Caffe leaves out of such a file the blobs that a layer shares with an earlier one. Those before one that is
    there are arrays of shape (0,); of those behind the last one the file says nothing.
    """

    def __init__(self, path: str) -> None:
        self._file = _open(path)
        self._size = os.stat(path).st_size
        self._bytes = map_file(path)
        self._layers: dict[str, list[str]] = {}
        try:
            with _guarded(path):
                self._list(path)
        except CaffeSplitError:
            self._file.close()
            raise
        super().__init__(path, "", dict.fromkeys(self._layers, ""))
        lacking = {name: int(keys[-1]) + 1 - len(keys) for name, keys in self._layers.items() if keys}
        self.shared = {name: count for name, count in lacking.items() if count}

    def _list(self, path: str) -> None:
        check_root(path, self._bytes)
        if "data" in self._file:
            check_member(path, self._bytes, self._file, "data")
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
        for key in _names(group):
            item = _own(group, key)
            if isinstance(item, h5py.Group):
                subgroups = True
                check_member(path, self._bytes, group, key)
                self._find(path, item, f"{name}/{key}" if name else key, depth + 1)
            elif key.isdecimal() and name and isinstance(item, h5py.Dataset):
                self._check(path, item, name, key)
                indices.append(key)
            else:
                raise CaffeSplitError(f"{path}: expected /data/<layer>/<index>, found /data/{name}/{key}")
        if name and (indices or not subgroups):
            indices.sort(key=int)
            numbers = [int(key) for key in indices]
            lacks = numbers != list(range(len(numbers)))
            if lacks and (numbers[-1] >= _MOST_BLOBS or [str(number) for number in numbers] != indices):
                raise CaffeSplitError(f"{path}: layer {name!r} has the blobs {', '.join(indices)}: some lack")
            self._layers[name] = indices

    def _check(self, path: str, item: Any, name: str, key: str) -> None:
        if item.dtype.kind not in "fiu":
            raise CaffeSplitError(f"{path}: layer {name!r}, blob {key}: expected numbers, found {item.dtype}")
        check_present(path, f"layer {name!r}, blob {key}", item, self._size)

    def __getitem__(self, name: str) -> list[Array]:
        keys = {int(key): key for key in self._layers[name]}
        with _guarded(self.path, f"cannot read layer {name!r}"):
            return [
                _read(self._file[f"data/{name}/{keys[index]}"]) if index in keys else np.empty(0, np.float32)
                for index in range(max(keys, default=-1) + 1)
            ]


def _names(group: Any) -> list[str]:
    """The names in a group, bounded: in a damaged file the library may go round in circles."""
    names: list[bytes] = []

    def take(name: bytes) -> bool | None:
        names.append(name)
        return True if len(names) > MAX_NAMES else None  # anything but None ends the walk

    group.id.links.iterate(take)
    if len(names) > MAX_NAMES:
        raise CaffeSplitError(f"{group.file.filename}: {group.name} has more than {MAX_NAMES} members")
    return [name.decode("utf-8", "surrogateescape") for name in names]


def _own(group: Any, key: str) -> Any:
    """What lies under `key`; `CaffeSplitError` for a link, which may lead to any file."""
    if group.get(key, getlink=True).__class__ is not _h5py().HardLink:
        raise CaffeSplitError(f"{group.file.filename}: {group.name}/{key} is a link to elsewhere; not read")
    return group[key]


def check_present(path: str, where: str, item: Any, file_size: int) -> None:
    """Refuse a data set that claims far more values than the file can hold, before it is allocated."""
    if item.size and (item.size * 4 > 3 * file_size or item.id.get_storage_size() == 0):
        raise CaffeSplitError(
            f"{path}: {where}: its shape {blobs.text_of(item.shape)} needs {item.size * 4} bytes, but the "
            f"file has {file_size}"
        )


def _read(item: Any) -> Array:
    with np.errstate(over="ignore"):  # past float32 is infinite to Caffe, too
        return np.asarray(item[()], dtype=np.float32)


NO_NAME = "cannot be in an HDF5 file: there `/` parts groups, and Caffe would not find the layer again"


def takes_name(layer: str) -> bool:
    """Whether an HDF5 file can have weights of a layer of that name; `NO_NAME` says why not."""
    return bool(layer) and "/" not in layer and layer not in (".", "..")


def write_weights(name: str, weights: Mapping[str, Sequence[Any]], types: Mapping[str, str]) -> None:
    """Write /data/<layer>/<index>; see `caffemodel.write_weights`. `types` has the layer types that are known."""
    for layer in weights:
        if not takes_name(layer):
            raise CaffeSplitError(f"{name}: layer {layer!r} {NO_NAME}; rename it, or write a .caffemodel")
    with _create(name) as file:
        data = file.create_group("data")
        for layer in weights:
            group = data.create_group(layer)
            arrays = weights[layer]
            for index, array in enumerate(arrays):
                if np.shape(array) == (0,):
                    continue  # Shared: another layer holds it, and Caffe leaves it out too.
                values = blobs.as_array(array, f"layer {layer!r}, blob {index}")
                values = values.reshape(_shape_of_today(values.shape, types.get(layer, ""), index))
                group.create_dataset(str(index), data=np.asarray(values, "<f4", order="C"))


def _shape_of_today(shape: tuple[int, ...], layer_type: str, index: int) -> tuple[int, ...]:
    """The shape that Caffe expects in HDF5, where it does not take an old file's 1x1xMxN for MxN."""
    if len(shape) == 4 and shape[:2] == (1, 1):
        if index == 0 and layer_type == "InnerProduct":
            return shape[2:]
        if index == 1 and shape[2] == 1 and layer_type in ("Convolution", "Deconvolution", "InnerProduct"):
            return shape[3:]
    return shape


def read_solverstate(name: str) -> SolverState:
    """See `solverstate.read_solverstate`."""
    with _open(name) as file, _guarded(name, "not a whole solver state"):
        data = map_file(name)
        check_root(name, data)
        if "iter" not in file or "history" not in file:
            hint = "these are weights" if "data" in file else "not Caffe's"
            raise CaffeSplitError(f"{name}: no /iter and /history in it ({hint}); give a .solverstate.h5")
        iteration, step = _number(file, "iter"), _number(file, "current_step") if "current_step" in file else 0
        learned = _checked(file, "learned_net")[()] if "learned_net" in file else b""
        group = _own(file, "history")
        check_member(name, data, file, "history")
        keys = _names(group)
        for key in keys:
            if not key.isdecimal():
                raise CaffeSplitError(f"{name}: expected /history/<index>, found /history/{key}")
        keys.sort(key=int)
        if [int(key) for key in keys] != list(range(len(keys))):
            raise CaffeSplitError(f"{name}: the history has the blobs {', '.join(keys)}: some lack")
        history = [_read(_checked(group, key)) for key in keys]
        text = learned if isinstance(learned, str) else bytes(learned).rstrip(b"\0").decode("utf-8", "replace")
        return SolverState(iteration, text, step, history)


def _number(file: Any, key: str) -> int:
    return int(np.ravel(_checked(file, key)[()])[0])


def _checked(group: Any, key: str) -> Any:
    """A data set that holds as many values as it says."""
    item = _own(group, key)
    name = group.file.filename
    check_present(name, f"{group.name.rstrip('/')}/{key}", item, os.stat(name).st_size)
    return item


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


@contextlib.contextmanager
def _create(name: str) -> Iterator[Any]:
    """A new HDF5 file, which takes the place of `name` when the block ends without an error."""
    with replacing(name) as temporary:
        # The oldest layout of the format: Caffe's own HDF5 may be of any age.
        file = _h5py().File(temporary, "w", libver="earliest", track_order=False)
        try:
            yield file
        except BaseException as error:
            with contextlib.suppress(OSError, RuntimeError):  # on a full disk closing fails once more
                file.close()
            if isinstance(error, OSError):
                raise _plain_error(error) from error
            raise
        try:
            file.close()
        except (OSError, RuntimeError) as error:
            raise _plain_error(error) from error


def _plain_error(error: Exception) -> OSError:
    """The error with the system's own message where h5py gives its number; else h5py's message on one line."""
    code = getattr(error, "errno", None)
    return OSError(code or 0, os.strerror(code) if code else " ".join(str(error).split()))
