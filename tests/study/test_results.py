"""The marks of steps: what is written is read back, and what an earlier version left out is None."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.study.plan import StudyStep
from caffe_split.study.results import (
    DataMade,
    Derived,
    Failed,
    Folded,
    Mark,
    Result,
    Trained,
    read_mark,
    result_of,
    write_mark,
)

TRAINED = Trained(10, None, "accuracy", 0.5, 0.75, 20, [[10, 0.75], [20, 0.5]], 3.0, 2.5, {"inputs": {}})  # type: ignore[arg-type] - as JSON has it


@pytest.mark.parametrize(
    ("verb", "result"),
    [
        ("data", DataMade()),
        ("train", TRAINED),
        ("train", Failed("no disk")),
        ("derive", Derived({"layers": []})),
        ("fold", Folded(5, 7, {"a": "its residual is not linear"}, 0.5, 0.5, [1e-7])),
    ],
)
def test_a_mark_is_read_as_it_was_written(
    verb: str, result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    step = StudyStep(verb, 3, "added", ())  # type: ignore[arg-type]
    assert read_mark(step) is None
    write_mark(step, Mark(result, 1.5))
    assert read_mark(step) == read_mark(step, tmp_path) == Mark(result, 1.5)
    assert read_mark(step).failed == getattr(result, "failed", None)
    value = json.loads((tmp_path / step.output).read_text())
    assert value["step"] == step.title and "movements" not in value


def test_what_an_earlier_version_left_out_is_none() -> None:
    result = result_of(StudyStep("train", 3, "added", ()), {"final": 0.5, "step": "s3.added.train"})
    assert isinstance(result, Trained) and result.final == 0.5 and result.macs is None and result.movements is None


def test_a_mark_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    step = StudyStep("train", 3, "added", ())
    (tmp_path / "done").mkdir()
    (tmp_path / step.output).write_text('{"final": 0.')
    with pytest.raises(CaffeSplitError, match="cannot be read"):
        read_mark(step, tmp_path)
