"""Whether the engine can run a net: a check of all its layers and fields against the records of layer types.

A field is handled; or ignored, with the reason, because it cannot change what is computed; or refused by name. All
refusals of a net come together, before anything is read or allocated. Nothing here needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from caffe_split.engine.spec import python_layers
from caffe_split.engine.spec.backward import backward_problems
from caffe_split.engine.spec.fillers import FILLERS, forks_fillers, is_a_forks
from caffe_split.engine.spec.memory import memory_problems
from caffe_split.engine.spec.recurrent import recurrent_problems
from caffe_split.engine.spec.setup import filler_problems, only_run, setup_problems
from caffe_split.engine.spec.wires import Wires
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check
from caffe_split.formats.prototxt.proto2 import with_forks
from caffe_split.layertypes.foreign import harmless_fields, training_fields, unread_fields, why_harmless
from caffe_split.layertypes.left_out import is_needed_to_train, left_out
from caffe_split.layertypes.record import ANY, Engine
from caffe_split.layertypes.table import alike, record_for
from caffe_split.net.bottoms import lacking_bottoms
from caffe_split.net.layers import Layer, phase_layers
from caffe_split.net.options import Options
from caffe_split.net.state import NetState

# The top of a loss for which none is written.
AUTOMATIC = "(automatic)"


@dataclass(frozen=True)
class Note:
    """A field that is ignored, or a layer that is left out (no field): where, and why."""

    line: int
    layer: str
    field: str
    reason: str

    @property
    def text(self) -> str:
        """A sentence for a log."""
        if not self.field:
            return f"Leaving out layer {self.layer} (line {self.line}): {self.reason}"
        whose = f"layer {self.layer}" if self.layer else "the net"
        return f"Ignoring field {self.field} of {whose} (line {self.line}): {self.reason}"


@dataclass(frozen=True, order=True)
class Problem:
    """What the engine cannot run, and where."""

    file: str
    line: int
    text: str


# Fields that layers of all types may have, beside the options of their type.
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


def layers_of(document: prototxt.Document, state: NetState) -> list[Layer]:
    """The layers that Caffe would build in this state on top of the net's own `state`, whose phase gives way.

    A loss without a top has the one that Caffe gives it, "(automatic)".
    """
    return _with_tops(phase_layers(document, state.in_net(document)))


def refuse_own_phase(document: prototxt.Document, state: NetState) -> None:
    """Raises `CaffeSplitError` where the own `state` of a solver's net has another phase: Caffe then takes that."""
    own = document.sub("state")
    if own is not None and own.has("phase") and own.get("phase") != state.phase:
        raise CaffeSplitError(
            f"{document.filename}:{own.line}: the net's own state asks for phase {own.get('phase')} always, and a "
            f"solver's {state.phase} net takes that; take the phase out of it."
        )


def _with_tops(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, with a top for each loss that has none. Caffe calls all of them alike; here a name is one blob."""
    lacking = [index for index, layer in enumerate(layers) if record_for(layer).is_loss and not layer.tops]
    names = {index: AUTOMATIC if index == lacking[0] else f"{AUTOMATIC} of {layers[index].name}" for index in lacking}
    return [replace(layer, tops=(names[index],)) if index in names else layer for index, layer in enumerate(layers)]


def check_net(document: prototxt.Document, layers: Sequence[Layer]) -> list[Note]:
    """Check the layers of one phase, and that the files which they need are there. Returns what is ignored.

    Raises `CaffeSplitError` with all that is refused, one line each.
    """
    problems, notes = judge(document, layers)
    problems += lacking_files(document, layers)
    if problems:
        raise refusal(problems)
    return notes


def judge_training(document: prototxt.Document, layers: Sequence[Layer]) -> list[Problem]:
    """What is refused of a net that is to be trained, and could be run forward; for nets that `judge` passes."""
    gone = left_out(layers)
    kept = without(layers, gone)
    losses = [
        (layers[index], f"{why}: without this loss the net is run, and not trained")
        for index, why in sorted(gone.items())
        if is_needed_to_train(layers[index])
    ]
    if gone and not losses and not any(_has_loss(layer) for layer in kept):
        first = min(gone)
        losses = [(layers[first], f"{gone[first]}, and no loss is left: the net is run, and not trained")]
    fields = [
        Problem(document.filename, each.line, f"layer '{layer.name}': {each.message}; the net is run, and not trained")
        for layer in kept
        for each in training_fields(layer, record_for(layer).options)
    ]
    fields += [
        Problem(
            document.filename,
            entry.line,
            f"layer '{layer.name}': a {entry.name} of type '{kind}' is not handled; {', '.join(FILLERS)} are",
        )
        for layer in kept
        for entry, kind in forks_fillers(layer)
    ]
    return fields + [
        Problem(document.filename, layer.field.line, f"layer '{layer.name}': {text}")
        for layer, text in (*losses, *backward_problems(kept), *recurrent_problems(kept), *only_run(kept))
    ]


def _has_loss(layer: Layer) -> bool:
    """Whether a top counts in what is trained."""
    weights = [float(weight) for weight in layer.message.get_all("loss_weight")]
    return any(weights) if weights else record_for(layer).is_loss


def without(layers: Sequence[Layer], gone: Collection[int]) -> list[Layer]:
    """The layers that are run: all but those at the indices `gone`."""
    return [layer for index, layer in enumerate(layers) if index not in gone]


def lacking_files(document: prototxt.Document, layers: Sequence[Layer]) -> list[Problem]:
    """What layers need beside the net and is not there: files, data sets, classes of Python layers."""
    found = []
    for layer in layers:
        engine = record_for(layer).engine
        check = python_layers.lacking if layer.type == "Python" else engine.files if engine is not None else None
        texts = check(layer) if check is not None else ()
        found += [Problem(document.filename, layer.field.line, f"layer '{layer.name}': {text}") for text in texts]
    return found


def refusal(problems: Sequence[Problem]) -> CaffeSplitError:
    """The error that lists all problems, each once, sorted by file and line."""
    lines = list(dict.fromkeys(sorted(problems)))
    files = " and ".join(dict.fromkeys(problem.file for problem in problems))
    listed = "".join(f"\n  {problem.file}:{problem.line}: {problem.text}" for problem in lines)
    return CaffeSplitError(
        f"the torch engine cannot run {files}; what stands in the way (--engine caffe may run what is not handled):"
        f"{listed}"
    )


def judge(document: prototxt.Document, layers: Sequence[Layer]) -> tuple[list[Problem], list[Note]]:
    """What is refused of the layers of one phase by the net's text alone, and what is ignored: it asks for no file.

    A net that passes can be run forward, without the layers that a note says are left out; see `judge_training`.
    """
    notes: list[Note] = []
    problems: list[tuple[int, str]] = []
    for strange in _foreign(document):
        reason = why_harmless(strange.path, document)
        if reason is None:
            problems.append((strange.line, strange.message))
        else:
            notes.append(Note(strange.line, "", strange.path, reason))
    wires = Wires()
    problems += [
        (each.layer.field.line, f"layer '{each.layer.name}': {each.text}") for each in lacking_bottoms(document, layers)
    ]
    gone = left_out(layers)
    for index, layer in enumerate(layers):
        engine = record_for(layer).engine
        if index in gone:
            notes.append(Note(layer.field.line, layer.name, "", f"{gone[index]}{alike(layer.type, handled=True)}"))
        elif engine is None:
            text = f"type {layer.type} is not handled{alike(layer.type, handled=True)}"
            problems.append((layer.field.line, f"layer '{layer.name}': {text}"))
        else:
            problems += [(line, f"layer '{layer.name}': {text}") for line, text in _problems(layer, engine, notes)]
        problems += [(layer.field.line, f"layer '{layer.name}': {text}") for text in wires.problems(layer)]
    if not problems:
        problems = [
            (layer.field.line, f"layer '{layer.name}': {text}")
            for layer, text in memory_problems(without(layers, gone))
        ]
    return [Problem(document.filename, line, text) for line, text in problems], notes


def _foreign(document: prototxt.Document) -> list[check.Problem]:
    """The fields of the net itself that BVLC's Caffe does not have; those of its layers are judged layer by layer."""
    return [
        each for each in check.foreign(document, "NetParameter") if each.path.split(".")[0] not in ("layer", "layers")
    ]


def form_problems(layer: Layer) -> Iterator[str]:
    """What is refused of one layer by its bottoms and tops, its type's own checks, and Caffe's of its text."""
    engine = record_for(layer).engine
    if engine is None:
        return
    yield from _wrong_numbers(layer, engine)
    for refuse in (engine.check, engine.forms):
        yield from refuse(layer) if refuse is not None else ()
    yield from setup_problems(layer)


def _wrong_numbers(layer: Layer, engine: Engine) -> Iterator[str]:
    for what, found, (least, most) in (
        ("bottoms", len(layer.bottoms), engine.bottoms),
        ("tops", len(layer.tops), engine.tops),
    ):
        if not least <= found <= most:
            expected = str(least) if least == most else f"{least} or more" if most == ANY else f"{least} to {most}"
            yield f"a {layer.type} with {found} {what} is not handled; expected {expected}"


def _problems(layer: Layer, engine: Engine, notes: list[Note]) -> Iterator[tuple[int, str]]:
    line = layer.field.line
    yield from ((line, text) for text in _wrong_numbers(layer, engine))
    weights = layer.message.get_all("loss_weight")
    if weights and len(weights) != len(layer.tops):
        yield line, f"{len(weights)} loss_weight for {len(layer.tops)} tops; Caffe wants none or one a top"
    downs = layer.message.get_all("propagate_down")
    if downs and len(downs) != len(layer.bottoms):
        yield line, f"{len(downs)} propagate_down for {len(layer.bottoms)} bottoms; Caffe wants none or one a bottom"
    if "*" in engine.ignored:
        reads = [entry for entry in layer.message if entry.name not in _COMMON]
        notes += [Note(entry.line, layer.name, entry.name, engine.ignored["*"]) for entry in reads]
        return
    unread = unread_fields(layer, record_for(layer).options)
    yield from ((each.line, each.message) for each in unread)
    of_training = training_fields(layer, record_for(layer).options)
    notes += [Note(each.line, layer.name, each.path, f"{each.message}; it concerns trainings") for each in of_training]
    notes += [
        Note(entry.line, layer.name, entry.name, f"its type '{kind}' is not known, so that weights have to be loaded")
        for entry, kind in forks_fillers(layer)
    ]
    strange = {each.path for each in (*unread, *of_training)}
    for path, (each, reason) in harmless_fields(layer).items():
        if path not in strange:
            strange.add(path)
            notes.append(Note(each.line, layer.name, path, reason))
    for entry in layer.message:
        if entry.name in strange:
            continue
        if entry.name in record_for(layer).options:
            yield from _fields(layer, engine, entry, strange, notes)
        elif entry.name in engine.ignored:
            notes.append(Note(entry.line, layer.name, entry.name, engine.ignored[entry.name]))
        elif entry.name.endswith("_param") and entry.name in with_forks().messages["LayerParameter"].fields:
            notes.append(Note(entry.line, layer.name, entry.name, f"a {layer.type} layer does not read it"))
        elif entry.name not in _COMMON:
            yield entry.line, f"field {entry.name} is not handled"
    for refuse in (engine.check, engine.forms):
        yield from ((line, text) for text in refuse(layer)) if refuse is not None else ()
    yield from ((line, text) for text in setup_problems(layer))


def _fields(
    layer: Layer, engine: Engine, entry: prototxt.Field, strange: Collection[str], notes: list[Note]
) -> Iterator[tuple[int, str]]:
    """The fields of one option message, except the `strange` ones."""
    handled = record_for(layer).options[entry.name].split()
    for message in (value for value in entry.values() if isinstance(value, prototxt.Message)):
        for inner in message:
            path = f"{entry.name}.{inner.name}"
            if path in strange:
                continue
            reason = engine.ignored.get(path, engine.ignored.get(inner.name))
            if inner.name in handled:
                if "filler" in inner.name:
                    yield from _filler(inner, entry.name == "dummy_data_param")
            elif reason is not None:
                notes.append(Note(inner.line, layer.name, path, reason))
            else:
                yield inner.line, f"field {path} is not handled"


def _filler(entry: prototxt.Field, is_data: bool) -> Iterator[tuple[int, str]]:
    for message in entry.values():
        kind = message.get("type", "constant")
        if kind not in FILLERS and not (is_a_forks(str(kind)) and not is_data):
            yield entry.line, f"a {entry.name} of type {kind!r} is not handled; {', '.join(FILLERS)} are"
        yield from ((entry.line, text) for text in filler_problems(Options("FillerParameter", [message]), entry.name))
