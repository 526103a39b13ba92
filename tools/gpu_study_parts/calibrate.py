"""How fast a device trains the study's nets, alone and several side by side; and whether it computes what it should."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gpu_study_parts.split as nets
from caffe_split.errors import CaffeSplitError
from gpu_study_parts.images import DTYPES, WAYS, Data, Way, draws_of
from gpu_study_parts.net import Program, Weights
from gpu_study_parts.run import Run
from gpu_study_parts.start import BASELINE, start_weights

STEPS = 400000  # of the tables of rates and draws: more than are measured
# Of ResNet-20's convolutions of stride 1 behind the first: channels in, channels out, height.
SHAPES = [(16, 16, 32), (32, 32, 16), (64, 64, 8)]
Nets = Mapping[str, "tuple[Program, Weights]"]
Images = "tuple[np.ndarray, np.ndarray]"  # and their labels


def check_way(way: str, option: str) -> None:
    """Raises `CaffeSplitError` for what is no way."""
    precision, _, kernels = way.partition("-")
    # Our convolutions multiply what is in bf16; of fp32 they would use the first digits alone.
    if precision not in DTYPES or kernels not in ("", "plain", "convs") or (kernels == "convs" and precision != "bf16"):
        raise CaffeSplitError(f"{option} {way}: expected {WAYS}.")


def prepare(way: str) -> None:
    """PyTorch's settings for a way to compute."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = way.startswith("tf32")


def with_convs(way: Way, batch: int, say: Callable[[str], None]) -> Way:
    """The way with our own convolutions where they are faster than cuDNN's here."""
    from gpu_study_parts.convs import choose

    return dataclasses.replace(way, convs=choose(batch, way.dtype, SHAPES, say))


def random_scores(program: Program, seed: int) -> list[dict[str, Any]]:
    """TPM that nobody measured, to split by where speed alone counts."""
    generator, found = np.random.default_rng(seed), []
    for name in program.watched:
        shape = program.params[name, 0].shape
        found.append(
            {
                "layer": name,
                "start": 0,
                "stop": 100,
                "interval": 1,
                "steps": 100,
                "shape": shape,
                "displacement": generator.random(shape[0]),
                "path": np.ones(shape[0]),
                "layer_displacement": 0.5,
                "layer_path": 1.0,
                "norm_start": 1.0,
                "norm_stop": 1.0,
            }
        )
    return found


def example_nets(folder: Path) -> dict[str, tuple[Program, Weights]]:
    """The baseline and the nets of three rounds of residual splits, made in `folder`."""
    parent = folder / "baseline"
    shutil.copytree(BASELINE, parent)
    solver = (parent / nets.SOLVER).read_text(encoding="utf-8").replace("resnet20_cifar10/", f"{parent}/")
    (parent / nets.SOLVER).write_text(solver, encoding="utf-8")
    weights = start_weights(parent / nets.NET, 1)
    program = nets.read_program(parent / nets.NET, weights)
    made = {"baseline": (program, weights)}
    for number in (1, 2, 3):
        out = folder / f"round{number}"
        scores, cut = random_scores(program, number), nets.Cut("residual")
        program, weights, _ = nets.split(str(parent), str(out), 0, weights, scores, cut, seed=1)
        made[f"round{number}"] = program, weights
        parent = out
    return made


def random_sets(train: int = 50000, test: int = 10000) -> list[Images]:
    """Noise and labels by chance, as (images, labels) to train and to test."""
    generator = np.random.default_rng(0)
    return [(generator.integers(0, 256, (n, 32, 32, 3), np.uint8), generator.integers(0, 10, n)) for n in (train, test)]


def agreement(way: Way, net: tuple[Program, Weights], sets: Sequence[Images], batch: int) -> float:
    """How far a step's gradients lie from those of PyTorch's own fp32, relative to their length: the worst blob's.

    Some percent are no mistake in bf16, and a part of one where sums are added in another order: where a value crosses
    a ReLU's edge its gradient is all there or not.
    """
    draws, rates = torch.as_tensor(draws_of(1, 4, batch)).to(way.device), np.zeros(4)
    runs = [Run(one, *net, Data.of(one, *sets), draws, rates, tests=1) for one in (Way("fp32-plain", way.device), way)]
    for run in runs:
        run.gradients()
    worst = 0.0
    for first, count in runs[0].layout.places.values():
        one, other = (run.gradient[first : first + count].double() for run in runs)
        worst = max(worst, float((one - other).norm() / one.norm()))
    return worst


def speed(runs: Sequence[Run], unroll: int, seconds: float) -> float:
    """Milliseconds an iteration of all `runs` side by side, all counted together; `unroll` steps are one graph."""

    def wait() -> None:
        if runs[0].graphs:
            torch.cuda.synchronize()

    def go(rounds: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(rounds):
            for run in runs:
                run.do("steps")
        wait()
        return time.perf_counter() - start

    go(1)
    rounds = min(max(2, int(seconds / go(2) * 2)), 5 if not runs[0].graphs else 1 << 20)
    return 1000 * go(rounds) / (rounds * unroll * len(runs))


def profile(run: Run) -> list[str]:
    """The kernels of a step that take longest."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with profiled(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(5):
            run.do("step")
        torch.cuda.synchronize()
    rows = [(event.device_time_total / 5, event.count / 5, event.key[:110]) for event in seen.key_averages()]
    rows.sort(reverse=True)
    total = f"{sum(row[0] for row in rows):8.1f} us {sum(row[1] for row in rows):6.1f}  all kernels of a step"
    return [total, *(f"{spent:8.1f} us {count:6.1f}  {name}" for spent, count, name in rows[:32])]


def calibrate(wanted: str, together: Sequence[int], seconds: float, out: Path | None, unroll: int = 10) -> int:
    """Measure each of the ways `wanted` with each of the numbers `together` of trainings side by side; print a line a
    measurement, and write JSON to `out` as well. Without a device nothing is measured. The exit status."""
    words = wanted.split(",")
    for word in words:
        check_way(word, "--ways")
    if not torch.cuda.is_available():
        print("gpu_study: PyTorch sees no CUDA device here; nothing is measured")
        return 0
    begun, device = time.perf_counter(), torch.device("cuda")
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "rows": [],
    }
    print(json.dumps(results), flush=True)

    def note(row: dict[str, Any]) -> None:
        row["at"] = round(time.perf_counter() - begun, 1)
        results["rows"].append(row)
        print(json.dumps(row), flush=True)
        if out is not None:
            out.write_text(json.dumps(results, indent=1), encoding="utf-8")

    sets = random_sets()
    with tempfile.TemporaryDirectory() as folder:
        made = example_nets(Path(folder))
        for index, word in enumerate(words):
            # All of the first way; of the others what tells which is faster.
            plan = {"baseline": together, "round1": together, "round3": together[:2]}
            if index:
                plan = {"baseline": [together[0], together[-1]], "round1": [together[-1]]}
            try:
                prepare(word)
                way = Way(word, device)
                if word.endswith("-convs"):
                    way = with_convs(way, 128, lambda text: print(text, flush=True))
                for name in ("baseline", "round3"):
                    note({"way": word, "net": name, "off fp32 by": agreement(way, made[name], sets, 128)})
                _measure(way, made, Data.of(way, *sets), plan, seconds=seconds, unroll=unroll, note=note)
            except Exception as error:  # one way that fails must not hide the others
                note({"way": word, "failed": f"{type(error).__name__}: {error}"[:1000]})
            torch.cuda.empty_cache()
    return 0


def _measure(
    way: Way,
    made: Nets,
    data: Data,
    plan: Mapping[str, Sequence[int]],
    *,
    seconds: float,
    unroll: int,
    note: Callable[[dict[str, Any]], None],
) -> None:
    draws = torch.zeros(STEPS, 128, 3, dtype=torch.uint8, device=way.device)
    rates = np.full(STEPS, 1e-3)
    for name, counts in plan.items():
        runs: list[Run] = []
        start = time.perf_counter()
        for count in counts:
            while len(runs) < count:
                runs.append(Run(way, *made[name], data, draws, rates, tests=1000))
                runs[-1].capture(unroll)
            made_in = round(time.perf_counter() - start, 2)
            pace = round(speed(runs, unroll, seconds), 4)
            memory = round(torch.cuda.memory_allocated() / 1e9, 2)
            row = {"way": way.name, "net": name, "runs": count, "ms an iteration": pace}
            note({**row, "made in": made_in, "GB": memory})
        if name == "baseline":
            for work in ("test", "sample"):
                torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in range(5):
                    runs[0].do(work)
                torch.cuda.synchronize()
                note({"way": way.name, work: round(200 * (time.perf_counter() - start), 3), "unit": "ms"})
        if name != "round1" and len(plan) > 2:
            try:
                print("\n".join(profile(runs[0])), flush=True)
            except Exception as error:  # a profiler that does not run costs the table nothing
                print(f"no profile: {error}", flush=True)
        del runs
        torch.cuda.empty_cache()
