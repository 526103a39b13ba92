"""Caffe's six update methods: how gradients change the parameters.

The formulas are those of the solvers in Caffe (src/caffe/solvers). SGD and Nesterov keep the learning rate in their
history, so that a change of the rate reaches the velocity only slowly; the other methods apply the rate at the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from caffe_split.engine.kernels.update import Factors, Update
from caffe_split.engine.model.params import Param
from caffe_split.engine.training import foreach
from caffe_split.errors import CaffeSplitError
from caffe_split.net.options import Options
from caffe_split.net.resume import HISTORIES

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class ParamGroup:
    """Parameters with equal multipliers on one device. `places` are their indices among all parameters."""

    places: tuple[int, ...]
    lr_mult: float
    decay_mult: float


@dataclass(frozen=True)
class Coefficients:
    """The numbers of the solver that the update methods need."""

    momentum: float
    momentum2: float
    delta: float
    rms_decay: float


class Updater:
    """Updates parameters by their gradients.

    Attributes:
        kind: the method, the solver's `type`.
        history: what the method remembers, in Caffe's order: one array per parameter in the order of the net; Adam and
            AdaDelta have a second array per parameter, after all of the first ones.

    Raises `CaffeSplitError` for a method or a regularization that Caffe does not have.
    """

    def __init__(self, params: Sequence[Param], solver: Options) -> None:
        self._params = list(params)
        self.kind = kind = str(solver.get("type"))
        if kind not in METHODS:
            raise CaffeSplitError(f"solver type {kind!r} is not one of {', '.join(METHODS)}.")
        self._method, copies = METHODS[kind], HISTORIES[kind]
        self._coefficients = Coefficients(
            *(float(solver.get(name)) for name in ("momentum", "momentum2", "delta", "rms_decay"))
        )
        if kind in ("AdaGrad", "RMSProp") and self._coefficients.momentum:
            raise CaffeSplitError(f"momentum cannot be used with {kind}; found {self._coefficients.momentum}.")
        if kind == "Adam" and self._coefficients.momentum == 1:
            raise CaffeSplitError("momentum 1 makes Adam divide by 0; give less, such as 0.9.")
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
        # SGD and Nesterov, which remember one array for each parameter, have a compiled kernel.
        self._kernels = {
            group: Update(*([each[place] for place in group.places] for each in (self._values(), self.history)))
            for group in (self._groups if self._method in (_sgd, _nesterov) else ())
        }
        self._find_still()

    def _values(self) -> Tensors:
        return [param.values for param in self._params]

    def _grouped(self) -> list[ParamGroup]:
        groups: dict[tuple[float, float, torch.device], list[int]] = {}
        for place, param in enumerate(self._params):
            groups.setdefault((param.lr_mult, param.decay_mult, param.values.device), []).append(place)
        return [ParamGroup(tuple(places), lr, decay) for (lr, decay, _), places in groups.items()]

    def restore(self, history: Sequence[torch.Tensor]) -> None:
        """Copy another history, of the same length and shapes."""
        for ours, theirs in zip(self.history, history):
            ours.copy_(theirs)
        self._find_still()

    def _find_still(self) -> None:
        """Find the groups that no update changes: lr_mult is 0, and the history is 0 and stays so."""
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
        """Update all parameters by their gradients, and clear these.

        rate: the learning rate before lr_mult. iteration: from 0. Returns the line to log if gradients were clipped.
        """
        clipped = self._clip_gradients()
        count = len(self._params)
        for group in self._groups:
            if group in self._still:
                continue
            params = [self._params[place].values for place in group.places]
            decay = self._decay * group.decay_mult
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
            kernel = self._kernels.get(group)
            if kernel is not None and kernel(gradients, self._factors(rate * group.lr_mult, decay)):
                continue
            history = [
                [self.history[copy * count + place] for place in group.places]
                for copy in range(len(self.history) // count)
            ]
            if self._batches > 1:
                foreach.mul_(gradients, 1 / self._batches)
            if decay:
                pull = params if self._regularization == "L2" else foreach.sign(params)
                gradients = list(foreach.add(gradients, pull, alpha=decay))
            self._method(params, gradients, history, rate * group.lr_mult, self._coefficients, iteration)
        for param in self._params:
            param.values.grad = None
        return clipped

    def _factors(self, rate: float, decay: float) -> Factors:
        """What the kernel for SGD and Nesterov multiplies by."""
        signs, nesterov = self._regularization == "L1", self._method is _nesterov
        return Factors(rate, decay, self._coefficients.momentum, 1 / self._batches, signs, nesterov)

    def _clip_gradients(self) -> str | None:
        """Scale all gradients down to the norm clip_gradients if theirs is larger. Returns the line to log, if any."""
        if self._clip < 0:
            return None
        gradients = [param.values.grad for param in self._params if param.values.grad is not None]
        if not gradients:
            return None
        norm = float(torch.stack(foreach.norm(gradients)).norm())
        if norm <= self._clip:
            return None
        foreach.mul_(gradients, self._clip / norm)
        return (
            f"Gradient clipping: scaling down gradients (L2 norm {norm:.6g} > {self._clip:.6g}) by scale factor "
            f"{self._clip / norm:.6g}"
        )


# Takes parameters, gradients, history (for each array per parameter a list), rate, coefficients and iteration.
Method = Callable[[Tensors, Tensors, "list[Tensors]", float, Coefficients, int], None]


def _sgd(params: Tensors, grads: Tensors, history: list[Tensors], rate: float, c: Coefficients, _: int) -> None:
    foreach.mul_(history[0], c.momentum)
    foreach.add_(history[0], grads, alpha=rate)
    foreach.sub_(params, history[0])


def _nesterov(params: Tensors, grads: Tensors, history: list[Tensors], rate: float, c: Coefficients, _: int) -> None:
    # Take back momentum times the old velocity, then step by 1 + momentum times the new one.
    back = foreach.mul(history[0], -c.momentum)
    foreach.mul_(history[0], c.momentum)
    foreach.add_(history[0], grads, alpha=rate)
    foreach.add_(back, history[0], alpha=1 + c.momentum)
    foreach.sub_(params, back)


def _divided(values: Tensors, squares: Tensors, delta: float) -> Tensors:
    """Divide `values` by sqrt(squares) + delta."""
    roots = foreach.sqrt(squares)
    foreach.add_(roots, delta)
    return list(foreach.div(values, roots))


def _adagrad(params: Tensors, grads: Tensors, history: list[Tensors], rate: float, c: Coefficients, _: int) -> None:
    foreach.addcmul_(history[0], grads, grads)
    foreach.add_(params, _divided(grads, history[0], c.delta), alpha=-rate)


def _rmsprop(params: Tensors, grads: Tensors, history: list[Tensors], rate: float, c: Coefficients, _: int) -> None:
    foreach.mul_(history[0], c.rms_decay)
    foreach.addcmul_(history[0], grads, grads, value=1 - c.rms_decay)
    foreach.add_(params, _divided(grads, history[0], c.delta), alpha=-rate)


def _adadelta(params: Tensors, grads: Tensors, history: list[Tensors], rate: float, c: Coefficients, _: int) -> None:
    seen, moved = history
    foreach.mul_(seen, c.momentum)
    foreach.addcmul_(seen, grads, grads, value=1 - c.momentum)
    ratio = foreach.div(foreach.add(moved, c.delta), foreach.add(seen, c.delta))
    steps = foreach.mul(grads, foreach.sqrt(ratio))
    foreach.mul_(moved, c.momentum)
    foreach.addcmul_(moved, steps, steps, value=1 - c.momentum)
    foreach.add_(params, steps, alpha=-rate)


def _adam(
    params: Tensors, grads: Tensors, history: list[Tensors], rate: float, c: Coefficients, iteration: int
) -> None:
    first, second = history
    foreach.mul_(first, c.momentum)
    foreach.add_(first, grads, alpha=1 - c.momentum)
    foreach.mul_(second, c.momentum2)
    foreach.addcmul_(second, grads, grads, value=1 - c.momentum2)
    correction = math.sqrt(1 - c.momentum2 ** (iteration + 1)) / (1 - c.momentum ** (iteration + 1))
    foreach.add_(params, _divided(first, second, c.delta), alpha=-rate * correction)


# Name -> (method, arrays of history per parameter).
METHODS: dict[str, Method] = {
    "SGD": _sgd,
    "Nesterov": _nesterov,
    "AdaGrad": _adagrad,
    "RMSProp": _rmsprop,
    "AdaDelta": _adadelta,
    "Adam": _adam,
}
