"""Pooling and SPP. Caffe rounds the number of windows up, cuts the last one at the padding, and counts padding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from caffe_split.exporting.pointwise import refuse_training
from caffe_split.exporting.site import CannotExpressError, Exporter, Site
from caffe_split.net.geometry import Window, pooled_sizes, pooling_window, pyramid_windows


@dataclass(frozen=True)
class _Windows:
    """Windows over images of `sizes`, `out` of them each way."""

    kind: str
    sizes: Sequence[int]
    kernel: Sequence[int]
    stride: Sequence[int]
    pad: Sequence[int]
    out: Sequence[int]

    def overhang(self, times: int) -> list[int]:
        """How far the last windows reach behind the image and `times` its padding."""
        return [
            max(0, (out - 1) * s + k - n - times * p)
            for n, k, s, p, out in zip(self.sizes, self.kernel, self.stride, self.pad, self.out)
        ]


def pooling(site: Site) -> None:
    """MAX, with the places of the maxima as a second top, AVE, or STOCHASTIC."""
    options = site.options("pooling_param")
    kind = str(options.get("pool"))
    bottom = site.bottoms[0]
    if options.get("global_pooling") and len(site.tops) == 1 and kind != "STOCHASTIC":
        site.op("GlobalMaxPool" if kind == "MAX" else "GlobalAveragePool", [site.x], 0)
        return
    sizes = bottom.shape[2], bottom.shape[3]
    window, out = pooling_window(site.layer, sizes), pooled_sizes(site.layer, sizes)
    _check_last_window(site, window.stride, window.pad, out)
    windows = _Windows(kind, sizes, window.kernel, window.stride, window.pad, out)
    if kind == "STOCHASTIC":
        _stochastic(site, windows)
    elif bottom.is_fixed(2):
        _fixed(site, windows, 0)
    elif len(site.tops) > 1:
        raise CannotExpressError("the places of its maxima are those of images of one size")
    else:
        _varying(site, windows, _rounds_up(site, window))


def _rounds_up(site: Site, window: Window) -> bool:
    """Whether the layer counts windows that reach over the edge: asked for images that leave one as they end."""
    full = 100
    sizes = [k - 2 * p + s - 1 + full * s for k, s, p in zip(window.kernel, window.stride, window.pad)]
    return any(count > full + 1 for count in pooled_sizes(site.layer, (sizes[0], sizes[1])))


def _check_last_window(site: Site, stride: Sequence[int], pad: Sequence[int], out: Sequence[int]) -> None:
    for n, s, p, count in zip(site.bottoms[0].shape[2:], stride, pad, out):
        if (count - 1) * s >= n + p:
            raise CannotExpressError("its last window lies outside of its bottom; what Caffe gives there is no value")


def _fixed(site: Site, windows: _Windows, top: int | None, x: str = "") -> str:
    """The operators for images of one size: with all padding written, so that nothing depends on rounding."""
    x = x or site.x
    shape: dict[str, Any] = {"kernel_shape": tuple(windows.kernel), "strides": tuple(windows.stride)}
    if windows.kind == "MAX":
        pads = (*windows.pad, *windows.overhang(1))
        if len(site.tops) > 1 and top is not None:
            return _with_mask(site, {**shape, "pads": pads})
        return site.op("MaxPool", [x], top, **shape, pads=pads)
    over = windows.overhang(2)
    if not any(over):
        return site.op("AveragePool", [x], top, **shape, pads=(*windows.pad, *windows.overhang(1)), count_include_pad=1)
    if any(windows.pad):
        x = _padded(site, x, windows.pad)
    # What lies behind the padding does not count.
    return site.op("AveragePool", [x], top, **shape, pads=(0, 0, *over), count_include_pad=0)


def _stochastic(site: Site, windows: _Windows) -> None:
    """The mean of what training draws: the sum of squares of each window over its sum, 0 where that is not above 0."""
    refuse_training(site)
    if not site.bottoms[0].is_fixed(2):
        raise CannotExpressError("its windows are those of images of one size")
    means = replace(windows, kind="AVE")
    squares, total = (_fixed(site, means, None, x) for x in (site.op("Mul", [site.x, site.x]), site.x))
    zero = site.number(0.0, "zero")
    some = site.op("Greater", [total, zero])
    divisor = site.op("Where", [some, total, site.number(1.0, "one")])
    site.op("Where", [some, site.op("Div", [squares, divisor]), zero], 0)


def _padded(site: Site, x: str, pad: Sequence[int]) -> str:
    return site.op("Pad", [x, site.constant("pads", [0, 0, *pad, 0, 0, *pad])])


def _varying(site: Site, windows: _Windows, round_up: bool) -> None:
    """The operators for images of any size: their own rounding up, which does not know all of Caffe's rules."""
    ceil = int(round_up)
    if ceil and any(k < s + p and p for k, s, p in zip(windows.kernel, windows.stride, windows.pad)):
        raise CannotExpressError(
            f"for some sizes Caffe drops a last window that would begin in the padding (kernel {windows.kernel[0]}, "
            f"stride {windows.stride[0]}, pad {windows.pad[0]})"
        )
    shape: dict[str, Any] = {"kernel_shape": tuple(windows.kernel), "strides": tuple(windows.stride), "ceil_mode": ceil}
    pads = (*windows.pad, *windows.pad)
    if windows.kind == "MAX":
        site.op("MaxPool", [site.x], 0, **shape, pads=pads)
    elif ceil:
        x = _padded(site, site.x, windows.pad) if any(windows.pad) else site.x
        site.op("AveragePool", [x], 0, **shape, count_include_pad=0)
    else:
        site.op("AveragePool", [site.x], 0, **shape, pads=pads, count_include_pad=1)


def _with_mask(site: Site, attributes: Mapping[str, Any]) -> str:
    """Maxima and, as floats, their places within their image and channel; ONNX counts through the whole blob."""
    bottom, top, mask = site.bottoms[0], site.tops[0].name, site.tops[1].name
    places = site.to.unique(f"{site.layer.name}/places")
    made = site.op("MaxPool", [site.x], 0, **attributes)
    site.to.makers[made].outputs.append(places)
    within = site.op("Mod", [places, site.constant("image", np.array(math.prod(bottom.shape[2:]), np.int64))])
    node = site.op("Cast", [within], to=1)
    site.to.makers[node].outputs[:] = [mask]
    site.to.makers[mask] = site.to.makers.pop(node)
    return top


def spatial_pyramid(site: Site) -> None:
    """Pooling into 1, 4, 16, ... windows, each level flattened, all behind each other."""
    bottom = site.bottoms[0]
    kind = str(site.options("spp_param").get("pool"))
    if kind not in ("MAX", "AVE"):
        raise CannotExpressError(f"pool: {kind} is not handled")
    if not bottom.is_fixed(2):
        raise CannotExpressError("its windows are those of images of one size")
    height, width = bottom.shape[2:]
    levels = [
        _Windows(kind, (height, width), window.kernel, window.stride, window.pad, window.pool((height, width)))
        for window in pyramid_windows(site.layer, (height, width))
    ]
    if len(levels) == 1:
        _fixed(site, levels[0], 0)
        return
    site.op("Concat", [site.op("Flatten", [_fixed(site, level, None)], axis=1) for level in levels], 0, axis=1)


EXPORTERS: Mapping[str, Exporter] = {"Pooling": pooling, "SPP": spatial_pyramid}
