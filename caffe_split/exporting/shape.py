"""Layers that join, cut, repeat, reshape, choose from, reduce and combine blobs; and those that give constants."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from caffe_split.exporting.site import CannotExpressError, Exporter, Site
from caffe_split.net.options import Options

_INT64, _FLOAT = 7, 1


def split(site: Site) -> None:
    """Each top is the bottom."""
    site.same.update(dict.fromkeys(range(len(site.tops)), site.x))


def silence(site: Site) -> None:
    """Nothing."""


def concat(site: Site) -> None:
    """Along the axis."""
    options = site.options("concat_param")
    axis = site.axis(options.get("concat_dim" if options.has("concat_dim") else "axis"))
    if len(site.bottoms) == 1:
        site.same[0] = site.x
        return
    site.op("Concat", [bottom.name for bottom in site.bottoms], 0, axis=axis)


def slices(site: Site) -> None:
    """Into parts whose lengths are written."""
    options = site.options("slice_param")
    axis = site.axis(options.get("slice_dim" if options.has("slice_dim") else "axis"))
    if len(site.tops) == 1:
        site.same[0] = site.x
        return
    if not site.bottoms[0].is_fixed(axis, axis + 1):
        raise CannotExpressError("the axis that it cuts would vary")
    lengths = [top.shape[axis] for top in site.tops]
    site.op("Split", [site.x, site.constant("lengths", lengths)], 0, len(site.tops), axis=axis)


def reshape(site: Site) -> None:
    """The same values in the shape of the top."""
    if site.tops[0].axes == site.bottoms[0].axes:
        site.same[0] = site.x
        return
    top, bottom = site.tops[0], site.bottoms[0]
    if site.layer.type == "Flatten" and top.rank == 2 and top.axes[0] == bottom.axes[0]:
        site.op("Flatten", [site.x], 0, axis=1)
        return
    site.reshape(site.x, bottom, top, 0)


def crop(site: Site) -> None:
    """From `offset` on as much as the second bottom has, in the axes from `axis` on."""
    options = site.options("crop_param")
    bottom, like = site.bottoms
    first = site.axis(options.get("axis"))
    axes = list(range(first, bottom.rank))
    offsets = [int(offset) for offset in options.all("offset")] or [0]
    starts = offsets * len(axes) if len(offsets) == 1 else offsets
    begin = site.constant("starts", starts)
    if like.is_fixed(first, bottom.rank):
        end = site.constant("ends", [start + like.shape[axis] for start, axis in zip(starts, axes)])
    else:
        sizes = site.op("Gather", [site.op("Shape", [like.name]), site.constant("sides", axes)])
        end = sizes if not any(starts) else site.op("Add", [sizes, begin])
    site.op("Slice", [site.x, begin, end, site.constant("axes", axes)], 0)


def tile(site: Site) -> None:
    """Repeated along an axis."""
    options = site.options("tile_param")
    times = [1] * site.bottoms[0].rank
    times[site.axis(options.get("axis"))] = int(options.get("tiles"))
    site.op("Tile", [site.x, site.constant("times", times)], 0)


def batch_reindex(site: Site) -> None:
    """The records that the second bottom names."""
    site.op("Gather", [site.x, site.op("Cast", [site.bottoms[1].name], to=_INT64)], 0, axis=0)


def reduction(site: Site) -> None:
    """All axes from `axis` on to one number, times coeff."""
    options = site.options("reduction_param")
    axes = list(range(site.axis(options.get("axis")), site.bottoms[0].rank))
    op = {"SUM": "ReduceSum", "MEAN": "ReduceMean", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare"}
    coeff = float(options.get("coeff"))
    made = site.reduce(op[str(options.get("operation"))], site.x, axes, 0 if coeff == 1 else None, keepdims=False)
    if coeff != 1:
        site.op("Mul", [made, site.number(coeff, "coeff")], 0)


def arg_max(site: Site) -> None:
    """The places of the largest values, or these; of equal values the one behind comes first."""
    options = site.options("argmax_param")
    count, wants_values = int(options.get("top_k")), bool(options.get("out_max_val"))
    has_axis = options.has("axis")
    x, bottom = site.x, site.bottoms[0]
    if has_axis:
        axis = site.axis(options.get("axis"))
        lengths, x = bottom.axes[axis], site.x
    else:
        axis, lengths = 2, tuple(math.prod(probe) for probe in zip(*bottom.axes[1:]))
        x = site.op("Reshape", [x, site.constant("image", [0, 1, -1])])
    ones = 0 if has_axis else max(0, site.tops[0].rank - 3)
    if count == 1 and not wants_values:
        places = site.op("ArgMax", [x], axis=axis, keepdims=1, select_last_index=1)
        _end(site, site.op("Cast", [places], None if ones else 0, to=_FLOAT), ones)
        return
    if len(set(lengths)) > 1:
        raise CannotExpressError("the axis of its values would vary")
    if count > lengths[0]:
        raise CannotExpressError(f"top_k is {count}, and there are {lengths[0]} values, so that Caffe refuses it")
    # TopK takes the first of equal values, so it is given them from behind.
    turned = site.op(
        "Slice",
        [
            x,
            *(site.constant(name, [value]) for name, value in _BACKWARDS),
            site.constant("along", [axis]),
            site.constant("step", [-1]),
        ],
    )
    values = site.op("TopK", [turned, site.constant("count", [count])], outputs=2, axis=axis)
    places = site.to.makers[values].outputs[1]
    if wants_values and has_axis:
        site.same[0] = values
        return
    last = site.constant("last", np.array(lengths[0] - 1, np.int64))
    forwards = site.op("Cast", [site.op("Sub", [last, places])], None if ones or wants_values else 0, to=_FLOAT)
    if wants_values:
        forwards = site.op("Concat", [forwards, values], None if ones else 0, axis=1)
    _end(site, forwards, ones)


# The start and the end of a slice that runs from the last value to the first.
_BACKWARDS = (("start", -1), ("end", -(2**62)))


def _end(site: Site, made: str, ones: int) -> None:
    """The top, with as many axes of 1 at its end; where there are none, it is made already."""
    if ones:
        axes = site.constant("ones", [-1 - place for place in range(ones)][::-1])
        site.op("Unsqueeze", [made, axes], 0)


def eltwise(site: Site) -> None:
    """The sum, each bottom times its coeff, the product or the maximum."""
    options = site.options("eltwise_param")
    operation = str(options.get("operation"))
    names = [bottom.name for bottom in site.bottoms]
    factors = [float(value) for value in options.all("coeff")] or [1.0] * len(names)
    if site.layer.tops[0] == site.layer.bottoms[0] and operation != "PROD":
        # In place, Caffe overwrites the first bottom before it reads it.
        names, factors = names[1:], factors[1:]
    if operation == "MAX":
        site.op("Max", names, 0)
        return
    if operation == "SUM":
        names = [
            name if factor == 1 else site.op("Mul", [name, site.number(factor, "coeff")])
            for name, factor in zip(names, factors)
        ]
    op = "Mul" if operation == "PROD" else "Add"
    if len(names) == 1:
        site.op("Identity", names, 0)
        return
    made = names[0]
    for number, other in enumerate(names[1:], start=2):
        made = site.op(op, [made, other], 0 if number == len(names) else None)


def parameter(site: Site) -> None:
    """The learnt blob itself."""
    site.same[0] = site.blob(0)


def dummy_data(site: Site) -> None:
    """Constants; other fillers are inputs."""
    fillers = site.options("dummy_data_param").subs("data_filler") or [Options("FillerParameter", [])]
    for number, top in enumerate(site.tops):
        if not top.is_fixed():
            raise CannotExpressError("its shape would vary")
        value = float(fillers[min(number, len(fillers) - 1)].get("value"))
        site.same[number] = site.constant("value", np.full(top.shape, value, np.float32))


EXPORTERS: Mapping[str, Exporter] = {
    "Split": split,
    "Silence": silence,
    "Concat": concat,
    "Slice": slices,
    "Flatten": reshape,
    "Reshape": reshape,
    "Crop": crop,
    "Tile": tile,
    "BatchReindex": batch_reindex,
    "Reduction": reduction,
    "ArgMax": arg_max,
    "Eltwise": eltwise,
    "Parameter": parameter,
    "DummyData": dummy_data,
}
