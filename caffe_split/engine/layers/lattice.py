"""Gaussian filters of many dimensions by a permutohedral lattice (Adams, Baek and Davis 2010).

A value is split among the corners of the simplex in which it lies, the corners are blurred along each axis of the
lattice by 1/2, 1, 1/2, and each place takes its share back. All of it is linear in the values.
"""

from __future__ import annotations

import torch


class Lattice:
    """The lattice of places (n, d), in units of the filter's deviation."""

    def __init__(self, places: torch.Tensor) -> None:
        self.count, self.axes = places.shape
        corners, self.shares = _simplices(places)
        flat, which = _numbers(corners.reshape(-1, self.axes))
        self.corners = which.view(self.count, self.axes + 1)
        self.size = len(flat.codes)
        self.neighbours = [flat.beside(axis) for axis in range(self.axes + 1)]

    def filtered(self, values: torch.Tensor) -> torch.Tensor:
        """Values (channels, n), filtered."""
        channels = len(values)
        # One more corner, of 0, for neighbours that are not there.
        lattice = values.new_zeros(channels, self.size + 1)
        shared = values[:, :, None] * self.shares.to(values)
        lattice = lattice.index_add(1, self.corners.reshape(-1), shared.reshape(channels, -1))
        for before, after in self.neighbours:
            near = 0.5 * (lattice[:, before] + lattice[:, after])
            lattice = torch.cat([lattice[:, :-1] + near, lattice[:, -1:]], 1)
        back = lattice[:, self.corners.reshape(-1)].view(channels, self.count, -1) * self.shares.to(values)
        return back.sum(2) / (1 + 2.0**-self.axes)


class _Corners:
    """The corners of a lattice that hold values, each once, by a number that says where they lie."""

    def __init__(self, codes: torch.Tensor, points: torch.Tensor, low: torch.Tensor, strides: torch.Tensor) -> None:
        self.codes, self.points, self.low, self.strides = codes, points, low, strides

    def beside(self, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The indices of the corners next to each along an axis; that of no corner where there is none."""
        step = -torch.ones(self.points.shape[1], dtype=torch.int64, device=self.points.device)
        if axis < len(step):
            step[axis] = len(step)
        return self._at(self.points + step), self._at(self.points - step)

    def _at(self, points: torch.Tensor) -> torch.Tensor:
        codes = ((points - self.low) * self.strides).sum(1)
        index = torch.searchsorted(self.codes, codes).clamp(max=len(self.codes) - 1)
        return torch.where(self.codes[index] == codes, index, len(self.codes))


def _numbers(points: torch.Tensor) -> tuple[_Corners, torch.Tensor]:
    """The distinct ones of points (n, d), and for each point which of them it is."""
    axes = points.shape[1]
    # Room for neighbours on both sides, so that each has a number of its own.
    low = points.min(0).values - axes - 1
    widths = points.max(0).values + axes + 2 - low
    strides = torch.ones_like(widths)
    for axis in range(axes - 2, -1, -1):
        strides[axis] = strides[axis + 1] * widths[axis + 1]
    codes = ((points - low) * strides).sum(1)
    distinct, which = torch.unique(codes, return_inverse=True)
    first = torch.empty(len(distinct), dtype=torch.int64, device=points.device)
    first[which] = torch.arange(len(points), device=points.device)
    return _Corners(distinct, points[first], low, strides), which


def _simplices(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The corners (n, d + 1, d) of the simplex around each place, by d of their d + 1 numbers; and its shares."""
    count, axes = places.shape
    # On the plane of d + 1 numbers whose sum is 0, scaled so that the blur has the deviation 1.
    index = torch.arange(1, axes + 1, device=places.device, dtype=torch.float64)
    scaled = places.double() * (2 / 3) ** 0.5 * (axes + 1) / (index * (index + 1)).sqrt()
    rest = scaled.flip(1).cumsum(1).flip(1)
    raised = torch.cat([rest, rest.new_zeros(count, 1)], 1)
    raised[:, 1:] -= index * scaled
    # The nearest corner whose numbers are multiples of d + 1, and the order of what is left.
    nearest = (raised / (axes + 1)).round() * (axes + 1)
    surplus = (nearest.sum(1) / (axes + 1)).long()
    left = raised - nearest
    order = left.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(axes + 1, device=places.device).expand_as(order))
    rank = rank + surplus[:, None]
    moved = (rank < 0).long() - (rank > axes).long()
    rank, nearest = rank + moved * (axes + 1), nearest + moved * (axes + 1)
    left = (raised - nearest) / (axes + 1)
    shares = left.new_zeros(count, axes + 2)
    shares.scatter_add_(1, axes - rank, left)
    shares.scatter_add_(1, axes + 1 - rank, -left)
    shares[:, 0] += 1 + shares[:, axes + 1]
    # Corner k is k higher in the numbers of low rank, and d + 1 - k lower in the others.
    corner = torch.arange(axes + 1, device=places.device).view(1, -1, 1)
    step = torch.where(rank[:, None] <= axes - corner, corner, corner - (axes + 1))
    corners = nearest.long()[:, None] + step
    return corners[:, :, :axes], shares[:, : axes + 1]
