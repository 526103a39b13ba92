"""`caffe-split summary`: figures against published ones, two nets side by side, forms, refusals."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from caffe_split.formats import prototxt
from caffe_split.layertypes.summary import pair_up, summarize
from tests.support import CAFFE, ROOT, caffe_split

MODELS = CAFFE.parents[1] / "share" / "caffe" / "models"
BASE = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"  # the only one
  convolution_param { num_output: 5 kernel_size: 3 bias_term: false } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 2 } }
"""
CONV, FC = 5 * 3 * 9, 2 * 5 * 36 + 2


@pytest.mark.caffe
@pytest.mark.parametrize(
    ("model", "parameters", "macs"),
    [
        # As the papers' nets have been counted: AlexNet 61.0 M and 0.72 G, GoogLeNet 7.0 M and 1.6 G.
        ("bvlc_alexnet", 60_965_224, 724_406_816),
        ("bvlc_googlenet", 6_998_552, 1_582_671_872),
    ],
)
def test_published_figures(model: str, parameters: int, macs: int) -> None:
    found = summarize(prototxt.read(MODELS / model / "deploy.prototxt"))
    assert (found.cost.parameters, found.cost.macs) == (parameters, macs)


def written(folder: Path, text: str, name: str = "net.prototxt") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_the_table(tmp_path: Path) -> None:
    written(tmp_path, BASE)
    out = caffe_split("summary", "net.prototxt", cwd=tmp_path).stdout.splitlines()
    assert [line.split() for line in out] == [
        ["layer", "type", "output", "parameters", "multiply-adds"],
        ["data", "Input", "4x3x8x8", "-", "-"],
        ["conv", "Convolution", "4x5x6x6", str(CONV), f"{CONV * 36:,}"],
        ["relu", "ReLU", "4x5x6x6", "-", "-"],
        ["fc", "InnerProduct", "4x2", str(FC), "360"],
        ["total", "4", "layers", str(CONV + FC), f"{CONV * 36 + 360:,}"],
    ]
    # The columns stand under one another.
    assert len({line.index(word) for line, word in zip(out[1:5], ("Input", "Conv", "ReLU", "Inner"))}) == 1


def test_json_and_csv(tmp_path: Path) -> None:
    written(tmp_path, BASE)
    found = json.loads(caffe_split("summary", "net.prototxt", "--json", cwd=tmp_path).stdout)
    assert (found["parameters"], found["multiply_adds"], found["unknown"]) == (CONV + FC, CONV * 36 + 360, {})
    assert found["layers"][1] == {
        "name": "conv",
        "type": "Convolution",
        "tops": [[4, 5, 6, 6]],
        "parameters": CONV,
        "frozen_parameters": 0,
        "multiply_adds": CONV * 36,
    }
    rows = list(csv.DictReader(io.StringIO(caffe_split("summary", "net.prototxt", "--csv", cwd=tmp_path).stdout)))
    assert [row["layer"] for row in rows] == ["data", "conv", "relu", "fc"]
    assert sum(int(row["parameters"]) for row in rows) == CONV + FC


def edited(*changes: tuple[str, str]) -> str:
    text = BASE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("# the only one", "# a comment"), {}),
        (("dim: 4", "dim: 9"), {"data": ("changed", ["input_param.shape.dim"])}),
        (("  # the only one\n  convolution_param", " convolution_param"), {}),
        (('name: "relu" type: "ReLU"', 'type: "ReLU" name: "relu"'), {}),
        (('name: "relu"', 'name: "act"'), {"relu": ("removed", []), "act": ("added", [])}),
        (
            ("num_output: 2", "num_output: 2 bias_term: false"),
            {"fc": ("changed", ["inner_product_param.bias_term", "parameters"])},
        ),
        (
            ("num_output: 5", "num_output: 4"),
            {
                "conv": ("changed", ["convolution_param.num_output", "output", "parameters", "multiply-adds"]),
                "relu": ("changed", ["output"]),
                "fc": ("changed", ["parameters", "multiply-adds"]),
            },
        ),
        (('"ReLU"', '"ELU"'), {"relu": ("changed", ["type"])}),
    ],
)
def test_what_counts_as_a_change(change: tuple[str, str], expected: dict[str, tuple[str, list[str]]]) -> None:
    nets = [summarize(prototxt.parse(text, "net")) for text in (BASE, edited(change))]
    pairs = pair_up(*nets)
    assert {p.name: (p.change, list(p.changed)) for p in pairs if p.change != "same"} == expected
    assert [p.name for p in pairs if p.second] == [row.name for row in nets[1].rows]


def test_removed_layers_stand_where_they_were() -> None:
    other = edited(('layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }\n', ""))
    pairs = pair_up(summarize(prototxt.parse(BASE, "net")), summarize(prototxt.parse(other, "net")))
    assert [p.name for p in pairs] == ["data", "conv", "relu", "fc"]


def test_layers_that_moved_stand_where_the_second_net_has_them() -> None:
    *first, relu, fc = BASE.splitlines(keepends=True)
    prob = 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n'
    nets = ["".join([*first, *rest]) for rest in ([relu, fc, prob], [fc, prob, relu])]
    pairs = pair_up(*(summarize(prototxt.parse(text, "net")) for text in nets))
    assert [(p.name, p.change) for p in pairs] == [(name, "same") for name in ("data", "conv", "fc", "prob", "relu")]


def test_side_by_side_of_a_skip_split(tmp_path: Path) -> None:
    """The added and removed layers are those of the split, and the frozen skip is told."""
    skip = BASE.replace(
        'layer { name: "relu"',
        """layer { name: "skip" type: "Convolution" bottom: "data" top: "skip" param { lr_mult: 0 }
        convolution_param { num_output: 5 kernel_size: 3 bias_term: false } }
        layer { name: "relu\"""",
    )
    written(tmp_path, BASE)
    written(tmp_path, skip, "other.prototxt")
    whole = caffe_split("summary", "net.prototxt", "other.prototxt", cwd=tmp_path).stdout
    only = caffe_split("summary", "net.prototxt", "other.prototxt", "--changes", cwd=tmp_path).stdout
    assert "relu" in whole and "relu" not in only
    assert re.search(r"^\+ +skip +Convolution +4x5x6x6 +135 +4,860$", only, re.M)
    assert "layers 4 -> 5: 1 added, 0 removed, 0 changed" in only
    assert f"parameters {CONV + FC} -> {2 * CONV + FC} (x{(2 * CONV + FC) / (CONV + FC):.3f})" in only
    assert "other.prototxt: 135 of the parameters are frozen (lr_mult 0)" in only
    found = json.loads(caffe_split("summary", "net.prototxt", "other.prototxt", "--json", cwd=tmp_path).stdout)
    assert found["differences"] == [{"name": "skip", "change": "added", "changed": []}]
    assert found["parameters_ratio"] == (2 * CONV + FC) / (CONV + FC)
    table = caffe_split("summary", "net.prototxt", "other.prototxt", "--csv", cwd=tmp_path).stdout
    rows = {row["layer"]: row for row in csv.DictReader(io.StringIO(table))}
    assert (rows["skip"]["change"], rows["skip"]["parameters_1"], rows["skip"]["parameters_2"]) == ("added", "", "135")


def test_from_a_solver_in_both_phases(tmp_path: Path) -> None:
    text = BASE + 'layer { name: "acc" type: "Silence" bottom: "fc" include { phase: TEST } }\n'
    written(tmp_path, text)
    written(tmp_path, 'net: "net.prototxt"\nbase_lr: 0.1\n', "solver.prototxt")
    assert "acc" not in caffe_split("summary", "solver.prototxt", cwd=tmp_path).stdout
    assert "acc" in caffe_split("summary", "solver.prototxt", "--phase", "TEST", cwd=tmp_path).stdout


DIGITS = str(ROOT / "prototxt/digits/train_val.prototxt")


def test_without_the_data_set(tmp_path: Path) -> None:
    unknown = caffe_split("summary", DIGITS, cwd=tmp_path).stdout
    assert "not known of layer 'data': its data set 'data/digits_train_lmdb' is not there" in unknown
    assert "Give its shape: --input data=64,3,32,32" in unknown
    assert re.search(r"^data +Data +\? +\? +\?$", unknown, re.M) and re.search(r"^total .* \? +\?$", unknown, re.M)
    out = caffe_split("summary", DIGITS, "--input", "data=16,1,8,8", cwd=tmp_path).stdout
    assert re.search(r"^data +Data +16x1x8x8 16 ", out, re.M)


def test_a_type_without_a_rule_is_said(tmp_path: Path) -> None:
    written(tmp_path, BASE + 'layer { name: "py" type: "Python" bottom: "fc" top: "py" }\n')
    out = caffe_split("summary", "net.prototxt", cwd=tmp_path).stdout
    assert re.search(r"^py +Python +\? +\? +\?$", out, re.M)
    assert re.search(rf"^total .* at least {CONV + FC} +at least {CONV * 36 + 360:,}$", out, re.M)
    assert "the totals are without py\n" in out
    assert "not known of layer 'py': shapes of Python layers are not known here: only the layer's own code knows" in out
    assert json.loads(caffe_split("summary", "net.prototxt", "--json", cwd=tmp_path).stdout)["parameters"] is None


def test_a_bottom_that_no_layer_gives_is_said(tmp_path: Path) -> None:
    written(tmp_path, BASE.replace('bottom: "conv" top: "fc"', 'bottom: "cnov" top: "fc"'))
    said = caffe_split("summary", "net.prototxt", cwd=tmp_path).stdout
    assert "not known of layer 'fc': bottom 'cnov' is no top of a layer above it in this phase" in said


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["missing.prototxt"], 1, "missing.prototxt"),
        (["net.prototxt", "--input", "x=1,2"], 1, "'x' is no input of the net. Its inputs: data"),
        (["net.prototxt", "--input", "data=1,a"], 2, "'data=1,a' is not BLOB=SHAPE, for example data=64x3x32x32"),
        (["net.prototxt", "--input", "data=1,0"], 2, "is not BLOB=SHAPE"),
        (["net.prototxt", "--input", "data=1,3,2,2"], 1, "layer 'conv' (line 3): its kernel does not fit"),
        (["net.prototxt", "--json", "--csv"], 2, "exclude each other"),
        (["net.prototxt", "--changes"], 2, "needs two nets"),
        (["test.prototxt"], 1, "no layer of it runs in phase TRAIN"),
        ([], 2, "NET"),
    ],
)
def test_refused(tmp_path: Path, words: list[str], status: int, said: str) -> None:
    written(tmp_path, BASE)
    written(tmp_path, 'layer { name: "a" type: "Silence" include { phase: TEST } }', "test.prototxt")
    assert said in caffe_split("summary", *words, cwd=tmp_path, status=status).stderr
