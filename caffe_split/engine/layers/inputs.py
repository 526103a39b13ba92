"""Layers whose values come from the caller or from fillers, not from files."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Shape, Tops
from caffe_split.engine.layers.data_layer import DataLayer
from caffe_split.engine.layers.fillers import fill
from caffe_split.engine.seeds import mixed_seed
from caffe_split.net.options import Options, shape_of


class Input(DataLayer):
    """Blobs that the caller fills, in each process with its rows; zeros until then."""

    options_name = "input_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        shapes = [shape_of(shape) for shape in self.options.subs("shape")]
        count = len(self.text.tops)
        if not shapes and all(top in self.place.inputs for top in self.text.tops):
            shapes = [self.place.inputs[top] for top in self.text.tops]
        if len(shapes) not in (1, count):
            raise self.error(f"{len(shapes)} shapes for {count} tops; expected one, or one per top.")
        shapes = shapes * count if len(shapes) == 1 else shapes
        shapes = [self.place.inputs.get(top, shape) for top, shape in zip(self.text.tops, shapes)]
        self.top_shapes = [(self.rows(shape[0]).count, *shape[1:]) if shape else () for shape in shapes]
        self.values = [torch.zeros(shape, device=self.place.device) for shape in self.top_shapes]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return tuple(self.values)


class MemoryData(DataLayer):
    """Arrays that the caller gives with `Net.set_input_arrays`, batch after batch, over and over."""

    options_name = "memory_data_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        shape = tuple(int(self.options.get(name) or 0) for name in ("batch_size", "channels", "height", "width"))
        if min(shape) < 1:
            raise self.error("batch_size, channels, height and width have to be given, and to be 1 or more.")
        self.part = self.rows(shape[0])
        self.record = shape[1:]
        self.top_shapes = [(self.part.count, *shape[1:]), (self.part.count,)]
        self.number = 0
        self.given: Tops = ()

    @override
    def go_to(self, number: int) -> None:
        self.number = number

    def give(self, images: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor) -> None:
        """Take batches from these arrays from the next one on.

        images: (N, channels, height, width); labels: N values. N has to be a multiple of the batch size. Raises
        `CaffeSplitError` for other shapes.
        """
        values, found = (torch.as_tensor(array, dtype=torch.float32) for array in (images, labels))
        count, batch = len(values), self.part.whole
        if tuple(values.shape[1:]) != self.record or found.numel() != count or not count or count % batch:
            raise self.error(
                f"images of shape {tuple(values.shape)} and labels of {tuple(found.shape)}; expected (N, "
                f"{', '.join(map(str, self.record))}) and (N,), N a multiple of its batch of {batch}."
            )
        if self.given:
            self.number = 0  # Not for the first arrays, since a resumed training may have set its place by then.
        self.given = values, found.reshape(count)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        if not self.given:
            raise self.error("a MemoryData layer is given no arrays: net.set_input_arrays(images, labels).")
        start = self.number * self.part.whole % len(self.given[0]) + self.part.first
        self.number += 1
        return tuple(array[start : start + self.part.count].to(self.place.device) for array in self.given)


class DummyData(DataLayer):
    """Blobs made by fillers, anew for each batch unless constant."""

    options_name = "dummy_data_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        count = len(self.text.tops)
        shapes = [shape_of(shape) for shape in self.options.subs("shape")]
        if not shapes:
            lengths = [[int(n) for n in self.options.all(name)] for name in ("num", "channels", "height", "width")]
            shapes = [tuple(column) for column in zip(*(n * count if len(n) == 1 else n for n in lengths))]
        fillers = self.options.subs("data_filler") or [Options("FillerParameter", [])]
        if len(shapes) not in (1, count) or len(fillers) not in (1, count):
            raise self.error(f"{len(shapes)} shapes, {len(fillers)} fillers for {count} tops; expected 1 or {count}.")
        shapes = shapes * count if len(shapes) == 1 else shapes
        self.parts = [self.rows(shape[0] if shape else 1) for shape in shapes]
        self.wholes = [(rows.whole, *shape[1:]) if shape else () for rows, shape in zip(self.parts, shapes)]
        self.top_shapes = [(rows.count, *shape[1:]) if shape else () for rows, shape in zip(self.parts, shapes)]
        self.fillers = fillers * count if len(fillers) == 1 else fillers
        self.number = 0
        self.random = torch.Generator()
        # Constant tops are filled once.
        self.values = [
            self._fill(index) if filler.get("type") == "constant" else None for index, filler in enumerate(self.fillers)
        ]

    def _fill(self, index: int) -> torch.Tensor:
        """A new top: this process's rows of the batch, which all processes draw alike."""
        whole = fill(self.wholes[index], self.fillers[index], self.random)
        return (whole[self.parts[index].slice] if whole.dim() else whole).to(self.place.device)

    @override
    def go_to(self, number: int) -> None:
        self.number = number

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        self.random.manual_seed(mixed_seed(self.place.seed, self.number, zlib.crc32(self.name.encode())))
        self.number += 1
        return tuple(self._fill(index) if value is None else value for index, value in enumerate(self.values))
