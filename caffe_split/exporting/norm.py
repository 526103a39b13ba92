"""BatchNorm, Scale, Bias, LRN, MVN and Softmax."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffe_split.exporting.site import CannotExpressError, Exporter, Site
from caffe_split.formats.onnx.graph import Node
from caffe_split.net.norm_forks import is_nvcaffes


def batch_norm(site: Site) -> None:
    """By the stored statistics, divided by their weight; in TRAIN, or without use_global_stats, by those of the batch.

    In forks a factor and a shift per channel are a fourth and a fifth blob; the weight is then 0 where the first two
    are no sums.
    """
    options = site.options("batch_norm_param")
    own = len(site.blobs) > 3
    eps = max(float(options.get("eps")), 1e-5) if is_nvcaffes(site.layer) else float(options.get("eps"))
    written = options.has("use_global_stats")
    if not (options.get("use_global_stats") if written else not site.training):
        made = batch_statistics(site, eps, None if own else 0)
        if own:
            site.op("Add", [site.op("Mul", [made, shaped(site, 3, 1)]), shaped(site, 4, 1)], 0)
        return
    weight = float(site.blobs[2][1].reshape(-1)[0])
    scale = np.float32((1 if own else 0) if weight == 0 else 1 / weight)
    channels = site.blobs[0][1].size
    if own:
        factors = [site.blob(3), site.blob(4)]
    else:
        factors = [
            site.constant("ones", np.ones(channels, np.float32)),
            site.constant("zeros", np.zeros(channels, np.float32)),
        ]
    statistics = [
        site.blob(index, (blob.reshape(-1) * scale).astype(np.float32))
        for index, (_, blob) in enumerate(site.blobs[:2])
    ]
    site.op("BatchNormalization", [site.x, *factors, *statistics], 0, epsilon=eps)


def batch_statistics(site: Site, eps: float, top: int | None) -> str:
    """The first bottom with mean 0 and variance 1 in each channel of the batch."""
    axes = [0, *range(2, site.bottoms[0].rank)]
    centred = site.op("Sub", [site.x, site.reduce("ReduceMean", site.x, axes)])
    variance = site.reduce("ReduceMean", site.op("Mul", [centred, centred]), axes)
    deviation = site.op("Sqrt", [site.op("Add", [variance, site.number(eps, "eps")])])
    return site.op("Div", [centred, deviation], top)


def _bare_norm(site: Site) -> Node | None:
    """The BatchNormalization that alone makes the first bottom, for this layer alone, and has no factors yet."""
    node = site.to.makers.get(site.x)
    if node is None or node.op != "BatchNormalization" or not site.sole[0]:
        return None
    return node if node.inputs[1].endswith("/ones") and len(node.outputs) == 1 else None


def scale(site: Site) -> None:
    """Times the learnt factor, or the second bottom; plus the bias. Behind a BatchNorm, part of its operator."""
    options = site.options("scale_param")
    axis, biased = site.axis(options.get("axis")), bool(options.get("bias_term"))
    learnt = len(site.bottoms) == 1
    norm = _bare_norm(site)
    if norm is not None and learnt and axis == 1 and site.blobs[0][1].ndim == 1:
        _into(site, norm, site.blob(0), site.blob(1) if biased else "")
        return
    factor = shaped(site, 0, axis) if learnt else _from_bottom(site, axis)
    made = site.op("Mul", [site.x, factor], None if biased else 0)
    if biased:
        site.op("Add", [made, shaped(site, -1, axis)], 0)


def bias(site: Site) -> None:
    """Plus the learnt blob, or the second bottom."""
    axis = site.axis(site.options("bias_param").get("axis"))
    other = shaped(site, 0, axis) if len(site.bottoms) == 1 else _from_bottom(site, axis)
    site.op("Add", [site.x, other], 0)


def _into(site: Site, norm: Node, factor: str, bias: str) -> None:
    """Make a factor and a bias part of a BatchNormalization."""
    for place, name in ((1, factor), (2, bias)):
        if name:
            site.to.constants.pop(norm.inputs[place])
            norm.inputs[place] = name
    site.to.makers.pop(norm.outputs[0])
    norm.outputs[0] = site.tops[0].name
    site.to.makers[norm.outputs[0]] = norm


def shaped(site: Site, index: int, axis: int) -> str:
    """A blob as a constant that broadcasts along the first bottom from `axis` on."""
    _, blob = site.blobs[index]
    behind = site.bottoms[0].rank - axis - blob.ndim
    return site.blob(index, blob.reshape(*blob.shape, *[1] * behind))


def _from_bottom(site: Site, axis: int) -> str:
    """The second bottom, so that it broadcasts along the first one from `axis` on."""
    other = site.bottoms[1]
    if other.axes != site.bottoms[0].axes[axis : axis + other.rank]:
        raise CannotExpressError(f"its bottoms of {site.bottoms[0].shape} and {other.shape} would not vary alike")
    return site.pad_axes(other.name, site.bottoms[0].rank - axis - other.rank if other.rank else 0)


def lrn(site: Site) -> None:
    """Divided by a power of the sum of squares of the neighbours: channels, or places of one channel."""
    options = site.options("lrn_param")
    size, alpha, beta, k = (options.get(name) for name in ("local_size", "alpha", "beta", "k"))
    across = options.get("norm_region") == "ACROSS_CHANNELS"
    in_place = site.layer.tops[0] == site.layer.bottoms[0]
    if across and not in_place:
        site.op("LRN", [site.x], 0, size=int(size), alpha=float(alpha), beta=float(beta), bias=float(k))
        return
    if not across and site.bottoms[0].rank != 4:
        raise CannotExpressError(f"its bottom of {site.bottoms[0].shape} is no image, whose 4 axes Caffe wants")
    squares = site.op("Mul", [site.x, site.x])
    half = (int(size) - 1) // 2
    if across:
        # The mean over channels is one over the rows of an image of channels by pixels.
        if not site.bottoms[0].is_fixed(1, 2):
            raise CannotExpressError("its channels would vary")
        rows = site.op("Reshape", [squares, site.constant("rows", [0, 1, site.bottoms[0].shape[1], -1])])
        means = site.op(
            "AveragePool", [rows], kernel_shape=(int(size), 1), pads=(half, 0, half, 0), count_include_pad=1
        )
        means = site.as_bottom(means)
    else:
        side = (int(size), int(size))
        means = site.op("AveragePool", [squares], kernel_shape=side, pads=(half,) * 4, count_include_pad=1)
    scaled = site.op("Mul", [means, site.number(float(alpha), "alpha")])
    shifted = site.op("Add", [scaled, site.number(float(k) if across else 1.0, "k")])
    factor = site.op("Pow", [shifted, site.number(-float(beta), "beta")])
    # In place across channels, Caffe multiplies the factor by itself, as it has overwritten the bottom with it.
    site.op("Mul", [factor, factor if across else site.x], 0)


def mvn(site: Site) -> None:
    """Minus the mean and, with normalize_variance, divided by the deviation plus eps; the top has four axes."""
    options = site.options("mvn_param")
    axes = [1, 2, 3] if options.get("across_channels") else [2, 3]
    x = site.x if site.bottoms[0].rank == 4 else site.pad_axes(site.x, 4 - site.bottoms[0].rank)
    mean = site.reduce("ReduceMean", x, axes)
    if not options.get("normalize_variance"):
        site.op("Sub", [x, mean], 0)
        return
    centred = site.op("Sub", [x, mean])
    variance = site.reduce("ReduceMean", site.op("Mul", [centred, centred]), axes)
    deviation = site.op("Add", [site.op("Sqrt", [variance]), site.number(float(options.get("eps")), "eps")])
    site.op("Div", [centred, deviation], 0)


def softmax(site: Site) -> None:
    """Along an axis."""
    site.op("Softmax", [site.x], 0, axis=site.axis(site.options("softmax_param").get("axis")))


EXPORTERS: Mapping[str, Exporter] = {
    "BatchNorm": batch_norm,
    "Scale": scale,
    "Bias": bias,
    "LRN": lrn,
    "MVN": mvn,
    "Softmax": softmax,
}
