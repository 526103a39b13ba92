"""What BVLC's Caffe would refuse in a document: unknown names, values that do not fit, fields given twice.

What a fork of Caffe may have added is kept and noted, never refused: a field that BVLC's Caffe does not have, and a
value that an enum of it does not have. A note names the field that a slip may have meant. Code that computes something
from a message has to ask `foreign` for it, since such a field may change the result.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import scalars
from caffe_split.formats.prototxt.document import Document
from caffe_split.formats.prototxt.nodes import ListValue, MessageNode, Scalar
from caffe_split.formats.prototxt.proto2 import caffe, with_forks
from caffe_split.formats.prototxt.schema import FieldType, MessageType
from caffe_split.formats.prototxt.tree import Field, Message
from caffe_split.formats.prototxt.upgrade import refuse_mixed

# How much of two names is equal, from which on one may be meant by the other (difflib's ratio).
_ALIKE = 0.75
LR_POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")
# Fields of well-known forks (SSD, NVCaffe, Intel's, DeepLab, PSPNet) that are so near to one of BVLC's names that a
# guess at a slip would mislead.
_OF_FORKS = frozenset(
    [
        "permute_param",
        "norm_param",
        "interp_param",
        "rrelu_param",
        "softmaxwithloss_param",
        "bn_param",
        "scale_param2",
        "power_param2",
        "tile_param2",
        "crop_h",
        "crop_w",
        "pad_l",
        "pad_r",
        "pad_t",
        "pad_b",
        "pad_d",
        "pad_type",
        "stride_d",
        "kernel_d",
        "eval_type",
        "data_type",
        "top_type",
        "mean_values",
        "min_size",
        "max_size",
        "lr_policy2",
        "axes",
    ]
)
# Fields of which forks take one value per axis of a volume, and BVLC's Caffe one.
_SEVERAL_IN_FORKS = frozenset(("PoolingParameter", name) for name in ("kernel_size", "stride", "pad"))


@dataclass(frozen=True)
class Problem:
    """One thing that Caffe would refuse.

    `path` leads to the field from the message that was looked at, e.g. `convolution_param.pad_l`. `fatal` is False for
    what a fork may accept.
    """

    line: int
    column: int
    message: str
    fatal: bool
    path: str


def problems(document: Document) -> list[Problem]:
    r"""All problems of a typed document, in the order of the text; none for an untyped one.

    >>> from caffe_split.formats import prototxt
    >>> doc = prototxt.parse('layer {\n  name: "c"\n  botom: "data"\n}\n')
    >>> [(p.line, p.column, p.message) for p in problems(doc)]
    [(3, 3, "LayerParameter has no field 'botom'; did you mean 'bottom'?")]
    """
    found: list[Problem] = []
    if document.type is not None:
        _visit(document, document.type, found, "")
    if document.kind == "solver":
        found += _policy(document)
    return found


def _policy(solver: Document) -> list[Problem]:
    """A learning rate policy that BVLC's Caffe does not have."""
    field = solver.field("lr_policy")
    if field is None or not isinstance(field.value, Scalar) or solver.get("lr_policy") in LR_POLICIES:
        return []
    near = nearest(str(solver.get("lr_policy")), LR_POLICIES)
    text = f"there is no lr_policy {solver.get('lr_policy')!r}"
    text += f"; did you mean {near!r}?" if near else " in BVLC's Caffe"
    return [_problem(field, text, "lr_policy", fatal=False)]


def foreign(message: Message, type_name: str) -> list[Problem]:
    """What BVLC's message `type_name` does not have, whatever schema the document was read by.

    >>> from caffe_split.formats import prototxt
    >>> layer = prototxt.parse('layer { convolution_param { pad_l: 1 } }').sub("layer")
    >>> [problem.path for problem in foreign(layer, "LayerParameter")]
    ['convolution_param.pad_l']
    """
    found: list[Problem] = []
    _visit(message, caffe().messages[type_name], found, "")
    return found


def unknown_to_all(message: Message, type_name: str) -> list[Problem]:
    """As `foreign`, of what forks.proto does not have either; and values that do not fit what it has.

    >>> from caffe_split.formats import prototxt
    >>> layer = prototxt.parse('layer { bn_param { frozen: true momentun: 1 } }').sub("layer")
    >>> [problem.path for problem in unknown_to_all(layer, "LayerParameter")]
    ['bn_param.momentun']
    """
    found: list[Problem] = []
    _visit(message, with_forks().messages[type_name], found, "")
    return found


def notes(document: Document) -> list[str]:
    """What is kept although BVLC's Caffe does not have it: a line per field of a message, with its first place."""
    kept: dict[str, list[Problem]] = {}
    for problem in problems(document):
        if not problem.fatal:
            kept.setdefault(problem.message, []).append(problem)
    return [
        f"{document.filename}:{first.line}:{first.column}: {message}; kept as it is"
        + (f", {len(rest) + 1} times, last at line {rest[-1].line}" if rest else "")
        for message, (first, *rest) in kept.items()
    ]


def check(document: Document) -> None:
    """Raise `CaffeSplitError` for a document's fatal problems (all in one message).

    A net that mixes `layer` and `layers` is refused, too.
    """
    fatal = [p for p in problems(document) if p.fatal]
    if fatal:
        lines = [f"{document.filename}:{p.line}:{p.column}: {p.message}" for p in fatal[:20]]
        if len(fatal) > 20:
            lines.append(f"... and {len(fatal) - 20} more")
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


def _is_of_forks(kind: MessageType, name: str) -> bool:
    """Whether a field is known to be a fork's, so that a guess at a slip would mislead."""
    with_them = with_forks().messages.get(kind.name)
    return name in _OF_FORKS or (with_them is not None and name in with_them.fields)


def _visit(message: Message, kind: MessageType, found: list[Problem], above: str) -> None:
    for name in _required(kind):
        if not message.has(name):
            place = message.owner
            line, column = (place.line, place.column) if place is not None else (1, 1)
            found.append(Problem(line, column, f"{kind.name} lacks {name!r}, which it must have", True, above + name))
    seen: dict[str, Field] = {}
    for field in message.fields:
        known, path = kind.fields.get(field.name), above + field.name
        if known is None:
            near = nearest(field.name, kind.fields) if not _is_of_forks(kind, field.name) else None
            text = f"{kind.name} has no field {field.name!r}"
            text += f"; did you mean {near!r}?" if near else " in BVLC's Caffe"
            found.append(_problem(field, text, path, fatal=False))
            continue
        nodes = field.value.items if isinstance(field.value, ListValue) else [field.value]
        if not known.repeated:
            if isinstance(field.value, ListValue):
                found.append(_problem(field, f"{field.name} takes one value, not a list", path))
            elif field.name in seen:
                first, may_be = seen[field.name].line, (kind.name, field.name) in _SEVERAL_IN_FORKS
                text = f"{field.name} is given twice in one message, first at line {first}"
                found.append(_problem(field, text, path, fatal=not may_be))
        seen.setdefault(field.name, field)
        for node in nodes:
            if isinstance(node, Message) and known.message is not None:
                _visit(node, known.message, found, f"{path}.")
            else:
                _value(field, node, known, found, path)


def _value(
    field: Field, node: Scalar | MessageNode | ListValue, known: FieldType, found: list[Problem], path: str
) -> None:
    if not isinstance(node, Scalar):
        found.append(_problem(field, f"{field.name} takes a value of type {known.kind}, not a message", path))
        return
    try:
        scalars.decode(str(node), known)
    except scalars.BadValueError as error:
        text = f"{field.name}: {error}"
        if known.enum is not None:
            near = nearest(str(node).strip("'\""), known.enum.values)
            text += f"; did you mean {near}?" if near else ""
        found.append(_problem(field, text, path, fatal=known.enum is None))


def _problem(field: Field, message: str, path: str, fatal: bool = True) -> Problem:
    return Problem(field.line, field.column, message, fatal, path)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` misspells, or that is much like it; None where there is none."""
    known = list(known)
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
    if best is None:
        alike = difflib.get_close_matches(name, known, n=1, cutoff=_ALIKE)
        words = [_plain(word) for word in (name, *alike)]
        if alike and not _numbered(*words) and not _longer(*words):
            return alike[0]
    return best


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _longer(plain: str, other: str) -> bool:
    """A known name with two or more letters added before or after it (UNPOOLING) is another name."""
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
