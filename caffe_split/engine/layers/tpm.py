"""The TPM layer, which measures how straight the kernels of a weight move in training.

State and counting are those of the layer that is compiled into Caffe (docs/caffe.md), so that a training may be
resumed in either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.net.options import shape_of
from caffe_split.net.tpm_state import COUNTER as _COUNTER
from caffe_split.net.tpm_state import LAYOUT_VERSION as _LAYOUT
from caffe_split.net.tpm_state import PREVIOUS as _PREVIOUS
from caffe_split.net.tpm_state import RESULT as _RESULT
from caffe_split.net.tpm_state import START as _START
from caffe_split.net.tpm_state import WEIGHT as _WEIGHT
from caffe_split.net.tpm_state import from_cells as _read
from caffe_split.net.tpm_state import state_shapes, to_cells

Numbers = npt.NDArray[np.float32]


@dataclass
class _Window:
    start: int
    stop: int


class TPM(Layer):
    """Measures the displacement of a weight's kernels over the length of their path, in windows of iterations.

    The top is the ratio for the whole weight in the latest window, or nan. The blobs are the watched weight, which
    another layer owns; its values at the start of the window, and at the last sample; displacement and path for each
    window and kernel; and counters.
    """

    options_name = "tpm_param"
    on_host = frozenset({_RESULT, _COUNTER})

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        shape = shape_of(self.options.sub("shape"))
        starts, stops = self.options.all("start_iter"), self.options.all("stop_iter")
        if not shape or not starts or len(starts) != len(stops):
            raise self.error("it needs the shape of the watched weight, and a start_iter and a stop_iter per window.")
        self.windows = [_Window(int(start), int(stop)) for start, stop in zip(starts, stops)]
        self.interval, self.iter_size = int(self.options.get("interval")), int(self.options.get("iter_size"))
        for name, value in (("interval", self.interval), ("iter_size", self.iter_size)):
            if value < 1:
                raise self.error(f"{name} has to be 1 or more; found {value}.")
        for before, window in zip([None, *self.windows], self.windows):
            if window.stop - window.start < self.interval:
                raise self.error(f"window {window.start}:{window.stop} does not hold two samples.")
            if before is not None and window.start < before.stop:
                raise self.error(f"window {window.start}:{window.stop} starts before the one before it stops.")
        if not self.text.param_names()[:1] or not self.text.param_names()[0]:
            raise self.error("it has to name the watched weight as the watched layer does: param { name: ... }.")
        self.blobs = [torch.zeros(size) for size in state_shapes(shape, len(starts))]
        self.unshared = self.blobs[_WEIGHT]

    def said(self) -> list[str]:
        """What the layer in Caffe logs at its set-up, by which readers of the log know the windows."""
        return [
            f"TPM layer '{self.name}': window {number} from {window.start} to {window.stop}, interval {self.interval}"
            for number, window in enumerate(self.windows)
        ]

    @override
    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [()]

    @override
    @torch.no_grad()
    def run(self, *bottoms: torch.Tensor) -> Tops:
        if not self.training:
            return (torch.tensor(math.nan),)
        if self.blobs[_WEIGHT] is self.unshared:
            raise self.error(
                f"param '{self.text.param_names()[0]}' names no weight of an earlier layer: put this layer after the "
                "one it watches, and give the weight the same name in both."
            )
        # As an array: PyTorch takes ten times as long to reach a single number.
        counter = self.blobs[_COUNTER].numpy()
        self._check(counter)
        iteration = _read(counter[0, 1:3])
        if counter[0, 3] == 0:
            self._sample(iteration, counter)
        counter[0, 3] += 1
        if counter[0, 3] == self.iter_size:
            counter[0, 3] = 0
            _write(iteration + 1, counter[0, 1:3])
        return (torch.tensor(self._whole(iteration)),)

    def _check(self, counter: Numbers) -> None:
        """Initialise the state of new windows, and check that recorded windows are those of this layer."""
        fresh = counter[0, 0] == 0
        if not fresh and counter[0, 0] != _LAYOUT:
            raise self.error(f"its state has layout version {counter[0, 0]:g}, expected {_LAYOUT}.")
        iteration, forwards = _read(counter[0, 1:3]), int(counter[0, 3])
        if fresh or counter[0, 4] != self.iter_size:
            if forwards:
                raise self.error("iter_size cannot change in the middle of an iteration.")
            counter[0, 0], counter[0, 4] = _LAYOUT, self.iter_size
        for index, window in enumerate(self.windows):
            row = counter[index + 1]
            wanted = [window.start, window.stop, self.interval]
            found = [_read(row[2:4]), _read(row[4:6]), _read(row[6:8])]
            if not fresh and found == wanted:
                continue
            if window.start < iteration or (window.start == iteration and forwards):
                raise self.error(
                    f"window {wanted[0]}:{wanted[1]}, interval {wanted[2]}, starts before iteration {iteration} of "
                    f"the loaded state, which holds the window {found[0]}:{found[1]}, interval {found[2]}. Keep the "
                    "recorded windows, let new ones start later, or rename this layer to start afresh."
                )
            for place, value in enumerate([0, *wanted]):
                _write(value, row[2 * place : 2 * place + 2])
            self.blobs[_RESULT][index].zero_()

    def _sample(self, iteration: int, counter: Numbers) -> None:
        for index, window in enumerate(self.windows):
            if not window.start <= iteration <= window.stop or (iteration - window.start) % self.interval:
                continue
            samples = counter[index + 1, :2]
            taken = _read(samples)
            if taken != (iteration - window.start) // self.interval:
                raise self.error(f"at iteration {iteration} its state holds {taken} samples: it is damaged.")
            weight = self.blobs[_WEIGHT]
            if taken:
                self._accumulate(index, weight)
            else:
                self.blobs[_START].copy_(weight)
                self.blobs[_PREVIOUS].copy_(weight)
            _write(taken + 1, samples)

    def _accumulate(self, index: int, weight: torch.Tensor) -> None:
        """Add a sample to displacement and path of each kernel and of the whole, in double; a path as two floats."""
        now = weight.double().reshape(len(weight), -1)
        squares = (now - self.blobs[_START].double().view_as(now)).square().sum(1)
        steps = (now - self.blobs[_PREVIOUS].double().view_as(now)).square().sum(1)
        self.blobs[_PREVIOUS].copy_(weight)
        squares, steps = (torch.cat([column, column.sum(0, keepdim=True)]).cpu() for column in (squares, steps))
        rows = self.blobs[_RESULT][index]
        path = rows[:, 1].double() + rows[:, 2].double() + steps.sqrt()
        rows[:, 0] = squares.sqrt()
        rows[:, 1] = path
        rows[:, 2] = path - rows[:, 1].double()

    def _whole(self, iteration: int) -> float:
        """TPM of the whole weight in the latest window that has started; nan if there is none, or the path is 0."""
        started = [index for index, window in enumerate(self.windows) if window.start <= iteration]
        if not started:
            return math.nan
        displacement, high, low = self.blobs[_RESULT][started[-1], -1].tolist()
        path = high + low
        return min(displacement / path, 1.0) if path else math.nan


def _write(value: int, cells: Numbers) -> None:
    cells[0], cells[1] = to_cells(value)
