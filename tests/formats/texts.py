"""Random texts of messages: any fields of the schema, in any of the forms that protobuf takes."""

from __future__ import annotations

from hypothesis import strategies as st

from caffe_split.formats.prototxt.scalars import quoted
from caffe_split.formats.prototxt.schema import INT_RANGES, MessageType

GAPS = st.sampled_from(["", " ", "  ", "\n", "\n  ", "\r\n\t", " # c {\n", "\n\n# é\n  "])
SPACES = st.sampled_from([" ", "\n", "\n  ", "\r\n\t", " # c }\n", "\n\n# ' é\n  "])
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)


@st.composite
def scalar(draw, known):
    """One value as text in some form protobuf takes for the field."""
    if known.kind == "string":
        pieces = draw(st.lists(st.tuples(TEXTS, st.sampled_from("'\"")), min_size=1, max_size=2))
        return draw(GAPS).join(quoted(text, quote) for text, quote in pieces)
    if known.kind == "bool":
        return draw(st.sampled_from(["true", "false", "t", "f", "True", "False", "0", "1"]))
    if known.kind == "enum":
        return draw(st.sampled_from([*known.enum.values, *map(str, known.enum.values.values())]))
    if known.kind in INT_RANGES:
        low, high = INT_RANGES[known.kind]
        value = draw(st.integers(low, high))
        return draw(st.sampled_from([str(value), hex(value), f"{'-' * (value < 0)}0{abs(value):o}"]))
    value = draw(st.floats(width=32))
    return draw(st.sampled_from([repr(value), f"{value:.3e}", ".5", "3.", "1e-3f", "inf", "-nan", "7"]))


@st.composite
def message(draw, kind: MessageType, depth: int):
    """The text of a message's fields: any of the schema, any separators and gaps."""
    parts = []
    seen = set()
    names = list(kind.fields)
    for name in draw(st.lists(st.sampled_from(names), max_size=4)):
        known = kind.fields[name]
        if known.kind == "bytes" or (not known.repeated and name in seen):
            continue
        if known.kind == "message" and depth == 0:
            continue
        seen.add(name)
        parts.append(draw(GAPS if parts and parts[-1][-1] in ",;}>]" else SPACES))
        parts.append(name)
        if known.kind == "message":
            parts.append(draw(st.sampled_from([" ", "", ": ", " :"])))
            form = draw(st.sampled_from(["{{{}}}", "<{}>"]))
            one = message(known.message, depth - 1).map(form.format)
        else:
            parts.append(draw(st.sampled_from([": ", ":", " : ", ":\n"])))
            one = scalar(known)
        if known.repeated and draw(st.booleans()):
            items = draw(st.lists(one, max_size=3))
            parts.append("[" + draw(st.sampled_from([",", " , "])).join(items) + "]")
        else:
            parts.append(draw(one))
        parts.append(draw(st.sampled_from(["", "", "", ";", ","])) or " ")
    return "".join(parts) + draw(GAPS)
