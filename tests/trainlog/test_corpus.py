"""One log, made by hand, of each form that is found in practice, and what it says."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from caffe_split.trainlog import Parser, TrainingLog, read_log

LOGS = Path(__file__).parent / "logs"
nan, inf = float("nan"), float("inf")

# The same training under many disguises.
DISGUISES = [
    "crlf",
    "cut_at_30000",
    "invalid_utf8",
    "names_with_spaces",
    "net_without_accuracy",
    "nul_bytes",
    "shell_noise",
    "short_prefix",
    "stray_iterations",
    "stripped",
    "wrapped_by_brackets",
    "wrapped_by_time",
    "wrapped_in_json",
]


def log(name: str) -> TrainingLog:
    return read_log(LOGS / f"{name}.log")


def same(found: np.ndarray, expected: list[float]) -> bool:
    return np.array_equal(np.asarray(found, dtype=float), np.array(expected, dtype=float), equal_nan=True)


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguised_log_says_the_same(name: str) -> None:
    (run,) = log(name).runs
    assert run.state == "done"
    assert run.displays.iteration.tolist() == run.train.iteration.tolist() == [0, 10, 20]
    assert run.lr["lr"].tolist() == [0.1, 0.1, 0.1]
    assert run.displays["loss"].tolist() == [2, 1.9, 1.8]
    (net,) = run.tests
    accuracy, loss = run.tests[net].names
    assert loss == "loss" and run.tests[net].iteration.tolist() == [0, 10, 20]
    assert run.tests[net][accuracy].tolist() == [0.5, 0.51, 0.52]
    if name in ("short_prefix", "stripped"):
        assert run.started is None and np.isnan(run.displays.seconds).all()
    else:
        assert (run.started.minute, run.started.second) == (0, 3)  # type: ignore[union-attr]
        assert run.displays.seconds.tolist() == [4, 10, 16]


def test_names_of_outputs_are_kept_as_printed() -> None:
    assert log("names_with_spaces").runs[0].tests[0].names == ["top 1 accuracy", "loss"]
    assert log("names_with_spaces").runs[0].train.names == ["my loss"]
    assert log("invalid_utf8").runs[0].tests[0].names == ["pr\\xe9cision_accuracy", "loss"]
    names = log("googlenet").runs[0].tests[0].names
    assert names[:2] == ["loss1/loss1", "loss1/top-1"] and len(names) == 9
    assert same(log("googlenet").table("tests")["loss1/loss1"], [12.4781, 9.5, 8.25])


def test_the_form_of_2014_is_read() -> None:
    (run,) = log("source_2014").runs
    assert run.displays["loss"].tolist() == [2.30702, 0.254921, 0.12]
    assert run.lr["lr"].tolist() == [1e-4, 9.92565e-05, 9.8e-05]
    assert run.tests[0].iteration.tolist() == [0, 250]
    assert [e.iteration for e in run.of_kind("snapshot")] == [250, 250]


def test_glog_file_gives_the_year() -> None:
    (run,) = log("glog_file_2015").runs
    assert run.started == datetime(2015, 7, 4, 18, 21, 35)
    assert run.state == "unfinished"
    assert run.tests[0].names == ["Test loss", "accuracy", "loss"]


def test_the_events_of_2016_are_read_in_order() -> None:
    (run,) = log("bvlc_2016").runs
    kinds = ["start", "solving", "multistep", "snapshot", "snapshot", "done", "done"]
    assert [e.kind for e in run.events] == kinds
    assert run.clips.iteration.tolist() == [100] and run.clips["norm"].tolist() == [292.287]
    assert run.clips["scale"].tolist() == [0.342129]


def test_the_form_of_nvcaffe_is_read() -> None:
    (run,) = log("nvcaffe_digits").runs
    assert [e.kind for e in run.events] == ["start", "start", "gpus", "solving"]
    assert run.displays.iteration.tolist() == [0, 29, 58]
    assert run.displays["iter/s"].tolist() == [0, 2.9, 29]
    assert run.train["loss"].tolist() == [3.98836, 3.2, 2.6]
    assert run.lr["lr"].tolist() == [0.01, 0.01]


def test_intel_noise_starts_no_row() -> None:
    (run,) = log("intel").runs
    assert run.displays.iteration.tolist() == [0, 40] and run.tests == {}


def test_the_form_of_ssd_is_read() -> None:
    assert log("ssd").table("tests")["detection_eval"].tolist() == [0.774793, 0.874793]


def test_nan_and_inf_are_values() -> None:
    (run,) = log("diverged").runs
    assert same(run.displays["loss"], [-4.26326e-14, inf, nan, nan])
    assert same(run.displays["iter/s"], [-3.29945e35, 5, 5, nan])
    assert same(run.tests[0]["accuracy"], [0.12, nan])
    # nan was printed here; elsewhere a NaN means that nothing was.
    assert run.tests[0].lines["accuracy"].tolist() == [3, 15]
    (run,) = log("windows").runs
    assert same(run.tests[0]["accuracy"], [0.5, 0.51, nan])


def test_seconds_go_on_over_the_new_year_with_years() -> None:
    (run,) = log("glog_0_6").runs
    assert run.state == "stopped" and run.started == datetime(2026, 12, 31, 23, 59, 51)
    assert run.displays.seconds.tolist() == [3, 13]


def test_seconds_go_on_over_the_new_year_without_years() -> None:
    path = LOGS / "new_year.log"
    (run,) = read_log(path).runs
    assert run.displays.seconds.tolist() == [5, 15, 25]
    assert run.started.year == datetime.fromtimestamp(path.stat().st_mtime).year - 1  # type: ignore[union-attr]


def test_batches_and_means_of_caffe_test_are_read() -> None:
    (run,) = log("caffe_test").runs
    assert run.batches.iteration.tolist() == [0, 1]
    assert same(run.batches["L2_Loss"], [919082, nan])
    assert list(run.results) == ["Loss", "accuracy", "L2_Loss"] and run.results["accuracy"] == 0.85


def test_times_of_caffe_time_are_read() -> None:
    (run,) = log("caffe_time").runs
    assert run.results["conv1 forward ms"] == 3.25 and run.results["conv1 backward ms"] == 6.5
    assert run.results["Forward-Backward ms"] == 12.5 and run.last_iteration == -1


def test_of_a_resumed_training_the_later_run_wins() -> None:
    whole = log("resumed")
    assert [r.state for r in whole.runs] == ["unfinished", "done"]
    tests = whole.table("tests")
    assert tests.iteration.tolist() == [0, 10, 20, 30, 40, 50, 60]
    assert tests["accuracy"].tolist() == [0.5, 0.51, 0.62, 0.63, 0.64, 0.65, 0.66]
    assert (np.diff(tests.seconds) > 0).all()


def test_batches_of_caffe_test_are_not_resumed_over(tmp_path: Path) -> None:
    path = tmp_path / "both.log"
    path.write_bytes((LOGS / "caffe_test.log").read_bytes() + (LOGS / "bvlc_1_0.log").read_bytes())
    both = read_log(path)
    assert both.table("batches").iteration.tolist() == [0, 1] and len(both.table("tests")) == 2


def test_a_table_of_several_runs_is_laid_out_over_all(tmp_path: Path) -> None:
    # One run has clipping and no `iter/s`, the other `iter/s`; the second resumes at 200.
    path = tmp_path / "both.log"
    second = (LOGS / "bvlc_1_0.log").read_text().replace("Iteration ", "Iteration 20")
    path.write_text((LOGS / "bvlc_2016.log").read_text() + second)
    whole = read_log(path)
    assert len(whole.runs) == 2
    displays = whole.table("displays")
    assert len(displays.parts) == 2 and displays.names == ["loss", "iter/s"]
    for name in displays.names:
        rows, values = displays.printed(name)
        printed = displays.lines[name] > 0
        assert same(displays[name][printed], values.tolist()) and np.isnan(displays[name][~printed]).all()
        assert displays.iteration[rows].tolist() == displays.iteration[printed].tolist()
        text = path.read_bytes()
        for line, offset in zip(displays.lines[name], displays.offsets[name]):
            assert not line or text[:offset].count(b"\n") + 1 == line
    assert (displays.lines["iter/s"] > 0).any() and not (displays.lines["iter/s"] > 0).all()
    assert "missing" not in displays.values
    with pytest.raises(KeyError):
        displays["missing"]


def test_each_start_begins_a_run() -> None:
    whole = log("six_runs")
    assert [r.state for r in whole.runs] == ["done", "unfinished"] * 3
    assert [r.last_iteration for r in whole.runs] == [20, 30] * 3
    assert whole.table("displays").iteration.tolist() == [0, 10, 20, 30]
    for before, after in zip(whole.runs, whole.runs[1:]):
        assert before.last_line + 1 == after.first_line


def test_a_restart_is_seen_by_its_iterations() -> None:
    whole = log("restarted_without_start_lines")
    assert [(r.first_line, r.last_line) for r in whole.runs] == [(1, 18), (19, 36)]


def test_a_clock_that_goes_back_leaves_each_run_its_time() -> None:
    whole = log("spliced")
    assert [r.seconds for r in whole.runs] == [20, 20]
    assert whole.table("tests").iteration.tolist() == [0, 10, 20, 30, 40, 50]


def test_a_crash_is_known_with_its_cause() -> None:
    assert log("fatal").runs[0].state == "crashed"
    assert log("fatal").runs[0].cause.startswith("math_functions.cu:79] Check failed: error == cudaSuccess")
    assert log("killed_by_sigterm").runs[0].cause.startswith("*** SIGTERM")


def test_each_test_net_has_a_table() -> None:
    (run,) = log("two_test_nets").runs
    assert sorted(run.tests) == [0, 1] and all(len(t.names) == 9 for t in run.tests.values())
    assert run.tests[1]["accuracy"].tolist() == [0.2, 0.3]
    (run,) = log("three_test_nets_killed").runs
    assert [len(t) for t in run.tests.values()] == [2, 2, 1]
    assert same(run.tests[1]["loss_2"], [2.2, nan]) and run.tests[1].lines["loss_2"].tolist()[1] == 0
    assert run.state == "stopped" and len(run.of_kind("interrupted")) == 1


def test_a_number_cut_in_half_does_not_count() -> None:
    (run,) = log("cut_in_a_number").runs
    assert run.train["loss"].tolist() == [2, 1.9] and run.displays["loss"].tolist() == [2, 1.9, 1.8]


def test_each_element_of_an_output_is_a_column() -> None:
    (run,) = log("vector_output").runs
    assert run.tests[0].names == ["accuracy", "per_class", "per_class[1]", "loss"]
    assert run.tests[0]["per_class[1]"].tolist() == [0.75, 0.75, 0.75]


def test_a_line_that_two_wrote_is_left_out() -> None:
    assert same(log("two_writers_in_one_line").table("tests")["accuracy"], [0.5, nan, 0.52])


def test_iterations_may_be_huge() -> None:
    assert log("huge_iterations").table("lr").iteration.tolist() == [80000000, 80000010, 80000020]


@pytest.mark.parametrize("name", ["empty", "tiny_57_bytes"])
def test_a_log_with_nothing_in_it_has_no_runs(name: str) -> None:
    assert log(name).runs == []
    assert len(log(name).table("tests")) == 0


@pytest.mark.parametrize("path", sorted(LOGS.glob("*.log")), ids=lambda p: p.stem)
def test_every_value_stands_where_it_says(path: Path) -> None:
    whole, data = read_log(path), path.read_bytes()
    lines = data.split(b"\n")
    assert whole.size == len(data) and whole.lines == len(lines) - (lines[-1] == b"")
    for run in whole.runs:
        for table in (run.displays, run.train, run.lr, run.clips, *run.tests.values(), run.batches):
            for name in table.names:
                for value, line, offset in zip(table[name], table.lines[name], table.offsets[name]):
                    if line:
                        text = lines[line - 1].lstrip(b"\0")
                        assert data[offset:].lstrip(b"\0").startswith(text)
                        shown = f"{value:g}".encode()
                        assert shown in text or f"{value:.6g}".encode() in text or not np.isfinite(value)
        for event in run.events:
            assert data[: event.offset].count(b"\n") + 1 == event.line


@pytest.mark.parametrize("path", sorted(LOGS.glob("*.log")), ids=lambda p: p.stem)
@pytest.mark.parametrize("size", [1, 61])
def test_pieces_of_any_size_give_the_same(path: Path, size: int) -> None:
    data = path.read_bytes()
    whole, pieces = Parser(2020), Parser(2020)
    whole.feed(data)
    for start in range(0, len(data), size):
        pieces.feed(data[start : start + size])
    whole.finish()
    pieces.finish()
    assert repr(whole.log("x", 0.0)) == repr(pieces.log("x", 0.0))
