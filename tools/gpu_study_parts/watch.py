"""TPM, measured on the device: how far every kernel came in a window, and how far it went; all in double."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gpu_study_parts.layout import Layout


class Watch:
    """Looks at the convolutions of `layout.program.watched` in the flat array `values`.

    Rows of `path` and `displacement`: one a kernel, one that counts nothing, one a layer, one that counts nothing.
    """

    NAMES = ("path", "displacement", "first_values", "last_values", "norm_start", "norm_stop")

    def __init__(self, layout: Layout, values: torch.Tensor) -> None:
        self.values = values
        program, device = layout.program, values.device
        self.watched = [(name, program.params[name, 0].shape) for name in program.watched]
        kernels = sum(shape[0] for _, shape in self.watched)
        owner, layers = np.full(layout.size, kernels, np.int64), np.full(kernels + 1, len(self.watched), np.int64)
        row = 0
        for index, (name, shape) in enumerate(self.watched):
            first, count = layout.places[name, 0]
            owner[first : first + count] = row + np.repeat(np.arange(shape[0]), count // shape[0])
            layers[row : row + shape[0]] = index
            row += shape[0]
        self.owner, self.layer_of = torch.as_tensor(owner).to(device), torch.as_tensor(layers).to(device)
        rows = kernels + 1 + len(self.watched) + 1
        self.path, self.displacement, self.norm_start, self.norm_stop = (
            torch.zeros(rows, dtype=torch.float64, device=device) for _ in range(4)
        )
        self.first_values, self.last_values = torch.zeros_like(values), torch.zeros_like(values)

    @torch.no_grad()
    def _lengths(self, flat: torch.Tensor) -> torch.Tensor:
        """L2 norms: see the class for the rows."""
        squares = flat.double().square()
        kernels = torch.zeros(len(self.layer_of), dtype=torch.float64, device=flat.device)
        kernels.index_add_(0, self.owner, squares)
        layers = torch.zeros(len(self.watched) + 1, dtype=torch.float64, device=flat.device)
        layers.index_add_(0, self.layer_of, kernels)
        return torch.cat([kernels, layers]).sqrt()

    @torch.no_grad()
    def begin(self) -> None:
        """The first sample of a window."""
        self.first_values.copy_(self.values)
        self.last_values.copy_(self.values)
        self.path.zero_()
        self.displacement.zero_()
        self.norm_start.copy_(self._lengths(self.values))

    @torch.no_grad()
    def sample(self) -> None:
        """A further sample."""
        self.path.add_(self._lengths(self.values.double() - self.last_values.double()))
        self.displacement.copy_(self._lengths(self.values.double() - self.first_values.double()))
        self.last_values.copy_(self.values)
        self.norm_stop.copy_(self._lengths(self.values))

    def scores(self, state: Mapping[str, np.ndarray], window: tuple[int, int], interval: int) -> list[dict[str, Any]]:
        """What was seen, of a state on the host: the fields of the project's `LayerScores`, a layer each."""
        kernels, found, row = len(self.layer_of), [], 0
        for index, (name, shape) in enumerate(self.watched):
            rows, whole = slice(row, row + shape[0]), kernels + index
            row += shape[0]
            found.append(
                {
                    "layer": name,
                    "start": window[0],
                    "stop": window[1],
                    "interval": interval,
                    "steps": (window[1] - window[0]) // interval,
                    "shape": tuple(shape),
                    "displacement": np.array(state["displacement"][rows]),
                    "path": np.array(state["path"][rows]),
                    "layer_displacement": float(state["displacement"][whole]),
                    "layer_path": float(state["path"][whole]),
                    "norm_start": float(state["norm_start"][whole]),
                    "norm_stop": float(state["norm_stop"][whole]),
                }
            )
        return found
