"""The study from beginning to end: data, the device, the scale that fits, the loop, the table."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gpu_study_parts.arms as plan
import gpu_study_parts.calibrate as calibration
from caffe_split.errors import CaffeSplitError
from gpu_study_parts.data import load
from gpu_study_parts.images import Data, Way
from gpu_study_parts.loop import Asked, Loop
from gpu_study_parts.out import write_out
from gpu_study_parts.run import Run
from gpu_study_parts.table import markdown, read_results

# Seconds that are not training: captures, the last nets' tests, writing.
REST, LAST = 45.0, 20.0
Say = Callable[[str], None]


def study(asked: argparse.Namespace, begun: float) -> int:
    """Run it; the exit status: 0, 1 where a training failed, 3 where the time was over first."""

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - begun:6.1f}s] {text}", flush=True)

    schedule = None if asked.scale == "auto" else plan.schedule_of(asked.scale)
    way, device = _way(asked)
    if asked.seeds < 1 or asked.together < 1:
        raise CaffeSplitError(f"--seeds {asked.seeds}, --together {asked.together}: expected 1 or more.")
    folder = asked.out.resolve()
    halves = {half: tuple(array[: asked.images] for array in arrays) for half, arrays in load(asked.data).items()}
    data = Data.of(way, halves["train"], halves["test"])
    counts = f"{len(data.images)} training and {len(data.test)} test images"
    say(f"{device}, PyTorch {torch.__version__}, {way.name}; {counts}")
    if way.name.endswith("-convs"):
        way = calibration.with_convs(way, asked.batch, say)
    seeds = range(1, asked.seeds + 1)
    measured = _pace(way, data, asked.together, asked.batch)
    say(f"milliseconds an iteration, all counted together: {json.dumps(measured)}")
    schedule = _fitting(schedule, seeds, asked, measured, begun, say)
    facts = {
        "scale": str(schedule.scale),
        "batch": asked.batch,
        "way": way.name,
        "images": len(data.images),
        "arms": [asdict(arm) for arm in plan.arms_of(0)],
    }
    _check_folder(folder, facts)
    tests = folder / "test.npz"
    np.savez(tests, images=halves["test"][0], labels=halves["test"][1])
    say(
        f"scale {schedule.scale}: {schedule.total} iterations, split at {schedule.split}, TPM over {schedule.window} "
        f"every {schedule.interval}, a test every {schedule.test_interval}; seeds {list(seeds)}"
    )
    until = begun + 60 * asked.minutes - LAST
    loop = Loop(Asked(folder, schedule, seeds, asked.together, until, tests, asked.batch), way, data, say)
    try:
        whole = loop.run()
    finally:
        loop.close()
    results = read_results(folder)
    facts = {
        **facts,
        "device": device,
        "torch": torch.__version__,
        "seeds": list(seeds),
        "whole": whole,
        "total": schedule.total,
        "split": schedule.split,
        "window": schedule.window,
        "interval": schedule.interval,
        "test_interval": schedule.test_interval,
        "pace": measured,
        "together": asked.together,
        "seconds": round(time.perf_counter() - begun, 1),
        "failed": {f"seed {seed} {arm}": reason for (seed, arm), reason in loop.failed.items()},
    }
    written = write_out(folder, asked.hand_back or folder / "hand_back", facts, with_state=not whole)
    print(markdown(results))
    say(f"wrote {', '.join(f'{path.name} ({path.stat().st_size / 2**20:.1f} MiB)' for path in written)}")
    return 0 if whole else 1 if loop.failed else 3


def _way(asked: argparse.Namespace) -> tuple[Way, str]:
    """How steps are computed, and the device's name. Raises `CaffeSplitError` for what is not here."""
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CaffeSplitError("PyTorch sees no CUDA device here; --device cpu rehearses on the processor.")
    calibration.check_way(asked.way, "--way")
    way = Way(asked.way, device)
    if device.type != "cuda" and way.own_kernels:
        raise CaffeSplitError(f"--way {asked.way}: our own kernels are for CUDA devices; give fp32-plain here.")
    calibration.prepare(asked.way)
    return way, torch.cuda.get_device_name() if device.type == "cuda" else "a processor"


def _pace(way: Way, data: Data, together: int, batch: int) -> dict[str, float]:
    """Milliseconds an iteration: on a device of 1, 3 and `together` baselines side by side and of `together` nets of
    round 3, else of one of each."""
    on_device = way.device.type == "cuda"
    counts = sorted({1, min(3, together), together}) if on_device else [1]
    steps = 20000 if on_device else 10
    draws = torch.zeros(steps, batch, 3, dtype=torch.uint8, device=way.device)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = calibration.example_nets(Path(folder))
        for net, wanted in (("baseline", counts), ("round3", counts[-1:])):
            runs: list[Run] = []
            for count in wanted:
                while len(runs) < count:
                    runs.append(Run(way, *made[net], data, draws, np.full(steps, 1e-3), tests=8))
                    runs[-1].capture(5)
                found[f"{net} {count}"] = round(calibration.speed(runs, 5 if on_device else 1, 0.3), 4)
            del runs
            if on_device:
                torch.cuda.empty_cache()
    return found


def _fitting(
    schedule: plan.Schedule | None,
    seeds: Sequence[int],
    asked: argparse.Namespace,
    measured: Mapping[str, float],
    begun: float,
    say: Say,
) -> plan.Schedule:
    """The schedule asked for, or the longest that fits the minutes. Raises `CaffeSplitError` where none does."""
    pace = plan.pace_from({int(name.split()[1]): ms for name, ms in measured.items() if name.startswith("baseline")})
    count = max(int(name.split()[1]) for name in measured)
    more = measured[f"round3 {count}"] / measured[f"baseline {count}"] - 1
    rounds: dict[str, Any] = {"MultiSplits2": 2, "MultiSplits3": 3}
    factors = {
        arm.name: 1 + max(0.0, more) * (rounds.get(arm.name, 1) if arm.cut else 0) / 3 for arm in plan.arms_of(0)
    }
    left = asked.minutes * 60 - (time.perf_counter() - begun) - REST
    together = asked.together if asked.device.startswith("cuda") else 1
    for one in [schedule] if schedule is not None else map(plan.Schedule, plan.SCALES):
        # A tenth more for tests and samples.
        needs = 1.1 * plan.seconds_for(one, seeds, together, pace, factors)
        say(f"scale {one.scale}: about {needs:.0f} s of training; {left:.0f} s are there")
        if schedule is not None or needs <= left:
            return one
    raise CaffeSplitError(f"no scale down to {plan.SCALES[-1]} fits {asked.minutes:g} minutes for {len(seeds)} seeds.")


def _check_folder(folder: Path, facts: Mapping[str, Any]) -> None:
    """Raises `CaffeSplitError` where the folder holds another study."""
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "study.json"
    text = json.dumps(facts, indent=1)
    if known.exists() and json.loads(known.read_text(encoding="utf-8")) != json.loads(text):
        raise CaffeSplitError(
            f"{folder} holds a study of another scale, batch, precision or number of images: give another --out."
        )
    known.write_text(text, encoding="utf-8")
