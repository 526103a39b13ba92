"""The table from marks whose values are known: pairs, failures, costs that differ by seed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.study.study_files import write_study

pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")

from caffe_split.study.plan import steps_of
from caffe_split.study.publish import _method, readings
from caffe_split.study.read import read_study
from caffe_split.study.results import Folded, Result, result_of
from caffe_split.study.rows import Row, rows_of
from caffe_split.study.table import FILES, markdown, write_table


def run(final: float, parameters: int = 10) -> dict[str, Any]:
    return {
        "final": final,
        "best": final + 0.01,
        "parameters": parameters,
        "macs": 7,
        "training_seconds": 3.0,
        "movements": {"c": {"split1": final, "skip": None}},
    }


def rows(tmp_path: Path, runs: dict[str, list[dict[str, Any]]]) -> list[Row]:
    """The rows of a study of five seeds; what `runs` does not name has failed."""
    study = read_study(write_study(tmp_path, seeds=5, controls={"random": "first", "wider": "first"}))
    results: dict[tuple[int, str, str], Result] = {}
    for step in steps_of(study):
        given = runs.get(step.name)
        mark = given[step.seed - 1] if step.verb == "train" and given else {"failed": "no disk"}
        results[step.seed, step.name, step.verb] = result_of(step, mark)
    return rows_of(study, results)


CONTROL = [run(value) for value in (0.80, 0.82, 0.84, 0.86, 0.88)]


def test_pairs_by_seed_and_failures(tmp_path: Path) -> None:
    added = [run(value, 10 + place) for place, value in enumerate((0.81, 0.83, 0.85, 0.88, 0.88))]
    added[4] = {"failed": "the training was ended by SIGKILL"}
    found = {row.run: row for row in rows(tmp_path, {"continue": CONTROL, "added": added, "baseline": CONTROL})}
    row = found["added"]
    # Differences 1, 1, 1 and 2 points; the fifth seed has no pair.
    assert row.n == 4 and row.final_difference.pairs == 4
    assert row.parameters_by_seed == {"1": 10, "2": 11, "3": 12, "4": 13}
    assert row.final_difference.mean == pytest.approx(0.0125)
    half = 3.1824 * 0.005 / 2
    assert row.final_difference.low == pytest.approx(0.0125 - half, abs=1e-6)
    assert row.final_difference.reading == "above zero (4 seeds: too few for a claim)"
    assert row.parameters == [10, 13] and row.parameters_before == 10
    assert row.movements == {"split1": pytest.approx((0.81 + 0.83 + 0.85 + 0.88) / 4)}
    assert row.failed["5"] == "the training was ended by SIGKILL"
    assert found["continue"].final_difference is None
    assert found["wider-added"].n == 0 and math.isnan(found["wider-added"].final_mean)
    assert found["added"].final_difference_to_random.pairs == 0

    text = markdown(list(found.values()))
    assert "| added | 4 | 84.250 ± 2.986 |" in text and "+1.250 (+0.454 .. +2.046)" in text
    assert "| 10 .. 13 |" in text and "- added, seed 5: the training was ended by SIGKILL" in text
    assert "nan" not in text and "None" not in text


def test_a_fold_has_the_sign_of_its_largest_difference(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))
    results: dict[tuple[int, str, str], Result] = {}
    for step in steps_of(study):
        if step.verb == "fold":
            results[step.seed, step.name, step.verb] = Folded(10, 7, {}, 0.91, 0.90 if step.seed == 3 else 0.915, [])
        else:
            results[step.seed, step.name, step.verb] = result_of(step, run(0.9))
    rows = rows_of(study, results)
    row = next(row for row in rows if row.run == "added")
    assert row.folded is not None and row.folded.accuracy_difference == pytest.approx(-0.01)
    assert "| -1.000 | 3 |" in markdown(rows)


def test_each_line_of_the_csv_has_numbers_of_its_own_seed(tmp_path: Path) -> None:
    added = [run(value, 10 + place) for place, value in enumerate((0.81, 0.83, 0.85, 0.88, 0.88))]
    found = rows(tmp_path, {"continue": CONTROL, "added": added, "baseline": CONTROL})
    write_table(read_study(tmp_path / "tiny.yaml"), found, [tmp_path / name for name in FILES])
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines[0] == "run,seed,final,best,parameters,macs" and "added,2,0.83,0.84,11,7" in lines
    assert all(len(list(map(float, line.split(",")[1:]))) == 5 for line in lines[1:])


def test_one_reason_of_several_failures_is_given_once(tmp_path: Path) -> None:
    added = [{"failed": f"after s{seed}.baseline.train failed: s{seed}/baseline/x: gone"} for seed in range(1, 5)]
    found = rows(tmp_path, {"continue": CONTROL, "added": [*added, {"failed": "no memory"}], "baseline": CONTROL})
    text = markdown(found)
    assert "- 4 runs (added, seeds 1, 2, 3, 4), for the first: after s1.baseline.train failed: s1/base" in text
    assert "- added, seed 5: no memory" in text
    assert (
        "- 10 runs (random-added, seeds 1, 2, 3, 4, 5; wider-added, seeds 1, 2, 3, 4, 5), for the first: no d" in text
    )


def test_a_run_that_collapsed_is_pointed_out(tmp_path: Path) -> None:
    added = [run(value) for value in (0.81, 0.61, 0.84, 0.64, 0.87)]
    found = rows(tmp_path, {"continue": CONTROL, "added": added, "baseline": CONTROL})
    text = markdown(found)
    assert "- added, seeds 2, 4 of 5: at worst 61.0 % beside 82.0 % of `continue` (seed 2)." in text
    assert "Collapsed" not in markdown(rows(tmp_path, {"continue": CONTROL, "added": CONTROL, "baseline": CONTROL}))


def test_the_readings_say_each_comparison(tmp_path: Path) -> None:
    better = [run(value["final"] + 0.02 + 0.001 * place) for place, value in enumerate(CONTROL)]
    found = rows(tmp_path, {"continue": CONTROL, "added": better, "random-added": CONTROL, "baseline": CONTROL})
    text = "\n".join(readings(found, 4))
    assert "- added: final test accuracy less that of `continue`: +2.200 points (n = 5" in text
    assert text.count(": above zero.") == 3  # final, best, and against the random partition
    assert "- random-added: final test accuracy less that of `continue`: +0.000 points (n = 5" in text
    assert "Were the 4 comparisons" in text and "chance of 19 %" in text
    # The correction is for the comparisons of final accuracies.
    together = [line for line in text.splitlines() if "together with the others" in line]
    assert len(together) == 3 and all(": final test accuracy" in line for line in together)
    assert "one comparison of final accuracies is planned" in readings(found, 1)[-1]


def test_the_page_describes_the_controls_that_there_are(tmp_path: Path) -> None:
    for some, controls in ((False, {"random": "none", "wider": "none"}), (True, {"random": "first", "wider": "first"})):
        text = "\n".join(_method(read_study(write_study(tmp_path, controls=controls))))
        assert ("`random-X`" in text) == ("`wider-X`" in text) == some


def test_a_control_that_failed_leaves_no_differences(tmp_path: Path) -> None:
    found = {row.run: row for row in rows(tmp_path, {"added": CONTROL})}
    assert found["added"].final_difference.pairs == 0
    assert found["added"].final_difference.reading == "one pair or none: no interval"
    text = markdown(list(found.values()))
    assert "| added | 5 | 84.000 ± 3.162 | 85.000 ± 3.162 | continue | - (- .. -), 0 pairs |" in text


def test_runs_are_compared_as_the_file_says(tmp_path: Path) -> None:
    arms = [{"name": "by-tpm", "kind": "skip"}, {"name": "by-chance", "kind": "skip", "choose_by": "random:SEED"}]
    file = write_study(tmp_path, seeds=2, arms=arms, compare={"by-tpm": ["by-chance"]})
    study = read_study(file)
    assert study.comparisons == 3
    finals = {"baseline": 0.8, "continue": 0.8, "by-tpm": 0.9, "by-chance": 0.85}
    results = {
        (step.seed, step.name, step.verb): result_of(
            step,
            run(finals[step.name] + 0.01 * step.seed * (step.name == "by-tpm"))
            if step.verb == "train"
            else {"failed": "x"},
        )
        for step in steps_of(study)
        if step.seed > 0
    }
    found = {row.run: row for row in rows_of(study, results)}
    assert set(found["by-tpm"].compared) == {"by-chance"} and not found["by-chance"].compared
    assert found["by-tpm"].compared["by-chance"].mean == pytest.approx(0.065)
    text = markdown(list(found.values()))
    assert "| by-tpm | by-chance | 2 | +6.500 (+0.147 .. +12.853) | " in text
    assert "- by-tpm: final test accuracy less that of `by-chance`: +6.500 points (n = 2" in "\n".join(
        readings(list(found.values()), study.comparisons)
    )
