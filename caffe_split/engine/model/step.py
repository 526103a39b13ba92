"""An iteration of a small net without autograd: its layers forward, and then backward in the other order.

In small nets autograd's bookkeeping and PyTorch's preparations take longer than the sums. Here the layers that
make up most of such nets call the compiled kernels directly; each of the others has a graph of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from caffe_split.engine.kernels.build import library
from caffe_split.engine.layers.pointwise import ReLU
from caffe_split.engine.model.kernel_ops import op_for
from caffe_split.engine.model.ops import Op

if TYPE_CHECKING:
    from caffe_split.engine.model.net import Net

# Multiply-adds of a forward run up to which a net is small: one thread is enough for it.
SMALL = 100_000_000


class Step:
    """Runs a net forward and backward.

    Args:
        net: `fits` has to hold for it.
    """

    def __init__(self, net: Net) -> None:
        self._net = net
        for layer in net.layers:
            if isinstance(layer, ReLU):
                # Bottoms are leaves of small graphs, which must not be overwritten.
                layer.in_place = False
        # The value that a name stands for changes with each layer in place; each value has a number.
        numbers: dict[str, int] = {}
        needs: list[bool] = []
        # Values that layers without kernels of their own read, or that are read from outside.
        seen: set[int] = set()
        self._ops: list[Op] = []
        # For each operation the gradients that its loss weights give, by the numbers of the tops.
        self._weights: list[list[tuple[int, torch.Tensor]]] = []
        for call in net.calls:
            bottoms = tuple(numbers[name] for name in call.bottoms)
            wanted = [needs[place] and index not in call.detached for index, place in enumerate(bottoms)]
            if call.bottoms:
                self._ops.append(op_for(call, net.shapes, wanted))
                if not self._ops[-1].is_native:
                    seen.update(bottoms)
            learns = any(blob.requires_grad for layer in call.layers for blob in layer.blobs)
            for name in call.tops:
                numbers[name] = len(needs)
                needs.append(learns or any(wanted))
            if call.bottoms:
                tops = tuple(numbers[name] for name in call.tops)
                self._ops[-1].places = bottoms, tops
                self._weights.append(
                    [
                        (tops[index], torch.full(net.shapes[call.tops[index]], weight))
                        for index, weight in call.weights.items()
                    ]
                )
        seen.update(numbers[name] for name in net.outputs)
        for op in self._ops:
            op.reuses = seen.isdisjoint(op.places[1])
        self._count = len(needs)

    @staticmethod
    def fits(net: Net) -> bool:
        """Whether the net is small, and nothing in it asks for autograd as a whole."""
        plain = all(call.access.is_plain for call in net.calls) and not net.varies
        # A TPM layer shares the weight that it watches, without a gradient.
        types = {layer.name: layer.text.type for layer in net.layers}
        own = all(types[name] == "TPM" for name, _ in net.shared)
        # Layers without bottoms run before all others, and give no gradient.
        given = not any(
            blob.requires_grad and layer.text.type != "TPM"
            for layer in net.layers
            if not layer.text.bottoms
            for blob in layer.blobs
        )
        small = net.device.type == "cpu" and net.precision == "fp32" and net.multiply_adds <= SMALL
        return small and plain and own and given and library() is not None

    @torch.no_grad()
    def run(self, blobs: dict[str, torch.Tensor], losses: list[torch.Tensor]) -> None:
        """Run the layers that have bottoms, and add their gradients to those of the parameters.

        blobs: those of the layers without bottoms, by name; gets those of the others. losses: as in `Net.collect`.
        """
        net = self._net
        gradients: list[torch.Tensor | None] = [None] * self._count
        for op, weights in zip(self._ops, self._weights):
            call = op.call
            tops = op.forward([blobs[name] for name in call.bottoms])
            net.collect(call, tops, blobs, losses)
            for place, gradient in weights:
                gradients[place] = gradient
        for op in reversed(self._ops):
            read, written = op.places
            given = [gradients[place] for place in written]
            if any(gradient is not None for gradient in given):
                for place, back in zip(read, op.backward(given)):
                    if back is not None:
                        before = gradients[place]
                        # Not in place: a gradient may be that of two values at once.
                        gradients[place] = back if before is None else before + back
            op.forget()
