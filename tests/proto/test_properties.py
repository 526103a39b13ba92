"""Laws over random documents: they come back as they went in, and an edit does to the text what it does to
the message."""

from __future__ import annotations

import contextlib

from google.protobuf import text_format
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from messages import assert_same, protobuf_of, single

from caffe_split.errors import CaffeSplitError
from caffe_split.proto import caffe_pb2, prototxt
from caffe_split.proto.schema import INT_RANGES, MessageType, caffe

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

GAPS = st.sampled_from(["", " ", "  ", "\n", "\n  ", "\r\n\t", " # c {\n", "\n\n# é\n  "])
SPACES = st.sampled_from([" ", "\n", "\n  ", "\r\n\t", " # c }\n", "\n\n# ' é\n  "])
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)


def literal(text: str, quote: str) -> str:
    from caffe_split.proto.values import quoted

    return quoted(text, quote)


@st.composite
def scalar(draw, known):
    """One value as text in some form protobuf takes for the field."""
    if known.kind == "string":
        pieces = draw(st.lists(st.tuples(TEXTS, st.sampled_from("'\"")), min_size=1, max_size=2))
        return draw(GAPS).join(literal(text, quote) for text, quote in pieces)
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


NETS = message(caffe().messages["NetParameter"], 4)
SOLVERS = message(caffe().messages["SolverParameter"], 3)


@QUICK
@given(st.one_of(NETS.map(lambda text: ("net", text)), SOLVERS.map(lambda text: ("solver", text))))
def test_random_documents_round_trip_and_read_as_protobuf_reads(sample):
    kind, text = sample
    doc = prototxt.parse(text, kind)
    assert str(doc) == text
    assert doc.to_bytes() == text.encode()
    try:
        theirs = protobuf_of(text, kind)
    except text_format.ParseError:
        return  # protobuf's Python reader lacks a form or two that its C++ reader (Caffe's) takes
    assert_same(doc, theirs)


@QUICK
@given(st.text(max_size=60) | st.text(alphabet="{}<>[]:;,'\"\\#\n\r\t ab1-.e", max_size=80))
def test_any_text_gives_itself_or_one_error(text):
    with contextlib.suppress(CaffeSplitError):
        assert str(prototxt.parse(text)) == text


@QUICK
@given(st.binary(max_size=80))
def test_any_bytes_give_themselves_or_one_error(data):
    with contextlib.suppress(CaffeSplitError):
        assert prototxt.parse(data).to_bytes() == data


LAYER = """
layer {{
  name: "{0}"{1}
  type: "Convolution"
  bottom: "a"{1}
  convolution_param {{{1}
    num_output: 3 pad: [1, 2]
  }}
}}{1}
"""


def crlf(text):
    return text.replace("\n", "\r\n").replace("  ", "\t")


STYLES = st.sampled_from(
    [
        lambda text: text,
        crlf,
        lambda text: text.replace(" {", "{").replace(": ", ":"),
        lambda text: "# head\n" + text.rstrip("\n"),
        lambda text: text.replace("\n", " "),
    ]
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(
            ["set_name", "add_bottom", "remove_bottom", "set_output", "add_layer", "remove_layer", "copy_layer", "move"]
        ),
        st.integers(0, 5),
        TEXTS,
        st.integers(0, 100),
    ),
    min_size=1,
    max_size=6,
)


def apply_to_document(doc, edit):
    what, index, text, number = edit
    layers = doc.all_fields("layer")
    if what == "add_layer":
        doc.add("layer", {"name": text, "convolution_param": {"num_output": number, "pad": [1]}})
    elif layers:
        field = layers[index % len(layers)]
        one = field.message
        if what == "set_name":
            one.set("name", text)
        elif what == "add_bottom":
            one.add("bottom", text)
        elif what == "remove_bottom":
            one.remove("bottom")
        elif what == "set_output":
            param = one.sub("convolution_param")
            param.set("num_output", number)
        elif what == "remove_layer":
            doc.remove(field)
        elif what == "copy_layer":
            doc.insert_before(layers[0], field.copy())
        else:
            doc.remove(field)
            doc.append(field)


def apply_to_message(net, edit):
    what, index, text, number = edit
    if what == "add_layer":
        net.layer.add(name=text, convolution_param={"num_output": number, "pad": [1]})
    elif len(net.layer):
        at = index % len(net.layer)
        one = net.layer[at]
        if what == "set_name":
            one.name = text
        elif what == "add_bottom":
            one.bottom.append(text)
        elif what == "remove_bottom":
            one.ClearField("bottom")
        elif what == "set_output":
            one.convolution_param.num_output = number
        elif what == "remove_layer":
            del net.layer[at]
        else:
            twin = caffe_pb2.LayerParameter()
            twin.CopyFrom(one)
            rest = list(net.layer)
            if what == "copy_layer":
                rest.insert(0, twin)
            else:
                rest = rest[:at] + rest[at + 1 :] + [twin]
            kept = [caffe_pb2.LayerParameter.FromString(item.SerializeToString()) for item in rest]
            net.ClearField("layer")
            net.layer.extend(kept)


@QUICK
@example(0, "", crlf, [("add_layer", 0, "", 0)])  # the file's only newline is its last
@example(1, "", crlf, [("remove_layer", 0, "", 0), ("add_layer", 0, "", 0)])
@given(st.integers(0, 3), st.sampled_from(["", " # c", "  # }"]), STYLES, EDITS)
def test_random_edits_equal_the_same_edits_on_messages(count, comment, style, edits):
    flat = style("a\nb") == "a b"
    text = style("".join(LAYER.format(i, "" if flat else comment) for i in range(count)) + "name: 'n'\n")
    doc, net = prototxt.parse(text, "net"), protobuf_of(text, "net")
    for edit in edits:
        apply_to_document(doc, edit)
        apply_to_message(net, edit)
        assert protobuf_of(str(doc), "net") == net
        assert str(prototxt.parse(str(doc))) == str(doc)
    if "\r\n" in text:
        assert str(doc).count("\n") == str(doc).count("\r\n")


@QUICK
@given(st.floats(width=32, allow_nan=False))
def test_floats_are_written_so_that_they_come_back(value):
    import numpy as np

    layer = prototxt.parse("layer { }").sub("layer")
    for given_value in (value, np.float32(value)):
        layer.set("loss_weight", given_value)
        assert single(layer.get("loss_weight")) == value
