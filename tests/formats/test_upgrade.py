"""Old nets: what our upgrade gives equals what Caffe's own tool gives, and comments survive."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check, proto2
from caffe_split.formats.prototxt.old_types import V0_TYPES, V1_TYPES
from caffe_split.formats.prototxt.upgrade import types_of_forks, upgrade
from tests.formats.messages import ROOTS, protobuf_of
from tests.formats.texts import message

FILES = Path(__file__).parent / "files"

V1_FIELDS = message(proto2.caffe().messages["V1LayerParameter"], 1)
V1_LAYERS = V1_FIELDS.map(lambda fields: f"layers {{{fields}\n}}\n")
NET_FIELDS = message(proto2.caffe().messages["NetParameter"], 0)

ALL_TYPES = "\n".join(f'layers {{ name: "{name}" type: {name} }}' for name in V1_TYPES)
V0_ALL = "\n".join(
    f'layers {{ layer {{ name: "{name}" type: "{name}" num_output: 3 biasterm: false pad: 1 kernelsize: 3 group: 1 '
    f"stride: 2 pool: AVE dropout_ratio: 0.3 local_size: 5 alpha: 1 beta: 2 k: 3 source: 's' scale: 2 "
    f"meanfile: 'm' batchsize: 4 cropsize: 5 mirror: true rand_skip: 1 shuffle_images: true new_num: 1 "
    f"new_channels: 2 new_height: 3 new_width: 4 concat_dim: 1 det_fg_threshold: 0.5 det_bg_threshold: 0.5 "
    f"det_fg_fraction: 0.5 det_context_pad: 1 det_crop_mode: 'x' weight_filler {{ type: 'a' }} "
    f"bias_filler {{ type: 'b' }} hdf5_output_param {{ file_name: 'f' }} }} }}"
    for name in V0_TYPES
)
TEXTS = {
    "v1 types": ALL_TYPES,
    "v0 options": V0_ALL,
    "v0 drops": 'debug_info: true state { level: 1 } layers { layer { name: "a" type: "relu" } '
    'include { phase: TEST } } layers { name: "gone" type: RELU top: "x" }',
    "data quirk": 'layers { type: DATA name: "a" } layers { type: IMAGE_DATA image_data_param { crop_size: 3 } '
    "transform_param { crop_size: 4 mirror: true } } layers { type: WINDOW_DATA window_data_param { scale: 2 } }",
    "weights": 'layers { name: "a" param: "x" blobs_lr: 1 weight_decay: [1, 2, 3] blob_share_mode: PERMISSIVE }',
    "input alone": 'input: "data" layer { name: "x" type: "ReLU" }',
    "input last": 'layer { name: "x" type: "ReLU" } input: "a" input: "b" input_dim: [1,2,3,4] input_dim: 5 '
    "input_dim: 6 input_dim: 7 input_dim: 8",
    "shape and dim": 'input: "a" input_shape { dim: 1 } input_dim: 7 layers { name: "x" type: RELU }',
    "batch norm": 'layer { type: "BatchNorm" param { } param { lr_mult: 1 } param { decay_mult: 2 name: "p" } } '
    'layer { type: "BatchNorm" param { } }',
    "nothing": 'name: "n" layer { name: "x" }',
    "empty": "",
}


def cases():
    texts = {f"{name}.prototxt": (FILES / f"{name}.prototxt").read_text() for name in ("v0", "v0_data", "v1", "inputs")}
    return {**texts, **TEXTS}


def assert_upgrade_is_caffes(text, tool, tmp_path):
    (tmp_path / "in").write_text(text)
    run = subprocess.run([tool, tmp_path / "in", tmp_path / "out"], capture_output=True, text=True)
    assert (tmp_path / "out").exists(), run.stderr
    doc = prototxt.parse(text, kind="net")
    upgrade(doc)
    theirs = protobuf_of((tmp_path / "out").read_text(), "net")
    ours = protobuf_of(str(doc), "net")
    assert text_format.MessageToString(ours) == text_format.MessageToString(theirs)
    again = str(doc)
    assert upgrade(doc) == [] and str(doc) == again  # a net of today is left as it is


@pytest.mark.caffe
@pytest.mark.parametrize("name", cases())
def test_an_upgraded_net_equals_caffes_own_upgrade(name, caffe_tool, tmp_path):
    assert_upgrade_is_caffes(cases()[name], caffe_tool("upgrade_net_proto_text"), tmp_path)


@pytest.mark.caffe
def test_upgrades_of_caffes_own_files_equal_caffes(caffe_source, caffe_tool, tmp_path):
    tool = caffe_tool("upgrade_net_proto_text")
    for index, path in enumerate(sorted(caffe_source.rglob("*.prototxt"))):
        doc = prototxt.read(path)
        if doc.kind == "net":
            folder = tmp_path / str(index)
            folder.mkdir()
            assert_upgrade_is_caffes(path.read_text(), tool, folder)


V0_LAYERS = st.tuples(message(proto2.caffe().messages["V0LayerParameter"], 1), V1_FIELDS).map(
    lambda parts: f"layers {{ layer {{{parts[0]}\n}}{parts[1]}\n}}\n"
)


@pytest.mark.caffe
@pytest.mark.parametrize("layers", [V1_LAYERS, V0_LAYERS], ids=["v1", "v0"])
def test_upgrades_of_random_nets_equal_caffes(layers, caffe_tool, tmp_path):
    """What Caffe takes is taken and brought to the same message; what it refuses is refused."""
    tool = caffe_tool("upgrade_net_proto_text")
    taken = 0

    # Without shrinking, which would run Caffe's program a thousand times.
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(NET_FIELDS, st.lists(layers, min_size=1, max_size=3))
    def law(fields, some):
        nonlocal taken
        text = "\n".join([fields, *some])
        (tmp_path / "in").write_text(text)
        (tmp_path / "out").unlink(missing_ok=True)
        subprocess.run([tool, tmp_path / "in", tmp_path / "out"], capture_output=True)
        try:
            doc = prototxt.parse(text, kind="net")
            check.check(doc)
            upgrade(doc)
        except CaffeSplitError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            # Caffe reads past the end of too few input_dim.
            assert not (tmp_path / "out").exists() or "input_dim" in refusal
            return
        taken += 1
        theirs = protobuf_of((tmp_path / "out").read_text(), "net")
        # As text, since nan is not itself.
        assert text_format.MessageToString(protobuf_of(str(doc), "net")) == text_format.MessageToString(theirs)

    law()
    assert taken > 10


@pytest.mark.caffe
@pytest.mark.parametrize("old", ["SGD", "NESTEROV", "ADAGRAD", "RMSPROP", "ADADELTA", "ADAM", "3"])
def test_an_upgraded_solver_equals_caffes_own_upgrade(old, caffe_tool, tmp_path):
    text = f'net: "n" # which\nsolver_type: {old} # old\nbase_lr: 0.1\n'
    (tmp_path / "in").write_text(text)
    subprocess.run(
        [caffe_tool("upgrade_solver_proto_text"), tmp_path / "in", tmp_path / "out"],
        check=True,
        capture_output=True,
    )
    doc = prototxt.parse(text)
    assert len(upgrade(doc)) == 1
    theirs = protobuf_of((tmp_path / "out").read_text(), "solver")
    theirs.ClearField("snapshot_prefix")  # made of the file's name
    assert protobuf_of(str(doc), "solver") == theirs
    assert "# old" in str(doc) and doc.get("type")


def test_comments_survive_an_upgrade():
    for name in ("v0", "v1", "inputs"):
        text = (FILES / f"{name}.prototxt").read_text()
        doc = prototxt.parse(text)
        upgrade(doc)
        for line in text.splitlines():
            if "#" in line:
                assert line[line.index("#") :] in str(doc), (name, line)
        assert doc.subs("layers") == [] and doc.get_all("input") == []
        assert ROOTS["net"]() != protobuf_of(str(doc), "net")


def test_a_layer_of_today_is_not_touched():
    text = (FILES / "ssd.prototxt").read_text()
    doc = prototxt.parse(text)
    assert upgrade(doc) == [] and str(doc) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("layer { }\nlayers { }", "<string>:2:1: `layers` (old form) here and `layer` (new form) at line 1"),
        ("layers { layer { type: 'conf' } }", "'conf' is none of Caffe's V0 layer types"),
        (
            "layers {\n type: CCCP }",
            "<string>:2:2: layer type CCCP is none of the old types that are known",
        ),
        ("input: 'a' input: 'b' input_shape { }", "2 inputs, but only 1 input_shape"),
        ("input: 'a' input_dim: 1", "1 inputs need 4 input_dim, found 1"),
        ("layers { layer { type: 'conv' } bottom: 'x' }", "a layer reads 'x', which no layer above it makes"),
        ("type: 'SGD' solver_type: ADAM base_lr: 1", "both `solver_type` (old form) and `type`"),
    ],
)
def test_nets_that_caffe_refuses_to_upgrade_are_refused(text, expected):
    with pytest.raises(CaffeSplitError) as error:
        upgrade(prototxt.parse(text))
    assert expected in str(error.value)


def test_an_old_type_of_a_fork_keeps_its_name_for_readers():
    net = prototxt.parse("layers { type: CCCP top: 'x' }  # mine\n")
    assert types_of_forks(net) == ["CCCP"]
    upgrade(net, fork_types=True)
    assert "".join(str(net).split()) == "layer{type:'CCCP'top:'x'}#mine"
