"""The kernels that images pass through: of every site one, as its parts make it up, in the precision of the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from gpu_study_parts.compose import Composer
from gpu_study_parts.images import Way
from gpu_study_parts.layout import Layout
from gpu_study_parts.net import Leaf, Weights

# Split sites are put together on this many streams at once: their matrices are far too small to fill a device.
SIDES = 4


class Sites:
    """`kernels[i]` is what site i convolves with, (outputs, inputs, height, width); `gradients[i]` is where its
    gradient goes, float32 of the same shape. Both lie in memory as (outputs, height, width, inputs).
    """

    def __init__(
        self, way: Way, layout: Layout, values: torch.Tensor, gradient: torch.Tensor, weights: Weights
    ) -> None:
        self.layout, self.values, self.device = layout, values, way.device
        self.composer = Composer(layout, values, gradient, weights)
        size = sum(site.shape[0] * site.columns for site in layout.split)
        self.composed, self.composed_gradient = (torch.zeros(size, device=way.device) for _ in range(2))
        # In a lower precision all kernels are shown to the images as copies, those of whole sites first.
        self.whole = layout.whole
        self.shown: torch.Tensor | None = None
        if way.dtype != torch.float32:
            self.shown = torch.zeros(self.whole + size, device=way.device, dtype=way.dtype)
        self.kernels: list[torch.Tensor] = []
        self.gradients: list[torch.Tensor] = []
        # Of split sites, value and gradient as matrices.
        self.matrices: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.wide: torch.Tensor | None = None
        first = 0
        for site in layout.program.sites:
            count, (outputs, inputs, height, width) = site.shape[0] * site.columns, site.shape
            if isinstance(site.kernel, Leaf):
                start = layout.places[site.kernel.layer, 0][0]
                value, slope = (flat[start : start + count] for flat in (values, gradient))
            else:
                start = self.whole + first
                value, slope = (flat[first : first + count] for flat in (self.composed, self.composed_gradient))
                self.matrices.append((value.view(outputs, -1), slope.view(outputs, -1)))
                first += count
            shown = value if self.shown is None else self.shown[start : start + count]
            shown = shown.detach().view(outputs, height, width, inputs).permute(0, 3, 1, 2)
            if inputs < way.channels:
                # The first site reads images that are wider by channels of zeros.
                self.narrow = shown
                shown = torch.zeros(outputs, height, width, way.channels, device=way.device, dtype=way.dtype)
                shown = self.wide = shown.permute(0, 3, 1, 2)
            self.kernels.append(shown.requires_grad_())
            self.gradients.append(slope.view(outputs, height, width, inputs).permute(0, 3, 1, 2))
        on_streams = way.device.type == "cuda" and layout.split
        self.sides = [torch.cuda.Stream(way.device) for _ in range(SIDES)] if on_streams else []

    @torch.no_grad()
    def compose(self) -> None:
        """Bring `kernels` up to the parts' values."""
        self._each(self.composer.put)
        if self.shown is not None:
            self.shown[: self.whole].copy_(self.values[: self.whole])
            if self.matrices:
                self.shown[self.whole :].copy_(self.composed)
        if self.wide is not None:
            self.wide[:, : self.narrow.shape[1]].copy_(self.narrow)

    @torch.no_grad()
    def take(self, found: Sequence[torch.Tensor]) -> None:
        """Take over the gradients of all kernels."""
        found = list(found)
        if self.wide is not None:
            found[0] = found[0][:, : self.narrow.shape[1]]
        torch._foreach_copy_(self.gradients, found)

    @torch.no_grad()
    def take_apart(self) -> None:
        """Give every part its share of the gradients."""
        self._each(lambda kernel, value, slope: self.composer.back(kernel, slope), both=True)

    def _each(self, work: Callable[..., None], both: bool = False) -> None:
        """Do `work` for every split site, on several streams where there are."""
        jobs = [(site.kernel, *(pair if both else pair[:1])) for site, pair in zip(self.layout.split, self.matrices)]
        if not self.sides:
            for job in jobs:
                work(*job)
            return
        main = torch.cuda.current_stream()
        for index, side in enumerate(self.sides):
            side.wait_stream(main)
            with torch.cuda.stream(side):
                for job in jobs[index :: len(self.sides)]:
                    work(*job)
        for side in self.sides:
            main.wait_stream(side)
