"""Files of Caffe's forks: no command refuses them, and nothing is computed as if their fields were not there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from caffe_split.cli import cli
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.caffemodel import write_weights
from tests.cli import oddities as odd

CONVOLUTION = "convolution_param { num_output: 4 kernel_size: 3"
LAYERS = [
    *(odd.layer("Convolution", f"{CONVOLUTION} {each} }}") for each in odd.CONVOLUTION),
    *(odd.layer("Pooling", f"pooling_param {{ kernel_size: 2 stride: 2 {each} }}") for each in odd.POOLING),
    *(odd.layer(kind, text) for kind, text in odd.KEEPING),
    *(odd.layer(kind, "swoosh_param { a: 1 }", top) for kind in odd.TYPES for top in ("odd", "plain")),
    *(odd.layer(kind, text) for kind, text in odd.VALUES),
    *(odd.layer("ReLU", text) for text in odd.RULES),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: object) -> Result:
    """A command in this process; where it is refused, `exception` has the reason."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, (CaffeSplitError, SystemExit)), result.exception
    return result


def done(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def summary(text: str) -> dict:
    Path("net.prototxt").write_text(text)
    found: dict = json.loads(done("summary", "net.prototxt", "--json").stdout)
    found["rows"] = {row["name"]: row for row in found["layers"]}
    return found


@pytest.mark.parametrize("text", LAYERS)
def test_no_command_that_shows_a_net_refuses_it(text: str) -> None:
    Path("net.prototxt").write_text(odd.HEAD + text)
    written = done("instrument", "net.prototxt", "--window", "0:10").stdout
    assert re.search(r"shape \{\s+dim: 4\s+dim: 3\s+dim: 3\s+dim: 3", written)
    done("draw", "net.prototxt", "--out", "net.svg")
    table = done("summary", "net.prototxt")
    assert re.search(rf"^plain +Convolution +1x4x8x8 +{odd.PLAIN} ", table.stdout, re.M)
    assert re.search(rf"^total .* (at least )?{odd.PLAIN} ", table.stdout, re.M)


@pytest.mark.parametrize("text", LAYERS)
def test_only_layers_that_caffe_knows_are_split(text: str) -> None:
    Path("net.prototxt").write_text(odd.HEAD + text)
    rng = np.random.default_rng(0)
    weights = {"plain": [rng.normal(size=(4, 3, 3, 3)), np.zeros(4)]}
    if '"Convolution"' in text:
        side = 1 if "kernel_size: 1" in text else 3
        weights["odd"] = [rng.normal(size=(4, 4, side, side)), np.zeros(4)]
    write_weights("w.caffemodel", weights)
    split = ("make-derived", "net.prototxt", "--weights", "w.caffemodel", "--partition", "random:0", "--dry-run")
    assert "nothing written" in done(*split, "--layers", "plain").stdout
    refused = run(*split, "--layers", "odd")
    assert refused.exit_code == 1 and "layer 'odd' cannot be split: " in str(refused.exception)
    assert "Those that can: plain." in str(refused.exception)


@pytest.mark.parametrize("field", odd.CONVOLUTION)
def test_what_a_field_of_a_fork_may_change_is_not_known(field: str) -> None:
    found = summary(odd.HEAD + odd.layer("Convolution", f"{CONVOLUTION} {field} }}"))
    assert found["rows"]["odd"]["tops"] is None and found["rows"]["odd"]["parameters"] is None
    assert "known to a fork" in found["unknown"]["odd"] and "convolution_param." in found["unknown"]["odd"]
    assert found["parameters"] is None and found["at_least"]["parameters"] == odd.PLAIN


@pytest.mark.parametrize("field", odd.POOLING)
def test_the_size_of_a_forks_pooling_is_not_known(field: str) -> None:
    found = summary(odd.HEAD + odd.layer("Pooling", f"pooling_param {{ kernel_size: 2 stride: 2 {field} }}"))
    assert found["rows"]["odd"]["tops"] is None


@pytest.mark.parametrize(("kind", "text"), odd.KEEPING)
def test_a_type_that_keeps_its_shape_keeps_it_with_a_forks_fields(kind: str, text: str) -> None:
    below = 'layer { name: "ip" type: "InnerProduct" bottom: "odd" top: "ip" inner_product_param { num_output: 2 } }\n'
    found = summary(odd.HEAD + odd.layer(kind, text) + below)
    assert found["rows"]["odd"]["tops"] == [[1, 4, 8, 8]] and found["rows"]["odd"]["parameters"] is None
    assert found["rows"]["ip"]["parameters"] == 2 * 4 * 64 + 2
    assert found["at_least"]["parameters"] == odd.PLAIN + 2 * 4 * 64 + 2 and list(found["unknown"]) == ["odd"]


@pytest.mark.parametrize("kind", odd.TYPES)
def test_an_unknown_type_keeps_the_shape_in_place_only(kind: str) -> None:
    below = 'layer { name: "r" type: "ReLU" bottom: "plain" top: "r" }\n'
    found = summary(odd.HEAD + odd.layer(kind, top="plain") + below)
    assert found["rows"]["r"]["tops"] == found["rows"]["odd"]["tops"] == [[1, 4, 8, 8]]
    assert list(found["unknown"]) == ["odd"]
    found = summary(odd.HEAD + odd.layer(kind) + below.replace('"plain"', '"odd"'))
    assert found["rows"]["r"]["tops"] is None and list(found["unknown"]) == ["odd", "r"]


def test_a_blob_that_an_unknown_layer_writes_anew_has_no_shape() -> None:
    text = 'layer { name: "odd" type: "Correlation3D" bottom: "data" top: "plain" }\n'
    found = summary(odd.HEAD + text + 'layer { name: "r" type: "ReLU" bottom: "plain" top: "plain" }\n')
    assert found["rows"]["r"]["tops"] is None


@pytest.mark.parametrize(("kind", "text"), odd.VALUES)
def test_a_layer_with_a_forks_value_is_not_known(kind: str, text: str) -> None:
    assert "odd" in summary(odd.HEAD + odd.layer(kind, text))["unknown"]


@pytest.mark.parametrize("text", odd.RULES)
def test_a_layer_with_a_forks_rule_is_not_known(text: str) -> None:
    assert "clude." in summary(odd.HEAD + odd.layer("ReLU", text))["unknown"]["odd"]


@pytest.mark.parametrize("text", odd.NO_SIZE)
def test_implementation_rates_and_initial_values_change_no_size(text: str) -> None:
    is_option = "convolution_param {" in text
    text = text.replace("convolution_param {", CONVOLUTION) if is_option else f"{text} {CONVOLUTION} }}"
    found = summary(odd.HEAD + odd.layer("Convolution", text))
    assert found["unknown"] == {} and found["parameters"] == odd.PLAIN + 4 * 4 * 9 + 4
    assert "note: net.prototxt:5:" in done("summary", "net.prototxt").stderr


@pytest.mark.parametrize("text", odd.NET_FIELDS)
def test_fields_of_the_net_itself_are_noted(text: str) -> None:
    assert summary(f"{text}\n{odd.HEAD}")["parameters"] == odd.PLAIN
    assert "note: net.prototxt:1:" in done("draw", "net.prototxt", "--out", "net.svg").stderr


@pytest.mark.parametrize("text", odd.DATA_FIELDS)
def test_data_layers_of_forks(text: str) -> None:
    data = f'layer {{ name: "data" type: "Data" top: "data" top: "label" {text} }}\n'
    text = data + odd.HEAD.splitlines(keepends=True)[2] + odd.HEAD.splitlines(keepends=True)[3]
    assert "Give its shape: --input data=" in summary(text)["unknown"]["data"]
    table = done("summary", "net.prototxt", "--input", "data=1,3,8,8").stdout
    assert re.search(rf"^plain +Convolution +1x4x8x8 +{odd.PLAIN} ", table, re.M)


@pytest.mark.parametrize("text", odd.SOLVER_FIELDS)
def test_solvers_of_forks(text: str) -> None:
    Path("net.prototxt").write_text(odd.HEAD)
    Path("solver.prototxt").write_text(f'net: "net.prototxt"\n{text}\n')
    result = done("summary", "solver.prototxt")
    assert re.search(rf"^total .* {odd.PLAIN} ", result.stdout, re.M) and "no layer" not in result.stderr
    done("instrument", "solver.prototxt", "--window", "0:10")


@pytest.mark.parametrize("kind", odd.OLD_TYPES)
def test_old_layers_of_forks(kind: str) -> None:
    text = f"""input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers {{ name: "plain" type: CONVOLUTION bottom: "data" top: "plain"
         convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 }} }}
layers {{ name: "odd" type: {kind} bottom: "plain" top: "odd" {kind.lower()}_param {{ a: 1 }} }}
"""
    found = summary(text)
    assert found["rows"]["odd"]["type"] == kind and found["at_least"]["parameters"] == odd.PLAIN
    assert found["rows"]["plain"]["tops"] == [[1, 4, 8, 8]] and list(found["unknown"]) == ["odd"]
    done("draw", "net.prototxt", "--out", "net.svg")
    # What the type is called in today's form is not known, so no net is written in it.
    refused = run("instrument", "net.prototxt", "--window", "0:10", "--upgrade")
    assert refused.exit_code == 1 and f"old layer types {kind} of a fork" in str(refused.exception)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("num_output: 4", "", "num_output is 0, expected 1 or more"),
        ("num_output: 4", "num_output: 4 group: 2", "3 input channels and 4 kernels do not divide into 2 groups"),
        ("kernel_size: 3", "kernel_size: [3, 3, 3]", "3 values of kernel_size for 2 spatial axes"),
        ("kernel_size: 3", "kernel_h: 3", "not both of kernel_h and kernel_w"),
        ("kernel_size: 3", "kernel_size: 99", "kernel"),
        ('top: "plain"', 'top: "plain" include { } exclude { }', "include and exclude rules"),
    ],
)
def test_what_caffe_refuses_is_named_with_file_line_and_layer(old: str, new: str, reason: str) -> None:
    assert old in odd.HEAD
    Path("net.prototxt").write_text(odd.HEAD.replace(old, new))
    refused = run("summary", "net.prototxt").exception
    assert isinstance(refused, CaffeSplitError)
    assert re.match(r"net\.prototxt:3:1: layer 'plain'.*" + re.escape(reason), str(refused)), refused
    assert "\n" not in str(refused)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            'net: "net.prototxt" solver_type: 7',
            r"solver\.prototxt:1:21: there is no solver_type 7; expected one of SGD",
        ),
        ('net: ""', r'solver\.prototxt: net is "", expected the file of a net'),
    ],
)
def test_solvers_that_caffe_does_not_start_are_refused_in_a_line(text: str, reason: str) -> None:
    Path("net.prototxt").write_text(odd.HEAD)
    Path("solver.prototxt").write_text(text)
    write_weights("w.caffemodel", {"plain": [np.ones((4, 3, 3, 3)), np.ones(4)]})
    options = ("--weights", "w.caffemodel", "--layers", "plain", "--partition", "random:0", "--dry-run")
    refused = run("make-derived", "solver.prototxt", *options).exception
    assert isinstance(refused, CaffeSplitError)
    assert re.match(reason, str(refused)), refused
