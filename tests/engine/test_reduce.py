"""Gradients exchanged in buckets are the means that one message after the backward pass gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
import torch.distributed as dist

from caffe_split.engine.parallel import reduce
from caffe_split.engine.parallel.group import Group
from caffe_split.engine.parallel.reduce import Reducer


class Done:
    """A message that has arrived."""

    def wait(self) -> None:
        """Return at once."""


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, bool]]]:
    """The number of values of each message, and whether it was sent ahead; the other process has the triple of all."""
    sent: list[tuple[int, bool]] = []

    def add(values: torch.Tensor, async_op: bool = False, **_: Any) -> Done:
        sent.append((values.numel(), async_op))
        values *= 4
        return Done()

    monkeypatch.setattr(dist, "all_reduce", add)
    return sent


def net(still: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(count, generator=generator) for count in (100, 3000, 20, 7, 5000)]
    return [values.requires_grad_(index != still) for index, values in enumerate(made)]


def loss(params: list[torch.Tensor], unused: int, factor: float) -> torch.Tensor:
    """Every parameter twice, but for one."""
    parts = [param.square().sum() + (param * factor).sum() for index, param in enumerate(params) if index != unused]
    return torch.stack(parts).sum()


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("size", [4, 200, 1 << 13, 1 << 20])
@pytest.mark.parametrize(("still", "unused"), [(-1, -1), (1, -1), (-1, 2), (0, 4)])
def test_gradients_are_means(
    batches: int,
    size: int,
    still: int,
    unused: int,
    messages: list[tuple[int, bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of iterations of several batches; a parameter that does not learn, and one without a gradient, among them."""
    monkeypatch.setattr(reduce, "_BYTES", size)
    params, alone = net(still), net(still)
    reducer = Reducer(Group(0, 2), params)
    for _ in range(2):
        messages.clear()
        for batch in range(batches):
            if batch == batches - 1:
                assert not messages
                reducer.begin()
            loss(params, unused, batch + 1.0).backward()
            loss(alone, unused, batch + 1.0).backward()
        # Those that autograd has no gradient for hold back the buckets behind theirs.
        ahead = [count for count, is_ahead in messages if is_ahead]
        assert len(ahead) == len(messages)
        assert reducer.finish([2.0, 0.5]) == [4.0, 1.0]
        assert len(messages) == len(ahead) + 1
        for param, one in zip(params, alone):
            assert (param.grad is None) == (one.grad is None)
            if param.grad is not None:
                assert torch.allclose(param.grad, 2 * one.grad, rtol=1e-6)
                param.grad = one.grad = None
    if unused == -1:
        assert bool(ahead) == (size < 1 << 20)


def test_gradients_without_autograd_go_in_one_message(messages: list[tuple[int, bool]]) -> None:
    params = net(-1)
    reducer = Reducer(Group(0, 2), params)
    reducer.begin()
    for param in params:
        param.grad = torch.ones_like(param)
    reducer.finish([])
    assert messages == [(sum(param.numel() for param in params), False)]
    assert all(torch.equal(param.grad, torch.full_like(param, 2.0)) for param in params)


def test_one_process_sends_nothing(messages: list[tuple[int, bool]]) -> None:
    params = net(-1)
    reducer = Reducer(Group(), params)
    reducer.begin()
    loss(params, -1, 1.0).backward()
    assert reducer.finish([3.0]) == [3.0] and not messages
