"""Whether the engine can run a net: a check of all of it against the table of what is handled.

Three outcomes. Handled; ignored, because the field cannot change what is computed, with the reason; refused by name,
all refusals of a net together, before anything is read or allocated. Nothing here needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from caffe_split.engine.spec.kinds import ANY, KINDS, Kind
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.schema import caffe
from caffe_split.net.layers import Layer, all_layers

FILLERS = ("constant", "gaussian", "uniform", "xavier", "msra", "positive_unitball", "bilinear")


@dataclass(frozen=True)
class Note:
    """A field that is passed over: where, and why."""

    line: int
    layer: str
    field: str
    reason: str


@dataclass(frozen=True, order=True)
class Problem:
    """What the engine cannot run, and where."""

    file: str
    line: int
    text: str


# What every layer may say; its own options come on top.
_COMMON = {
    "name",
    "type",
    "bottom",
    "top",
    "loss_weight",
    "param",
    "include",
    "exclude",
    "propagate_down",
    "phase",
}


def layers_of(document: prototxt.Document, phase: str, stages: Sequence[str], level: int) -> list[Layer]:
    """The layers that Caffe would build for this state and what the net's own `state` adds to it."""
    state = document.sub("state")
    own: Sequence[str] = ()
    if state is not None:
        own = tuple(map(str, state.get_all("stage")))
        level = level if level else int(state.get("level", 0))
        if state.has("phase") and state.get("phase") != phase:
            raise CaffeSplitError(
                f"{document.filename}:{state.line}: the net's own state asks for phase {state.get('phase')} always; "
                "that is not handled."
            )
    return [layer for layer in all_layers(document) if layer.runs_in(phase, (*own, *stages), level)]


def check_net(document: prototxt.Document, layers: Sequence[Layer]) -> list[Note]:
    """Check the layers of one phase. Returns what is ignored.

    Raises `CaffeSplitError` with all that is refused, a line each.
    """
    problems, notes = judge(document, layers)
    if problems:
        raise refusal(problems)
    return notes


def refusal(problems: Sequence[Problem]) -> CaffeSplitError:
    """All that stands in the way, each once, in the order of the files."""
    lines = list(dict.fromkeys(sorted(problems)))
    files = " and ".join(dict.fromkeys(problem.file for problem in problems))
    listed = "".join(f"\n  {problem.file}:{problem.line}: {problem.text}" for problem in lines)
    return CaffeSplitError(
        f"the torch engine cannot run {files}; what stands in the way (--engine caffe may run it):{listed}"
    )


def judge(document: prototxt.Document, layers: Sequence[Layer]) -> tuple[list[Problem], list[Note]]:
    """What is refused of the layers of one phase, and what is ignored."""
    problems: list[tuple[int, str]] = []
    notes: list[Note] = []
    written: dict[str, str] = {}
    for layer in layers:
        kind = KINDS.get(layer.type)
        if kind is None:
            problems.append((layer.field.line, f"layer '{layer.name}': type {layer.type} is not handled"))
        else:
            problems += [(line, f"layer '{layer.name}': {text}") for line, text in _problems(layer, kind, notes)]
        problems += [(layer.field.line, f"layer '{layer.name}': {text}") for text in _wiring(layer, written)]
    return [Problem(document.filename, line, text) for line, text in problems], notes


def _problems(layer: Layer, kind: Kind, notes: list[Note]) -> Iterator[tuple[int, str]]:
    line = layer.field.line
    for what, found, (least, most) in (
        ("bottoms", len(layer.bottoms), kind.bottoms),
        ("tops", len(layer.tops), kind.tops),
    ):
        if not least <= found <= most:
            expected = str(least) if least == most else f"{least} or more" if most == ANY else f"{least} to {most}"
            yield line, f"a {layer.type} with {found} {what} is not handled; expected {expected}"
    weights = layer.message.get_all("loss_weight")
    if weights and len(weights) != len(layer.tops):
        yield line, f"{len(weights)} loss_weight for {len(layer.tops)} tops; Caffe wants none or one a top"
    downs = layer.message.get_all("propagate_down")
    if downs and len(downs) != len(layer.bottoms):
        yield line, f"{len(downs)} propagate_down for {len(layer.bottoms)} bottoms; Caffe wants none or one a bottom"
    for entry in layer.message:
        if entry.name in kind.options:
            yield from _fields(layer, kind, entry, notes)
        elif entry.name in kind.ignored:
            notes.append(Note(entry.line, layer.name, entry.name, kind.ignored[entry.name]))
        elif entry.name.endswith("_param") and entry.name in caffe().messages["LayerParameter"].fields:
            notes.append(Note(entry.line, layer.name, entry.name, f"a {layer.type} layer does not read it"))
        elif entry.name not in _COMMON:
            yield entry.line, f"field {entry.name} is not handled"
    yield from ((line, text) for text in kind.check(layer)) if kind.check is not None else ()


def _fields(layer: Layer, kind: Kind, entry: prototxt.Field, notes: list[Note]) -> Iterator[tuple[int, str]]:
    """The fields of one option message."""
    handled = kind.options[entry.name].split()
    for message in (value for value in entry.values() if isinstance(value, prototxt.Message)):
        for inner in message:
            if inner.name in handled:
                if "filler" in inner.name:
                    yield from _filler(inner)
            elif inner.name in kind.ignored:
                notes.append(Note(inner.line, layer.name, f"{entry.name}.{inner.name}", kind.ignored[inner.name]))
            else:
                yield inner.line, f"field {entry.name}.{inner.name} is not handled"


def _filler(entry: prototxt.Field) -> Iterator[tuple[int, str]]:
    for message in entry.values():
        kind = message.get("type", "constant")
        if kind not in FILLERS:
            yield entry.line, f"a {entry.name} of type {kind!r} is not handled; {', '.join(FILLERS)} are"


def _wiring(layer: Layer, written: dict[str, str]) -> Iterator[str]:
    """What Caffe dies of when it wires the net: `written` maps a blob to the layer that has it as a top so far."""
    for bottom in layer.bottoms:
        if bottom not in written:
            yield f"bottom '{bottom}' is no top of a layer above it in this phase"
    for index, top in enumerate(layer.tops):
        in_place = index < len(layer.bottoms) and layer.bottoms[index] == top
        if top in written and not in_place:
            yield f"top '{top}' is one of layer '{written[top]}' already; only a layer in place may write it again"
        written[top] = layer.name
