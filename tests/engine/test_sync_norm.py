"""Processes that normalise together by the compiled kernels compute what one with all their rows does."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.kernels import build
from caffe_split.engine.kernels import norm as kernel
from caffe_split.engine.parallel.group import Group

pytestmark = pytest.mark.skipif(build.kernels().library is None, reason=build.kernels().why or "kernels")

CHANNELS, SIZE = 5, 3


class Threads(Group):
    """A group of threads that stand for processes: values are exchanged in memory."""

    def __init__(self, rank: int, shared: dict[int, torch.Tensor], barrier: threading.Barrier) -> None:
        super().__init__(rank, SIZE, sync_norms=True)
        self._shared, self._barrier = shared, barrier

    def _exchange(self, values: torch.Tensor) -> list[torch.Tensor]:
        self._shared[self.rank] = values.detach().clone()
        self._barrier.wait(20)
        found = [self._shared[rank] for rank in range(SIZE)]
        self._barrier.wait(20)
        return found

    def rows_of_all(self, values: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._exchange(values))

    def total(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._exchange(values)).sum(0)


Ran = dict[str, torch.Tensor]


def run(rows: slice, given: Ran, adds: bool, cuts: bool, others: Group | None) -> Ran:
    """Forward and back on some rows of a batch: values, gradients, and running statistics."""
    x, other, slope = (given[name][rows].clone(memory_format=torch.channels_last) for name in ("x", "other", "slope"))
    weight, bias = given["weight"].clone(), given["bias"].clone()
    for tensor in (x, other, weight, bias):
        tensor.requires_grad_()
    running = torch.full((CHANNELS,), 0.5), torch.full((CHANNELS,), 0.25), torch.ones(1)
    (out,) = kernel.normalised(x, other if adds else None, weight, bias, cuts, (1e-5, 0.9, running), others)
    out.backward(slope)
    found = {"out": out.detach(), "x": x.grad, "weight": weight.grad, "bias": bias.grad}
    found.update({f"running {index}": each for index, each in enumerate(running)})
    return {**found, "other": other.grad} if adds else found


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize(("adds", "cuts"), [(False, False), (True, False), (False, True), (True, True)])
def test_parts_of_a_batch_are_normalised_as_the_whole(adds: bool, cuts: bool, low: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    form = (2 * SIZE, CHANNELS, 4, 3)
    given = {name: torch.randn(form, generator=generator) for name in ("x", "other", "slope")}
    # The parts have other means and variances than the whole.
    given["x"] = given["x"] * torch.arange(1.0, 2 * SIZE + 1).view(-1, 1, 1, 1) + torch.arange(2.0 * SIZE).view(
        -1, 1, 1, 1
    )
    if low:
        given = {name: values.bfloat16() for name, values in given.items()}
    given |= {name: torch.randn(CHANNELS, generator=generator) for name in ("weight", "bias")}
    whole = run(slice(None), given, adds, cuts, None)
    shared: dict[int, torch.Tensor] = {}
    barrier = threading.Barrier(SIZE)
    with ThreadPoolExecutor(SIZE) as pool:
        jobs = [
            pool.submit(run, slice(2 * rank, 2 * rank + 2), given, adds, cuts, Threads(rank, shared, barrier))
            for rank in range(SIZE)
        ]
        parts = [job.result(60) for job in jobs]
    for name, values in whole.items():
        each = [part[name] for part in parts]
        if name.startswith("running"):
            assert all(torch.equal(one, each[0]) for one in each), name
            found = each[0]
        else:
            found = sum(each) if name in ("weight", "bias") else torch.cat(each)
        assert found.dtype == values.dtype
        near = 2e-2 if low else 1e-5
        assert torch.allclose(found, values, rtol=near, atol=near * float(values.abs().max())), name
