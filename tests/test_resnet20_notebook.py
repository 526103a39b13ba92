"""docs/resnet20.ipynb: executed as committed, on the logs that are kept, and for any number of seeds and runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support import ROOT
from tests.test_notebook import code, text_of

NOTEBOOK, RESULTS = ROOT / "docs" / "resnet20.ipynb", ROOT / "docs" / "results"
STUDY = "resnet20_cifar10"
SECTIONS = [
    "1. The nets beside each other",
    "2. The best accuracies",
    "3. Curves",
    "4. How complex the splits become",
    "5. The identity split",
    "6. The skips beside each other",
    "7. What the study did not have",
]


def check(notebook: Any, results: Path) -> None:
    """It was executed whole, and says what the results say."""
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells[1:]:
        assert cell.outputs, f"no output of:\n{cell.source}"
        assert all(output.output_type != "error" and output.get("name") != "stderr" for output in cell.outputs)
        assert not re.search(r"^(caffe-split|plot_loss.py|grep|sort): |Usage:|not found", text_of(cell), re.MULTILINE)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS

    study = json.loads((results / f"{STUDY}.json").read_text())
    said = [text_of(cell) for cell in cells]
    seeds = study["seeds"]
    assert f"|whole seeds|{len(seeds)} ({', '.join(map(str, seeds))})|" in said[1]
    (spread,) = (text for text in said if text.startswith("|run|seeds|final %"))
    for row in study["rows"]:
        assert f"|{row['run']}|{row['n']}|{100 * row['final_mean']:.2f}" in spread
    printed = re.sub(r"\n+", "\n", "".join(said))
    for log in sorted((results / STUDY).glob("*/train.log")):
        if not log.parent.name.startswith(("continue", "random")):
            words = f"grep Test {log} | grep acc | sort -nk 11 | tail -3"
            done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True, env={"LC_ALL": "C"})
            assert f"{log.parent.name}\n{done.stdout}" in printed, log


def executed(docs: Path) -> Any:
    """The notebook in a folder `docs`, executed there."""
    notebook = nbformat.read(docs / NOTEBOOK.name, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(docs)}}).execute()
    return notebook


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """The notebook beside a copy of the results."""
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    folder = tmp_path / "docs"
    shutil.copytree(RESULTS / STUDY, folder / "results" / STUDY)
    for path in (NOTEBOOK, *RESULTS.glob(f"{STUDY}*.*")):
        shutil.copy(path, folder / path.relative_to(ROOT / "docs"))
    return folder


def test_it_was_committed_executed_on_these_results() -> None:
    check(nbformat.read(NOTEBOOK, as_version=4), RESULTS)
    words = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:tmp|home|root|work|usr|var|opt|mnt|Users)\b", words)
    assert NOTEBOOK.stat().st_size < 1_500_000


def test_it_can_be_executed_again(docs: Path) -> None:
    check(executed(docs), docs / "results")


@pytest.mark.slow
def test_it_holds_for_more_seeds_and_for_runs_that_failed(docs: Path) -> None:
    """Counts that differ by seed are pairs, and what no seed gave is null."""
    path = docs / f"results/{STUDY}.json"
    study = json.loads(path.read_text())
    rows = {row["run"]: row for row in study["rows"]}
    interval = {"mean": 0.012, "low": 0.01, "high": 0.014, "pairs": 5, "together": [0.008, 0.016], "reading": "above"}
    more = {"n": 5, "final_sd": 0.001, "best_sd": 0.001, "parameters": [325_000, 326_000], "macs": [5, 6]}
    folded = {"n": 5, "parameters": 7, "macs": 8, "accuracy_difference": 0.0001}
    gone = dict.fromkeys(("mean", "low", "high")) | {"pairs": 0, "together": [None, None], "reading": "none"}
    arm = {**rows["MultiSplits"], "control": "continue"}
    study["seeds"] = [1, 2, 3, 4, 5]
    for run, row in {
        "MultiSplits": {**arm, **more, "final_difference": interval, "folded": folded},
        "SkipSplit_1x1": {**arm, "run": "SkipSplit_1x1", "final_difference": gone, "folded": None},
        "random-MultiSplits": {**arm, "run": "random-MultiSplits", "final_difference_to_random": None},
    }.items():
        rows[run] = row
    rows["MultiSplits"]["final_difference_to_random"] = gone
    study["rows"] = list(rows.values())
    path.write_text(json.dumps(study))
    shutil.copytree(docs / f"results/{STUDY}/MultiSplits", docs / f"results/{STUDY}/SkipSplit_1x1", dirs_exist_ok=True)
    notebook = executed(docs)
    check(notebook, docs / "results")
    text = "".join(text_of(cell) for cell in code(notebook))
    assert "|MultiSplits|continue|+1.20|+1.00 .. +1.40|+0.80 .. +1.60|above|" in text
    assert "MultiSplits: +1.20 points over continue; above." in text and "+1.09 points are reached" in text
    assert "325,000 .. 326,000" in text and "too few" not in text
    assert "|MultiSplits|random-MultiSplits|-|-|-|none|" in text
