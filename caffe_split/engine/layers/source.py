"""Layers that make data."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from caffe_split.engine.fillers import fill
from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.options import Options, shape_of
from caffe_split.engine.sources import Feeder, Store, Transformer


class _Source(Layer):
    top_shapes: list[Shape]

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return self.top_shapes


class Input(_Source):
    """Blobs that the caller fills; zeros until then."""

    options_name = "input_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        shapes = [shape_of(shape) for shape in self.options.subs("shape")]
        count = len(self.text.tops)
        if len(shapes) not in (1, count):
            raise self.error(f"{len(shapes)} shapes for {count} tops; expected one, or one a top.")
        self.top_shapes = shapes * count if len(shapes) == 1 else shapes
        self.values = [torch.zeros(shape, device=self.place.device) for shape in self.top_shapes]

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return tuple(self.values)


class DummyData(_Source):
    options_name = "dummy_data_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        count = len(self.text.tops)
        shapes = [shape_of(shape) for shape in self.options.subs("shape")]
        if not shapes:
            lengths = [[int(n) for n in self.options.all(name)] for name in ("num", "channels", "height", "width")]
            shapes = [tuple(column) for column in zip(*(n * count if len(n) == 1 else n for n in lengths))]
        fillers = self.options.subs("data_filler") or [Options("FillerParameter", [])]
        if len(shapes) not in (1, count) or len(fillers) not in (1, count):
            raise self.error(f"{len(shapes)} shapes, {len(fillers)} fillers for {count} tops; expected 1 or {count}.")
        self.top_shapes = shapes * count if len(shapes) == 1 else shapes
        self.fillers = fillers * count if len(fillers) == 1 else fillers
        # Constants are filled once.
        self.values = [
            self._fill(index) if filler.get("type") == "constant" else None for index, filler in enumerate(self.fillers)
        ]

    def _fill(self, index: int) -> torch.Tensor:
        return fill(self.top_shapes[index], self.fillers[index], self.place.generator).to(self.place.device)

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return tuple(self._fill(index) if value is None else value for index, value in enumerate(self.values))


class Data(_Source):
    """Batches from an LMDB; the mean values and the scale are applied on the device."""

    options_name = "data_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        size = int(self.options.get("batch_size") or 0)
        if size < 1:
            raise self.error("batch_size is missing or 0.")
        store = Store(str(self.options.get("source")))
        transform = Options.of(self.text.message, "transform_param")
        self.transformer = Transformer(transform, store.shape, self.place.phase, self.place.seed, self.text.where)
        self.feeder = Feeder(store, self.transformer, size, min(int(self.options.get("prefetch")), 4))
        self.top_shapes = [(size, *self.transformer.shape), (size,)][: len(self.text.tops)]
        mean = self.transformer.mean
        self.buffers = [torch.tensor(mean).view(1, -1, 1, 1)] if mean else []

    def run(self, *bottoms: torch.Tensor) -> Tops:
        batch = self.feeder.next()
        images, labels = (self._move(torch.from_numpy(array)) for array in (batch.images, batch.labels))
        images = images.float()
        if self.buffers:
            images = images - self.buffers[0]
        if self.transformer.scale != 1:
            images = images * self.transformer.scale
        return (images, labels)[: len(self.text.tops)]

    def _move(self, values: torch.Tensor) -> torch.Tensor:
        if self.place.device.type == "cuda":
            return values.pin_memory().to(self.place.device, non_blocking=True)
        return values
