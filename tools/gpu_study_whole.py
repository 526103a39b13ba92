"""The study from beginning to end: data, the device, the scale that fits, the loop, the table."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import gpu_study_arms as plan
import gpu_study_calibrate as calibration
import numpy as np
import torch  # noqa: TID251
from gpu_study_data import load
from gpu_study_device import Data, Run, Way
from gpu_study_loop import Asked, Loop, describe
from gpu_study_out import write_out
from gpu_study_table import markdown, read_results

from caffe_split.errors import CaffeSplitError

# Seconds that are not training: start, data, captures, the last nets' tests, writing.
REST = 45.0


def study(asked: argparse.Namespace, begun: float) -> int:
    """Run it; the exit status."""

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - begun:6.1f}s] {text}", flush=True)

    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CaffeSplitError("PyTorch sees no CUDA device here; --device cpu rehearses on the processor.")
    way = calibration.ways_of(device, asked.way)[0]
    if asked.scale != "auto":
        try:
            plan.scale_of(asked.scale)
        except (ValueError, ZeroDivisionError):
            raise CaffeSplitError(f"--scale {asked.scale}: expected auto, or a number above 0 up to 1 as 1/4.") from None
    elif device.type != "cuda":
        raise CaffeSplitError("--scale auto measures a CUDA device; give --scale 1/64 or another number here.")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = asked.way.startswith("tf32")
    halves = load(asked.data)
    halves = {half: (images[: asked.images], labels[: asked.images]) for half, (images, labels) in halves.items()}
    folder = asked.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tests = folder / "test.npz"
    np.savez(tests, images=halves["test"][0], labels=halves["test"][1])
    data = Data.of(way, halves["train"], halves["test"])
    name = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
    say(f"{name}, PyTorch {torch.__version__}, {way.name}; {len(data.images)} training and {len(data.test)} test images")
    seeds = range(1, asked.seeds + 1)
    measured = {}
    if asked.way.endswith("-convs"):
        way = calibration.with_convs(way, asked.batch, say)
    if device.type == "cuda":
        say("measuring the pace")
        measured = _pace(way, data, asked.together, asked.batch, say)
    schedule = _schedule(asked, seeds, measured, begun, say)
    wanted = Asked(folder, schedule, seeds, asked.together, asked.minutes * 60 - 20, asked.batch)
    _check_folder(folder, describe(wanted, way))
    say(f"scale {schedule.scale}: {schedule.total} iterations, split at {schedule.split}, TPM over {schedule.window} "
        f"every {schedule.interval}, a test every {schedule.test_interval}; seeds {list(seeds)}")  # fmt: skip
    loop = Loop(wanted, way, data, tests, begun)
    try:
        whole = loop.run()
    finally:
        loop.close()
    results = read_results(folder)
    (folder / "table.md").write_text(markdown(results), encoding="utf-8")
    facts = {
        **describe(wanted, way), "device": name, "torch": torch.__version__, "seeds": list(seeds), "whole": whole,
        "total": schedule.total, "split": schedule.split, "window": schedule.window, "interval": schedule.interval,
        "test_interval": schedule.test_interval, "pace": measured, "together": asked.together,
        "seconds": round(time.perf_counter() - begun, 1), "failed": {f"s{k[0]} {k[1]}": v for k, v in loop.failed.items()},
    }  # fmt: skip
    written = write_out(folder, asked.hand_back or folder / "hand_back", facts, with_state=not whole)
    print(markdown(results))
    say(f"wrote {', '.join(f'{path.name} ({path.stat().st_size / 2**20:.1f} MiB)' for path in written)}")
    return 0 if whole else 1 if loop.failed else 3


def _pace(way: Way, data: Data, together: int, batch: int, say) -> dict[str, float]:
    """Milliseconds an iteration of 1, 3 and `together` baselines side by side, and of `together` nets of round 3."""
    import tempfile

    steps = 20000
    draws = torch.zeros(steps, batch, 3, dtype=torch.uint8, device=way.device)
    rates = np.full(steps, 1e-3, np.float32)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = calibration.example_nets(Path(folder))
        for net, counts in (("baseline", sorted({1, min(3, together), together})), ("round3", [together])):
            runs: list[Run] = []
            for count in counts:
                while len(runs) < count:
                    runs.append(Run(way, *made[net], data, draws, rates, 8))
                    runs[-1].capture(5)
                found[f"{net} {count}"] = round(calibration.speed(runs, 5, 0.3), 4)
            del runs
            torch.cuda.empty_cache()
    say(f"milliseconds an iteration, all counted together: {json.dumps(found)}")
    return found


def _schedule(asked: argparse.Namespace, seeds, measured: dict[str, float], begun: float, say) -> plan.Schedule:
    """The scale asked for, or the largest that fits. Raises `CaffeSplitError` where none fits."""
    if asked.scale != "auto":
        return plan.Schedule(plan.scale_of(asked.scale))
    pace = plan.pace_from({int(k.split()[1]): v for k, v in measured.items() if k.startswith("baseline")})
    more = measured[f"round3 {asked.together}"] / measured[f"baseline {asked.together}"] - 1
    rounds = {"MultiSplits": 1, "MultiSplits2": 2, "MultiSplits3": 3, "random-MultiSplits": 1, "SkipSplit_1x1": 1,
              "SkipSplit_AvgPooling": 1}  # fmt: skip
    factors = {arm.name: 1 + more * rounds.get(arm.name, 0) / 3 for arm in plan.arms_of(0)}
    left = asked.minutes * 60 - (time.perf_counter() - begun) - REST
    for scale in plan.SCALES:
        schedule = plan.Schedule(scale)
        # A tenth more for tests and samples.
        needs = 1.1 * plan.seconds_for(schedule, seeds, asked.together, pace, factors)
        say(f"scale {scale}: about {needs:.0f} s of training; {left:.0f} s are there")
        if needs <= left:
            return schedule
    raise CaffeSplitError(f"no scale down to {plan.SCALES[-1]} fits {asked.minutes:g} minutes for {len(seeds)} seeds.")


def _check_folder(folder: Path, facts: dict) -> None:
    """Raises `CaffeSplitError` where the folder holds another study."""
    known = folder / "study.json"
    text = json.dumps(facts, indent=1)
    if known.exists() and json.loads(known.read_text(encoding="utf-8")) != json.loads(text):
        raise CaffeSplitError(
            f"{folder} holds a study of another scale, batch, precision or other arms: give another --out."
        )
    known.write_text(text, encoding="utf-8")
