"""Our caffe.proto: the generated module is made of it, our own reader reads it as protoc does, and it says what
BVLC's says."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import caffe_pb2, proto2, schema
from tests.formats.descriptors import from_descriptor

PROTO = Path(schema.__file__).with_name("caffe.proto")


def test_the_generated_module_matches_the_proto():
    """Both say the same, name by name and number by number; tools/regenerate in docs/formats.md mends it."""
    ours, generated = proto2.load(PROTO).facts(), from_descriptor(caffe_pb2.DESCRIPTOR).facts()
    assert ours.keys() == generated.keys()
    for name in ours:
        assert ours[name] == generated[name], name


def test_the_module_cannot_clash_with_pycaffe():
    assert caffe_pb2.DESCRIPTOR.package == "caffe_split"
    assert caffe_pb2.DESCRIPTOR.name == "caffe_split/formats/prototxt/caffe.proto"


@pytest.mark.caffe
def test_every_fact_of_bvlc_is_ours(caffe_source):
    theirs = proto2.load(caffe_source / "src/caffe/proto/caffe.proto").facts()
    ours = proto2.caffe().facts()
    # The built tree may have the TPM layer's options already.
    for facts in (ours, theirs):
        facts.pop("TPMParameter", None)
        facts["LayerParameter"].pop("tpm_param", None)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == theirs[name], name
    assert sum(map(len, ours.values())) > 400


@pytest.mark.caffe
def test_the_tpm_options_are_those_compiled_into_caffe(caffe_source):
    root = Path(__file__).resolve().parents[2]
    fragment = (root / "layers" / "tpm_layer.proto").read_text()
    shape = "message BlobShape { repeated int64 dim = 1 [packed = true]; }"
    theirs = proto2.parse(fragment + shape).facts()["TPMParameter"]
    assert proto2.caffe().facts()["TPMParameter"] == theirs
    built = (caffe_source / "src/caffe/proto/caffe.proto").read_text()
    if "TPMParameter" in built:
        assert proto2.parse(built).facts()["LayerParameter"]["tpm_param"][0] == 2017


def test_defaults_and_packed_flags_are_read():
    known = proto2.caffe().messages
    assert known["SolverParameter"].fields["momentum2"].default == 0.999
    assert known["SolverParameter"].fields["weights"].repeated
    assert known["SolverParameter"].fields["snapshot_format"].default == "BINARYPROTO"
    assert known["BlobProto"].fields["data"].packed
    assert not known["Datum"].fields["float_data"].packed
    assert known["LayerParameter"].fields["clip_param"].number == 148
    assert known["NetState"].fields["phase"].default == "TEST"


def test_a_forks_extensions_oneofs_and_groups_are_read():
    fork = PROTO.read_text().replace(
        "message ClipParameter {",
        """message PermuteParameter { repeated uint32 order = 1; }
        // an extension, a oneof and a group, as odd forks have them
        extend LayerParameter { optional PermuteParameter permute_param = 202; }
        message Odd {
          extensions 100 to max; reserved 5, 6; option deprecated = true;
          oneof kind { string a = 1; int32 b = 2; }
          repeated group Piece = 3 { optional float x = 1 [deprecated = true, default = -1e-3]; }
          optional .caffe_split.BlobShape shape = 4;
          optional string text = 7 [default = 'a\\x41' "b"];
        }
        message ClipParameter {""",
    )
    known = proto2.parse(fork).messages
    assert known["LayerParameter"].fields["permute_param"].message is known["PermuteParameter"]
    assert known["Odd"].fields["shape"].message is known["BlobShape"]
    assert known["Odd.Piece"].fields["x"].default == -1e-3
    assert known["Odd"].fields["text"].default == "aAb"
    assert set(known["Odd"].fields) == {"a", "b", "Piece", "shape", "text"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("message M { optional int32 x = ; }", "f.proto:1:32: expected a number, found ';'"),
        ("message M { optional Foo x = 1; }", "f.proto:1:22: no message or enum 'Foo' in the file"),
        ("message M { optional int32 x = 1;", "found 'the end of the file'"),
        ("message M { @ }", "f.proto:1:13: '@' has no place in a .proto file"),
        ("layer { name: 'x' }", "f.proto:1:1: expected a message, an enum"),
        ("message M { optional int32 x = 1 [default = b]; }", "b is no default for a field of type int32"),
        ("service", "f.proto:1:8: expected '{', found 'the end of the file'"),
        ("service S {", "f.proto:1:12: expected '}', found 'the end of the file'"),
        ("message M { map<", "f.proto:1:17: expected '>', found 'the end of the file'"),
        ("message M { optional int32 x = 1 [a = {", "expected '}', found 'the end of the file'"),
        ("syntax = ", "expected ';', found 'the end of the file'"),
        ("message M {" * 60, "no more than 50 messages in one another"),
    ],
)
def test_an_error_in_a_schema_names_its_place(text, expected):
    with pytest.raises(CaffeSplitError) as error:
        proto2.parse(text, "f.proto")
    assert expected in str(error.value)


def test_a_schema_without_nets_is_refused(tmp_path):
    (tmp_path / "x.proto").write_text("message M { optional int32 x = 1; }")
    with pytest.raises(CaffeSplitError, match="no messages NetParameter"):
        proto2.load(tmp_path / "x.proto")
    with pytest.raises(CaffeSplitError, match="cannot read it"):
        proto2.load(tmp_path / "missing.proto")
