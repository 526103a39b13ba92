"""What Caffe would refuse in a document: unknown names, values that do not fit, fields given twice.

Forks of Caffe add fields, and those must pass; a misspelt field must not. A name that the schema lacks counts as
misspelt when it is one or two letters from a name of the same message, or differs only in its `_`s, and no known
fork has it; else it counts as a fork's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import scalars
from caffe_split.formats.prototxt.document import Document
from caffe_split.formats.prototxt.nodes import ListValue, MessageNode, Scalar
from caffe_split.formats.prototxt.schema import FieldType, MessageType
from caffe_split.formats.prototxt.tree import Field, Message
from caffe_split.formats.prototxt.upgrade import refuse_mixed

# Fields of well-known forks (SSD, NVCaffe, Intel's, DeepLab, PSPNet) that are so near to one of BVLC's names that
# they would count as misspelt.
_OF_FORKS = frozenset(
    {
        "permute_param",
        "norm_param",
        "interp_param",
        "crop_h",
        "crop_w",
        "pad_l",
        "pad_r",
        "stride_d",
        "eval_type",
        "bn_param",
        "data_type",
        "kernel_d",
        "pad_d",
        "pad_type",
        "scale_param2",
        "mean_values",
        "min_size",
        "max_size",
        "top_type",
        "power_param2",
        "lr_policy2",
        "axes",
        "tile_param2",
    }
)


@dataclass(frozen=True)
class Problem:
    """One thing that Caffe would refuse.

    `fatal` is False for what a fork may accept; `unknown` is True when a field's name is the problem.
    """

    line: int
    column: int
    message: str
    fatal: bool
    unknown: bool = False


def problems(document: Document) -> list[Problem]:
    r"""All problems of a typed document, in the order of the text; none for an untyped one.

    >>> from caffe_split.formats import prototxt
    >>> doc = prototxt.parse('layer {\n  name: "c"\n  botom: "data"\n}\n')
    >>> [(p.line, p.column, p.message) for p in problems(doc)]
    [(3, 3, "LayerParameter has no field 'botom'; did you mean 'bottom'?")]
    """
    found: list[Problem] = []
    if document.type is not None:
        _visit(document, document.type, found)
    return found


def check(document: Document) -> None:
    """Raise `CaffeSplitError` for a document's fatal problems (all in one message).

    A net that mixes `layer` and `layers` is refused, too.
    """
    fatal = [p for p in problems(document) if p.fatal]
    if fatal:
        lines = [f"{document.filename}:{p.line}:{p.column}: {p.message}" for p in fatal[:20]]
        if len(fatal) > 20:
            lines.append(f"... and {len(fatal) - 20} more")
        if any(p.unknown for p in fatal):
            lines[-1] += " (a fork's own field is known by the fork's caffe.proto: --caffe-proto FILE)"
        raise CaffeSplitError("\n".join(lines))
    if document.kind == "net":
        refuse_mixed(document)
    elif document.kind == "solver":
        for name in ("net_param", "train_net_param", "test_net_param"):
            for net in document.subs(name):
                refuse_mixed(net)


@functools.cache
def _required(kind: MessageType) -> tuple[str, ...]:
    return tuple(known.name for known in kind.fields.values() if known.required)


def _visit(message: Message, kind: MessageType, found: list[Problem]) -> None:
    for name in _required(kind):
        if not message.has(name):
            place = message.owner
            line, column = (place.line, place.column) if place is not None else (1, 1)
            found.append(Problem(line, column, f"{kind.name} lacks {name!r}, which it must have", True))
    seen: dict[str, Field] = {}
    for field in message.fields:
        known = kind.fields.get(field.name)
        if known is None:
            found.append(_unknown(field, kind))
            continue
        nodes = field.value.items if isinstance(field.value, ListValue) else [field.value]
        if not known.repeated:
            if isinstance(field.value, ListValue):
                found.append(_problem(field, f"{field.name} takes one value, not a list"))
            elif field.name in seen:
                first = seen[field.name].line
                found.append(_problem(field, f"{field.name} is given twice in one message, first at line {first}"))
        seen.setdefault(field.name, field)
        for node in nodes:
            if isinstance(node, Message) and known.message is not None:
                _visit(node, known.message, found)
            else:
                _value(field, node, known, found)


def _value(field: Field, node: Scalar | MessageNode | ListValue, known: FieldType, found: list[Problem]) -> None:
    if not isinstance(node, Scalar):
        found.append(_problem(field, f"{field.name} takes a value of type {known.kind}, not a message"))
        return
    try:
        scalars.decode(str(node), known)
    except scalars.BadValueError as error:
        text = f"{field.name}: {error}"
        word = str(node)
        if known.enum is not None and word.isidentifier():
            near = nearest(word, known.enum.values)
            text += f"; did you mean {near}?" if near else ""
            # A value near to none may be a fork's.
            found.append(_problem(field, text, fatal=near is not None))
        else:
            found.append(_problem(field, text))


def _unknown(field: Field, kind: MessageType) -> Problem:
    near = nearest(field.name, kind.fields) if field.name not in _OF_FORKS else None
    if near is None:
        return _problem(field, f"{kind.name} has no field {field.name!r} in BVLC's Caffe; kept as it is", False)
    message = f"{kind.name} has no field {field.name!r}; did you mean {near!r}?"
    return Problem(field.line, field.column, message, True, True)


def _problem(field: Field, message: str, fatal: bool = True) -> Problem:
    return Problem(field.line, field.column, message, fatal)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` misspells, or None."""
    best, best_distance = None, 99
    for candidate in known:
        plain, other = _plain(name), _plain(candidate)
        if plain.endswith("param") and other.endswith("param") and plain != "param" != other:
            # Names that end in `param` differ before that ending.
            plain, other = plain[:-5], other[:-5]
        # One slip in a short word, two in a longer one, and never a change of half the word.
        limit = 0 if len(plain) < 4 else 1 if len(plain) < 8 else 2
        if abs(len(other) - len(plain)) > limit or _longer(plain, other):
            continue
        distance = _distance(plain, other, limit)
        if distance <= limit and distance < best_distance and not _numbered(plain, other):
            best, best_distance = candidate, distance
    return best


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _longer(plain: str, other: str) -> bool:
    """A known name with two or more letters added before or behind it (UNPOOLING) is another name."""
    return len(plain) > len(other) + 1 and (plain.startswith(other) or plain.endswith(other))


def _numbered(plain: str, other: str) -> bool:
    """Names that differ in digits only (`momentum` and `momentum3`) are another field, not a misspelling."""
    letters = "".join(c for c in plain if not c.isdigit())
    return letters == "".join(c for c in other if not c.isdigit()) and plain != other


def _distance(a: str, b: str, limit: int) -> int:
    """The edits (insert, delete, change, swap of neighbours) from a to b; above `limit`, any number greater than it."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, char in enumerate(a, 1):
        before, last, row = row, before, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (char != other))
            if last and j > 1 and char == b[j - 2] and a[i - 2] == other:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
    return row[-1]
