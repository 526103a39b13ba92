"""What is written as JSON is what the schemas of docs/ say, no key more and none less."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from caffe_split import jsontext
from caffe_split.cli import COMMANDS, cli
from caffe_split.derivation.after_split import Course
from caffe_split.derivation.compare_scores import ScoreTable
from caffe_split.rounds.result import MultiSplits, Round, Row
from caffe_split.split.saliency import Saliency
from caffe_split.study.rows import FoldRow
from caffe_split.study.rows import Row as StudyRow
from caffe_split.study.statistics import Interval
from tests.derivation.odd import convolution, input_layer, write
from tests.support import ROOT, caffe_split
from tools.site_parts.schemas import with_schemas

jsonschema = pytest.importorskip("jsonschema")

SCHEMAS = ROOT / "docs/schemas/outputs-1.json"
LOG = ROOT / "tests/trainlog/logs/bvlc_2016.log"


def strict(schema: Any) -> Any:
    """The schema with no key allowed that it does not name: a new key is to be described."""
    if isinstance(schema, dict):
        made = {key: strict(value) for key, value in schema.items()}
        if "properties" in schema:
            made.setdefault("additionalProperties", False)
        return made
    return [strict(each) for each in schema] if isinstance(schema, list) else schema


@pytest.fixture(scope="module")
def kinds() -> dict[str, Any]:
    schemas = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schemas)
    return strict(schemas)  # type: ignore[no-any-return]


def check(kinds: dict[str, Any], name: str, value: object) -> None:
    schema = {**copy.copy(kinds), "$ref": f"#/$defs/{name}"}
    jsonschema.Draft202012Validator(schema).validate(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net of two convolutions, its derived and its folded net."""
    folder = tmp_path_factory.mktemp("outputs")
    write(folder, "net", input_layer() + convolution("a", "data", "a") + convolution("b", "a", "b"))
    words = ("--weights", "net.caffemodel", "--layers", "a", "--partition", "random:0")
    caffe_split("make-derived", "net.prototxt", *words, cwd=folder)
    caffe_split("fold", "derived1/net.prototxt", "derived1/init.caffemodel", "--no-verify", cwd=folder)
    solver = 'net: "net.prototxt" max_iter: 20 momentum: 0.9 snapshot_prefix: "net" base_lr: 0.1 lr_policy: "fixed"'
    (folder / "solver.prototxt").write_text(solver)
    (folder / "dummy.prototxt").write_text(
        'layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { '
        "shape { dim: 2 dim: 4 dim: 8 dim: 8 } shape { dim: 2 dim: 1 dim: 8 dim: 8 } } }"
        + convolution("a", "data", "a")
        + convolution("b", "a", "b")
        + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "label" top: "loss" }'
    )
    images = convolution("a", "data", "a") + convolution("b", "a", "b")
    write(folder, "images", input_layer(channels=3) + images)
    Image.new("L", (3, 5)).save(folder / "a.png")
    from caffe_split import read_weights, write_weights

    text = LOG.read_text().replace("Test net output #0: accuracy = ", "Test net output #0: accuracy = nan ")
    (folder / "nan.log").write_text(text)
    rng = np.random.default_rng(0)
    for iteration in range(0, 21, 5):
        moved = {
            name: [array + rng.normal(size=array.shape) for array in arrays]
            for name, arrays in dict(read_weights(folder / "net.caffemodel")).items()
        }
        moved["b"] = list(read_weights(folder / "net.caffemodel")["b"])  # frozen
        write_weights(folder / f"net_iter_{iteration}.caffemodel", moved)
    return folder


PRINTED = {
    "best": ("best", LOG, "--json"),
    "best of a test without accuracy": ("best", LOG, "--output", "loss", "--json"),
    "best as final": ("final", LOG, "--json"),
    "table": ("table", LOG, "nan.log", "--snapshot", "--cost", "--json"),
    "tpm": ("tpm", "solver.prototxt", "--window", "0:20", "--json"),
    "summary": ("summary", "net.prototxt", "--json"),
    "summary_of_two": ("summary", "net.prototxt", "derived1/net.prototxt", "--json"),
    "verify": ("verify", "net.prototxt", "derived1/net.prototxt", "--json"),
    "make_derived": (
        "make-derived",
        "solver.prototxt",
        "--window",
        "0:20",
        "--iter",
        20,
        "--layers",
        "a",
        "--dry-run",
        "--json",
        "--out",
        "d2",
    ),
    "make_derived control": (
        "make-derived",
        "net.prototxt",
        "--weights",
        "net.caffemodel",
        "--control",
        "--dry-run",
        "--json",
        "--out",
        "d2",
    ),
    "test": ("test", "dummy.prototxt", "net.caffemodel", "--json", "--iterations", "1", "--top", "2"),
    "test plain": ("test", "dummy.prototxt", "net.caffemodel", "--json", "--iterations", "1"),
    "predictions": ("test", "images.prototxt", "images.caffemodel", "--json", "--image", "a.png"),
    "time": ("time", "dummy.prototxt", "--json", "--iterations", "1"),
    "windows": ("tpm", "--suggest-window", ROOT / "tests/trainlog/logs/resumed.log", "--json"),
    "export": ("export", "net.prototxt", "net.caffemodel", "--out", "net.onnx", "--json"),
    "export of any batch": ("export", "net.prototxt", "net.caffemodel", "--dynamic", "batch", "--dry-run", "--json"),
    "fold": ("fold", "derived1/net.prototxt", "derived1/init.caffemodel", "--dry-run", "--json", "--out", "f2"),
}


@pytest.mark.parametrize("case", PRINTED)
def test_printed(case: str, kinds: dict[str, Any], folder: Path) -> None:
    words = PRINTED[case]
    check(kinds, case.split()[0], json.loads(caffe_split(*words, cwd=folder).stdout))


def test_each_command_that_prints_json_is_here() -> None:
    commands = {name: cli.get_command(click.Context(cli), name) for name in COMMANDS}
    with_json = {name for name, each in commands.items() if each and any("--json" in p.opts for p in each.params)}
    # Loops and studies are long: their outcomes are made below.
    assert with_json == {words[0] for words in PRINTED.values()} | {"multisplit", "study"}


def test_written(kinds: dict[str, Any], folder: Path) -> None:
    for made, kind in (("derived1", "make_derived"), ("folded", "fold")):
        manifest = json.loads((folder / made / "manifest.json").read_text())
        check(kinds, "manifest", manifest)
        check(kinds, kind, manifest["plan"])
    images = ("extract", "images.prototxt", "images.caffemodel", "--blob", "b", "--images", "a.png", "--out", "i")
    caffe_split(*images, cwd=folder)
    caffe_split(
        "extract", "dummy.prototxt", "net.caffemodel", "--blob", "b", "--iterations", 1, "--out", "e", cwd=folder
    )
    for made in ("i", "e"):
        check(kinds, "extract", json.loads((folder / made / "manifest.json").read_text())["plan"])
    caffe_split("table", LOG, "--series", "series", cwd=folder)
    check(kinds, "series", json.loads(next((folder / "series").iterdir()).read_text()))
    for results in sorted((ROOT / "docs/results").rglob("*.json")):
        check(kinds, "study", json.loads(results.read_text()))


def test_the_outcomes_of_loops_and_studies(kinds: dict[str, Any]) -> None:
    run = Row("baseline", 0.9, None, None, 5)
    for control in (run, None):
        found = MultiSplits(run, (Round(run, run, control, ("a",)),), None, "why")
        check(kinds, "multisplit", json.loads(jsontext.dumps(found.as_dict())))
    check(kinds, "multisplit", json.loads(jsontext.dumps(MultiSplits(run, (), 100).as_dict())))
    interval = Interval(0.1, float("nan"), 0.2, 3)
    row = StudyRow(
        run="skip",
        control="continue",
        n=3,
        final_mean=0.5,
        final_sd=float("nan"),
        final_difference=interval,
        final_by_seed={"1": 0.5},
        best_mean=0.5,
        best_sd=0.1,
        best_difference=None,
        best_by_seed={"1": 0.5},
        final_difference_to_random=None,
        parameters_before=5,
        parameters=(5, 6),
        parameters_by_seed={"1": None},
        macs_before=5,
        macs=None,
        macs_by_seed={"1": 7},
        folded=FoldRow(1, 5, 5, 0.0),
        training_seconds=3.0,
        movements={"split1": 0.1},
        failed={},
    )
    check(kinds, "study", json.loads(jsontext.dumps({"study": "name", "rows": [row.as_dict()]})))
    check(kinds, "study_row", json.loads(jsontext.dumps(row.as_dict())))


def test_scores_and_gradients(kinds: dict[str, Any]) -> None:
    saliency = Saliency.of("a", np.ones((2, 1, 1, 1)), np.zeros((2, 1, 1, 1)))
    table = ScoreTable.of([], [saliency]).as_dict()  # no TPM, no correlations: nulls
    check(kinds, "tpm_scores", json.loads(jsontext.dumps({"weights": "w", "batches": 1, "engine": "torch", **table})))
    course = Course((0, 5), 5, "caffe", {"untouched": (1.0, float("nan"))})
    check(kinds, "gradients", json.loads(jsontext.dumps(vars(course))))


@pytest.mark.parametrize("change", [{"new": 1}, {"passed": "yes"}, {"tolerance": None}])
def test_another_output_is_refused(change: dict[str, object], kinds: dict[str, Any]) -> None:
    right = {"passed": True, "tolerance": 1e-4, "engine": "torch", "blobs": []}
    check(kinds, "verify", right)
    with pytest.raises(jsonschema.ValidationError):
        check(kinds, "verify", {**right, **change})
    del right["engine"]
    with pytest.raises(jsonschema.ValidationError):
        check(kinds, "verify", right)


def test_the_page_shows_every_schema(tmp_path: Path) -> None:
    page = with_schemas((ROOT / "docs/outputs.md").read_text(encoding="utf-8"), SCHEMAS)
    assert "| `best_iteration` | integer | its iteration; -1 if there is none |" in page
    with pytest.raises(SystemExit, match=r"does not show: .*verify"):
        with_schemas("<!-- schema: best -->\n", SCHEMAS)
