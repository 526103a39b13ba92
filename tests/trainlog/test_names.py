"""The short names of logs, under which they stand in tables and their exports lie in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_split.trainlog.query import names_of
from tests.support import ROOT, caffe_split

LOGS = {
    ("/r/a/train.log", "/r/b/train.log"): ["a", "b"],
    ("/r/a/x.log", "/r/b/x.log"): ["a/x.log", "b/x.log"],
    ("/data/train.log", "/mnt/data/train.log"): ["data", "mnt/data"],
    ("/train.log", "/data/train.log"): ["train.log", "data"],
    ("/r/train.log", "/r/caffe_output.log", "/s/train.log"): ["r/train.log", "r/caffe_output.log", "s"],
    ("/r/train.log", "/r/caffe_output.log", "/s/r/train.log"): ["r/train.log", "r/caffe_output.log", "r"],
    ("/r/a/train.log", "/r/a/../a/train.log"): ["a", "a"],
}


@pytest.mark.parametrize("paths", LOGS)
def test_names_differ_and_are_relative(paths: tuple[str, ...]) -> None:
    assert names_of(list(paths)) == LOGS[paths]


def test_exports_of_two_logs_of_a_folder_are_two_and_in_the_folder_that_was_asked_for(tmp_path: Path) -> None:
    text = (ROOT / "tests/trainlog/logs/bvlc_1_0.log").read_bytes()
    logs = [tmp_path / name for name in ("r/train.log", "r/caffe_output.log", f"x{tmp_path}/r/train.log")]
    for log in logs:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(text)
    before = set(tmp_path.rglob("*"))
    caffe_split("table", *logs, "--csv", "out", "--tensorboard", "events", cwd=tmp_path)
    made = [path.relative_to(tmp_path).parts for path in set(tmp_path.rglob("*")) - before if path.is_file()]
    assert {parts[0] for parts in made} == {"out", "events"}
    assert len([parts for parts in made if parts[0] == "events"]) == 3
