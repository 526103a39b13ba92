"""Edits change only their own lines and look like the file."""

from __future__ import annotations

import difflib

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.document import field

NET = """\
# a net
name: "n"   # its name

# the first
layer {
  name: "a" # trailing
  type: "Convolution"
  bottom: "data"
  convolution_param {
    num_output: 4
    # wide
    kernel_size: 3
  }
}

# the second
layer {
  name: "b"
  type: "ReLU"
}
# the end
"""


def changes(before: str, after: str) -> list[str]:
    lines = difflib.ndiff(before.splitlines(True), after.splitlines(True))
    return [line.rstrip("\n") for line in lines if line[0] in "+-"]


def edited(text, edit):
    doc = prototxt.parse(text)
    edit(doc)
    assert str(prototxt.parse(str(doc))) == str(doc)
    return changes(text, str(doc))


def layer(doc, index):
    return doc.subs("layer")[index]


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda d: d.set("name", "m"), ['- name: "n"   # its name', '+ name: "m"   # its name']),
        (
            lambda d: layer(d, 0).sub("convolution_param").set("num_output", 8),
            ["-     num_output: 4", "+     num_output: 8"],
        ),
        (lambda d: layer(d, 0).add("bottom", "x"), ['+   bottom: "x"']),
        (lambda d: layer(d, 0).set("phase", "TEST"), ["+   phase: TEST"]),
        (lambda d: layer(d, 1).set("include", {"phase": "TEST"}), ["+   include {", "+     phase: TEST", "+   }"]),
        (lambda d: d.set("force_backward", True), ["+ force_backward: true"]),
        (lambda d: layer(d, 0).remove("name"), ['-   name: "a" # trailing']),
        (lambda d: layer(d, 0).sub("convolution_param").remove("kernel_size"), ["-     kernel_size: 3"]),
        (
            lambda d: layer(d, 0).add("param", {"lr_mult": 0}, after=layer(d, 0).field("name")),
            ["+   param {", "+     lr_mult: 0", "+   }"],
        ),
        (lambda d: d.remove(d.field("layer")), ["- layer {", '-   name: "b"', '-   type: "ReLU"', "- }"]),
        (lambda d: d.add("layer", {"name": "c"}), ["+ ", "+ layer {", '+   name: "c"', "+ }"]),
        (
            lambda d: d.insert_before(d.all_fields("layer")[0], field("layer", {"name": "c"})),
            ["+ layer {", '+   name: "c"', "+ }"],
        ),
    ],
)
def test_an_edit_changes_only_its_own_lines(edit, expected):
    assert edited(NET, edit) == expected


def test_an_edit_keeps_crlf_and_tabs():
    text = NET.replace("  ", "\t").replace("\n", "\r\n")
    doc = prototxt.parse(text)
    layer(doc, 1).add("include", {"phase": "TEST"})
    doc.add("layer", {"name": "c", "param": [{"lr_mult": 1}, {"lr_mult": 2}]})
    doc.remove(doc.all_fields("layer")[0])
    out = str(doc)
    assert out.count("\n") == out.count("\r\n")
    assert "\r\n\tinclude {\r\n\t\tphase: TEST\r\n\t}\r\n}" in out
    assert '\r\nlayer {\r\n\tname: "c"\r\n\tparam {\r\n\t\tlr_mult: 1\r\n\t}\r\n' in out
    assert "# the first\r\n\r\n# the second\r\nlayer {" in out


def test_new_text_is_in_the_style_of_the_file():
    text = "name:'n'\nlayer{\n    name:'a'\n    param: {lr_mult:1}\n}\nlayer{\n    name:'b'\n}"
    doc = prototxt.parse(text)
    doc.add("layer", {"name": "c", "top": "t"})
    assert str(doc) == text + "\nlayer{\n    name:'c'\n    top:'t'\n}"  # no final newline before, none after


def test_one_line_layers_stay_on_one_line():
    text = "layers { bottom: 'a' top: 'b' name: 'c' type: RELU }\nlayers { name: 'd' }\n"
    doc = prototxt.parse(text)
    first = doc.subs("layers")[0]
    first.add("top", "x")
    first.add("include", {"phase": "TRAIN"})
    first.remove("bottom")
    first.set("type", "TANH")
    assert str(doc).splitlines()[0] == ("layers { top: 'b' top: 'x' name: 'c' type: TANH include { phase: TRAIN } }")


def test_a_copy_has_the_text_of_its_original():
    doc = prototxt.parse(NET)
    first = doc.all_fields("layer")[0]
    twin = first.copy()
    assert twin.parent is None and twin.line == first.line
    twin.message.set("name", "twin")
    doc.insert_after(first, twin)
    twin.message.sub("convolution_param").set("num_output", 2)
    assert layer(doc, 0).get("name") == "a" and layer(doc, 1).get("name") == "twin"
    block = NET[NET.index("layer {") : NET.index("\n\n# the second")]
    assert block.replace('"a"', '"twin"').replace("num_output: 4", "num_output: 2") in str(doc)


def test_a_copy_moves_to_another_depth():
    doc = prototxt.parse("net_param {\n  layer {\n    name: 'a'\n  }\n}\nbase_lr: 1\n")
    net = prototxt.parse("name: 'n'\n")
    net.append(doc.sub("net_param").field("layer").copy())
    assert str(net) == "name: 'n'\nlayer {\n  name: 'a'\n}\n"


def test_replace_keeps_the_comments_above():
    doc = prototxt.parse(NET)
    old = doc.all_fields("layer")[1]
    doc.replace(old, [field("layer", {"name": "x"}), old.copy(), field("layer", {"name": "y"})])
    assert '# the second\nlayer {\n  name: "x"\n}\n' in str(doc)
    assert [sub.get("name") for sub in doc.subs("layer")] == ["a", "x", "b", "y"]
    assert str(doc).startswith(NET[: NET.index("# the second")])


def test_a_removed_layer_leaves_all_comments_but_its_own():
    text = "# head\nlayer { name: 'a' } # of a\n# of b\nlayer { name: 'b' }\n# tail"
    doc = prototxt.parse(text)
    doc.remove(doc.all_fields("layer")[0])
    assert str(doc) == "# head\n# of b\nlayer { name: 'b' }\n# tail"
    doc.remove("layer")
    assert str(doc) == "# head\n# of b\n# tail"


def test_the_bom_and_the_missing_last_newline_survive_edits_beside_them():
    doc = prototxt.parse("\ufeffa: 1\nb: 2\nc: 3")
    doc.remove("c")
    assert str(doc) == "\ufeffa: 1\nb: 2"
    doc.remove("a")
    assert str(doc) == "\ufeffb: 2"
    doc.add("d", 4)
    assert str(doc) == "\ufeffb: 2\nd: 4"
    doc.remove("b")
    doc.remove("d")
    doc.add("e", 5)
    assert str(doc).strip("\ufeff\n") == "e: 5"


def test_fields_can_be_added_where_there_are_none():
    doc = prototxt.parse("")
    doc.add("layer", {"name": "a"})
    assert str(doc) == 'layer {\n  name: "a"\n}\n'
    doc = prototxt.parse("# only a comment")
    doc.add("name", "n")
    assert str(doc) == '# only a comment\nname: "n"\n'
    doc = prototxt.parse("layer {}\nlayer {\n  pooling_param { }\n}\n")
    layer(doc, 0).set("name", "a")
    layer(doc, 1).sub("pooling_param").set("pool", "AVE")
    # What stands on one line stays there, with the brace as it was.
    assert str(doc) == 'layer {name: "a"}\nlayer {\n  pooling_param { pool: AVE }\n}\n'


def test_removing_a_field_leaves_those_on_its_line():
    doc = prototxt.parse("a: 1 b: 2, c: 3; d: 4\n")
    doc.remove("b")
    assert str(doc) == "a: 1 c: 3; d: 4\n"
    doc.remove("a")
    assert str(doc) == "c: 3; d: 4\n"
    doc.remove("d")
    assert str(doc) == "c: 3;\n"
    doc = prototxt.parse("a: 'x'b: 2c {}d: 4".replace("2c", "2 c"))
    doc.remove("b")
    assert str(doc) == "a: 'x' c {}d: 4"


def test_values_are_written_by_their_type():
    doc = prototxt.parse('layer {\n  name: "x"\n}\n')
    x = layer(doc, 0)
    x.set("pooling_param", {"pool": "MAX", "kernel_size": 3})
    x.set("loss_weight", 0.1)
    x.set("name", 'q"\\\n\té\x01')
    x.set("propagate_down", False)
    x.set("swoosh_param", {"mode": prototxt.Enum("FAST"), "text": "FAST"})
    text = str(doc)
    assert "pool: MAX" in text and "loss_weight: 0.1" in text and "propagate_down: false" in text
    assert 'name: "q\\"\\\\\\n\\té\\001"' in text
    assert "mode: FAST" in text and 'text: "FAST"' in text
    assert prototxt.parse(text).sub("layer").get("name") == 'q"\\\n\té\x01'


def test_lists_are_edited_in_place():
    doc = prototxt.parse("layer { loss_weight: [1, 2] } # c\n")
    x = layer(doc, 0)
    x.set("loss_weight", 3)
    assert str(doc) == "layer { loss_weight: [1, 3] } # c\n"
    x.add("loss_weight", 4)
    assert x.get_all("loss_weight") == [1, 3, 4] and x.get("loss_weight") == 4


def test_bad_values_are_refused_before_anything_changes():
    doc = prototxt.parse(NET)
    for name, value in [("phase", "TESTING"), ("name", 3), ("loss_weight", "x"), ("name", object())]:
        with pytest.raises(CaffeSplitError, match=f"cannot write field {name}"):
            layer(doc, 0).set(name, value)
    assert str(doc) == NET


def test_a_field_stands_in_one_place_only():
    doc = prototxt.parse(NET)
    first, second = doc.all_fields("layer")
    with pytest.raises(ValueError, match=r"insert field\.copy"):
        doc.insert_after(first, second)
    doc.remove(second)
    with pytest.raises(ValueError, match="not in this message"):
        doc.remove(second)
    doc.insert_before(first, second)  # a removed field may come back elsewhere
    assert [sub.get("name") for sub in doc.subs("layer")] == ["b", "a"]


def test_what_is_built_and_not_yet_inserted_prints_in_the_default_style():
    made = field("layer", {"name": "a", "loss_weight": 1, "param": [{"lr_mult": 1}]})
    assert str(made) == 'layer {\n  name: "a"\n  loss_weight: 1\n  param {\n    lr_mult: 1\n  }\n}'
    assert str(made.message) == str(made)[len("layer ") :]
    some = field("input_dim", (1, 2))
    assert str(some) == "input_dim: [1, 2]" and str(some.value) == "[1, 2]"
    assert made.parent is None and made.lead is None and some.value.gaps == []  # printing leaves it unwritten


def test_built_fields_nest_copies_and_take_the_style_of_their_file():
    inner = prototxt.parse(NET).subs("layer")[0].field("convolution_param")
    made = field("layer", [("name", "x"), inner.copy(), ("bottom", "a"), ("bottom", "b")])
    made.message.set("type", "Convolution")
    doc = prototxt.parse("name: 'n'\n")
    doc.append(made)
    assert str(doc) == (
        "name: 'n'\nlayer {\n  name: 'x'\n  convolution_param {\n    num_output: 4\n    # wide\n"
        "    kernel_size: 3\n  }\n  bottom: 'a'\n  bottom: 'b'\n  type: 'Convolution'\n}\n"
    )
    assert made.message.sub("convolution_param").get("bias_term") is True


def test_fields_that_touch_are_kept_apart():
    doc = prototxt.parse("layer { phase: TRAIN include {}name: 'a'top: 'b'x: 3 }")
    x = layer(doc, 0)
    x.set("name", "c")
    x.replace(x.field("include"), [field("phase", prototxt.Enum("TEST"))])
    x.set("top", "d")
    x.replace(x.field("top"), [field("type_code", 3)])
    assert str(doc) == "layer { phase: TRAIN phase: TEST name: 'c'type_code: 3 x: 3 }"


def test_a_whole_net_goes_into_a_solver():
    solver = prototxt.parse("base_lr: 1\n")
    solver.set("net_param", prototxt.parse("name: 'n'\nlayer {\n  name: 'a' # c\n}\n"))
    assert solver.sub("net_param").sub("layer").get("name") == "a"
    assert str(solver) == "base_lr: 1\nnet_param {\n  name: 'n'\n  layer {\n    name: 'a' # c\n  }\n}\n"


@pytest.mark.parametrize(
    "text",
    ["name: 'n'\r\n", "\r\nname: 'n'", "name:\r\n'n'", "# c\r\n", "layer { name: 'a'\r\n}", "input_dim: [1,\r\n2]"],
)
def test_new_lines_end_as_the_one_newline_of_the_file_wherever_it_stands(text):
    doc = prototxt.parse(text, "net")
    doc.add("layer", {"name": "b", "convolution_param": {"num_output": 1}})
    assert str(doc).count("\n") == str(doc).count("\r\n") > 4


def test_a_message_set_anew_stands_as_deep_as_the_old_one():
    doc = prototxt.parse(NET)
    layer(doc, 0).set("convolution_param", {"num_output": 2, "weight_filler": {"type": "xavier"}})
    text = """  convolution_param {
    num_output: 2
    weight_filler {
      type: "xavier"
    }
  }
}
"""
    assert text in str(doc)


def test_a_new_name_keeps_the_quotes_of_the_old_one() -> None:
    doc = prototxt.parse('name: "n"\nlayer { name: \'a\' type: "ReLU" }\nlayer { name: "b" }\n')
    doc.subs("layer")[0].set("name", "it's")
    doc.subs("layer")[0].set("type", "TanH")
    assert str(doc) == 'name: "n"\nlayer { name: \'it\\\'s\' type: "TanH" }\nlayer { name: "b" }\n'


def test_removing_what_was_inserted_gives_the_text_back() -> None:
    """Where blank lines separate the messages of a file, an insertion brings one, which goes with it if asked."""
    text = 'layer { name: "a" }\n\nlayer { name: "b" }\nlayer { name: "c" }\n\nlayer { name: "d" }\n'
    for newline in ("\n", "\r\n"):
        doc = prototxt.parse(text.replace("\n", newline))
        for layer in doc.all_fields("layer"):
            doc.insert_after(layer, prototxt.field("layer", {"name": "new"}))
        assert str(doc).count(newline * 2 + "layer {") == 6
        for layer in doc.all_fields("layer"):
            if layer.message is not None and layer.message.get("name") == "new":
                doc.remove(layer, keep_blank=False)
        assert str(doc) == text.replace("\n", newline)
    doc = prototxt.parse(text)
    doc.remove(doc.all_fields("layer")[1])
    assert str(doc) == 'layer { name: "a" }\n\nlayer { name: "c" }\n\nlayer { name: "d" }\n'
