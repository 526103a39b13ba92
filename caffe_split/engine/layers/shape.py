"""Layers that concatenate, cut, reshape, reduce and combine blobs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.layertypes.records.arrangement import crop_offsets


class Split(Layer):
    """Each top is the bottom."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0],) * len(self.text.tops)


class Silence(Layer):
    """Takes any bottoms and has no top, so that they are no outputs of the net."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return ()


class Concat(Layer):
    """The bottoms concatenated along an axis."""

    options_name = "concat_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        old = self.options.has("concat_dim")
        self.along = self.axis(self.options.get("concat_dim" if old else "axis"), len(bottoms[0]))
        self.inferred(bottoms)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (torch.cat(bottoms, self.along),)


class Slice(Layer):
    """The bottom cut along an axis: at the slice_points, or into equal parts."""

    options_name = "slice_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        old = self.options.has("slice_dim")
        self.along = self.axis(self.options.get("slice_dim" if old else "axis"), len(bottoms[0]))
        self.sizes = [top[self.along] for top in self.inferred(bottoms).tops]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return tuple(torch.split(bottoms[0], self.sizes, self.along))


class Flatten(Layer):
    """The axes from `axis` to `end_axis` made one."""

    options_name = "flatten_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.target = self.inferred(bottoms).tops[0]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0].reshape(self.target),)


class Reshape(Layer):
    """The same values in the shape that the shape rule finds."""

    options_name = "reshape_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.target = self.inferred(bottoms).tops[0]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0].reshape(self.target),)


class Crop(Layer):
    """The first bottom cut to the size of the second in all axes from `axis` on, beginning at `offset`."""

    options_name = "crop_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        shape, wanted = bottoms
        first = self.axis(self.options.get("axis"), len(shape))
        offsets = crop_offsets(self.text, len(shape) - first)
        self.cuts = [slice(None)] * first
        self.cuts += [slice(offset, offset + want) for offset, want in zip(offsets, wanted[first:])]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0][tuple(self.cuts)],)


class Tile(Layer):
    """The bottom repeated `tiles` times along an axis."""

    options_name = "tile_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        times = [1] * bottoms[0].dim()
        times[self.axis(self.options.get("axis"), bottoms[0].dim())] = int(self.options.get("tiles"))
        return (bottoms[0].repeat(times),)


class Reduction(Layer):
    """All axes from `axis` on reduced to one value: coeff times their SUM, MEAN, ASUM (of absolute values) or SUMSQ."""

    options_name = "reduction_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        first = self.axis(self.options.get("axis"), x.dim())
        rows = x.reshape(*x.shape[:first], -1)
        operation = self.options.get("operation")
        if operation == "ASUM":
            rows = rows.abs()
        elif operation == "SUMSQ":
            rows = rows * rows
        out = rows.mean(-1) if operation == "MEAN" else rows.sum(-1)
        return (out * self.options.get("coeff"),)


class ArgMax(Layer):
    """The places of the top_k largest values of an image, or along an axis; or the values themselves. No gradient."""

    options_name = "argmax_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0].detach()
        if self.options.has("axis"):
            values, places = self._largest(x, self.axis(self.options.get("axis"), x.dim()))
            return (values if self.options.get("out_max_val") else places.float(),)
        values, places = self._largest(x.reshape(x.shape[0], 1, -1), 2)
        # Without an axis Caffe's top is (N, 1 or 2, top_k), followed by axes of 1 up to the bottom's number of axes.
        out = torch.cat([places.float(), values], 1) if self.options.get("out_max_val") else places.float()
        return (out.reshape(*out.shape, *[1] * (x.dim() - 3)),)

    def _largest(self, x: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The top_k largest values along an axis and their places; of equal values the later one comes first."""
        count = int(self.options.get("top_k"))
        values, places = x.flip(axis).sort(dim=axis, descending=True, stable=True)
        return values.narrow(axis, 0, count), x.shape[axis] - 1 - places.narrow(axis, 0, count)


class Eltwise(Layer):
    """The SUM, each bottom times its coeff, the PROD or the MAX of bottoms of one shape, value by value.

    In place, Caffe's sum and maximum leave out the first bottom, which they overwrite before they read it. With one
    bottom (FlowNet) it is multiplied by its coeff.
    """

    options_name = "eltwise_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        factors = [float(value) for value in self.options.all("coeff")]
        if factors and len(factors) != len(bottoms):
            raise self.error(f"{len(factors)} coefficients for {len(bottoms)} bottoms.")
        self.operation = self.options.get("operation")
        if factors and self.operation == "PROD":
            raise self.error("Caffe takes coefficients with SUM only.")
        self.factors = factors or [1.0] * len(bottoms)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        if len(bottoms) == 1:
            # A blob of its own also with a factor of 1, so that a layer in place does not change the bottom.
            return (bottoms[0] * self.factors[0],)
        if self.operation == "PROD":
            return (_product(bottoms),)
        first = 1 if self.overwrites else 0
        factors, given = self.factors[first:], bottoms[first:]
        out = given[0]
        if self.operation == "MAX":
            # Of equal values one gets the gradient: the second of the first two bottoms; after that, the earlier one.
            for index, other in enumerate(given[1:]):
                if index == 0 and not first:
                    out = torch.where(out > other, out, other)
                else:
                    out = torch.where(other > out, other, out)
            return (out,)
        out = out if factors[0] == 1 else out * factors[0]
        for factor, other in zip(factors[1:], given[1:]):
            out = torch.add(out, other, alpha=factor)
        return (out,)

    @override
    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None] | None:
        stable = bool(self.options.get("stable_prod_grad"))
        if not self.overwrites and (stable or self.operation != "PROD"):
            return None
        found: list[torch.Tensor | None] = []
        for index, need in enumerate(needs[: len(now)]):
            if self.operation == "PROD":
                others = [*now[:index], *now[index + 1 :]]
                slope = _product(others) if stable else top / now[index]
            elif self.operation == "SUM":
                slope = torch.full_like(gradient, self.factors[index])
            else:
                slope = self._chosen(given, index)
            replaced = self.overwrites and index == 0
            # In place, the slope by the first bottom overwrites the gradient of the top, which is its own.
            result = slope * (slope if replaced and self.operation == "PROD" else gradient)
            if replaced and need:
                gradient = result
            found.append(result)
        return found

    def _chosen(self, given: Sequence[torch.Tensor], index: int) -> torch.Tensor:
        """1 where bottom `index` is the maximum that an Eltwise in place has found, else 0."""
        if index == 0:
            return torch.zeros_like(given[0])
        best = torch.ones_like(given[1])
        out = given[1]
        for place, other in enumerate(given[2:], start=2):
            best = torch.where(other > out, torch.full_like(best, place), best)
            out = torch.maximum(out, other)
        return (best == index).to(given[0].dtype)


def _product(factors: Sequence[torch.Tensor]) -> torch.Tensor:
    out = factors[0]
    for other in factors[1:]:
        out = out * other
    return out
