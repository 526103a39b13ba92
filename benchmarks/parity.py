"""What the engine's kernels change in trainings: each net of prototxt/ with them and without, and digits in bf16.

`python benchmarks/parity.py [--nets digits,...] [--iterations 50] [--rates 1e-5,1e-4,solver] [--batch 16] [--seeds 5]`

Each row compares the losses of a training by the fast path with those of the reference (CAFFE_SPLIT_KERNELS=off, layer
by layer), in fp32 on random images: the largest difference, relative where a loss is above 1. The last column compares
the reference with itself, its weights changed by one unit in the last place: what rounding alone does to the
training at that rate. A net with Dropout has the layout of the fast path in all three, since what is drawn depends on
it. Then the digits themselves, to the end of their solver, in bf16: the final accuracies over
several seeds. `--seeds 0` leaves them out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.bench_engine import prepare  # noqa: E402

NETS = sorted(path.name for path in (ROOT / "prototxt").iterdir() if (path / "train_val.prototxt").exists())
WAYS = ("fast", "reference", "nudged")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--rates", default="1e-5,1e-4,solver")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    words = parser.parse_args(arguments)
    if words.work:
        print("RESULT " + json.dumps(accuracy() if words.work == "accuracy" else losses(words.work, words.iterations)))
        return
    print(f"{words.iterations} iterations, fp32, batches of {words.batch}: the largest difference of a loss")
    print("| net | rate | losses, first and last | fast path | reference, weights nudged |")
    print("|---|---|---|---|---|")
    for name in filter(None, words.nets.split(",")):
        with tempfile.TemporaryDirectory() as place:
            ready(Path(place), name, words.iterations, words.batch)
            for rate in words.rates.split(","):
                row(name, rate, Path(place), words.iterations)
    if words.seeds:
        accuracies(words.seeds)


def ready(folder: Path, name: str, iterations: int, batch: int) -> None:
    """The net, with small batches, its solver and random images."""
    prepare(folder, name, iterations)
    net = folder / name / "train_val.prototxt"
    net.write_text(re.sub(r"batch_size: \d+", f"batch_size: {batch}", net.read_text()))
    solver = folder / "solver.prototxt"
    (folder / "written").write_text(re.sub(r"^display: .*\n", "", solver.read_text(), flags=re.M))


def row(name: str, rate: str, folder: Path, iterations: int) -> None:
    text = (folder / "written").read_text()
    if rate != "solver":
        text = re.sub(r"^base_lr: \S+", f"base_lr: {rate}", text, flags=re.M)
    (folder / "solver.prototxt").write_text(text)
    rate = re.findall(r"^base_lr: (\S+)", text, flags=re.M)[0]
    fast, reference, nudged = (run(["--work", way, "--iterations", str(iterations)], folder, way) for way in WAYS)
    ends = f"{reference[0]:.4f}, {reference[-1]:.4f}"
    print(f"| {name} | {rate} | {ends} | {apart(fast, reference):.1e} | {apart(nudged, reference):.1e} |", flush=True)


def apart(one: list[float], other: list[float]) -> float:
    """The largest difference of two series, relative where the values are above 1."""
    return max(abs(a - b) / max(abs(b), 1.0) for a, b in zip(one, other))


def run(words: list[str], folder: Path, way: str):  # type: ignore[no-untyped-def]
    """What this script prints in a process of its own, with the kernels or without."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    environment |= {} if way == "fast" else {"CAFFE_SPLIT_KERNELS": "off"}
    done = subprocess.run(
        [sys.executable, __file__, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not found:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return json.loads(found[-1][len("RESULT ") :])


def losses(way: str, iterations: int) -> list[float]:
    """The loss of each iteration."""
    import torch

    from caffe_split.engine import Solver
    from caffe_split.engine.log import SilentLog

    torch.set_num_threads(1)
    solver = Solver("solver.prototxt", fuse=way == "fast", seed=1, log=SilentLog())
    if solver.net.drops:
        solver = Solver("solver.prototxt", seed=1, log=SilentLog())
    if way == "nudged":
        for param in solver.net.params:
            values = param.values.detach()
            values.copy_(torch.nextafter(values, torch.tensor(torch.inf)))
    found = []
    for _ in range(iterations):
        solver.step(1)
        found.append(solver.loss.value)
    return found


def accuracies(seeds: int) -> None:
    """The final accuracies of the digits in bf16, by both ways."""
    from caffe_split.data.digits import write_digits

    found: dict[str, list[float]] = {"reference": [], "fast": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "digits").mkdir()
        for name in ("train_val.prototxt", "solver.prototxt"):
            text = (ROOT / "prototxt/digits" / name).read_text()
            text = re.sub(r"^(snapshot|test_interval|display): .*\n", "", text, flags=re.M)
            more = "test_interval: 2000 test_initialization: false display: 0 snapshot_after_train: false\n"
            (folder / "digits" / name).write_text(text + (more if name.startswith("solver") else ""))
        write_digits(folder / "data")
        print(f"\nDigits, bf16, to the end of the solver: final accuracies over {seeds} seeds")
        print("| seed | reference | fast path |")
        print("|---|---|---|")
        for seed in range(1, seeds + 1):
            solver = folder / "digits/solver.prototxt"
            solver.write_text(re.sub(r"random_seed: \d+", f"random_seed: {seed}", solver.read_text()))
            for way, values in found.items():
                values.append(run(["--work", "accuracy"], folder, way))
            print(f"| {seed} | {found['reference'][-1]:.4f} | {found['fast'][-1]:.4f} |", flush=True)
    for way, values in found.items():
        spread = f"standard deviation {statistics.stdev(values):.4f}, " if len(values) > 1 else ""
        print(f"{way}: mean {statistics.mean(values):.4f}, {spread}{min(values):.4f} to {max(values):.4f}")


def accuracy() -> float:
    """The accuracy of the last test of the digits in bf16; the fast path unless kernels are off."""
    import torch

    from caffe_split.engine import Solver
    from caffe_split.engine.kernels.build import kernels
    from caffe_split.engine.log import SilentLog

    torch.set_num_threads(1)
    fuse = kernels().library is not None
    solver = Solver("digits/solver.prototxt", precision="bf16", fuse=fuse, log=SilentLog())
    solver.step(int(solver.options.get("max_iter")))
    means = solver.test(0)
    assert means is not None
    return means["accuracy"][0]


if __name__ == "__main__":
    main(sys.argv[1:])
