"""Layers whose gradient Caffe computes from memory that layers in place have overwritten; see `spec.memory`.

Autograd keeps the values with which a layer has computed. The functions here look at the memory when the gradient is
computed, as Caffe does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from caffe_split.engine.layers.base import Layer
from caffe_split.engine.spec.memory import Access

# Number of a piece of memory -> its value as the last layer left it, of one run of the net.
Memory = dict[int, torch.Tensor]


def run_late(layer: Layer, access: Access, memory: Memory, bottoms: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Run a layer whose backward pass reads `memory`, which the caller goes on to fill until the end of the run."""
    apply: Callable[..., tuple[torch.Tensor, ...]] = _Late.apply
    return apply(layer, access, memory, len(bottoms), *bottoms, *layer.blobs)


def as_it_stands(bottom: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The overwritten `value` of a bottom, in the bottom's shape; the gradient goes to `bottom`."""
    apply: Callable[..., torch.Tensor] = _Standing.apply
    return apply(bottom, value.reshape(bottom.shape))


class _Standing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bottom: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


class _Late(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, layer: Layer, access: Access, memory: Memory, count: int, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.layer, ctx.access, ctx.memory = layer, access, memory
        ctx.given, ctx.blobs = [tensor.detach() for tensor in tensors[:count]], tensors[count:]
        with torch.autocast(tensors[0].device.type, enabled=False):
            tops = layer.run(*ctx.given)
        # A top that is its bottom would not be a value of its own.
        tops = tuple(top.clone() if any(top is bottom for bottom in ctx.given) else top for top in tops)
        ctx.tops = [top.detach() for top in tops]
        return tops

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        access, memory = ctx.access, ctx.memory
        now = [
            memory[access.bottoms[index]].reshape(bottom.shape) if index in access.bottoms else bottom
            for index, bottom in enumerate(ctx.given)
        ]
        top = ctx.tops[0] if access.top is None else memory[access.top].reshape(ctx.tops[0].shape)
        needs = ctx.needs_input_grad[4:]
        found: list[torch.Tensor | None] | None = None
        own = ctx.layer.blobs
        try:
            ctx.layer.blobs = [blob.detach() for blob in ctx.blobs]
            asked = [need or index in access.asked for index, need in enumerate(needs)]
            found = ctx.layer.gradients(ctx.given, now, top, gradients[0], asked)
            if found is None:
                found = _derivatives(ctx.layer, now, gradients, needs)
        finally:
            ctx.layer.blobs = own
        return (None, None, None, None, *(each if need else None for each, need in zip(found, needs)))


def _derivatives(
    layer: Layer, bottoms: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], needs: Sequence[bool]
) -> list[torch.Tensor | None]:
    """The derivatives of a layer at other bottoms, for its bottoms and its blobs."""
    count = len(bottoms)
    given = [bottom.detach().requires_grad_(need) for bottom, need in zip(bottoms, needs)]
    layer.blobs = [blob.requires_grad_(need) for blob, need in zip(layer.blobs, needs[count:])]
    with torch.enable_grad(), torch.autocast(bottoms[0].device.type, enabled=False):
        tops = layer.run(*given)
    wanted = [tensor for tensor in (*given, *layer.blobs) if tensor.requires_grad]
    pairs = [(top, gradient) for top, gradient in zip(tops, gradients) if top.requires_grad]
    if not pairs:
        return [None] * len(needs)
    outputs, given_back = [top for top, _ in pairs], [gradient for _, gradient in pairs]
    found = iter(torch.autograd.grad(outputs, wanted, given_back, allow_unused=True))
    return [next(found) if need else None for need in needs]
