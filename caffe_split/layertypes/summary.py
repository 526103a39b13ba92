"""What a net consists of, layer by layer, and what it costs; two nets side by side."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError, expect
from caffe_split.files import PathLike
from caffe_split.formats import prototxt
from caffe_split.layertypes.cost import Cost
from caffe_split.layertypes.shapes import NetShapes, Shape, document_inputs, infer_shapes
from caffe_split.net.bottoms import lacking_bottoms
from caffe_split.net.layers import Layer, phase_layers
from caffe_split.net.state import TRAIN, NetState
from caffe_split.net.training import Training, open_training


@dataclass(frozen=True)
class Row:
    """One layer: the shapes of its tops, its parameters and multiply-adds for one image; None where not known.

    `settings` is all that its text says except the name, sorted; `frozen` is the number of parameters whose lr_mult is
    0.
    """

    name: str
    type: str
    tops: tuple[Shape, ...] | None
    parameters: int | None
    frozen: int
    macs: int | None
    settings: tuple[tuple[str, str], ...]

    @property
    def output(self) -> str:
        """The shapes of the tops as `64x16x32x32`, separated by blanks; `scalar` for one number, `?` if not known."""
        if self.tops is None:
            return "?"
        return " ".join("x".join(map(str, shape)) or "scalar" for shape in self.tops) or "-"


@dataclass(frozen=True)
class Summary:
    """A net's layers of one phase, in order, and its totals.

    `net` is the net's file, `phase` TRAIN or TEST. `rows` has a `Row` per layer: the shapes of its tops, as (N, C, H,
    W), its parameters, its multiply-adds for one image. `cost` is their sum. `unknown` maps a layer whose parameters,
    or also shapes, are not known to the reason. `cost` is None in parts then, and `cost.least` that of the other
    layers.
    """

    net: str
    phase: str
    rows: tuple[Row, ...]
    cost: Cost
    unknown: dict[str, str]

    @property
    def frozen(self) -> int:
        """Number of parameters whose lr_mult is 0."""
        return sum(row.frozen for row in self.rows)


def summarize(
    net: PathLike | prototxt.Document | Training,
    state: NetState | None = None,
    inputs: Mapping[str, Shape] | None = None,
) -> Summary:
    """The layers of a net with output shapes, parameters and multiply-adds for one image, without running it.

    `net` is a file (a net, or the solver that names it), or what `read_net` or `open_training` gave. `state` is that in
    which the net is built; None: that in which its solver trains, phase TRAIN alone without a solver. `inputs` gives
    shapes of blobs from data layers whose data set is not there, blob -> (N, C, H, W). What is not known, such as what
    a missing data set decides, is None in the summary, with the reason in `unknown`. Raises `CaffeSplitError` for an
    input that the net does not have, and for a layer that Caffe would refuse.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "net.prototxt")
    >>> with open(path, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
    ... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    ...         convolution_param { num_output: 4 kernel_size: 3 } }''')
    >>> summary = summarize(path)
    >>> [(row.name, row.output, row.parameters) for row in summary.rows], summary.cost.macs
    ([('data', '1x3x8x8', 0), ('conv', '1x4x6x6', 112)], 3888)
    """
    if isinstance(net, (str, os.PathLike)):
        net = open_training(net)
    document = net.net if isinstance(net, Training) else net
    state = state or (net.state if isinstance(net, Training) else TRAIN)
    expect(document, prototxt.Document, "a net: its path, or what read_net or open_training gave")
    layers = phase_layers(document, state)
    if not layers:
        raise CaffeSplitError(f"{document.filename}: no layer of it runs in phase {state.phase}.")
    declared = document_inputs(document)
    _check_inputs(document, layers, declared, inputs or {})
    shapes = infer_shapes(layers, {**declared, **(inputs or {})})
    rows = tuple(_row(layer, shapes) for layer in layers)
    return Summary(document.filename, state.phase, rows, Cost.of(shapes), _reasons(document, layers, shapes))


def _check_inputs(
    document: prototxt.Document, layers: Sequence[Layer], declared: Mapping[str, Shape], inputs: Mapping[str, Shape]
) -> None:
    """Raises `CaffeSplitError` where a shape is given for a blob that is no input of the net."""
    given = {top for layer in layers if not layer.bottoms for top in layer.tops} | set(declared)
    free = {blob for layer in layers for blob in layer.bottoms} - {top for layer in layers for top in layer.tops}
    for blob in inputs:
        if blob not in given | free:
            names = ", ".join(sorted(given | free)) or "none"
            raise CaffeSplitError(f"{document.filename}: '{blob}' is no input of the net. Its inputs: {names}.")


def _reasons(document: prototxt.Document, layers: Sequence[Layer], shapes: NetShapes) -> dict[str, str]:
    """Why layers are not known; of a layer that gives data with what to do about it."""
    reasons = dict(shapes.unknown)
    for lacking in lacking_bottoms(document, layers):
        if lacking.layer.name in reasons:
            reasons[lacking.layer.name] = lacking.text
    for layer in layers:
        if layer.name in reasons and not layer.bottoms and layer.tops:
            reasons[layer.name] += f". Give its shape: --input {layer.tops[0]}=64,3,32,32"
    return reasons


def _row(layer: Layer, shapes: NetShapes) -> Row:
    known = layer.name not in shapes.unknown
    specs = layer.message.subs("param")
    frozen = 0
    for index, shape in enumerate(shapes.params.get(layer.name, ())):
        place = shapes.first_param[layer.name] + index
        if index not in shapes.shared[layer.name] and place < len(specs) and specs[place].get("lr_mult", 1) == 0:
            frozen += math.prod(shape)
    return Row(
        name=layer.name,
        type=layer.type,
        tops=tuple(shapes.tops[layer.name]) if layer.name in shapes.tops else None,
        parameters=shapes.parameters_of(layer.name) if known else None,
        frozen=frozen,
        macs=shapes.macs.get(layer.name, 0) if known else None,
        settings=_settings(layer.message, skip="name"),
    )


def _settings(message: prototxt.Message, skip: str = "") -> tuple[tuple[str, str], ...]:
    """All settings as (path, value) pairs, sorted by path, so that neither order nor comments count."""
    pairs = []
    for field in message.fields:
        for value in field.values():
            if isinstance(value, prototxt.Message):
                pairs += [(f"{field.name}.{path}", text) for path, text in _settings(value)]
            elif field.name != skip:
                pairs.append((field.name, str(value)))
    return tuple(sorted(pairs, key=lambda pair: pair[0]))


# -- two nets


@dataclass(frozen=True)
class Pair:
    """A layer of the first net and the layer of the same name in the second; None where there is none.

    `changed` names what differs, settings by their path; another number of images is no difference.
    """

    first: Row | None
    second: Row | None
    changed: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the layer."""
        row = self.first or self.second
        assert row is not None
        return row.name

    @property
    def change(self) -> str:
        """'added', 'removed', 'changed' or 'same'."""
        if self.first is None:
            return "added"
        if self.second is None:
            return "removed"
        return "changed" if self.changed else "same"


def pair_up(first: Summary, second: Summary) -> list[Pair]:
    """The layers of both nets, in the order of the second; removed ones stand where they were in the first."""
    mine, theirs = {row.name: row for row in first.rows}, {row.name: row for row in second.rows}
    matcher = difflib.SequenceMatcher(None, list(mine), list(theirs), autojunk=False)
    names: list[str] = []
    for _, start1, stop1, start2, stop2 in matcher.get_opcodes():
        names += [name for name in list(mine)[start1:stop1] if name not in theirs]
        names += list(theirs)[start2:stop2]
    return [
        Pair(mine.get(name), theirs.get(name), _differences(mine.get(name), theirs.get(name)))
        for name in dict.fromkeys(names)
    ]


def _differences(first: Row | None, second: Row | None) -> tuple[str, ...]:
    if first is None or second is None:
        return ()
    ours, theirs = _by_path(first), _by_path(second)
    changed = [path for path in sorted({*ours, *theirs}) if ours.get(path) != theirs.get(path)]
    if first.tops is not None and second.tops is not None:
        images = [[shape[1:] for shape in row] for row in (first.tops, second.tops)]
        changed += ["output"] if images[0] != images[1] else []
    for key in ("parameters", "macs"):
        values = getattr(first, key), getattr(second, key)
        if None not in values and values[0] != values[1]:
            changed.append({"macs": "multiply-adds"}.get(key, key))
    return tuple(changed)


def _by_path(row: Row) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, value in row.settings:
        found.setdefault(path, []).append(value)
    return found
