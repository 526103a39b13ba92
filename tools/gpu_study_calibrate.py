"""How fast a device trains the study's nets: alone, and several side by side; and whether it computes what it should."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import gpu_study_split as nets
import numpy as np
import torch  # noqa: TID251
from gpu_study_device import Data, Run, Way, draws_of
from gpu_study_start import BASELINE, start_weights

STEPS = 400000  # of the tables of rates and draws: more than are measured


def random_scores(program, seed: int) -> list[dict]:
    """TPM that nobody measured, to split by where speed alone counts."""
    generator, found = np.random.default_rng(seed), []
    for name in program.watched:
        shape = program.params[name, 0].shape
        found.append({
            "layer": name, "start": 0, "stop": 100, "interval": 1, "steps": 100, "shape": shape,
            "displacement": generator.random(shape[0]), "path": np.ones(shape[0]), "layer_displacement": 0.5,
            "layer_path": 1.0, "norm_start": 1.0, "norm_stop": 1.0,
        })  # fmt: skip
    return found


def example_nets(folder: Path) -> dict[str, tuple]:
    """The baseline and the nets of three rounds, with weights: name -> (program, weights)."""
    here = folder / "baseline"
    shutil.copytree(BASELINE, here)
    weights = start_weights(here / nets.NET, 1)
    program = nets.read_program(here / nets.NET, weights)
    made = {"baseline": (program, weights)}
    # The derived folders' paths are relative to where the study runs; here they are told whole.
    solver = (here / nets.SOLVER).read_text(encoding="utf-8").replace("resnet20_cifar10/", f"{here}/")
    (here / nets.SOLVER).write_text(solver, encoding="utf-8")
    parent = here
    for number in (1, 2, 3):
        out = folder / f"round{number}"
        cut = nets.Cut("residual")
        program, weights, _ = nets.split(str(parent), str(out), 0, weights, random_scores(program, number), cut, 1)
        made[f"round{number}"] = program, weights
        parent = out
    return made


def random_data(way: Way, train: int = 50000, test: int = 10000) -> Data:
    generator = np.random.default_rng(0)
    sets = [
        (generator.integers(0, 256, (count, 32, 32, 3), np.uint8), generator.integers(0, 10, count))
        for count in (train, test)
    ]
    return Data.of(way, *sets)


def agreement(way: Way, program, weights, data: Data, draws: torch.Tensor) -> float:
    """The largest difference of a gradient from plain fp32's, relative to the gradient's own length, by blob."""
    plain = Way(way.device)
    images = data.test[..., :3].float().contiguous()
    shown = copy.copy(data)
    shown.test = images
    rates = np.zeros(4, np.float32)
    truth = Run(plain, program, weights, shown, draws, rates, 1)
    ours = Run(way, program, weights, data, draws, rates, 1)
    for run in (truth, ours):
        run.gradients()
    worst = 0.0
    for first, count in truth.layout.places.values():
        one, other = (run.gradient[first : first + count].double() for run in (truth, ours))
        worst = max(worst, float((one - other).norm() / one.norm()))
    return worst


def speed(runs: list[Run], unroll: int, seconds: float) -> float:
    """Milliseconds an iteration, all of `runs` counted together."""

    def go(rounds: int) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(rounds):
            for run in runs:
                run.do("steps")
        torch.cuda.synchronize()
        return time.perf_counter() - start

    go(3)
    rounds = max(3, int(seconds / (go(5) / 5)))
    return 1000 * go(rounds) / (rounds * unroll * len(runs))


def profile(run: Run) -> list[str]:
    """The kernels of a step that take longest."""
    from torch.profiler import ProfilerActivity  # noqa: TID251
    from torch.profiler import profile as profiled  # noqa: TID251

    with profiled(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(5):
            run.do("step")
        torch.cuda.synchronize()
    rows = [(event.device_time_total / 5, event.count / 5, event.key[:110]) for event in seen.key_averages()]
    rows.sort(reverse=True)
    total = f"{sum(row[0] for row in rows):8.1f} us {sum(row[1] for row in rows):6.1f}  all kernels of a step"
    return [total, *(f"{spent:8.1f} us {count:6.1f}  {name}" for spent, count, name in rows[:32])]


def ways_of(device: torch.device, wanted: str) -> list[Way]:
    dtypes = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return [Way(device, dtypes[word.split("-")[0]], not word.endswith("-plain")) for word in wanted.split(",")]


SHAPES = [(16, 16, 32), (32, 32, 16), (64, 64, 8)]


def with_convs(way: Way, batch: int, say) -> Way:
    """The way with our own convolutions where they are faster than cuDNN's here."""
    from gpu_study_convs import choose

    return dataclasses.replace(way, convs=choose(batch, way.dtype, SHAPES, say))


def calibrate(wanted: str, together: list[int], seconds: float, out: Path | None, unroll: int = 10) -> int:
    """Measure and print a table; JSON into `out` as well."""
    if not torch.cuda.is_available():
        print("tools/gpu_study: PyTorch sees no CUDA device here; nothing is measured")
        return 0
    begun = time.perf_counter()
    device = torch.device("cuda")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = "tf32" in wanted
    print(f"{torch.cuda.get_device_name()}; PyTorch {torch.__version__}; Python {sys.version.split()[0]}", flush=True)
    results: dict = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": []}

    def note(row: dict) -> None:
        row["at"] = round(time.perf_counter() - begun, 1)
        results["rows"].append(row)
        print(json.dumps(row), flush=True)
        if out is not None:
            out.write_text(json.dumps(results, indent=1), encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        made = example_nets(Path(folder))
        for index, (word, way) in enumerate(zip(wanted.split(","), ways_of(device, wanted))):
            # All of the first way; of the others what tells which is faster.
            plan = {"baseline": together, "round1": together, "round3": together[:2]}
            if index:
                plan = {"baseline": [together[0], together[-1]], "round1": [together[-1]]}
            try:
                if word.endswith("-convs"):
                    way = with_convs(way, 128, lambda text: print(text, flush=True))
                _measure(word, way, made, plan, seconds, unroll, note)
            except Exception as error:  # noqa: BLE001 - one way that fails must not hide the others
                note({"way": word, "failed": f"{type(error).__name__}: {error}"[:1000]})
                torch.cuda.synchronize()
            torch.cuda.empty_cache()
    return 0


def _measure(word, way, made, plan, seconds, unroll, note) -> None:
    data = random_data(way)
    draws = torch.as_tensor(draws_of(1, 4, 128)).to(way.device)
    for name in ("baseline", "round3"):
        note({"way": word, "net": name, "off fp32 by": agreement(way, *made[name], data, draws)})
    del draws
    shared = torch.zeros(STEPS, 128, 3, dtype=torch.uint8, device=way.device)
    rates = np.full(STEPS, 1e-3, np.float32)
    for name, counts in plan.items():
        runs: list[Run] = []
        start = time.perf_counter()
        for count in counts:
            while len(runs) < count:
                runs.append(Run(way, *made[name], data, shared, rates, 1000))
                runs[-1].capture(unroll)
            made_in = time.perf_counter() - start
            note({"way": word, "net": name, "runs": count, "ms an iteration": round(speed(runs, unroll, seconds), 4),
                  "made in": round(made_in, 2), "GB": round(torch.cuda.memory_allocated() / 1e9, 2)})  # fmt: skip
        if name == "baseline":
            for work in ("test", "sample"):
                torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in range(5):
                    runs[0].do(work)
                torch.cuda.synchronize()
                note({"way": word, work: round(200 * (time.perf_counter() - start), 3), "unit": "ms"})
        if name != "round1" and len(plan) > 2:
            try:
                print("\n".join(profile(runs[0])), flush=True)
            except Exception as error:  # noqa: BLE001 - a profiler that does not run costs the table nothing
                print(f"no profile: {error}", flush=True)
        del runs
        torch.cuda.empty_cache()
