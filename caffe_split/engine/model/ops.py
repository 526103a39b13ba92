"""What runs a layer of a `Step`: it computes its tops, and later its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from caffe_split.engine.kernels import norm
from caffe_split.engine.kernels.build import required_library
from caffe_split.engine.layers.base import Shape, Tops
from caffe_split.engine.model.calls import LayerCall

Gradients = Sequence["torch.Tensor | None"]


def add_gradients(blobs: Sequence[torch.Tensor], gradients: Gradients) -> None:
    """Add gradients to those of parameters, None for none."""
    for blob, gradient in zip(blobs, gradients):
        if gradient is None:
            continue
        if blob.grad is None:
            blob.grad = gradient
        else:
            blob.grad.add_(gradient)


class Op:
    """A call of a layer with a graph of its own; types of their own override `forward` and `backward`.

    Attributes:
        call: what is called.
        needs: for each bottom whether its gradient is wanted.
        places: the numbers of its bottoms and of its tops among all values; set by the step.
        reuses: whether its top may lie in the same memory at each iteration; set by the step, which knows who reads it.
    """

    # Whether it looks at its bottoms during an iteration alone.
    is_native = False
    places: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    reuses = False

    def __init__(self, call: LayerCall, needs: Sequence[bool]) -> None:
        self.call, self.needs = call, needs
        self.kept: tuple[torch.Tensor, ...] = ()
        self._tops: Tops = ()

    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        """The tops; what the gradient needs is kept."""
        with torch.enable_grad():
            self.kept = tuple(x.detach().requires_grad_(need) for x, need in zip(bottoms, self.needs))
            self._tops = tuple(self.call.compute(self.kept, {}))
        return tuple(top.detach() for top in self._tops)

    def backward(self, gradients: Gradients) -> Gradients:
        """The gradients of the bottoms, None where not wanted; those of the parameters are added to theirs.

        gradients: of the tops, None for 0; not all of them.
        """
        pairs = [(top, each) for top, each in zip(self._tops, gradients) if each is not None and top.requires_grad]
        blobs = [blob for layer in self.call.layers for blob in layer.blobs if blob.requires_grad]
        wanted = [x for x in self.kept if x.requires_grad]
        if not pairs or not (blobs or wanted):
            return [None] * len(self.kept)
        found = torch.autograd.grad(
            [top for top, _ in pairs], [*wanted, *blobs], [each for _, each in pairs], allow_unused=True
        )
        add_gradients(blobs, found[len(wanted) :])
        mine = iter(found)
        return [next(mine) if x.requires_grad else None for x in self.kept]

    def forget(self) -> None:
        """Free what was kept for the gradient."""
        self.kept, self._tops = (), ()


def _empty(shape: Sequence[int]) -> torch.Tensor:
    """Memory for values, those of the channels of a pixel side by side."""
    return torch.empty(shape, memory_format=torch.channels_last if len(shape) == 4 else torch.contiguous_format)


def dense(x: torch.Tensor) -> torch.Tensor:
    """The values with those of the channels of a pixel side by side."""
    if x.dim() != 4:
        return x.contiguous()
    return x if x.is_contiguous(memory_format=torch.channels_last) else norm.dense(x)


class Native(Op):
    """A layer with one top, of the shape `form`, that calls compiled kernels.

    In a small net each of these calls takes microseconds, and so would any preparation. What they write into is
    therefore made once: tops that only such layers read, and gradients. An update empties `grad`, and the next
    iteration fills the same memory again.
    """

    is_native = True

    def __init__(self, call: LayerCall, needs: Sequence[bool], form: Shape) -> None:
        super().__init__(call, needs)
        self.library, self.form = required_library(), form
        self._memory: dict[str, torch.Tensor] = {}

    def memory(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """Memory of its own by that name, the same each time."""
        if name not in self._memory:
            self._memory[name] = _empty(shape)
        return self._memory[name]

    def top(self) -> torch.Tensor:
        """Memory for the top."""
        return self.memory("top", self.form) if self.reuses else _empty(self.form)

    def gradients_of(self, blobs: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        """Memory for the gradient of each blob, None where it needs none."""
        found: list[torch.Tensor | None] = []
        for index, blob in enumerate(blobs):
            if not blob.requires_grad:
                found.append(None)
                continue
            name = f"gradient {index}"
            if name not in self._memory:
                self._memory[name] = torch.empty(blob.shape)
            own = self._memory[name]
            if blob.is_leaf and blob.grad is own:  # That of an earlier batch, to which this one's is added.
                blob.grad = own.clone()
            found.append(own)
        return found
