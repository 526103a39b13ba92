"""The examples in the docstrings run, and the readers for use refuse what they say they refuse."""

from __future__ import annotations

import doctest
import importlib
import importlib.resources
import pkgutil

import pytest

import caffe_split
import caffe_split.formats
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check, proto2

MODULES = ["caffe_split.errors"] + [
    module.name
    for module in pkgutil.walk_packages(caffe_split.formats.__path__, "caffe_split.formats.")
    if not module.name.endswith(".caffe_pb2")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name):
    pytest.importorskip("h5py")
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_parse_has_an_example_that_runs():
    (example,) = doctest.DocTestFinder(recurse=False).find(prototxt.parse, "parse")
    assert len(example.examples) >= 2
    assert doctest.DocTestRunner().run(example).failed == 0
    assert "CaffeSplitError" in prototxt.parse.__doc__


def put(tmp_path, text):
    path = tmp_path / "x.prototxt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("reader", "text", "expected"),
    [
        ("read_net", "base_lr: 0.1", "this is a solver, expected a net"),
        ("read_net", "", "nothing in it; expected a net"),
        ("read_net", "layer { }\nlayers { }", "x.prototxt:2:1: `layers` (old form) here"),
        ("read_solver", "layer { }", "this is a net, expected a solver"),
        ("read_solver", "net_param { layer { } layers { } }", "`layers` (old form) here"),
    ],
)
def test_what_is_no_net_or_solver_is_refused(reader, text, expected, tmp_path):
    with pytest.raises(CaffeSplitError) as error:
        getattr(caffe_split, reader)(put(tmp_path, text))
    assert expected in str(error.value)


@pytest.mark.parametrize(
    "form",
    [
        "net: 'n'",
        "train_net: 'n' test_net: 't' test_net: 'u'",
        "net_param { name: 'n' }",
        "train_net_param { } test_net_param { }",
    ],
)
@pytest.mark.parametrize("policy", ["fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid", "plateau"])
def test_a_solver_may_name_its_net_in_any_of_caffes_forms(form, policy, tmp_path):
    text = f'{form} lr_policy: "{policy}" stepvalue: [1, 2] solver_type: ADAM\n'
    solver = caffe_split.read_solver(put(tmp_path, text))
    assert str(solver) == text and solver.get("lr_policy") == policy
    upgraded = caffe_split.read_solver(put(tmp_path, text), upgrade=True)
    assert upgraded.get("type") == "Adam" and not upgraded.has("solver_type")


def test_an_old_net_is_upgraded_when_asked(tmp_path):
    path = put(tmp_path, "layers { type: RELU }\n")
    assert str(caffe_split.read_net(path)) == "layers { type: RELU }\n"
    assert str(caffe_split.read_net(path, upgrade=True)) == 'layer { type: "ReLU" }\n'


def test_a_forks_schema_gives_its_fields_types(tmp_path):
    ours = (importlib.resources.files("caffe_split.formats.prototxt") / "caffe.proto").read_text()
    fork = tmp_path / "caffe.proto"
    fork.write_text(
        ours.replace("message LayerParameter {", "message LayerParameter { optional BoxParameter box_param = 900;")
        + "message BoxParameter { enum Code { CORNER = 0; CENTER = 1; } optional Code code = 1 [default = CENTER]; }"
    )
    path = put(tmp_path, "layer { box_param { } }\nlayer { box_param { codde: 1 } }\n")
    assert proto2.caffe().messages["LayerParameter"].fields.get("box_param") is None
    caffe_split.read_net(path)
    (note,) = check.notes(caffe_split.read_net(path, caffe_proto=fork))
    assert "BoxParameter has no field 'codde'; did you mean 'code'?" in note
    net = caffe_split.read_net(put(tmp_path, "layer { box_param { } }"), caffe_proto=fork)
    assert net.sub("layer").sub("box_param").get("code") == "CENTER"
