"""A page that is there: made again of the same plan, its conclusion kept; of any other, left as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.study.study_files import write_study
from tests.support import ROOT, caffe_split

pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")

from caffe_split.study.plan import steps_of
from caffe_split.study.published import check_page
from caffe_split.study.read import read_study
from caffe_split.study.results import Derived, Folded, Mark, Result, Trained, write_mark
from caffe_split.study.run import begin

ARM = {"name": "a", "kind": "skip"}


def finished(folder: Path, out: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    """The file of a study whose folder `out` has the marks of all of its steps."""
    study = read_study(write_study(folder, **{"arms": [ARM], "seeds": [3, 5], **changes}))
    results: dict[str, Result] = {"derive": Derived({}), "fold": Folded(10, 7, {}, 0.8, 0.8, [])}
    begin(study, folder / out, steps_of(study))
    monkeypatch.chdir(folder / out)
    for step in steps_of(study):
        write_mark(step, Mark(results.get(step.verb, Trained(10, 7, "accuracy", 0.8, 0.8, 10, (), 3.0, 1.0, {})), 1.0))
    monkeypatch.chdir(folder)
    return study.file


def test_a_page_is_replaced_by_one_of_the_same_plan_with_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--no-run", "--publish", "docs"]
    caffe_split("study", finished(tmp_path, "one", monkeypatch), "--out", "one", *words, cwd=tmp_path)
    page = tmp_path / "docs/tiny.md"
    page.write_text(page.read_text().replace("(to be written by a person)", "My words."))
    before = {path: path.read_bytes() for path in page.parent.iterdir()}

    def refused(said: str, *more: str, **changes: Any) -> None:
        file = finished(tmp_path, f"out{len(list(tmp_path.iterdir()))}", monkeypatch, **changes)
        out = max(tmp_path.glob("out*"), key=lambda path: int(path.name[3:]))
        text = caffe_split("study", file, "--out", out, *more, *words, cwd=tmp_path, status=1).stderr
        assert f"docs/tiny.md: {said}; nothing is overwritten unasked: move it away" in text
        assert {path: path.read_bytes() for path in page.parent.iterdir()} == before

    refused("its arm a is another", arms=[{**ARM, "noise": 0.5}])
    refused("it is of a study with scale 1, not 1/2", scale="1/2")
    refused("it is of a study with split 10, not 12", split=12, window=None, interval=3)
    refused("it is of a study with engine caffe, not torch", engine="torch")
    refused("it is of a study with interval 5, not 1", interval=1)
    refused("it has seeds that the new page would not have, 5", seeds=[3, 4])
    refused("it has runs that the new page would not have, a", "--only", "continue")
    more = finished(tmp_path, "more", monkeypatch, seeds=[3, 5, 7], arms=[ARM, {"name": "b", "kind": "dbb"}])
    caffe_split("study", more, "--out", "more", *words, cwd=tmp_path)
    assert "My words." in page.read_text() and "| b | 3 |" in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["seeds"] == [3, 5, 7]


def test_a_publication_that_was_cut_short_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is not UTF-8, as Caffe prints the names of old nets, is kept as it is."""
    file = finished(tmp_path, "out", monkeypatch, seeds=[3])
    words = ["study", file, "--out", "out", "--no-run", "--publish", "docs", "--logs"]
    assert "its log and net cannot be kept" in caffe_split(*words, cwd=tmp_path, status=1).stderr
    for run in ("baseline", "continue", "a"):
        folder = tmp_path / "out/s3" / run
        folder.mkdir(parents=True)
        (folder / "train.log").write_bytes(b"I1128 layer \xe9\n")
        (folder / "train_val.prototxt").write_bytes((ROOT / "prototxt/digits/train_val.prototxt").read_bytes())
    (tmp_path / "docs/tiny.json").unlink()
    caffe_split(*words, cwd=tmp_path)
    kept = tmp_path / "docs/tiny/a/train.log"
    assert kept.read_bytes() == b"I1128 layer \xe9\n"
    assert (tmp_path / "docs/tiny.json").exists()
    kept.unlink()
    caffe_split(*words, cwd=tmp_path)
    assert kept.read_bytes() == b"I1128 layer \xe9\n"


@pytest.mark.parametrize("name", ["tiny/baseline/train.log", "tiny"])
def test_files_in_the_place_of_the_runs_are_left_beside_a_page_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = finished(tmp_path, "out", monkeypatch, seeds=[3])
    words = ["study", file, "--out", "out", "--no-run", "--publish", "docs"]
    caffe_split(*words, cwd=tmp_path)
    own = tmp_path / "docs" / name
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("mine")
    said = caffe_split(*words, "--logs", cwd=tmp_path, status=1).stderr
    assert "docs/tiny has other files than nets and logs of runs; nothing is overwritten unasked: move it away" in said
    assert own.read_text() == "mine"


@pytest.mark.parametrize("page", sorted((ROOT / "docs/results").rglob("*.md")), ids=lambda page: page.name)
def test_the_pages_of_the_repository_can_be_made_again(page: Path) -> None:
    values = json.loads(page.with_suffix(".json").read_text())
    changes = {"scale": values.get("scale", "1"), "seeds": len(values["rows"][0]["final_by_seed"])}
    study = read_study(ROOT / f"studies/{page.stem}.yaml", changes)
    found, conclusion = check_page(study, page.parent, logs=page.with_suffix("").is_dir())
    assert found == page and len(conclusion) > 100
