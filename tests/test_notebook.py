"""docs/analysis.ipynb: executed as committed, fit to be committed, and executed again on runs made here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support import ROOT, caffe_split, train

NOTEBOOK = ROOT / "docs" / "analysis.ipynb"
SECTIONS = [
    "Best accuracy",
    "Final accuracy",
    "The nets beside each other",
    "TPM and its entropy",
    "Windows",
    "Curves",
    "The splits",
    "What this says, and what it does not",
]


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell: Any) -> str:
    """What it printed, and its values as text."""
    shown = []
    for output in cell.outputs:
        data = output.get("data", {})
        shown.append(output.get("text", "") or data.get("text/markdown", "") or data.get("text/plain", ""))
    return "".join(shown).replace("\r\n", "\n")  # a notebook's commands write to a terminal


def pictures(notebook: Any) -> list[str]:
    """The kind of every picture in it, in order."""
    kinds = [kind for cell in code(notebook) for o in cell.outputs for kind in o.get("data", {})]
    return [kind for kind in kinds if kind.startswith("image/")]


def check(notebook: Any) -> None:
    """It was executed from its first cell to its last, and every cell did its work."""
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells[1:]:
        assert cell.outputs, f"no output of:\n{cell.source}"
        assert all(output.output_type != "error" and output.get("name") != "stderr" for output in cell.outputs)
        assert not re.search(r"^(caffe-split|plot_loss.py|grep|sort): |Usage:|not found", text_of(cell), re.MULTILINE)
    assert pictures(notebook) == ["image/png"] * 3 + ["image/svg+xml"] * 2
    headings = re.findall(r"^## (.*)$", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M)
    assert headings == SECTIONS


def test_it_was_committed_executed() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    check(notebook)
    assert NOTEBOOK.stat().st_size < 1_500_000


def test_it_holds_no_path_of_a_machine() -> None:
    words = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:tmp|home|root|work|usr|var|opt|mnt|Users)\b", words)
    assert str(Path.home()) not in words and str(ROOT) not in words


def test_its_best_lines_make_its_table() -> None:
    cells = code(nbformat.read(NOTEBOOK, as_version=4))
    best = {
        run: re.findall(r"accuracy = (\S+)$", text_of(cell), re.MULTILINE)[-1]
        for cell in cells
        for run in re.findall(r"^!grep Test (\w+)/train.log", cell.source)
    }
    (table,) = (text_of(cell) for cell in cells if "caffe-split table" in cell.source)
    rows = [[text.strip() for text in line.split("|")[1:3]] for line in table.splitlines()[2:5]]
    assert rows == [[run, best[run]] for run in ("digits", "residual", "skip")]


@pytest.mark.caffe
def test_it_can_be_executed_on_other_runs(digits: Path, trained: Any, tmp_path: Path) -> None:
    demo = digits.rename(tmp_path / "demo")
    (tmp_path / "docs").mkdir()
    shutil.copy(NOTEBOOK, tmp_path / "docs")
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    (demo / "digits/train.log").write_text(trained.log)
    for kind in ("residual", "skip"):
        words = ["digits/solver.prototxt", "--iter", 100, "--num-splits", 2, "--kind", kind, "--out", kind]
        caffe_split("make-derived", *words, cwd=demo)
        (demo / kind / "train.log").write_text(train(f"{kind}/solver.prototxt", demo))

    notebook = nbformat.read(tmp_path / "docs" / NOTEBOOK.name, as_version=4)
    commands = 0
    for place in reversed(range(len(notebook.cells))):
        if re.search(r"^!", notebook.cells[place].get("source", ""), re.MULTILINE):
            # A command that fails is no error for the notebook.
            notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("assert _exit_code == 0"))
            commands += 1
    assert commands == 12
    metadata = {"metadata": {"path": str(tmp_path / "docs")}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=metadata).execute()
    notebook.cells = [cell for cell in notebook.cells if cell.source != "assert _exit_code == 0"]
    for count, cell in enumerate(code(notebook), 1):
        cell.execution_count = count
    check(notebook)
    # What it shows is what these logs say.
    cells = code(notebook)
    for cell in cells:
        for line in re.findall(r"^!(grep .*)$", cell.source, re.MULTILINE):
            shell = subprocess.run(["sh", "-c", line], cwd=demo, capture_output=True, text=True, check=True).stdout
            assert shell and text_of(cell) == shell
    entropies = caffe_split("tpm", "digits/solver.prototxt", "--iter", 100, cwd=demo).stdout
    assert any(text_of(cell) == entropies for cell in cells)
