"""Arrays that NumPy wrote: one in an .npy file, or several by name in an .npz archive."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, reason

_NONE = "not an array that numpy.save or numpy.savez wrote"


def read_array(path: PathLike) -> np.ndarray:
    """The array of an .npy file as float32. Raises `CaffeSplitError` for what is not one of numbers.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "mean.npy")
    >>> np.save(path, np.arange(3))
    >>> read_array(path)
    array([0., 1., 2.], dtype=float32)
    """
    found = read_arrays(path)
    if isinstance(found, Mapping):
        raise CaffeSplitError(f"{path}: {len(found)} arrays by name (.npz); expected one array (.npy).")
    return found


def read_arrays(path: PathLike) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an .npy file, or those of an .npz archive by name, whatever the file is called; as float32.

    Raises `CaffeSplitError` for a file that is not there or damaged, and for arrays that are empty or hold no numbers.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return _numbers(path, "it", found)
        with found as archive:
            arrays = {name: archive[name] for name in archive.files}
    except CaffeSplitError:
        raise
    except OSError as error:
        if error.errno is None:  # NumPy's own, of a damaged file
            raise CaffeSplitError(f"{path}: {_NONE}: {error}") from error
        raise CaffeSplitError(f"{path}: cannot read it: {reason(error)}") from error
    except Exception as error:  # of a damaged file: numpy, zipfile, zlib and tokenize have a dozen kinds
        raise CaffeSplitError(f"{path}: {_NONE}: {error}") from error
    return {name: _numbers(path, f"'{name}' in it", values) for name, values in arrays.items()}


def _numbers(path: PathLike, what: str, values: object) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub" or values.ndim == 0 or not values.size:
        raise CaffeSplitError(f"{path}: {what} holds no array of numbers; expected one of shape (N, C, H, W).")
    with np.errstate(over="ignore"):  # past float32 is infinite to Caffe, too
        return np.asarray(values, np.float32)
