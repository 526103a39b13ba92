"""The picture of a layer's kernels; of a layer that was split, the slow half's beside its residual_pre's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffe_split.backends.check_weights import check_weights
from caffe_split.diagram.mosaic import Mosaic, kernel_mosaic, largest
from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, atomic_open
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.table import record_of
from caffe_split.net.layers import Layer, all_layers, phase_layers
from caffe_split.net.options import Options
from caffe_split.net.shared import settle_layers
from caffe_split.net.state import TRAIN, NetState
from caffe_split.plot.picture_file import DPI, picture_format
from caffe_split.plot.words import plain
from caffe_split.split.kinds import helper_words
from caffe_split.split.recognise import Role, Split, all_splits

# Weights: blue below zero, white at zero, red above, distinct with every kind of colour vision.
WEIGHT_MAP, NORM_MAP = "RdBu_r", "cividis"
_GAPS = "#CFCFCF"
_MOST_NAMED = 8
_ROOM = 0.62  # inches over a panel for its title


def shown_layers(document: prototxt.Document, name: str, state: NetState | None = None) -> list[str]:
    """The layers that a picture of `name` shows: itself, and beside a slow half what has its geometry, residual_pre.

    Of a layer that was split, its halves and what has their geometry. Only layers that are in the net in `state` count;
    None: all. Raises `CaffeSplitError`.
    """
    layers = all_layers(document) if state is None else phase_layers(document, state)
    weighted = {layer.name: layer for layer in layers if record_of(layer.type).has_kernels}
    for split in all_splits(layers):
        alike = [*split.halves, *(each for word, each in split.added.items() if word not in helper_words())]
        parts = [layers[each].name for each in alike if not isinstance(each, Split)]
        if not isinstance(split.slow, Split) and name == layers[split.slow].name:
            return parts[parts.index(name) :]
        if name == split.origin and name not in weighted:
            if parts:
                return parts
            deeper = [layers[index].name for index in sorted(split.members - {split.last})]
            raise CaffeSplitError(
                f"{document.filename}: '{name}' was split more than once; name one of its parts: "
                f"{', '.join(part for part in dict.fromkeys(deeper) if part in weighted)}."
            )
    if name in weighted:
        return [name]
    near = (
        difflib.get_close_matches(name, weighted, n=_MOST_NAMED, cutoff=0.0)
        if len(weighted) > _MOST_NAMED
        else weighted
    )
    listing = f"Nearest of the {len(weighted)} that have" if len(weighted) > _MOST_NAMED else "Those that have"
    raise CaffeSplitError(
        f"{document.filename}: no layer '{name}' with kernels. {listing}: {', '.join(near) or 'none'}."
    )


def mosaics(
    document: prototxt.Document,
    weights_path: PathLike,
    names: Sequence[str],
    channels: str = "auto",
    state: NetState = TRAIN,
) -> list[Mosaic]:
    """The kernels of the layers as `kernel_mosaic` has them, in grids of the same width.

    Raises `CaffeSplitError` for weights that do not fit the net, and for layers without kernels.
    """
    read = caffemodel.read_weights(weights_path)
    # Weights of other layers, such as those of a head for training, do not disturb a picture.
    check_weights(document, read, Path(weights_path), state, ignore_extra=True)
    weights = {name: list(read[name]) for name in read}
    layers = {layer.name: layer for layer in phase_layers(document, state) if layer.type != "TPM"}
    settle_layers(list(layers.values()), weights)
    shown = dict.fromkeys(layer for name in names for layer in shown_layers(document, name, state))
    return [kernel_mosaic(name, _by_kernel(layers[name], weights[name][0]), channels) for name in shown]


def _by_kernel(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """A weight with the axis of the kernels first, then that of the channels which a kernel reads."""
    if layer.type.startswith("Deconvolution"):
        groups = int(Options.of(layer.message, "convolution_param").get("group"))
        inputs, kernels, *size = weight.shape
        by_group = weight.reshape(groups, inputs // groups, kernels, *size).swapaxes(1, 2)
        return by_group.reshape(groups * kernels, inputs // groups, *size)
    if "inner_product_param" in record_of(layer.type).options:
        matrix = weight.reshape(weight.shape[-2:])  # files of 2014 have two axes of 1 before
        return matrix.T if Options.of(layer.message, "inner_product_param").get("transpose") else matrix
    return weight


def draw_kernels(figure: Any, shown: Sequence[Mosaic], roles: Mapping[str, Role], bgr: bool = False) -> None:
    """Draw the mosaics side by side on an empty matplotlib figure, weights on one scale that is symmetric to 0.

    The colours of kernels over 3 channels are red, green, blue, with `bgr` blue, green, red; grey is 0. `roles` are
    those of the net's layers in splits (see `layer_roles`).
    """
    figure.get_layout_engine().set(wspace=0.06)
    axes = figure.subplots(1, len(shown), squeeze=False, width_ratios=[m.image.shape[1] for m in shown])[0]
    signed = largest(shown, {"weights", "matrix", "colour"})
    norm = largest(shown, {"norm"})
    for axis, mosaic in zip(axes, shown):
        image = _panel(axis, mosaic, signed, norm, bgr)
        role = roles.get(mosaic.layer)
        words = mosaic.layer if role is None else f"{mosaic.layer} ({role})"
        axis.set_title(plain(f"{words}\n{mosaic.note}"), fontsize=8)
        axis.set_axis_off()
        if image is not None and mosaic is _last(shown, mosaic.kind == "norm"):
            label = "norm of the weights over channels" if mosaic.kind == "norm" else "weight"
            bar = figure.colorbar(image, ax=axis, shrink=0.7, pad=0.03)
            bar.set_label(label, fontsize=8)
            bar.ax.tick_params(labelsize=7)
    if any(m.kind == "colour" for m in shown):
        order = "blue, green, red" if bgr else "red, green, blue"
        figure.supxlabel(f"channels as {order}; grey is 0, full colour is a weight of ±{signed:.3g}", fontsize=8)


def _last(shown: Sequence[Mosaic], norm: bool) -> Mosaic:
    """The last panel that shares a scale: the bar of the scale stands beside it."""
    return [m for m in shown if m.kind != "colour" and (m.kind == "norm") == norm][-1]


def _panel(axis: Any, mosaic: Mosaic, signed: float, norm: float, bgr: bool) -> Any:
    if mosaic.kind == "colour":
        colours = mosaic.image[..., ::-1] if bgr else mosaic.image
        axis.imshow(np.where(np.isnan(colours), 1.0, 0.5 + colours / (2 * signed)), interpolation="nearest")
        return None
    from matplotlib import colormaps

    if mosaic.kind == "norm":
        return axis.imshow(mosaic.image, cmap=NORM_MAP, vmin=0, vmax=norm, interpolation="nearest")
    signs = colormaps[WEIGHT_MAP].with_extremes(bad=_GAPS)
    return axis.imshow(mosaic.image, cmap=signs, vmin=-signed, vmax=signed, interpolation="nearest")


def kernels_file(
    shown: Sequence[Mosaic], roles: Mapping[str, Role], out: PathLike, bgr: bool = False, *, force: bool = True
) -> None:
    """Write the picture; the ending of the name (.png, .svg, .pdf) sets the format. `force` lets it replace another.

    Raises `CaffeSplitError`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    ending = picture_format(out)
    widest = sum(mosaic.image.shape[1] for mosaic in shown)
    highest = max(mosaic.image.shape[0] for mosaic in shown)
    # As large as the pixels of the kernels ask for, within what a page shows.
    scale = min(0.14, 11.0 / widest, 11.0 / highest)
    width = max(widest * scale, 2.6 * len(shown)) + 0.9
    figure = Figure(figsize=(width, max(highest * scale, 1.2) + _ROOM), layout="constrained")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "caffe-split"}):
        draw_kernels(figure, shown, roles, bgr)
        with atomic_open(out, force) as stream:
            metadata = {"Date": None} if ending == "svg" else {"CreationDate": None} if ending == "pdf" else None
            figure.savefig(stream, format=ending, dpi=DPI, metadata=metadata)
