"""Means of gradients over all processes, exchanged while the backward pass still runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from caffe_split.engine.parallel.group import Group

# Bytes from which a message is sent: small enough to begin early, large enough that a message's start costs little.
_BYTES = 1 << 20


class _Bucket:
    """Parameters whose gradients go in one message."""

    def __init__(self) -> None:
        self.params: list[torch.Tensor] = []
        self.lacking = 0
        self.sent: tuple[torch.Tensor, dist.Work] | None = None


class Reducer:
    """Replaces the gradients of parameters by their means over all processes.

        reducer.begin()       # before the backward pass
        output.loss.backward()
        reducer.finish([])    # before the gradients are used

    The last parameters get their gradients first, so buckets are filled from the end. Each is sent, in the same order
    in all processes, as soon as autograd has added all of its gradients. The last one, and gradients that come without
    autograd, go in one message with the numbers that `finish` gets.

    Args:
        group: the processes, which compute the same net.
        params: its parameters, in the order of the net.
    """

    def __init__(self, group: Group, params: Sequence[torch.Tensor]) -> None:
        self._group = group
        self._params = [param for param in params if param.requires_grad]
        self._buckets: list[_Bucket] = []
        self._runs = False
        if group.size > 1:
            self._divide()

    def _divide(self) -> None:
        size = 0
        for param in reversed(self._params):
            if not self._buckets or size >= _BYTES or param.device != self._buckets[-1].params[0].device:
                self._buckets.append(_Bucket())
                size = 0
            bucket = self._buckets[-1]
            bucket.params.append(param)
            size += param.numel() * param.element_size()
            param.register_post_accumulate_grad_hook(lambda _, bucket=bucket: self._note(bucket))

    def begin(self) -> None:
        """From now on gradients are whole when autograd adds them: of an iteration's batches the last one begins."""
        self._runs = self._group.speaks
        for bucket in self._buckets:
            bucket.lacking, bucket.sent = len(bucket.params), None

    def _note(self, bucket: _Bucket) -> None:
        """A gradient of the bucket is there."""
        if not self._runs:
            return
        bucket.lacking -= 1
        for each in self._buckets[:-1]:
            if each.lacking:
                return
            if each.sent is None:
                flat = torch.cat([_gradient(param).reshape(-1) for param in each.params])
                each.sent = flat, dist.all_reduce(flat, async_op=True)

    def finish(self, also: Sequence[float]) -> list[float]:
        """Wait until all gradients are means. Returns the means of `also`."""
        self._runs = False
        reduced = set()
        for bucket in self._buckets:
            if bucket.sent is not None:
                flat, work = bucket.sent
                work.wait()
                flat /= self._group.size
                parts = flat.split([param.numel() for param in bucket.params])
                for param, part in zip(bucket.params, parts):
                    _gradient(param).copy_(part.view(param.shape))
                    reduced.add(id(param))
                bucket.sent = None
        rest = [param.grad for param in self._params if param.grad is not None and id(param) not in reduced]
        return self._group.average(rest, also)


def _gradient(param: torch.Tensor) -> torch.Tensor:
    assert param.grad is not None
    return param.grad
