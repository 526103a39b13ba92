"""What the outputs of a test net come to: means of each value, and the mean average precision of detections."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from caffe_split.engine import Solver
from caffe_split.engine.log import SilentLog
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.layers import all_layers
from caffe_split.net.options import Options
from caffe_split.net.outputs import OutputTotals, average_precisions
from tests.support import caffe_split as command_in

NET = """
layer { name: "d" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2
  weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }
"""
FILTERED = """
layer { name: "s" type: "DummyData" top: "s" include { phase: TEST } dummy_data_param { shape { dim: 4 }
  data_filler { type: "uniform" min: 0 max: 1.99 } } }
layer { name: "t" type: "Threshold" bottom: "s" top: "t" include { phase: TEST } threshold_param { threshold: 1 } }
layer { name: "f" type: "Filter" bottom: "ip" bottom: "t" top: "kept" include { phase: TEST } }
"""
# One detection of class 1 with the box 0, 0, 1, 1 in each batch, where an object of class 1 is that is not difficult.
DETECTIONS = """
layer { name: "parts" type: "DummyData" top: "one" top: "zero" top: "side" top: "easy" include { phase: TEST }
  dummy_data_param { shape { dim: 1 dim: 1 dim: 1 dim: 3 } shape { dim: 1 dim: 1 dim: 1 dim: 2 }
  shape { dim: 1 dim: 1 dim: 1 dim: 2 } shape { dim: 1 dim: 1 dim: 1 dim: 1 } data_filler { type: "constant" value: 1 }
  data_filler { type: "constant" } data_filler { type: "constant" value: 1 } data_filler { type: "constant" } } }
layer { name: "found" type: "Concat" bottom: "one" bottom: "zero" bottom: "side" top: "found" include { phase: TEST }
  concat_param { axis: 3 } }
layer { name: "true" type: "Concat" bottom: "one" bottom: "zero" bottom: "side" bottom: "easy" top: "true"
  include { phase: TEST } concat_param { axis: 3 } }
layer { name: "eval" type: "DetectionEvaluate" bottom: "found" bottom: "true" top: "detection_eval"
  include { phase: TEST } detection_evaluate_param { num_classes: 3 background_label_id: 0 } }
"""
SOLVER = """net: "net.prototxt"
base_lr: 0.01
lr_policy: "fixed"
max_iter: 2
snapshot_prefix: "n"
test_iter: 5
test_interval: 1
random_seed: 1
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    return command_in(*words, cwd=Path.cwd(), status=status)


def written(more: str = "", settings: str = SOLVER) -> Path:
    Path("net.prototxt").write_text(NET + more)
    Path("solver.prototxt").write_text(settings)
    return Path("solver.prototxt")


def totals(of: str = "") -> OutputTotals:
    return OutputTotals(all_layers(prototxt.parse(NET + of)), Options("SolverParameter", []))


def test_a_mean_of_values_that_come_and_go_is_refused() -> None:
    found = totals()
    found.add("a", np.array([1.0, 2.0]))
    found.add("a", np.array([3.0, 6.0]))
    assert found.mean("a", 2).tolist() == [2.0, 4.0]
    for wrong in ([1.0], [], [1.0, 2.0, 3.0]):
        with pytest.raises(
            CaffeSplitError, match=rf"'a' has {len(wrong)} values in this batch, and had 2 in the first"
        ):
            found.add("a", np.array(wrong))


def test_an_output_whose_size_varies_ends_a_test_by_name() -> None:
    solver = written(FILTERED)
    said = command("train", solver, "--engine", "torch", status=1).stderr
    assert "output 'kept' has " in said and "Traceback" not in said
    command("train", written(), "--engine", "torch", "--force")
    written(FILTERED)
    said = command("test", "net.prototxt", "n_iter_2.caffemodel", "--engine", "torch", status=1).stderr
    assert "output 'kept' has " in said and said.count("\n") == 1


OBJECTS = [[-1, 1, 3, -1, -1], [-1, 2, 2, -1, -1], [-1, 3, 0, -1, -1], [-1, 4, 1, -1, -1], [-1, 1, 1, -1, -1]]
# image, class, score, right, wrong; in disorder, and one that does not count
FOUND = [[0, 1, 0.9, 1, 0], [1, 1, 0.5, 1, 0], [0, 1, 0.7, 0, 1], [2, 1, 0.2, 0, 1], [2, 1, 0.8, 0, 0]]
FOUND += [[0, 2, 0.3, 0, 1], [1, 2, 0.4, 1, 0], [1, 3, 0.4, 0, 1]]
ROWS = np.array(OBJECTS + FOUND, dtype=np.float32)


@pytest.mark.parametrize(
    ("version", "first", "second"),
    [
        # Class 1 has four objects: recalls 1/4, 1/4, 2/4, 2/4 at precisions 1, 1/2, 2/3, 1/2. Class 2: 1/2 at 1, 1/2.
        ("Integral", 1 / 4 + 2 / 3 / 4, 1 / 2),
        ("MaxIntegral", 1 / 4 + 2 / 3 / 4, 1 / 2),
        ("11point", (3 * 1 + 3 * 2 / 3) / 11, 6 / 11),
    ],
)
def test_the_average_precision_of_each_class(version: str, first: float, second: float) -> None:
    expected = {1: first, 2: second, 3: 0.0, 4: 0.0}
    assert average_precisions(ROWS, version) == pytest.approx(expected, abs=1e-7)
    found = OutputTotals(
        all_layers(prototxt.parse(DETECTIONS)),
        Options("SolverParameter", [prototxt.parse(f'ap_version: "{version}"', kind="solver")]),
    )
    # In batches of any size the mean is the same.
    for part in np.split(ROWS, [2, 7, 8]):
        found.add("detection_eval", part)
    assert found.mean("detection_eval", 4).tolist() == pytest.approx([(first + second) / 4], abs=1e-7)


def test_recall_is_single_as_in_ssd() -> None:
    """7 of 10 objects are a recall of 0.69999999, which does not reach the eighth of the 11 points."""
    rows = np.array([[-1, 1, 10, -1, -1], *([0, 1, 1 - k / 10, 1, 0] for k in range(7))], np.float32)
    assert average_precisions(rows, "11point") == pytest.approx({1: 7 / 11})


def test_a_training_logs_the_mean_average_precision() -> None:
    settings = SOLVER + 'eval_type: "detection"\nap_version: "11point"\nshow_per_class_result: true\n'
    solver = written(DETECTIONS, settings)
    command("train", solver, "--engine", "torch")
    log = Path("train.log").read_text()
    # All five objects of class 1 are found; class 2 has none.
    assert log.count("] class1: 1\n") == 3 and log.count("] class2: 0\n") == 3
    assert log.count("Test net output #0: detection_eval = 0.5\n") == 3
    best = command("best", "train.log", "--output", "detection_eval").stdout
    assert "detection_eval = 0.5" in best
    lines = command("test", solver, "n_iter_2.caffemodel", "--engine", "torch").stdout.splitlines()
    assert "detection_eval = 0.5" in lines and not any(line.startswith("Batch 0, detection") for line in lines)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ('eval_type: "detection2"', "eval_type 'detection2' is not handled; expected classification or detection"),
        ('ap_version: "12point"', "ap_version '12point' is not known; expected 11point, MaxIntegral, Integral"),
        ("test_iter: 0", "test_iter has to be 1 or more"),
    ],
)
def test_settings_that_are_refused(field: str, said: str) -> None:
    settings = SOLVER.replace("test_iter: 5", field) if "test_iter" in field else SOLVER + field
    with pytest.raises(CaffeSplitError, match=said):
        Solver(str(written("", settings)), log=SilentLog())
