"""Packed columns give back what was put in, bit for bit, and take little room."""

from __future__ import annotations

import random

import numpy as np
import pytest

from caffe_split.trainlog.lines import NO_CLOCK
from caffe_split.trainlog.packed import CHUNK, Growing, _Chunk

N = 2 * CHUNK + 77
COUNT = np.arange(N)
COLUMNS = {
    "constant": COUNT * 0 + 7,
    "steps": COUNT * 20,
    "lines": COUNT * 3 + COUNT // 10 * 3,
    "clocks": np.where(COUNT % 9000 == 5, NO_CLOCK, COUNT * 1_000_003),
    "wild": np.where(COUNT % 2, 1 << 62, -(1 << 62)),
    "losses": np.round(2 + np.sin(COUNT) / 3, 5),
    "six digits": np.array([float(f"{0.05 + k / 7:.6g}") for k in range(N)]),
    "rate": np.full(N, 1e-4),
    "large": COUNT * 1e15,
    "tiny": (COUNT + 1) * 1e-30,
    "full": np.sqrt(COUNT + 2.0),
    "nan": np.where(COUNT % 1000 == 1, np.nan, 0.5),
    "inf": np.where(COUNT > CHUNK, np.inf, 0.5),
    "minus zero": np.where(COUNT % 7 == 0, -0.0, 0.25),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_comes_back_as_it_was(name: str) -> None:
    column, pick = COLUMNS[name], random.Random(3)
    kind = float if column.dtype.kind == "f" else np.int64
    growing, at, earlier = Growing(kind), 0, None
    while at < N:
        more = pick.choice([1, 1, 40, 5000, CHUNK, 30000])
        if more == 1:
            growing.append(column[at])
        else:
            growing.extend(column[at : at + more])
        at = min(at + more, N)
        if earlier is None and at > 100:
            earlier, size = growing.series(), at
    assert growing.series().array().tobytes() == column.astype(kind).tobytes() and len(growing) == N
    assert earlier is not None and earlier.array().tobytes() == column[:size].astype(kind).tobytes()
    for size in (0, 5, CHUNK, CHUNK + 1, N):
        assert growing.series().head(size).array().tobytes() == column[:size].astype(kind).tobytes()
    if np.isfinite(column).all():
        assert growing.series().ends() == (int(column[0]), int(column[-1]))


@pytest.mark.parametrize(("name", "most"), [("steps", 0), ("lines", 1), ("losses", 4), ("six digits", 4), ("rate", 0)])
def test_usual_columns_take_little_room(name: str, most: int) -> None:
    column = COLUMNS[name]
    growing = Growing(float if column.dtype.kind == "f" else np.int64)
    growing.extend(column)
    for chunk in growing._chunks:  # noqa: SLF001
        assert isinstance(chunk, _Chunk)
        assert (0 if chunk.small is None else chunk.small.itemsize) <= most
