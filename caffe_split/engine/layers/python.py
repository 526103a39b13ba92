"""Python layers, by the PyTorch classes that are registered for them."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Shape, Tops
from caffe_split.engine.layers.data_layer import DataLayer
from caffe_split.engine.spec.python_layers import maker_of


class Python(DataLayer):
    """What the class makes of the bottoms, or, without bottoms, its next batch; see `spec.python_layers`."""

    options_name = "python_param"
    varies = draws = eager = True

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        if self.fitted:
            return  # Other shapes than before are its own affair.
        self.object = self._guarded(maker_of(self.text), str(self.options.get("param_str")), self.place.phase)
        # Name in the module -> its type there, if that is none of floating point; in the order of the blobs.
        self.types: dict[str, torch.dtype | None] = {}
        # Indices of the blobs that are buffers: state, which is not learnt.
        self.states: range = range(0)
        if isinstance(self.object, torch.nn.Module):
            self.object.train(self.training).to(self.place.device)
            kept, parameters = self.object.state_dict(), dict(self.object.named_parameters())
            buffers = {name: buffer for name, buffer in self.object.named_buffers() if name in kept}
            for name, values in {**parameters, **buffers}.items():
                self.types[name] = None if values.is_floating_point() else values.dtype
                self.blobs.append(values.detach().float().cpu().clone())
            self.states = range(len(parameters), len(self.blobs))
        # The first batch of a layer without bottoms, which has shown its shapes.
        self.first: Tops | None = None

    @override
    def refit(self, bottoms: Sequence[Shape]) -> None:
        """Other shapes than before are its own affair."""

    @override
    def go_to(self, number: int) -> None:
        for _ in range(0 if self.text.bottoms else number):
            self.run()

    @override
    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if hasattr(self.object, "shapes"):
            found = [tuple(map(int, shape)) for shape in self._guarded(self.object.shapes, list(bottoms))]
            self._check_count(found)
            return found
        blobs = self.blobs
        try:
            if bottoms:
                # These zeros are no batch, of which statistics were to know.
                self.blobs = [blob.clone() for blob in blobs]
            with torch.no_grad():
                tops = self.run(*(torch.zeros(shape, device=self.place.device) for shape in bottoms))
        finally:
            self.blobs = blobs
        if not bottoms:
            self.first = tops
        return [tuple(top.shape) for top in tops]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        if not bottoms and self.first is not None:
            first, self.first = self.first, None
            return first
        with torch.autocast(self.place.device.type, enabled=False):
            if self.blobs:
                # The module may change its states, or put other tensors in their places, after it has computed with
                # them: it gets copies, which the backward pass may read.
                held = {
                    name: blob.to(self.place.device, self.types[name], copy=index in self.states)
                    for index, (name, blob) in enumerate(zip(self.types, self.blobs))
                }
                found = self._guarded(torch.func.functional_call, self.object, held, bottoms)
                for index, name in list(enumerate(held))[self.states.start : self.states.stop]:
                    self._guarded(self.blobs[index].copy_, held[name].detach())
            else:
                found = self._guarded(self.object, *bottoms)
        tops = found if isinstance(found, (tuple, list)) else (found,)
        self._check_count(tops)
        return tuple(torch.as_tensor(top, dtype=torch.float32, device=self.place.device) for top in tops)

    def _check_count(self, tops: Sequence[object]) -> None:
        if len(tops) != len(self.text.tops):
            raise self.error(f"its class gives {len(tops)} tops; the layer has {len(self.text.tops)}.")

    def _guarded(self, call: Any, *arguments: Any) -> Any:
        """What a call of the user's code gives. An error in it becomes one that names the layer, and its own place."""
        try:
            return call(*arguments)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            raise self.error(f"{last.filename}:{last.lineno}: {type(error).__name__}: {error}") from error
