"""Recurrent layers of forks: CTPN's Lstm, and ConvLSTM, whose products are convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterator

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.records.recurrent import in_time, need_steps
from caffe_split.layertypes.shape_rules import Found, Shape, axis_of, need_bottoms
from caffe_split.net.geometry import Window, window_of
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

# -- CTPN's Lstm


def _lstm(layer: Layer, bottoms: list[Shape]) -> Found:
    """(time, streams, ...); weights of x and of h, four times as many rows as there are outputs, and a bias."""
    need_bottoms(layer, bottoms, 1)
    x, count = bottoms[0], int(Options.of(layer.message, "lstm_param").get("num_output") or 0)
    if len(x) < 3:
        raise CaffeSplitError(
            f"{layer.where}: its bottom has shape {x}; expected (time, streams, ...), three axes or more."
        )
    need_steps(layer, x)
    if len(bottoms) > 1 and math.prod(bottoms[1]) != x[0] * x[1]:
        raise CaffeSplitError(
            f"{layer.where}: its second bottom, which marks where sequences go on, has shape {bottoms[1]}; expected "
            f"{x[0] * x[1]} values."
        )
    inputs = math.prod(x[2:])
    weights: list[Shape] = [(4 * count, inputs), (4 * count, count), (4 * count,)]
    return Found([(x[0], x[1], count)], weights, macs=4 * count * (inputs + count) * x[0] * x[1])


def _check_lstm(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "lstm_param")
    if not param.get("num_output"):
        yield "lstm_param: num_output is missing or 0"


# -- ConvLSTM


def convolutions(layer: Layer) -> tuple[Options, Options]:
    """The options of the convolutions of x, and of those of h. Raises `CaffeSplitError` for neither one nor two."""
    given = Options.of(layer.message, "lstm_conv_param").each()
    if len(given) not in (1, 2):
        raise CaffeSplitError(f"{layer.where}: {len(given)} lstm_conv_param; expected one, or one each for x and h.")
    first = given[0]
    of_x = given[1] if len(given) > 1 and first.get("type") == "hidden" else first
    of_h = given[1] if len(given) > 1 and first.get("type") == "input" else first
    return of_x, of_h


def peepholes(layer: Layer, maps: Shape) -> tuple[int, Shape] | None:
    """(axis, shape) of the weights of the cells, of which there are three; None without (disable_hadamard).

    `maps` is the shape of the cells, (1, streams, channels, height, width), and the weights stretch from `axis` on.
    """
    param = Options.of(layer.message, "lstm_debug_param")
    if param.get("disable_hadamard"):
        return None
    axis = axis_of(param.get("axis_hadamard"), len(maps), layer)
    if axis < 2:
        raise CaffeSplitError(f"{layer.where}: axis_hadamard {axis} holds the streams; expected 2, 3 or 4.")
    return axis, maps[axis : axis + int(param.get("num_axes_hadamard"))]


def windows(layer: Layer) -> tuple[Window, Window]:
    """The windows of the convolutions of x and of h."""
    of_x, of_h = convolutions(layer)
    return window_of(layer, of_x, 2), window_of(layer, of_h, 2)


def _conv_lstm(layer: Layer, bottoms: list[Shape]) -> Found:
    """(time, streams, channels, height, width), the marks, and with expose_hidden h and c.

    The blobs, gate by gate (i, f, o, g): the weights of x, without a bias; the weight and the bias of h; those of the
    cells for i, f and o.
    """
    need_bottoms(layer, bottoms, 2)
    x, marks = bottoms[:2]
    of_x, of_h = convolutions(layer)
    count = int(of_x.get("num_output") or 0)
    if len(x) != 5 or marks != x[:2]:
        raise CaffeSplitError(
            f"{layer.where}: bottoms of {x} and {marks}; expected (time, streams, channels, height, width), and marks "
            "of (time, streams)."
        )
    need_steps(layer, x)
    if count < 1 or count != of_h.get("num_output"):
        raise CaffeSplitError(f"{layer.where}: num_output is missing, or not the same in both lstm_conv_param.")
    maps = (1, x[1], count, *x[3:])
    for bottom in bottoms[2:]:
        if bottom != maps:
            raise CaffeSplitError(f"{layer.where}: a state of shape {bottom} from outside; expected {maps}.")
    for window in windows(layer):
        if window.slide(x[3:]) != x[3:]:
            raise CaffeSplitError(
                f"{layer.where}: its convolutions change the size {x[3:]} of the maps, which has to stay."
            )
    blobs: list[Shape] = []
    in_x, in_h = (window.kernel for window in windows(layer))
    blobs += [(count, x[2] // int(of_x.get("group")), *in_x)] * 4
    macs = 4 * math.prod(blobs[0])
    for _ in range(4):
        blobs.append((count, count // int(of_h.get("group")), *in_h))
        macs += math.prod(blobs[-1])
        blobs += [(count,)] if of_h.get("bias_term") else []
    cells = peepholes(layer, maps)
    blobs += [] if cells is None else [cells[1]] * 3
    states: list[Shape] = [maps] * (len(layer.tops) - 1)
    return Found([(x[0], *maps[1:]), *states], blobs, macs=macs * math.prod(x[3:]) * x[0] * x[1])


def _check_conv_lstm(layer: Layer) -> Iterator[str]:
    debug = Options.of(layer.message, "lstm_debug_param")
    for name in ("ignore_x", "expose"):
        if debug.has(name) and debug.get(name):
            yield f"lstm_debug_param: {name} is not handled"
    exposed = 2 if Options.of(layer.message, "recurrent_param").get("expose_hidden") else 0
    if len(layer.bottoms) != 2 + exposed:
        yield f"{len(layer.bottoms)} bottoms; expected {2 + exposed}, a static input is not handled"
    if len(layer.tops) != 1 + exposed:
        yield f"{len(layer.tops)} tops; expected {1 + exposed}{' with expose_hidden' if exposed else ''}"
    for options in Options.of(layer.message, "lstm_conv_param").each():
        if options.get("type") not in ("all", "input", "hidden"):
            yield f"type: {options.get('type')}; expected all, input or hidden"


_BLOBS = (
    *(f"{gate}_x" for gate in ("input", "forget", "output", "gate")),
    *(f"{gate}_{kind}" for gate in ("input", "forget", "output", "gate") for kind in ("h", "bias")),
    *(f"{gate}_cells" for gate in ("input", "forget", "output")),
)
_CONVOLUTION = (
    "num_output bias_term weight_filler bias_filler group pad kernel_size stride dilation pad_h pad_w kernel_h "
    "kernel_w stride_h stride_w type"
)


_IGNORED = {
    **dict.fromkeys(
        ("recurrent_param.num_output", "recurrent_param.weight_filler", "recurrent_param.bias_filler"),
        "lstm_conv_param says it",
    ),
    "debug_info": "it logs the steps of an unrolled net, which the engine does not build",
    **dict.fromkeys(("lstm_conv_param.engine", "force_nd_im2col"), "it chooses among Caffe's own implementations"),
    "lstm_conv_param.axis": "the layer's code sets it",
}

RECORDS = (
    LayerType(
        "Lstm",
        shapes=_lstm,
        options={"lstm_param": "num_output clipping_threshold weight_filler bias_filler"},
        batch=in_time,
        engine=Engine("fork_recurrent", (1, 2), check=_check_lstm, rule_refuses=True),
        blob_names=("weight", "weight_h", "bias"),
        remembers=lambda layer: len(layer.bottoms) > 1,
    ),
    LayerType(
        "ConvLSTM",
        shapes=_conv_lstm,
        options={
            "recurrent_param": "expose_hidden",
            "lstm_conv_param": _CONVOLUTION,
            "lstm_debug_param": "expose disable_hadamard axis_hadamard num_axes_hadamard ignore_x",
        },
        batch=in_time,
        engine=Engine("fork_recurrent", (2, 4), (1, 3), ignored=_IGNORED, check=_check_conv_lstm, rule_refuses=True),
        blob_names=_BLOBS,
        remembers=lambda layer: not Options.of(layer.message, "recurrent_param").get("expose_hidden"),
    ),
)
