"""Layers of forks: BN, Normalize, activations, what moves values, and what enlarges images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from caffe_split.exporting.norm import batch_statistics, shaped
from caffe_split.exporting.site import CannotExpressError, Exporter, Site
from caffe_split.layertypes.records.moving import order_of
from caffe_split.layertypes.records.upsampling import upscale_factor
from caffe_split.net.norm_forks import bn_kind

_INT64 = 7
# Of SegNet's BN, where it takes the statistics of the batch.
_EPS_SEGNET = 1e-9


def relu6(site: Site) -> None:
    """Limited to 0 and 6."""
    site.op("Clip", [site.x, site.number(0.0, "min"), site.number(6.0, "max")], 0)


def mish(site: Site) -> None:
    """The value times tanh(log(1 + e^x))."""
    site.op("Mul", [site.x, site.op("Tanh", [site.op("Softplus", [site.x])])], 0)


def h_sigmoid(site: Site) -> None:
    """A sixth of the value plus a half, limited to 0 and 1."""
    site.op("HardSigmoid", [site.x], 0, alpha=1 / 6, beta=0.5)


def h_swish(site: Site) -> None:
    """The value times x / 6 + 1/2 limited to 0 and 1."""
    site.op("Mul", [site.x, site.op("HardSigmoid", [site.x], alpha=1 / 6, beta=0.5)], 0)


def crelu(site: Site) -> None:
    """ReLU of x and of -x, joined."""
    options = site.options("crelu_param")
    slope = float(options.get("negative_slope"))
    halves = [
        site.op("LeakyRelu", [half], alpha=slope) if slope else site.op("Relu", [half])
        for half in (site.x, site.op("Neg", [site.x]))
    ]
    site.op("Concat", halves, 0, axis=site.axis(options.get("concat_axis")))


def pixel_shuffle(site: Site) -> None:
    """Channels become squares."""
    site.op("DepthToSpace", [site.x], 0, blocksize=upscale_factor(site.layer), mode="CRD")


def normalization_l2(site: Site) -> None:
    """Each record divided by its length."""
    squares = site.reduce("ReduceSum", site.op("Mul", [site.x, site.x]), [1])
    length = site.op("Sqrt", [site.op("Max", [squares, site.number(1e-24, "least")])])
    site.op("Div", [site.x, length], 0)


def bn(site: Site) -> None:
    """By running statistics (4 blobs; in TRAIN by the batch's); by none or the batch's (2 blobs, SegNet's)."""
    options = site.options("bn_param")
    x = site.x
    site.blobs[:] = [(name, blob.reshape(-1)) for name, blob in site.blobs]
    if bn_kind(site.layer) == "running":
        eps = float(options.get("eps"))
        if options.get("frozen") or not site.training:
            site.op("BatchNormalization", [x, *(site.blob(index) for index in range(4))], 0, epsilon=eps)
            return
        x = batch_statistics(site, eps, None)
    elif options.get("bn_mode") != "INFERENCE":
        x = batch_statistics(site, _EPS_SEGNET, None)
    site.op("Add", [site.op("Mul", [x, shaped(site, 0, 1)]), shaped(site, 1, 1)], 0)


def normalize(site: Site) -> None:
    """Divided by the length of an image, or of the channels at a place, times the learnt factor."""
    options = site.options("norm_param")
    axes = list(range(1, site.bottoms[0].rank)) if options.get("across_spatial") else [1]
    squares = site.reduce("ReduceSum", site.op("Mul", [site.x, site.x]), axes)
    length = site.op("Sqrt", [site.op("Add", [squares, site.number(float(options.get("eps")), "eps")])])
    if not site.blobs:
        site.op("Div", [site.x, length], 0)
        return
    divided = site.op("Div", [site.x, length])
    factor = site.blobs[0][1]
    site.op("Mul", [divided, shaped(site, 0, 1) if factor.ndim else site.blob(0)], 0)


def permute(site: Site) -> None:
    """The axes in another order."""
    site.op("Transpose", [site.x], 0, perm=order_of(site.layer, site.bottoms[0].rank))


def shuffle_channel(site: Site) -> None:
    """The channels of the groups in turn."""
    bottom, group = site.bottoms[0], int(site.options("shuffle_channel_param").get("group"))
    if not bottom.is_fixed(1, 2):
        raise CannotExpressError("its channels would vary")
    groups = site.op("Reshape", [site.x, site.constant("groups", [0, group, bottom.shape[1] // group, -1])])
    site.as_bottom(site.op("Transpose", [groups], perm=[0, 2, 1, 3]), 0)


def reverse(site: Site) -> None:
    """The values along an axis from the last one on."""
    axis = site.axis(site.options("reverse_param").get("axis"))
    bounds = [site.constant(name, [value]) for name, value in (("start", -1), ("end", -(2**62)), ("axis", axis))]
    site.op("Slice", [site.x, *bounds, site.constant("step", [-1])], 0)


def reorg(site: Site) -> None:
    """Squares of `stride` become channels in darknet's order, or the other way."""
    options, bottom = site.options("reorg_param"), site.bottoms[0]
    if not bottom.is_fixed(1):
        raise CannotExpressError("its image would vary")
    stride, (channels, height, width) = int(options.get("stride")), bottom.shape[1:]
    few = channels // stride**2
    if options.get("reverse"):
        shape, order = [0, stride, stride, few, height, width], [0, 3, 4, 1, 5, 2]
    else:
        shape, order = [0, few, height, stride, width, stride], [0, 3, 5, 1, 2, 4]
    moved = site.op("Transpose", [site.op("Reshape", [site.x, site.constant("squares", shape)])], perm=order)
    site.reshape(moved, None, site.tops[0], 0)


def axpy(site: Site) -> None:
    """A factor per channel and record times the second bottom, plus the third."""
    factor, x, y = site.bottoms
    factors = site.pad_axes(factor.name, max(0, x.rank - factor.rank))
    site.op("Add", [site.op("Mul", [factors, x.name]), y.name], 0)


def interp(site: Site) -> None:
    """Cropped, and then enlarged or made smaller with the corners on each other."""
    bottom, top = site.bottoms[0], site.tops[0]
    if not (bottom.is_fixed(2) and top.is_fixed(2)):
        raise CannotExpressError("the sides of its images would vary")
    options = site.options("interp_param")
    first, last = -int(options.get("pad_beg")), -int(options.get("pad_end"))
    x = site.x
    if first or last:
        ends = [side - last for side in bottom.shape[2:]]
        x = site.op(
            "Slice",
            [x, site.constant("starts", [first] * 2), site.constant("ends", ends), site.constant("axes", [2, 3])],
        )
    both = site.op("Gather", [site.op("Shape", [site.x]), site.constant("first", [0, 1])])
    sizes = site.op("Concat", [both, site.constant("sides", list(top.shape[2:]))], axis=0)
    how: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    site.op("Resize", [x, "", "", sizes], 0, **how)


def upsample(site: Site) -> None:
    """Each value at the place that the second bottom names, else 0; with one bottom, repeated."""
    bottom, top = site.bottoms[0], site.tops[0]
    if len(site.bottoms) == 1:
        factor = top.shape[2] // bottom.shape[2]
        scales = site.constant("scales", np.array([1, 1, factor, factor], np.float32), exact=True)
        how: dict[str, Any] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        site.op("Resize", [site.x, "", scales], 0, **how)
        return
    if not top.is_fixed(2):
        raise CannotExpressError("the sides of its images would vary")
    flat = site.constant("flat", [0, 0, -1])
    values = site.op("Reshape", [site.x, flat])
    places = site.op("Cast", [site.op("Reshape", [site.bottoms[1].name, flat])], to=_INT64)
    both = site.op("Gather", [site.op("Shape", [site.x]), site.constant("first", [0, 1])])
    shape = site.op("Concat", [both, site.constant("pixels", [top.shape[2] * top.shape[3]])], axis=0)
    empty = site.op("ConstantOfShape", [shape], value=np.zeros(1, np.float32))
    set_in = site.op("ScatterElements", [empty, places, values], axis=2)
    site.op("Reshape", [set_in, site.constant("image", [0, 0, *top.shape[2:]])], 0)


EXPORTERS: Mapping[str, Exporter] = {
    "ReLU6": relu6,
    "Mish": mish,
    "HSigmoid": h_sigmoid,
    "HSwish": h_swish,
    "CReLU": crelu,
    "PixelShuffle": pixel_shuffle,
    "Tiling": pixel_shuffle,
    "NormalizationL2": normalization_l2,
    "BN": bn,
    "Normalize": normalize,
    "Permute": permute,
    "Transpose": permute,
    "ShuffleChannel": shuffle_channel,
    "Reverse": reverse,
    "Reorg": reorg,
    "Axpy": axpy,
    "Interp": interp,
    "BilinearInterpolation": interp,
    "Upsample": upsample,
    "Unpooling": upsample,
    "UnPooling": upsample,
}
