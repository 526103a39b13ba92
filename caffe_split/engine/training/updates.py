"""Caffe's solvers: how a gradient becomes a step. In each the rate is inside what is remembered, as in Caffe."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from caffe_split.engine.model.params import Param
from caffe_split.errors import CaffeSplitError
from caffe_split.net.options import Options

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Group:
    """Parameters of equal multipliers, and where they stand among all."""

    places: tuple[int, ...]
    lr_mult: float
    decay_mult: float


@dataclass(frozen=True)
class Numbers:
    """What the methods read of the solver."""

    momentum: float
    momentum2: float
    delta: float
    rms_decay: float


class Updater:
    """Applies updates to parameters and keeps their history.

    `history` is in Caffe's order: one array a parameter in the net's order, then for Adam and AdaDelta a second one
    each. Raises `CaffeSplitError` for a method or a regularization that Caffe does not have.
    """

    def __init__(self, params: Sequence[Param], solver: Options) -> None:
        self._params = list(params)
        self.kind = kind = str(solver.get("type"))
        if kind not in METHODS:
            raise CaffeSplitError(f"solver type {kind!r} is not one of {', '.join(METHODS)}.")
        self._method, copies = METHODS[kind]
        self._numbers = Numbers(*(float(solver.get(name)) for name in ("momentum", "momentum2", "delta", "rms_decay")))
        if kind in ("AdaGrad", "RMSProp") and self._numbers.momentum:
            raise CaffeSplitError(f"momentum cannot be used with {kind}; found {self._numbers.momentum}.")
        self._decay = float(solver.get("weight_decay"))
        self._regularization = str(solver.get("regularization_type"))
        if self._decay and self._regularization not in ("L1", "L2"):
            raise CaffeSplitError(f"regularization_type {self._regularization!r} is not one of L1, L2.")
        self._clip = float(solver.get("clip_gradients"))
        self._batches = int(solver.get("iter_size"))
        self.history: Tensors = [
            torch.zeros_like(param.values, requires_grad=False) for _ in range(copies) for param in self._params
        ]
        self._groups = self._grouped()
        self._find_still()

    def _grouped(self) -> list[Group]:
        groups: dict[tuple[float, float, torch.device], list[int]] = {}
        for place, param in enumerate(self._params):
            groups.setdefault((param.lr_mult, param.decay_mult, param.values.device), []).append(place)
        return [Group(tuple(places), lr, decay) for (lr, decay, _), places in groups.items()]

    def restore(self, history: Sequence[torch.Tensor]) -> None:
        """Take over a history of the same length and shapes."""
        for ours, theirs in zip(self.history, history):
            ours.copy_(theirs)
        self._find_still()

    def _find_still(self) -> None:
        """The groups that no update changes: not learnt, nothing remembered, and nothing to remember."""
        count = len(self._params)
        forgets = self._method in (_sgd, _nesterov)
        self._still = set()
        for group in self._groups:
            if group.lr_mult or not (forgets or not self._decay * group.decay_mult):
                continue
            if not any(bool(array.any()) for place in group.places for array in self.history[place::count]):
                self._still.add(group)

    @torch.no_grad()
    def apply(self, rate: float, iteration: int) -> str | None:
        """One update from the gathered gradients, which are cleared. Returns what to say of clipping, if anything."""
        clipped = self._clip_gradients()
        count = len(self._params)
        for group in self._groups:
            if group in self._still:
                continue
            params = [self._params[place].values for place in group.places]
            decay = self._decay * group.decay_mult
            history = [
                [self.history[copy * count + place] for place in group.places]
                for copy in range(len(self.history) // count)
            ]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
            if self._batches > 1:
                torch._foreach_mul_(gradients, 1 / self._batches)
            if decay:
                pull = params if self._regularization == "L2" else torch._foreach_sign(params)
                gradients = list(torch._foreach_add(gradients, pull, alpha=decay))
            self._method(params, gradients, history, rate * group.lr_mult, self._numbers, iteration)
        for param in self._params:
            param.values.grad = None
        return clipped

    def _clip_gradients(self) -> str | None:
        if self._clip < 0:
            return None
        gradients = [param.values.grad for param in self._params if param.values.grad is not None]
        if not gradients:
            return None
        norm = float(torch.stack(torch._foreach_norm(gradients)).norm())
        if norm <= self._clip:
            return None
        torch._foreach_mul_(gradients, self._clip / norm)
        return (
            f"Gradient clipping: scaling down gradients (L2 norm {norm:.6g} > {self._clip:.6g}) by scale factor "
            f"{self._clip / norm:.6g}"
        )


Method = Callable[[Tensors, Tensors, "list[Tensors]", float, Numbers, int], None]


def _sgd(params: Tensors, grads: Tensors, history: list[Tensors], rate: float, n: Numbers, _: int) -> None:
    torch._foreach_mul_(history[0], n.momentum)
    torch._foreach_add_(history[0], grads, alpha=rate)
    torch._foreach_sub_(params, history[0])


def _nesterov(params: Tensors, grads: Tensors, history: list[Tensors], rate: float, n: Numbers, _: int) -> None:
    # Step back by the old velocity, then over by the new one.
    back = torch._foreach_mul(history[0], -n.momentum)
    torch._foreach_mul_(history[0], n.momentum)
    torch._foreach_add_(history[0], grads, alpha=rate)
    torch._foreach_add_(back, history[0], alpha=1 + n.momentum)
    torch._foreach_sub_(params, back)


def _divided(over: Sequence[torch.Tensor], squares: Tensors, delta: float) -> tuple[torch.Tensor, ...]:
    """Over / (sqrt(squares) + delta)."""
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, delta)
    return torch._foreach_div(over, roots)


def _adagrad(params: Tensors, grads: Tensors, history: list[Tensors], rate: float, n: Numbers, _: int) -> None:
    torch._foreach_addcmul_(history[0], grads, grads)
    torch._foreach_add_(params, _divided(grads, history[0], n.delta), alpha=-rate)


def _rmsprop(params: Tensors, grads: Tensors, history: list[Tensors], rate: float, n: Numbers, _: int) -> None:
    torch._foreach_mul_(history[0], n.rms_decay)
    torch._foreach_addcmul_(history[0], grads, grads, value=1 - n.rms_decay)
    torch._foreach_add_(params, _divided(grads, history[0], n.delta), alpha=-rate)


def _adadelta(params: Tensors, grads: Tensors, history: list[Tensors], rate: float, n: Numbers, _: int) -> None:
    seen, moved = history
    torch._foreach_mul_(seen, n.momentum)
    torch._foreach_addcmul_(seen, grads, grads, value=1 - n.momentum)
    ratio = torch._foreach_div(torch._foreach_add(moved, n.delta), torch._foreach_add(seen, n.delta))
    steps = torch._foreach_mul(grads, torch._foreach_sqrt(ratio))
    torch._foreach_mul_(moved, n.momentum)
    torch._foreach_addcmul_(moved, steps, steps, value=1 - n.momentum)
    torch._foreach_add_(params, steps, alpha=-rate)


def _adam(params: Tensors, grads: Tensors, history: list[Tensors], rate: float, n: Numbers, iteration: int) -> None:
    first, second = history
    torch._foreach_mul_(first, n.momentum)
    torch._foreach_add_(first, grads, alpha=1 - n.momentum)
    torch._foreach_mul_(second, n.momentum2)
    torch._foreach_addcmul_(second, grads, grads, value=1 - n.momentum2)
    correction = math.sqrt(1 - n.momentum2 ** (iteration + 1)) / (1 - n.momentum ** (iteration + 1))
    torch._foreach_add_(params, _divided(first, second, n.delta), alpha=-rate * correction)


METHODS: dict[str, tuple[Method, int]] = {
    "SGD": (_sgd, 1),
    "Nesterov": (_nesterov, 1),
    "AdaGrad": (_adagrad, 1),
    "RMSProp": (_rmsprop, 1),
    "AdaDelta": (_adadelta, 2),
    "Adam": (_adam, 2),
}
