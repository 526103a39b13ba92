"""The time that a study is said to take has a part for what its steps take beside their iterations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.study.study_files import write_study

pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")

from caffe_split.study import duration
from caffe_split.study.duration import Estimate, Pace, measured_pace, planned_steps, time_baseline
from caffe_split.study.locks import Held
from caffe_split.study.model import Study
from caffe_split.study.paths import write_json
from caffe_split.study.read import read_study
from caffe_split.study.train import Fit


def test_what_is_done_says_what_is_left(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))
    assert measured_pace(study, tmp_path) is None
    # Seed 3: 10 + 20 + 20 iterations in 100 seconds, a derivation of 7 and a fold of 11 seconds.
    write_json(tmp_path / "done/s5.added.derive.json", {"seconds": 7})
    write_json(tmp_path / "done/s3.baseline.train.json", {"seconds": 20})
    assert measured_pace(study, tmp_path) == Pace(2.0, {"derive": 7.0, "fold": 7.0})
    (tmp_path / "done/s5.added.derive.json").unlink()
    took = {"baseline.train": 20, "continue.train": 30, "added.derive": 7, "added.train": 50, "added.fold": 11}
    for name, seconds in took.items():
        write_json(tmp_path / f"done/s3.{name}.json", {"seconds": seconds})
    write_json(tmp_path / "done/s5.baseline.train.json", {"failed": "no disk", "seconds": 1000})
    pace = measured_pace(study, tmp_path)
    assert pace == Pace(2.0, {"derive": 7.0, "fold": 11.0})
    (tmp_path / "done/s5.baseline.train.json").unlink()
    found = Estimate(planned_steps(study, tmp_path), pace, "as measured")
    # Seed 5 takes what seed 3 took.
    assert found.summary(1).endswith(
        "11 steps, 50 iterations to do: about 0:01:58 at 1 at a time, 2e+03 ms each (as measured)"
    )
    assert "about 0:00:59 at 2 at a time" in found.summary(2)


def test_a_short_training_says_how_long_a_step_takes_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]

    def fit(study: Study, held: Held, what: Fit) -> None:
        clock[0] += 7.0
        (what.folder / "train.log").write_text(
            "".join(
                f"I0101 00:00:0{second} 1 solver.cpp:218] Iteration {at} (1 iter/s, 1s/10 iters), loss = 2\n"
                for at, second in ((0, "1.0"), (10, "3.0"), (20, "4.0"))
            )
        )

    monkeypatch.setattr(duration, "fit", fit)
    monkeypatch.setattr("caffe_split.study.duration.time.monotonic", lambda: clock[0])
    # A tenth of a second an iteration; five seconds of seven are left for the start.
    pace = time_baseline(read_study(write_study(tmp_path)))
    assert pace.iteration == pytest.approx(0.1)
    assert pace.beside == pytest.approx({"data": 0, "train": 5, "derive": 5, "fold": 15})
