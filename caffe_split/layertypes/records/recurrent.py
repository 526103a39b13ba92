"""LSTM, RNN and LSTMUnit: layers that carry a state from one time step to the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import EACH, BatchKind, MixedRecordsError, Shapes
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.shape_rules import Found, Shape, need_bottoms
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def state_count(layer: Layer) -> int:
    """How many blobs of state a layer carries: the hidden values, and in an LSTM the cells."""
    return 2 if layer.type == "LSTM" else 1


def exposed_count(layer: Layer) -> int:
    """How many blobs of state are bottoms and tops of the layer (expose_hidden)."""
    return state_count(layer) if Options.of(layer.message, "recurrent_param").get("expose_hidden") else 0


def _recurrent(layer: Layer, bottoms: list[Shape]) -> Found:
    """LSTM and RNN over (time, streams, ...).

    Weights of x with a bias, of the static input if there is one, of h, and, in an RNN, of the output with a bias.
    """
    need_bottoms(layer, bottoms, 2, axes=1)
    param = Options.of(layer.message, "recurrent_param")
    count, gates = int(param.get("num_output") or 0), 4 if layer.type == "LSTM" else 1
    if count < 1:
        raise CaffeSplitError(f"{layer.where}: num_output is missing or 0.")
    exposed = exposed_count(layer)
    given = bottoms[2:]
    static = given.pop(0) if len(given) > exposed else None
    _check_bottoms(layer, bottoms, static)
    steps, streams = bottoms[0][:2]
    state = (1, streams, count)
    for bottom in given:
        if bottom != state:
            raise CaffeSplitError(f"{layer.where}: a state of shape {bottom} from outside; expected {state}.")
    rows = gates * count
    weights: list[Shape] = [(rows, math.prod(bottoms[0][2:])), (rows,)]
    if static is not None:
        weights.append((rows, math.prod(static[1:])))
    weights.append((rows, count))
    if layer.type == "RNN":
        weights += [(count, count), (count,)]
    each_step = sum(math.prod(weight) for weight in weights if len(weight) == 2)
    once = math.prod(weights[2]) if static is not None else 0
    macs = ((each_step - once) * steps + once) * streams
    return Found([(steps, streams, count), *[state] * exposed], weights, macs=macs)


def need_steps(layer: Layer, x: Shape) -> None:
    """Raises `CaffeSplitError` for a bottom (time, streams, ...) without a time step, or without a stream."""
    if 0 in x[:2]:
        raise CaffeSplitError(f"{layer.where}: a bottom of {x}; expected a time step and a stream, or more.")


def _check_bottoms(layer: Layer, bottoms: Sequence[Shape], static: Shape | None) -> None:
    """Raises `CaffeSplitError` where x, the marks of sequences and the static input do not fit each other."""
    x, marks = bottoms[:2]
    if len(x) < 3:
        raise CaffeSplitError(
            f"{layer.where}: its first bottom has shape {x}; expected (time, streams, ...), three axes or more."
        )
    need_steps(layer, x)
    if marks != x[:2]:
        raise CaffeSplitError(
            f"{layer.where}: its second bottom, which marks where sequences go on, has shape {marks}; expected {x[:2]}."
        )
    if static is not None and (len(static) < 2 or static[0] != x[1]):
        raise CaffeSplitError(f"{layer.where}: a static input of shape {static}; expected ({x[1]}, ...).")


def in_time(layer: Layer, given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    """The rule for processes that share a batch: the first axis is time, which cannot be divided."""
    if EACH in given:
        raise MixedRecordsError("the first axis of its bottoms is time, along which it carries its state")
    return given[0]


def _check_exposed(layer: Layer) -> Iterator[str]:
    exposed = exposed_count(layer)
    if not 2 + exposed <= len(layer.bottoms) <= 3 + exposed:
        yield f"{len(layer.bottoms)} bottoms; Caffe wants {2 + exposed}, or {3 + exposed} with a static input"
    if len(layer.tops) != 1 + exposed:
        yield f"{len(layer.tops)} tops; Caffe wants {1 + exposed}{' with expose_hidden' if exposed else ''}"


def _unit(layer: Layer, bottoms: list[Shape]) -> Found:
    """One step of an LSTM: cells (1, streams, n), gates (1, streams, 4 n), marks (1, streams)."""
    need_bottoms(layer, bottoms, 3, axes=1)
    cells, gates, marks = bottoms[:3]
    if len(cells) != 3 or cells[0] != 1 or gates != (1, cells[1], 4 * cells[2]) or marks != (1, cells[1]):
        raise CaffeSplitError(
            f"{layer.where}: bottoms of shapes {cells}, {gates} and {marks}; expected cells (1, streams, n), gates "
            "(1, streams, 4 n) and marks (1, streams)."
        )
    return Found([cells, cells])


def _words(layer: Layer) -> list[str]:
    return [f"{layer.type} to {Options.of(layer.message, 'recurrent_param').get('num_output') or '?'}"]


_IGNORED = {"debug_info": "it logs the steps of Caffe's unrolled net, which the engine does not build"}


def _layer(name: str, states: int) -> LayerType:
    return LayerType(
        name,
        shapes=_recurrent,
        options={"recurrent_param": "num_output weight_filler bias_filler expose_hidden"},
        batch=in_time,
        words=_words,
        remembers=lambda layer: not exposed_count(layer),
        engine=Engine(
            "recurrent",
            (2, 3 + states),
            (1, 1 + states),
            ignored=_IGNORED,
            check=_check_exposed,
            rule_refuses=True,
        ),
    )


RECORDS = (
    _layer("LSTM", 2),
    _layer("RNN", 1),
    LayerType(
        "LSTMUnit",
        shapes=_unit,
        batch=in_time,
        engine=Engine("recurrent", (3, 3), (2, 2), rule_refuses=True),
    ),
)
