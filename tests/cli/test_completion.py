"""`caffe-split completion`: a shell completes commands, options, choices and files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import caffe_split

PROGRAMS = Path(sys.executable).parent


def answer(shell: str, program: str, words: str, number: int) -> str:
    """What the program answers to a shell's script at the Tab key."""
    variable = {"caffe-split": "_CAFFE_SPLIT_COMPLETE", "plot_loss.py": "_PLOT_LOSS_PY_COMPLETE"}[program]
    asked = {variable: f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    return subprocess.run(
        [PROGRAMS / program], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    ).stdout


def test_the_programs_answer() -> None:
    assert answer("bash", "caffe-split", "caffe-split ma", 1) == "plain,make-derived\n"
    assert "plain,torch" in answer("bash", "caffe-split", "caffe-split train s --engine t", 4)
    assert answer("zsh", "plot_loss.py", "plot_loss.py --no_re", 1).splitlines()[:2] == ["plain", "--no_refresh"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_of_its_shell(shell: str, tmp_path: Path) -> None:
    script = caffe_split("completion", shell, cwd=tmp_path).stdout
    for program in ("caffe-split", "plot_loss.py"):
        assert program in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_bash_completes_by_the_script(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(caffe_split("completion", "bash", cwd=tmp_path).stdout)
    asked = (
        "source ./script; COMP_WORDS=(caffe-split best train.log --s); COMP_CWORD=3;"
        " _caffe_split_completion caffe-split; echo ${COMPREPLY[@]}; complete -p plot_loss.py"
    )
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
    said = subprocess.run(
        ["bash", "-c", asked], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines()[0] == "--snapshot" and "plot_loss.py" in said.stdout


def test_another_shell_is_wrong_use(tmp_path: Path) -> None:
    assert "'tcsh' is not one of" in caffe_split("completion", "tcsh", cwd=tmp_path, status=2).stderr
