"""What an unfinished study has: whole seeds, and those of its runs that are wanted; nothing in its folder changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.study.study_files import write_study
from tests.support import ROOT, caffe_split

pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")

from caffe_split import jsontext
from caffe_split.errors import CaffeSplitError
from caffe_split.study.keep import holds_runs, short_log
from caffe_split.study.model import Study
from caffe_split.study.nets import with_own_data
from caffe_split.study.pieces import piece
from caffe_split.study.plan import steps_of
from caffe_split.study.read import read_study
from caffe_split.study.results import Derived, Folded, Mark, Result, Trained, write_mark
from caffe_split.study.run import begin
from caffe_split.study.so_far import so_far

ARMS = [{"name": "a", "kind": "residual"}, {"name": "b", "kind": "skip"}, {"name": "a2", "kind": "skip", "after": "a"}]
LOG = """\
I0101 00:00:00.0 1 solver.cpp:330] Iteration 0, Testing net (#0)
I0101 00:00:00.1 1 solver.cpp:397]     Test net output #0: accuracy = 1
I0101 00:00:00.1 1 solver.cpp:397]     Test net output #1: loss = nan (* 1 = nan loss)
I0101 00:00:00.2 1 solver.cpp:218] Iteration 0 (1 iter/s, 1s/10 iters), loss = 2.3
I0101 00:00:00.3 1 solver.cpp:330] Iteration 10, Testing net (#0)
I0101 00:00:00.4 1 solver.cpp:397]     Test net output #0: accuracy = 1
I0101 00:00:00.4 1 solver.cpp:397]     Test net output #1: loss = nan (* 1 = nan loss)
"""


def of_seed(seed: int, name: str) -> Trained:
    final = 0.8 + seed / 100 + 0.02 * (name == "a")
    return Trained(10, 7, "accuracy", final, final, 10, (), 3.0, 1.0, {})


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study whose folder `out` has the whole seed 3, of seed 5 all but the last fold, and of seed 7 the start."""
    controls = {"random": "first", "wider": "none"}
    file = write_study(tmp_path, arms=ARMS, seeds=[3, 5, 7], schedule="restart", controls=controls)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    study = read_study(file)
    steps = steps_of(study)
    begin(study, Path(), steps)
    done = [*[step for step in steps if step.seed <= 5][:-1], next(step for step in steps if step.seed == 7)]
    results: dict[str, Result] = {"derive": Derived({}), "fold": Folded(10, 7, {}, 0.8, 0.8, [])}
    for step in done:
        write_mark(step, Mark(results.get(step.verb, of_seed(step.seed, step.name)), 1.0))
        if step.verb == "train":
            folder = Path(f"s{step.seed}") / step.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "train.log").write_text(LOG)
            net = (ROOT / "prototxt/digits/train_val.prototxt").read_text()
            (folder / "train_val.prototxt").write_text(net.replace('"data/', f'"{tmp_path}/data/'))
    monkeypatch.chdir(tmp_path)
    return study


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_whole_seeds_are_published_and_nothing_is_run(study: Study, tmp_path: Path) -> None:
    before = contents(tmp_path / "out")
    words = ["study", study.file, "--out", "out", "--no-run", "--publish", "docs", "--logs"]
    result = caffe_split(*words, cwd=tmp_path)
    assert contents(tmp_path / "out") == before
    assert "whole seeds: 1 of 3 (3); 31 of 46 steps have ended" in result.stderr
    assert "| a | 1 | 85.000 ± - |" in result.stdout and "| a2 | 1 |" in result.stdout
    page = (tmp_path / "docs/tiny.md").read_text()
    assert (
        "This page has 1 of the study's 3 seeds (3); the rest was left out, or not done yet.\n" in page
        and "for all 5, with" in page
    )
    assert "    caffe-split study " in page and "--seeds" not in page.split("## Conclusion")[0]
    values = json.loads((tmp_path / "docs/tiny.json").read_text())
    assert (values["seeds"], values["split"], values["length"], values["comparisons"]) == ([3], 10, 30, 5)
    kept = tmp_path / "docs/tiny"
    assert {path.name for path in kept.iterdir()} == {row["run"] for row in values["rows"]}
    net = (kept / "a/train_val.prototxt").read_text()
    assert net == (ROOT / "prototxt/digits/train_val.prototxt").read_text()
    log = (kept / "baseline/train.log").read_text()
    assert log.count("accuracy = 1") == 1 and "Iteration 0 (1 iter/s" in log and "Iteration 10, Testing" in log
    # The page of a whole study replaces it; a folder of runs without its page is ours, too.
    (tmp_path / "docs/tiny.md").unlink()
    for path in (tmp_path / "docs").glob("tiny*.*"):
        path.unlink()
    caffe_split(*words, cwd=tmp_path)
    (kept / "a/notes.txt").write_text("mine")
    (tmp_path / "docs/tiny.md").unlink()
    assert not holds_runs(kept)
    assert "docs/tiny has other files than nets and logs" in caffe_split(*words, cwd=tmp_path, status=1).stderr
    (kept / "a/notes.txt").unlink()
    assert "docs/tiny.csv exists without a page tiny.md" in caffe_split(*words, cwd=tmp_path, status=1).stderr


def test_a_piece_has_its_controls_and_the_plan_of_the_whole(study: Study, tmp_path: Path) -> None:
    part = piece(study, ["a"])
    assert part.wanted == ["baseline", "continue", "a"] and part.comparisons == study.comparisons == 5
    assert {step.title for step in steps_of(part) if step.seed in (-1, 5)} == {
        "data",
        *(f"s5.{name}" for name in ("baseline.train", "continue.train", "a.derive", "a.train", "a.fold")),
    }
    # A later round needs the rounds before it and the controls before its own, which are no rows.
    later = piece(study, ["a2"])
    assert later.wanted == ["baseline", "continue2", "a2"]
    assert {"s5.a.train", "s5.continue.train"} < {step.title for step in steps_of(later)}
    assert "s5.a.fold" not in {step.title for step in steps_of(later)}
    assert Study.from_dict(json.loads(jsontext.dumps(later.as_dict()))) == later
    found = so_far(study, tmp_path / "out", {"only": ["a"]})
    assert found.study.seeds == (3, 5) and found.study.arms == study.arms
    one = so_far(replace(study, seeds=(3,)), tmp_path / "out", {"seeds": 1, "only": ["a"]})
    assert str(one).startswith("whole seeds: 1 of 3 (3)")
    words = ["study", study.file, "--out", "out", "--no-run", "--only", "a, b", "--publish", "docs"]
    result = caffe_split(*words, cwd=tmp_path, status=0)
    assert "whole seeds: 2 of 3 (3, 5)" in result.stderr and "random-a |" not in result.stdout
    page = (tmp_path / "docs/tiny.md").read_text()
    assert "and is without the runs continue2, a2, random-a; the rest" in page and "--only a,b --publish" in page
    assert "all 5, with at least 95 %" in page


def test_what_has_no_whole_seed_or_is_another_study_is_refused(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(CaffeSplitError, match=r"--only: 'c' is none of baseline, continue, continue2, a, b"):
        piece(study, ["c"])
    with pytest.raises(CaffeSplitError, match="no run is named"):
        piece(study, [])
    with pytest.raises(CaffeSplitError, match=r"is no folder of a study: it has no plan\.json"):
        so_far(study, tmp_path)
    # The names are those of the folder's runs, whatever the file has by now.
    renamed = read_study(write_study(tmp_path, arms=[{"name": "new", "kind": "skip"}], seeds=[3, 5, 7]))
    with pytest.raises(
        CaffeSplitError, match=r"out/plan\.json: --only: 'new' is none of baseline, continue, continue2"
    ):
        so_far(renamed, out, {"only": ["new"]})
    assert so_far(renamed, out, {"only": ["a"]}).study.wanted == ["baseline", "continue", "a"]
    with pytest.raises(CaffeSplitError, match=r"its runs have scale 1, not 1/2"):
        so_far(read_study(study.file, {"scale": "1/2"}), out, {"scale": "1/2"})
    file = write_study(tmp_path, arms=ARMS[:1], seeds=1)
    for mark in (out / "done").glob("s3.b.*"):
        mark.unlink()
    with pytest.raises(CaffeSplitError, match=r"no seed is whole yet: 18 of 46 .* first seed s3.b.derive, s3.b.train"):
        so_far(read_study(file), out)
    shutil.copy(file, tmp_path / "other.yaml")
    with pytest.raises(CaffeSplitError, match=r"it is the folder of the study tiny, and .* is other"):
        so_far(read_study(tmp_path / "other.yaml"), out)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(solver.read_text().replace("base_lr: 0.01", "base_lr: 0.02"))
    with pytest.raises(CaffeSplitError, match=r"solver.prototxt: it has changed since"):
        so_far(study, out)
    for words in (["--dry-run"], ["--", "--quiet"]):
        said = caffe_split("study", file, "--no-run", *words, cwd=tmp_path, status=2).stderr
        assert "--no-run runs nothing" in said


def test_a_first_test_that_says_something_is_kept() -> None:
    sane = LOG.replace("loss = nan (* 1 = nan loss)", "loss = 2.3 (* 1 = 2.3 loss)")
    assert short_log(sane) == sane
    assert short_log(LOG) == LOG.split("\n", 3)[3]


def test_kept_nets_name_their_data_as_the_net_does_also_where_two_end_alike(study: Study, tmp_path: Path) -> None:
    text = (ROOT / "prototxt/digits/train_val.prototxt").read_text()
    for number, name in enumerate(("data/train/lmdb", "data/test/lmdb")):
        source = text.split('source: "')[number + 1].split('"')[0]
        text = text.replace(f'"{source}"', f'"{name}"', 1)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/train_val.prototxt").write_text(text)
    (tmp_path / "own/solver.prototxt").write_text('net: "own/train_val.prototxt"\nmax_iter: 30\ntest_iter: 1\n')
    moved = replace(study, solver=tmp_path / "own/solver.prototxt", root=tmp_path, data=None)
    (tmp_path / "run.prototxt").write_text(text.replace('"data/', f'"{tmp_path}/data/'))
    assert with_own_data(moved, tmp_path / "run.prototxt").decode() == text
    # Where the data lay elsewhere, two ends alike cannot be told from each other.
    elsewhere = text.replace('"data/', '"/mnt/').encode()
    (tmp_path / "run.prototxt").write_bytes(elsewhere)
    assert with_own_data(moved, tmp_path / "run.prototxt") == elsewhere
