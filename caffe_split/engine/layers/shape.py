"""Layers that join, cut, reshape and compare blobs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from caffe_split.engine.layers.base import Layer, Shape, Tops


class Split(Layer):
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0],) * len(self.text.tops)


class Silence(Layer):
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return ()


class Concat(Layer):
    options_name = "concat_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        old = self.options.has("concat_dim")
        self.along = self.axis(self.options.get("concat_dim" if old else "axis"), len(bottoms[0]))
        self.told(bottoms)

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (torch.cat(bottoms, self.along),)


class Slice(Layer):
    options_name = "slice_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        old = self.options.has("slice_dim")
        self.along = self.axis(self.options.get("slice_dim" if old else "axis"), len(bottoms[0]))
        self.sizes = [top[self.along] for top in self.told(bottoms).tops]

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return tuple(torch.split(bottoms[0], self.sizes, self.along))


class Flatten(Layer):
    options_name = "flatten_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        dimensions = bottoms[0].dim()
        first = self.axis(self.options.get("axis"), dimensions)
        return (bottoms[0].flatten(first, self.axis(self.options.get("end_axis"), dimensions)),)


class Reshape(Layer):
    options_name = "reshape_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.target = self.told(bottoms).tops[0]

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0].reshape(self.target),)


class Crop(Layer):
    options_name = "crop_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        shape, wanted = bottoms
        first = self.axis(self.options.get("axis"), len(shape))
        offsets = [int(offset) for offset in self.options.all("offset")] or [0]
        if len(offsets) == 1:
            offsets *= len(shape) - first
        if len(offsets) != len(shape) - first or len(wanted) != len(shape):
            raise self.error(f"{len(offsets)} offsets and bottoms of shapes {shape} and {wanted} do not go together.")
        self.cuts = [slice(None)] * first
        for offset, have, want in zip(offsets, shape[first:], wanted[first:]):
            if offset + want > have:
                raise self.error(f"{want} values from {offset} on do not lie in an axis of {have}.")
            self.cuts.append(slice(offset, offset + want))

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0][tuple(self.cuts)],)


class Tile(Layer):
    options_name = "tile_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        times = [1] * bottoms[0].dim()
        times[self.axis(self.options.get("axis"), bottoms[0].dim())] = int(self.options.get("tiles"))
        return (bottoms[0].repeat(times),)


class Reduction(Layer):
    """One value for all axes from `axis` on."""

    options_name = "reduction_param"

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
    options_name = "argmax_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, count = bottoms[0].detach(), int(self.options.get("top_k"))
        if self.options.has("axis"):
            values, places = x.topk(count, self.axis(self.options.get("axis"), x.dim()))
            return (values if self.options.get("out_max_val") else places.float(),)
        values, places = x.reshape(x.shape[0], 1, -1).topk(count)
        # Without an axis Caffe's top has three axes at least: (N, 1 or 2, top_k), padded by ones behind.
        out = torch.cat([places.float(), values], 1) if self.options.get("out_max_val") else places.float()
        return (out.reshape(*out.shape, *[1] * (x.dim() - 3)),)


class Eltwise(Layer):
    options_name = "eltwise_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        for shape in bottoms:
            if shape != bottoms[0]:
                raise self.error(f"bottoms of shapes {bottoms[0]} and {shape}; expected one shape.")
        self.factors = [float(value) for value in self.options.all("coeff")]
        if self.factors and len(self.factors) != len(bottoms):
            raise self.error(f"{len(self.factors)} coefficients for {len(bottoms)} bottoms.")
        if self.factors and self.options.get("operation") == "PROD":
            raise self.error("Caffe takes coefficients with SUM only.")

    def run(self, *bottoms: torch.Tensor) -> Tops:
        operation = self.options.get("operation")
        if operation == "MAX":
            # Which of equal values gets the gradient: of the first two bottoms the second, of the others the earlier.
            out = torch.where(bottoms[0] > bottoms[1], bottoms[0], bottoms[1])
            for other in bottoms[2:]:
                out = torch.where(other > out, other, out)
            return (out,)
        if operation == "PROD":
            out = bottoms[0]
            for other in bottoms[1:]:
                out = out * other
            return (out,)
        factors = self.factors or [1.0] * len(bottoms)
        out = bottoms[0] if factors[0] == 1 else bottoms[0] * factors[0]
        for factor, other in zip(factors[1:], bottoms[1:]):
            out = torch.add(out, other, alpha=factor)
        return (out,)
