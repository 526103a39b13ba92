"""Laws over random documents: they come back as they went in, and an edit does to the text what it does to
the message."""

from __future__ import annotations

import contextlib

from google.protobuf import text_format
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import caffe_pb2
from caffe_split.formats.prototxt.proto2 import caffe
from tests.formats.messages import assert_same, protobuf_of, single
from tests.formats.texts import TEXTS, message

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

NETS = message(caffe().messages["NetParameter"], 4)
SOLVERS = message(caffe().messages["SolverParameter"], 3)


@QUICK
@example(("net", "layer { transform_param { scale: 3.403e+38 } }"))  # beyond float32
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
