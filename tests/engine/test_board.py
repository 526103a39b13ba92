"""Processes of one machine exchange values through shared memory."""

from __future__ import annotations

import mmap
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.kernels import board as module
from caffe_split.engine.kernels import build
from caffe_split.engine.kernels.board import MOST, Board, needed, open_board
from caffe_split.engine.parallel.group import Group

needs_compiler = pytest.mark.skipif(build.kernels().library is None, reason=build.kernels().why or "kernels")
SIZE = 3


def in_all(work: Callable[[int], Any]) -> list[Any]:
    """What `work` returns for each rank, each in a thread of its own."""
    with ThreadPoolExecutor(SIZE) as pool:
        return [job.result(60) for job in [pool.submit(work, rank) for rank in range(SIZE)]]


@needs_compiler
def test_each_gets_the_values_of_all_however_late_the_others_are() -> None:
    memory = mmap.mmap(-1, needed(SIZE))

    def work(rank: int) -> list[torch.Tensor]:
        board, late, found = Board(rank, SIZE, memory), random.Random(rank), []
        for turn in range(300):
            if late.random() < 0.02:
                time.sleep(0.005)
            found.append(board.of_all(torch.full((1 + turn % 5, 2), 1000.0 * rank + turn, dtype=torch.float64)))
        return found

    for found in in_all(work):
        for turn, values in enumerate(found):
            expected = torch.tensor([1000.0 * rank + turn for rank in range(SIZE)]).view(-1, 1, 1)
            assert values.shape == (SIZE, 1 + turn % 5, 2)
            assert bool((values == expected).all()), turn


class Pretended(Group):
    """A process of a group whose other processes are threads: what goes through torch.distributed goes by a list."""

    def __init__(self, rank: int, meeting: threading.Barrier, shown: list[Any]) -> None:
        super().__init__(rank, SIZE)
        self._meeting, self._shown = meeting, shown

    def values_of_all(self, value: Any) -> list[Any]:
        self._shown[self.rank] = value
        self._meeting.wait(30)
        found = list(self._shown)
        self._meeting.wait(30)
        return found

    def spread_value(self, value: Any) -> Any:
        return self.values_of_all(value)[0]


def groups() -> list[Pretended]:
    meeting, shown = threading.Barrier(SIZE), [None] * SIZE
    return [Pretended(rank, meeting, shown) for rank in range(SIZE)]


def opened(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[Group]:
    """The groups of all ranks with their boards, whose file is in `folder`."""
    monkeypatch.setattr(module, "_MEMORY", folder)
    every = groups()
    for group, board in zip(every, in_all(lambda rank: open_board(every[rank]))):
        group.board = board
    assert not list(folder.iterdir())  # Nothing stays, whatever becomes of the processes.
    return list(every)


@needs_compiler
def test_sums_and_rows_go_by_the_board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    every = opened(monkeypatch, tmp_path)
    assert all(group.board is not None for group in every)
    rows = torch.arange(6.0).view(SIZE, 1, 2) ** 2

    def work(rank: int) -> tuple[Any, ...]:
        group = every[rank]
        mean, variance = group.statistics(rows[rank, 0], rows[rank, 0] + 1)
        return group.total(rows[rank]), group.rows_of_all(rows[rank]), group.mean([float(rank), 5.0]), mean, variance

    for total, all_rows, means, mean, variance in in_all(work):
        assert torch.equal(total, rows.sum(0)) and torch.equal(all_rows, rows.flatten(0, 1))
        assert means == [1.0, 5.0]
        assert torch.allclose(mean, rows[:, 0].mean(0))
        assert torch.allclose(variance, (rows[:, 0] + 1).mean(0) + rows[:, 0].var(0, unbiased=False))


@needs_compiler
def test_what_is_large_or_empty_goes_another_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    board = opened(monkeypatch, tmp_path)[0].board
    assert board is not None
    assert board.takes(torch.zeros(MOST // 8, dtype=torch.float64))
    assert not board.takes(torch.zeros(MOST // 8 + 1, dtype=torch.float64)) and not board.takes(torch.zeros(0))


@needs_compiler
def test_no_board_where_one_process_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another machine may have another file of that name."""
    join = module._join  # noqa: SLF001

    def other(path: str, token: bytes, size: int) -> mmap.mmap | None:
        return join(path, b"x" * len(token) if threading.current_thread().name.endswith("_1") else token, size)

    monkeypatch.setattr(module, "_join", other)
    assert [group.board for group in opened(monkeypatch, tmp_path)] == [None] * SIZE


def test_no_board_without_kernels_or_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "library", lambda: None)
        assert [group.board for group in opened(patch, tmp_path)] == [None] * SIZE
    if build.kernels().library is not None:

        def full(*_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("mmap.mmap", full)
        assert [group.board for group in opened(monkeypatch, tmp_path)] == [None] * SIZE
