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
    # Of a line that is not whole nothing is refused.
    assert "plain,--deploy" in answer("bash", "caffe-split", 'caffe-split fold "" w --dep', 4)
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


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish_completes_by_the_script(tmp_path: Path) -> None:
    folder = tmp_path / "fish/completions"
    folder.mkdir(parents=True)
    (folder / "caffe-split.fish").write_text(caffe_split("completion", "fish", cwd=tmp_path).stdout)
    environment = {
        **os.environ,
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }

    def completions(line: str) -> list[str]:
        asked = ["fish", "-c", f"complete -C '{line}'"]
        said = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return [line.split("\t")[0] for line in said.stdout.splitlines()]

    assert completions("caffe-split ma") == ["make-derived"]
    assert completions("caffe-split best train.log --s") == ["--snapshot"]
    assert completions("caffe-split train s --engine t") == ["torch"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_completes_by_the_script(tmp_path: Path) -> None:
    """In a terminal, with the script below compinit in .zshrc; Ctrl-X writes what the line has become."""
    script = caffe_split("completion", "zsh", cwd=tmp_path).stdout
    dump = "dump() { print -r -- $BUFFER >>| ~/lines; BUFFER= }\nzle -N dump\nbindkey '^X' dump\n"
    (tmp_path / ".zshrc").write_text(f"autoload -U compinit\ncompinit -u -D\n{script}\n{dump}PROMPT='ready> '\n")
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb"}
    environment.pop("ZDOTDIR", None)
    terminal, end = os.openpty()
    shell = subprocess.Popen(
        ["zsh", "-d", "-i"], stdin=end, stdout=end, stderr=end, cwd=tmp_path, env=environment, start_new_session=True
    )
    os.close(end)
    seen = b""
    try:
        for number, line in enumerate(("caffe-split ma", "caffe-split best a.log --s", "plot_loss.py --no_re"), 1):
            while seen.count(b"ready> ") < 1:
                seen += os.read(terminal, 4096)
            os.write(terminal, f"{line}\t\x18".encode())
            while not (tmp_path / "lines").exists() or len((tmp_path / "lines").read_text().splitlines()) < number:
                assert shell.poll() is None, seen
                seen += os.read(terminal, 4096)
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)
    written = (tmp_path / "lines").read_text().splitlines()
    assert [line.rstrip() for line in written] == [
        "caffe-split make-derived",
        "caffe-split best a.log --snapshot",
        "plot_loss.py --no_refresh",
    ]


def test_another_shell_is_wrong_use(tmp_path: Path) -> None:
    assert "'tcsh' is not one of" in caffe_split("completion", "tcsh", cwd=tmp_path, status=2).stderr
