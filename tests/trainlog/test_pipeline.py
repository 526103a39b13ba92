"""`best` and `final` print what the shell's own pipelines print, line for line."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from caffe_split.trainlog import pipeline

LOGS = sorted((Path(__file__).parent / "logs").glob("*.log"))
TOOLS = all(shutil.which(tool) for tool in ("grep", "sort", "tail"))
pytestmark = pytest.mark.skipif(not TOOLS, reason="needs grep, sort and tail")


def shell(command: str, path: Path) -> list[bytes]:
    environment = {**os.environ, "LC_ALL": "C", "LOG": str(path)}
    done = subprocess.run(command, shell=True, env=environment, stdout=subprocess.PIPE, check=False)
    return done.stdout.split(b"\n")[:-1]


def best(path: Path, count: int) -> list[bytes]:
    return [found.text for found in pipeline.best_lines(path, count)]


def final(path: Path) -> list[bytes]:
    return [found.text for found in pipeline.final_lines(path)]


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_best_is_the_pipeline(path: Path, count: int) -> None:
    assert best(path, count) == shell(f'grep -a Test "$LOG" | grep -ai acc | sort -nk 11 | tail -{count}', path)


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_final_is_the_pipeline(path: Path) -> None:
    assert final(path) == shell('grep -a -B 3 "Optimization Done" "$LOG" | grep -ai acc', path)


WORDS = [
    "Test",
    "acc",
    "Acc",
    "=",
    "0.5",
    "-0.5",
    "-.5",
    ".",
    "-",
    "1e-05",
    "nan",
    "-nan",
    "inf",
    "007",
    "7.0",
    "+3",
]


@pytest.mark.parametrize("seed", range(20))
def test_any_lines_come_as_the_shell_sorts_them(tmp_path: Path, seed: int) -> None:
    pick = random.Random(seed)
    lines = []
    for _ in range(60):
        words = [pick.choice(WORDS) for _ in range(pick.choice([3, 10, 11, 12]))]
        blanks = [pick.choice([" ", "  ", "\t", " \t"]) for _ in words]
        lines.append(pick.choice(["", " ", "\t"]) + "".join(w + b for w, b in zip(words, blanks)))
        if pick.random() < 0.1:
            lines.append("Optimization Done.")
    path = tmp_path / "train.log"
    path.write_bytes("\n".join(lines).encode() + pick.choice([b"", b"\n", b"\r\n"]))
    test_best_is_the_pipeline(path, 3)
    test_best_is_the_pipeline(path, 1000)
    test_final_is_the_pipeline(path)


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_blocks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(pipeline, "BLOCK", block)
    for path in LOGS:
        if path.stat().st_size < 20_000:
            test_best_is_the_pipeline(path, 3)


def test_places_are_those_of_the_lines() -> None:
    for path in LOGS:
        data = path.read_bytes()
        for found in pipeline.best_lines(path, 5):
            assert data[found.offset :].split(b"\n")[0] == found.text
            assert found.offset == 0 or data[found.offset - 1] == 10


def test_a_shifted_field_is_noticed() -> None:
    good = b"I0305 15:00:03.000000 17823 solver.cpp:433]     Test net output #0: acc = 0.1"
    assert not pipeline.misleading([pipeline.Found(0, good)])
    assert pipeline.misleading([pipeline.Found(0, b"2019-01-01 " + good)])
    assert pipeline.misleading([pipeline.Found(0, good.replace(b"0.1", b"1e-05"))])
    assert pipeline.misleading([pipeline.Found(0, good.replace(b"0.1", b"0.1.7"))])
