"""A loop that is killed again and again ends in the same table."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rounds.loop_words import SOLVER

KILLS = 30


@pytest.mark.slow
@pytest.mark.caffe
def test_thirty_kills_at_random_moments_change_nothing(folder: Path) -> None:
    words = ["multisplit", SOLVER, "--rounds", 2, "--num-splits", 2, "--iter", 20, "--engine", "caffe", "--json"]
    command = [sys.executable, "-m", "caffe_split", *map(str, words)]
    whole = subprocess.run([*command, "--out", "unkilled"], cwd=folder, capture_output=True, text=True, check=True)
    moments, kills, number = random.Random(0), 0, 0
    while kills < KILLS:
        number += 1
        out = f"killed{number}"
        while True:
            start = subprocess.Popen(
                [*command, "--out", out], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            try:
                said, errors = start.communicate(timeout=moments.uniform(0.2, 8))
            except subprocess.TimeoutExpired:
                start.kill()
                start.communicate()
                kills += 1
                continue
            assert start.returncode == 0, errors
            break
        assert json.loads(said) == json.loads(whole.stdout)
        for log in (folder / out).glob("*/train.log"):
            assert _losses(log) == _losses(folder / "unkilled" / log.parent.name / log.name), log
        assert not [path for path in (folder / out).rglob(".*") if path.is_file()]
        shutil.rmtree(folder / out)


def _losses(log: Path) -> list[str]:
    return [
        line.split("] ", 1)[1]
        for line in log.read_text().splitlines()
        if " loss = " in line and "Iteration" not in line
    ]
