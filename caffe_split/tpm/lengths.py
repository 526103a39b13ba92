"""How far a weight moved: the length of each kernel's step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# How many weights are taken at a time: as float64 they fit into a cache, and a dense layer is never copied as a whole.
_AT_ONCE = 1 << 16


def lengths(now: npt.ArrayLike, before: npt.ArrayLike | None = None) -> npt.NDArray[np.float64]:
    """L2 norm of `now - before` (of `now` when None) for every kernel, and last of the whole: float64 (K + 1).

    A kernel is a slice along the first axis. Computed in float64, whatever the arrays are.
    """
    rows = _rows(now)
    others = None if before is None else _rows(before)
    squares = np.empty(len(rows))
    step = max(1, _AT_ONCE // max(rows.shape[1], 1))
    room = np.empty((min(step, len(rows)), rows.shape[1]))  # once: new memory costs more than the copy
    for first in range(0, len(rows), step):
        part = room[: len(rows) - first]
        part[:] = rows[first : first + step]
        if others is not None:
            part -= others[first : first + step]
        squares[first : first + step] = np.einsum("ij,ij->i", part, part)
    total: np.ndarray = np.append(squares, squares.sum())
    return np.asarray(np.sqrt(total))


def _rows(weight: npt.ArrayLike) -> npt.NDArray[np.floating]:
    array = np.asarray(weight)
    return array.reshape(array.shape[0], -1)
