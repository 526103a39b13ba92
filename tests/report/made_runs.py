"""Runs made for the report's tests: two logs of known values, one of them derived."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD = "I0305 15:{:02d}:{:02d}.000000 1 solver.cpp:1] "
# Names that break a page unless they are escaped.
NASTY = "<script>alert(1)<&>"
NASTY_LAYER = "conv\"'</script><img src=x onerror=alert(2)>"


@dataclass(frozen=True)
class Written:
    """A run's folder and what its log says: output -> iteration -> the number as printed."""

    folder: Path
    said: dict[str, dict[int, str]]


def write_run(folder: Path, shift: float, displays: int = 60) -> Written:
    """A training that displays every 10 iterations, tests every 50 and lowers its rate at 300."""
    folder.mkdir(parents=True)
    said: dict[str, dict[int, str]] = {"train loss": {}, "test accuracy": {}, "test loss": {}}
    text = ""
    for k in range(displays):
        head, i = HEAD.format(k // 60, k % 60), 10 * k
        if i % 50 == 0:
            said["test accuracy"][i] = f"{0.5 + shift + i / 2000 - (i // 50 % 3) / 70:.6g}"
            said["test loss"][i] = f"{2 - shift - i / 1000:.6g}"
            text += f"{head}Iteration {i}, Testing net (#0)\n"
            text += f"{head}    Test net output #0: accuracy = {said['test accuracy'][i]}\n"
            text += f"{head}    Test net output #1: loss = {said['test loss'][i]}\n"
        said["train loss"][i] = f"{3 - i / 300 + math.sin(k) / 5 + shift:.6g}"
        text += f"{head}Iteration {i}, loss = {said['train loss'][i]}\n"
        text += f"{head}Iteration {i}, lr = {0.1 if i < 300 else 0.01}\n"
    (folder / "train.log").write_text(text + f"{head}Optimization Done.\n")
    return Written(folder, said)


def manifest(out: str, layer: str) -> dict[str, Any]:
    """A manifest of one layer of eight kernels, one of them frozen, and one split without scores."""
    scores = {
        "window": [0, 100],
        "interval": 10,
        "steps": 10,
        "momentum": 0.9,
        "entropy": 1.2,
        "null": 0.4,
        "tpm": [0.05, 0.15, 0.15, None, 0.75, 0.85, 0.85, 1.0],
    }
    return {
        "caffe_split": "0",
        "command": ["caffe-split", "make-derived", "base/solver.prototxt", "--iter", "100", "--out", out],
        "inputs": {},
        "outputs": {},
        "plan": {
            "net": "base/net.prototxt",
            "solver": "base/solver.prototxt",
            "weights": "base/b_iter_100.caffemodel",
            "iteration": 100,
            "out": out,
            "options": {
                "kind": "residual",
                "init": "exact",
                "noise": 0.01,
                "seed": 0,
                "activation": "none",
                "skip_pool": "stride",
                "branch_norm": 0,
                "partition": "median",
            },
            "upgraded": ["layers renamed"],
            "layers": [
                {
                    "name": layer,
                    "fast": [4, 5, 6, 7],
                    "slow": [0, 1, 2, 3],
                    "parts": [f"{layer}_split1"],
                    "scores": scores,
                },
                {
                    "name": "named",
                    "fast": [0],
                    "slow": [1],
                    "parts": ["named_split1"],
                    "scores": None,
                    "note": "<grouped>",
                },
            ],
            "before": {"parameters": 1000, "macs": 5000},
            "after": {"parameters": 1500, "macs": None},
        },
    }
