"""A training of tools/gpu_study, small enough for a test, and what a state of one holds."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.support import ROOT

torch = pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "tools"))

import gpu_study_parts.split as nets  # noqa: E402
from gpu_study_parts.calibrate import random_sets  # noqa: E402
from gpu_study_parts.images import Data, Way, draws_of  # noqa: E402
from gpu_study_parts.run import Run  # noqa: E402
from gpu_study_parts.start import BASELINE, start_weights  # noqa: E402

PLAIN = Way("fp32-plain", torch.device("cpu"))
CUTS = {
    "MultiSplits": nets.Cut("residual"),
    "SkipSplit_1x1": nets.Cut("skip", "stride"),
    "SkipSplit_AvgPooling": nets.Cut("skip", "average"),
    "random": nets.Cut("residual", partition="random:1"),
}


def run_of(program, weights, way=PLAIN, batch=4, steps=12, images=32) -> Run:
    data = Data.of(way, *random_sets(images, images))
    draws = torch.as_tensor(draws_of(3, steps, batch))
    return Run(way, program, weights, data, draws, np.full(steps, 1e-3), tests=4, test_batch=16)


def run_names() -> list[str]:
    """What a state holds."""
    weights = start_weights(BASELINE / nets.NET, 1)
    return list(run_of(nets.read_program(BASELINE / nets.NET, weights), weights, images=2).state())
