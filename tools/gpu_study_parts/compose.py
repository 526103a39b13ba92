"""The kernels of split sites, put together from their parts on the device, and their gradients taken apart again."""

from __future__ import annotations

import torch

from gpu_study_parts.layout import Layout
from gpu_study_parts.net import Added, Kernel, Leaf, Mixed, Site, Stacked, Weights


class Composer:
    """Puts the kernels of split sites together from their parts, and takes gradients back. All in float32."""

    def __init__(self, layout: Layout, values: torch.Tensor, gradient: torch.Tensor, weights: Weights) -> None:
        self.layout, self.values, self.gradient = layout, values, gradient
        self.device = values.device
        self.buffers: dict[tuple[int, str], torch.Tensor] = {}
        self.frozen: dict[str, torch.Tensor] = {}
        self.kept: dict[int, torch.Tensor] = {}
        for site in layout.split:
            self._freeze(site, site.kernel, weights)

    def _freeze(self, site: Site, kernel: Kernel, weights: Weights) -> None:
        if isinstance(kernel, Leaf):
            if kernel.frozen:
                window = self.layout.window(site, kernel, weights)
                self.frozen[kernel.layer] = torch.as_tensor(window).to(self.device)
        else:
            for part in (kernel.inner,) if isinstance(kernel, Mixed) else kernel.parts:
                self._freeze(site, part, weights)

    def _of(self, flat: torch.Tensor, layer: str) -> torch.Tensor:
        first, count = self.layout.places[layer, 0]
        rows = self.layout.program.params[layer, 0].shape[0]
        return flat[first : first + count].view(rows, -1)

    def _buffer(self, kernel: Kernel, what: str, rows: int, columns: int) -> torch.Tensor:
        key = id(kernel), what
        if key not in self.buffers:
            self.buffers[key] = torch.empty(rows, columns, device=self.device)
        return self.buffers[key]

    def rows(self, kernel: Kernel) -> int:
        if isinstance(kernel, Leaf):
            return len(self.frozen[kernel.layer]) if kernel.frozen else len(self._of(self.values, kernel.layer))
        if isinstance(kernel, Mixed):
            return len(self._of(self.values, kernel.layer))
        if isinstance(kernel, Added):
            return self.rows(kernel.parts[0])
        return sum(self.rows(part) for part in kernel.parts)

    def home(self, kernel: Kernel) -> int | None:
        """Where in the flat arrays a gradient of `kernel` is that of its parts, as it stands; None where nowhere."""
        if isinstance(kernel, Leaf):
            return None if kernel.frozen else self.layout.places[kernel.layer, 0][0]
        if isinstance(kernel, Added):
            return self.home(kernel.parts[0]) if isinstance(kernel.parts[0], Leaf) else None
        if isinstance(kernel, Stacked):
            homes = [self.home(part) for part in kernel.parts]
            if any(home is None for home in homes):
                return None
            for part, home, following in zip(kernel.parts, homes, homes[1:]):
                first = part.parts[0] if isinstance(part, Added) else part
                if not isinstance(first, Leaf) or home + self.layout.places[first.layer, 0][1] != following:
                    return None
            return homes[0]
        return None

    # -- the way there

    def value(self, kernel: Kernel, columns: int) -> torch.Tensor:
        if isinstance(kernel, Leaf):
            return self.frozen[kernel.layer] if kernel.frozen else self._of(self.values, kernel.layer)
        out = self._buffer(kernel, "value", self.rows(kernel), columns)
        self.put(kernel, out)
        self.kept[id(kernel)] = out
        return out

    def put(self, kernel: Kernel, out: torch.Tensor) -> None:
        """Write the kernels (rows, columns) into `out`."""
        columns = out.shape[1]
        if isinstance(kernel, Leaf):
            out.copy_(self.value(kernel, columns))
        elif isinstance(kernel, Mixed):
            torch.mm(self._of(self.values, kernel.layer), self._kept(kernel.inner, columns), out=out)
        elif isinstance(kernel, Stacked):
            first = 0
            for part in kernel.parts:
                rows = self.rows(part)
                self.put(part, out[first : first + rows])
                first += rows
        else:
            first, *others = kernel.parts
            if isinstance(first, Leaf) and isinstance(others[0], Mixed):
                mixed = others.pop(0)
                inner = self._kept(mixed.inner, columns)
                torch.addmm(self.value(first, columns), self._of(self.values, mixed.layer), inner, out=out)
            elif isinstance(first, Leaf) and isinstance(others[0], Leaf):
                torch.add(self.value(first, columns), self.value(others.pop(0), columns), out=out)
            else:
                self.put(first, out)
            for other in others:
                if isinstance(other, Mixed):
                    out.addmm_(self._of(self.values, other.layer), self._kept(other.inner, columns))
                else:
                    out.add_(self.value(other, columns))

    def _kept(self, kernel: Kernel, columns: int) -> torch.Tensor:
        """The value of what a 1x1 layer mixes, which its gradient needs."""
        made = self.value(kernel, columns)
        self.kept[id(kernel)] = made
        return made

    # -- the way back

    def back(self, kernel: Kernel, gradient: torch.Tensor, at_home: bool = False) -> None:
        """Give every part its gradient. `at_home`: `gradient` stands where that of the first leaves belongs."""
        columns = gradient.shape[1]
        if isinstance(kernel, Leaf):
            if not kernel.frozen and not at_home:
                self._of(self.gradient, kernel.layer).copy_(gradient)
        elif isinstance(kernel, Mixed):
            matrix, inner = self._of(self.values, kernel.layer), kernel.inner
            torch.mm(gradient, self.kept[id(inner)].t(), out=self._of(self.gradient, kernel.layer))
            home, rows = self.home(inner), matrix.shape[1]
            if home is None:
                below = self._buffer(inner, "gradient", rows, columns)
            else:
                below = self.gradient[home : home + rows * columns].view(rows, columns)
            torch.mm(matrix.t(), gradient, out=below)
            self.back(inner, below, home is not None)
        elif isinstance(kernel, Stacked):
            first = 0
            for part in kernel.parts:
                rows = self.rows(part)
                self.back(part, gradient[first : first + rows], at_home)
                first += rows
        else:
            for index, part in enumerate(kernel.parts):
                self.back(part, gradient, at_home and index == 0)
