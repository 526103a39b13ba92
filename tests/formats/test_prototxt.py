"""Documents: bytes back as they came, and values as protobuf sees them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check
from tests.formats.messages import assert_same, protobuf_of

FILES = sorted((Path(__file__).parent / "files").glob("*.prototxt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_odd_files_come_back_byte_for_byte(path, tmp_path):
    data = path.read_bytes()
    doc = prototxt.read(path)
    assert doc.to_bytes() == data
    assert prototxt.parse(str(doc)).to_bytes() == data
    prototxt.write(doc, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.caffe
def test_every_prototxt_of_caffes_source_comes_back_and_has_protobufs_values(caffe_source):
    """Every prototxt of models/, examples/ and the rest: the same bytes, the same values, nothing to object to."""
    paths = sorted(caffe_source.rglob("*.prototxt"))
    assert len(paths) > 50
    for path in paths:
        doc = prototxt.read(path)
        assert doc.to_bytes() == path.read_bytes(), path
        assert doc.kind is not None, path
        assert check.problems(doc) == [], path
        assert_same(doc, protobuf_of(str(doc), doc.kind))


@pytest.mark.parametrize("name", ["v0", "v0_data", "v1", "inputs", "digits_solver"])
def test_values_are_protobufs(name):
    doc = prototxt.read(Path(__file__).parent / "files" / f"{name}.prototxt")
    assert_same(doc, protobuf_of(str(doc), doc.kind))


def test_every_form_of_value_is_read():
    doc = prototxt.read(Path(__file__).parent / "files" / "oddities.prototxt")
    assert doc.get("name") == "oddities"
    first, second = doc.subs("layer")
    assert first.get("name") == "semi"
    assert first.get_all("top") == ["a", "b"]
    param = first.sub("python_param")
    assert param.get("module") == 'pyl"oss'
    assert param.get("param_str") == "{\"pad_t\": 3, 'q': AA\n\u00e9\U0001f600}"
    weights = first.get_all("loss_weight")
    assert weights[:6] == [0.7, 1.0, 1e-5, 2e-4, 9.99999974738e-05, float("-inf")]
    assert weights[6] != weights[6] and weights[7] == -3.0
    assert [rule.get("phase") for rule in first.subs("include")] == ["TEST", "TRAIN"]
    assert first.subs("include")[1].get("min_level") == -16
    assert first.subs("include")[1].get("max_level") == 15
    assert first.get_all("propagate_down") == [True, False, True]
    assert second.get("name") == "naïve \u2013 名"
    dummy = second.sub("dummy_data_param")
    assert [shape.get_all("dim") for shape in dummy.subs("shape")] == [[1, 2], [3]]
    assert dummy.sub("data_filler").get("sparse") == -2
    assert dummy.sub("data_filler").get("variance_norm") == "FAN_IN"


def test_a_forks_fields_are_read_by_their_text():
    doc = prototxt.read(Path(__file__).parent / "files" / "ssd.prototxt")
    box = doc.subs("layer")[0].sub("prior_box_param")
    assert box.type is None
    assert box.get("min_size") == 30.0 and box.get("aspect_ratio") == 2
    assert box.get("code_type") == "CENTER_SIZE" and isinstance(box.get("code_type"), prototxt.Enum)
    assert box.get_all("variance") == [0.1, 0.1, 0.2, 0.2]
    assert box.get("absent") is None and box.get("absent", 5) == 5
    assert doc.subs("layer")[3].sub("yolov3_param").sub("anchors").get("y") == 2.5
    assert all(not problem.fatal for problem in check.problems(doc))


def test_an_absent_field_has_the_default_that_caffe_sees():
    layer = prototxt.parse("layer { pooling_param { } }").sub("layer")
    pool = layer.sub("pooling_param")
    assert (pool.get("pool"), pool.get("stride"), pool.get("kernel_size")) == ("MAX", 1, 0)
    assert layer.get("name") == "" and layer.get("bottom") is None and layer.get("loss_param") is None
    assert not layer.has("name") and layer.field("name") is None


def test_the_content_decides_between_net_and_solver():
    assert prototxt.parse('name: "x" layer { }').kind == "net"
    assert prototxt.parse("base_lr: 0.1").kind == "solver"
    assert prototxt.parse("net_param { layer { } } solver_mode: CPU").kind == "solver"
    assert prototxt.parse("dim: 3").kind is None
    assert prototxt.parse("# nothing\n").kind is None
    assert prototxt.parse('name: "x"').kind == "net"
    assert prototxt.parse("dim: 3 dim: 4", kind="BlobShape").get_all("dim") == [3, 4]


def test_a_field_knows_the_place_it_was_read_from():
    doc = prototxt.parse('\ufeffname: "x"\r\nlayer {\r\n\tname: "y"\r\n}', filename="f")
    assert (doc.field("name").line, doc.field("name").column) == (1, 1)
    inner = doc.sub("layer").field("name")
    assert (inner.line, inner.column) == (3, 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('layer {\n  name: "x"\n', "f:3:1: the file ends, but 'layer' opened at 1:7 has no '}'"),
        (
            "layer {\n  bottom: 'a'\nlayer {\n}\n",
            "f:5:1: the file ends, but 'layer' opened at 1:7 has no '}'; the layer at line 3 stands inside it",
        ),
        ("layer { }\n}", "f:2:1: '}' closes nothing"),
        ("layer {\n >", "f:2:2: found '>', but 1:7 was opened to be closed by '}'"),
        ('name "x"', "f:1:6: expected ':' or '{' after 'name', found '\"'"),
        ('name: "x', "f:1:7: the string that begins here is not closed on its line"),
        ('name: "x\ny"', "f:1:7: the string that begins here is not closed on its line"),
        ("name:", "f:1:6: expected a value for 'name', found the end of the file"),
        ("name: }", "f:1:7: expected a value for 'name', found '}'"),
        ("x: -foo", "f:1:4: expected a number after '-', found 'foo'"),
        ("x: 3height: 4", "f:1:5: a space is needed between 3 and 'height'"),
        ("x: [1, 2,]", "f:1:10: expected a value for 'x', found ']'"),
        ("x: [1 2]", "f:1:7: expected ',' or ']' in a list, found '2'"),
        ("x [1]", "f:1:3: expected ':' before the list of 'x'"),
        ("x: 1;; y: 2", "f:1:6: expected the name of a field, found ';'"),
        ("5: 3", "f:1:1: expected the name of a field, found '5'"),
        ("x: 1 'a'", "f:1:6: expected the name of a field"),
        ("<html>", "f:1:1: expected the name of a field, found '<'"),
        ("a{" * 200, "messages are nested more than 100 deep"),
        ("a:[{" * 200, "messages are nested more than 100 deep"),
    ],
)
def test_an_error_in_a_text_names_its_place(text, expected):
    with pytest.raises(CaffeSplitError) as error:
        prototxt.parse(text, filename="f")
    assert expected in str(error.value)


def test_messages_may_nest_as_deep_as_the_bound():
    text = "a{" * 100 + "}" * 100
    assert str(prototxt.parse(text)) == text


def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path):
    with pytest.raises(CaffeSplitError, match="cannot read it: No such file"):
        prototxt.read(tmp_path / "missing")
    with pytest.raises(CaffeSplitError, match="cannot read it: Is a directory"):
        prototxt.read(tmp_path)
    with pytest.raises(CaffeSplitError, match="lone surrogate"):
        prototxt.parse('name: "\ud800"')


# What Caffe's own reader takes and refuses, one text each; `check` must agree.
VERDICTS = [
    ('name: "a";;', False),
    ('name "a"', False),
    ('layer { name: "a" name: "b" }', False),
    ("input_shape { dim: [] }", True),
    ("input_shape [{dim:1},<dim:2>]", True),
    ("input_shape { dim: [1,2,] }", False),
    ("force_backward: T", False),
    ("force_backward: True", True),
    ("force_backward: 2", False),
    ("layer { convolution_param { pol: 9 } }", False),
    ("layer { phase: 7 }", False),
    ("layer { phase: 1 }", True),
    ("layer{loss_weight: 08}", False),
    ("layer{loss_weight: .7 loss_weight: 1. loss_weight: 1.e5f}", True),
    ("layer{loss_weight: 0x1F}", False),
    ("layer{loss_weight: 0b1 }", False),
    ('name: "\\q"', False),
    ("layer{loss_weight:- #c\n 3}", True),
    ("layer{loss_weight: infinity loss_weight:-nan loss_weight: INF}", True),
    ("layer{loss_weight: inff}", False),
    ('layer{top: ["a" "b", "c"]}', True),
    ("debug_info: 0x1", True),
    ("debug_info:00", True),
    ("layer { name: 'a'type: 'b'}", True),
    ("layer { eltwise_param { coeff: 1e400 } }", True),
    ("layer { lrn_param { local_size: -1 } }", False),
    ("layer { lrn_param { local_size: 4294967296 } }", False),
    ("layer { lrn_param { local_size: 4294967295 } }", True),
    ("layer { lrn_param { local_size: 5.0 } }", False),
    ("input_dim: 01 input_dim: 0x7fffffff", True),
    ("input_dim: 08", False),
    ("input_dim: -0x10", True),
    ("input_dim: 3input_dim: 4", False),
    ('name: "a\nb"', False),
    ("layer: { }, layer < >; layer{}", True),
    ("layer { phase: TEST phase: TRAIN }", False),
    ("layer { blobs { shape { } shape { } } }", False),
    ("input: 'a' \"b\" # c\n 'c'", True),
    ("name: abc", False),
    ("name: 3", False),
    ("layer: 3", False),
    ("name { }", False),
    ("layer { param: [{}, {}] }", True),
    ("layer { name: ['a'] }", False),
    ('name: "\\u00e9\\U0001F600\\x41\\7\\?"', True),
    ("layer { phase: 'TEST' }", False),
    ("layer { clip_param { min: 1 } }", False),
    ("layer { clip_param { max: 1 min: 0 } }", True),
]


def accepted(text: str) -> bool:
    try:
        doc = prototxt.parse(text, kind="net")
    except CaffeSplitError:
        return False
    return not check.problems(doc)


@pytest.mark.parametrize(("text", "verdict"), VERDICTS)
def test_texts_are_accepted_and_refused_as_caffe_does(text, verdict):
    assert accepted(text) is verdict


@pytest.mark.caffe
def test_caffe_accepts_and_refuses_the_same_texts(caffe_tool, tmp_path):
    tool = caffe_tool("upgrade_net_proto_text")
    for text, verdict in VERDICTS:
        (tmp_path / "in").write_text(text)
        run = subprocess.run([tool, tmp_path / "in", tmp_path / "out"], capture_output=True)
        assert (run.returncode == 0) is verdict, text


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("layer { botom: 'x' }", "LayerParameter has no field 'botom'; did you mean 'bottom'?"),
        ("layer { convolutionparam { } }", "did you mean 'convolution_param'?"),
        ("layer { convolution_param { kernelsize: 3 } }", "did you mean 'kernel_size'?"),
        ("layer { convolution_param { num_ouptut: 3 } }", "did you mean 'num_output'?"),
        ("layer { pooling_param { pool: MAXX } }", "did you mean MAX?"),
        ("base_lr: 1 max_itr: 5", "SolverParameter has no field 'max_itr'; did you mean 'max_iter'?"),
        ("base_lr: 1 iter_step: 5", "SolverParameter has no field 'iter_step'; did you mean 'iter_size'?"),
        ("layer { convolution_param { pad_l: 1 } }", "ConvolutionParameter has no field 'pad_l' in BVLC's Caffe;"),
        ("layer { rrelu_param { } }", "LayerParameter has no field 'rrelu_param' in BVLC's Caffe;"),
        ("layer { convolution_param { engine: 'MKL2017' } }", "engine: expected one of DEFAULT, CAFFE, CUDNN, found"),
    ],
)
def test_slips_and_a_forks_fields_are_kept_and_noted_with_their_place(text, guess):
    doc = prototxt.parse(text)
    check.check(doc)
    (note,) = check.notes(doc)
    assert guess in note and note.startswith("<string>:1:") and str(doc) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("layer { name: 'a' name: 'b' }", "name is given twice in one message, first at line 1"),
        ("layer { convolution_param { num_output: 'x' } }", "expected an integer, found 'x'"),
        ("layer { clip_param { min: 1 } }", "<string>:1:9: ClipParameter lacks 'max', which it must have"),
    ],
)
def test_misplaced_values_are_refused_with_their_place(text, problem):
    doc = prototxt.parse(text)
    with pytest.raises(CaffeSplitError) as error:
        check.check(doc)
    assert problem in str(error.value) and str(error.value).startswith("<string>:1:")


@pytest.mark.parametrize(
    "text",
    [
        "layer { interp_param { height: 3 } }",
        "layer { permute_param { } }",
        "layer { norm_param { } }",
        "base_lr: 1 eval_type: 'detection'",
        "layer { type: 'X' input_param { } swoosh_param { } }",
        "base_lr: 1 momentum3: 0.5",
        "layers { type: UNPOOLING }",
        "layer { data_param { kernel_w2: 3 } }",
    ],
)
def test_names_of_forks_pass(text):
    doc = prototxt.parse(text)
    check.check(doc)
    assert str(doc) == text
