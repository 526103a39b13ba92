"""The digits under several seeds: each training in a process of its own, and ways to train them in one.

`python benchmarks/bench_seeds.py [--seeds 5] [--rounds 8] [--count 20] [--iterations 100,2000]`

First iterations in turns, in processor milliseconds for all seeds together: the engine's nets one after the other; one
net by hand in PyTorch of which each layer holds all seeds (grouped convolutions); and PyTorch's `vmap` over them,
gradients alone. Then whole trainings on the real digits, with tests and snapshots, in processor seconds: each in a
process of its own, and all in one process, one after the other, which shares no more than the start.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--iterations", default="100,2000")
    parser.add_argument("--work", nargs="*", help=argparse.SUPPRESS)
    words = parser.parse_args(arguments)
    if words.work is not None:
        train(words.work)
        return
    print(f"digits, {words.seeds} seeds, one thread, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as place:
        iterations(words, Path(place))
        for length in filter(None, words.iterations.split(",")):
            trainings(words.seeds, int(length), Path(place) / length)


def iterations(words: argparse.Namespace, folder: Path) -> None:
    """Iterations by each way, in turns."""
    os.environ["OMP_WAIT_POLICY"] = "passive"
    import torch

    from caffe_split.engine.device import keep_memory

    torch.set_num_threads(1)
    keep_memory()
    ways = {"engine, in turn": by_engine(words.seeds, folder), "grouped": grouped(words.seeds)}
    ways["vmap"] = mapped(words.seeds)
    for step in ways.values():
        step()
        step()
    rows = []
    for _ in range(words.rounds):
        rows.append({})
        for who, step in ways.items():
            start = time.process_time()
            for _ in range(words.count):
                step()
            rows[-1][who] = (time.process_time() - start) / words.count * 1000
    for who in ways:
        ratio = statistics.median(row["engine, in turn"] / row[who] for row in rows)
        print(f"  {who:16} {min(row[who] for row in rows):7.2f} ms at least; the engine in turn / it: {ratio:.2f}")


def by_engine(seeds: int, folder: Path) -> Callable[[], None]:
    from benchmarks.bench_engine import prepare
    from caffe_split.engine import Solver
    from caffe_split.engine.log import SilentLog

    prepare(folder, "digits", 1_000_000)
    path = folder / "solver.prototxt"
    path.write_text(re.sub(r"^display: .*\n", "", path.read_text(), flags=re.M))
    before = Path.cwd()
    os.chdir(folder)
    solvers = [Solver(path.name, seed=seed, log=SilentLog()) for seed in range(seeds)]
    os.chdir(before)
    return lambda: [solver.step(1) for solver in solvers] and None


def stacked(seeds: int):  # type: ignore[no-untyped-def]
    """The digits by hand, `seeds` nets as one: images (N, seeds, 8, 8) to scores (seeds, N, 10)."""
    import torch
    from torch import nn

    def unit(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
        sizes = inputs * seeds, outputs * seeds, kernel, stride, kernel // 2
        norm = nn.BatchNorm2d(outputs * seeds, track_running_stats=False)
        return nn.Sequential(nn.Conv2d(*sizes, bias=False, groups=seeds), norm)

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.one, self.two = unit(inputs, outputs, stride), unit(outputs, outputs)
            self.short = unit(inputs, outputs, stride, 1) if stride > 1 else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.two(torch.relu(self.one(x))) + self.short(x))

    class Digits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(unit(1, 16), nn.ReLU(), Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 2))
            self.weight = nn.Parameter(torch.randn(seeds, 32, 10) * 0.1)
            self.bias = nn.Parameter(torch.zeros(seeds, 1, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = self.body(x).mean((2, 3)).view(len(x), seeds, 32).transpose(0, 1)
            return torch.baddbmm(self.bias, rows, self.weight)

    return Digits()


def grouped(seeds: int) -> Callable[[], None]:
    import torch
    from torch.nn import functional

    net = stacked(seeds).to(memory_format=torch.channels_last)
    x = torch.rand(16, seeds, 8, 8).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (16,)).repeat(seeds)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=True)

    def step() -> None:
        loss = functional.cross_entropy(net(x).reshape(-1, 10), labels, reduction="sum") / 16
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        loss.item()
        optimizer.step()

    return step


def mapped(seeds: int) -> Callable[[], None]:
    import torch
    from torch.func import functional_call, grad, stack_module_state, vmap
    from torch.nn import functional

    net = stacked(1)
    nets = [copy.deepcopy(net) for _ in range(seeds)]
    params, buffers = stack_module_state(nets)
    x, labels = torch.rand(16, 1, 8, 8), torch.randint(0, 10, (16,))

    def loss(given, kept):  # type: ignore[no-untyped-def]
        return functional.cross_entropy(functional_call(net, (given, kept), (x,))[0], labels)

    gradients = vmap(grad(loss))
    return lambda: gradients(params, buffers) and None


def trainings(seeds: int, length: int, folder: Path) -> None:
    """Whole trainings on the real digits, in processes of their own and in one."""
    from caffe_split.data.digits import write_digits

    write_digits(folder / "data")
    solvers = []
    for seed in range(seeds):
        run = folder / f"s{seed}"
        shutil.copytree(ROOT / "prototxt/digits", run / "digits")
        text = (run / "digits/solver.prototxt").read_text()
        for field, value in (("random_seed", seed), ("max_iter", length)):
            text = re.sub(rf"^{field}: .*", f"{field}: {value}", text, flags=re.M)
        text = re.sub('"digits/', f'"s{seed}/digits/', text)
        (run / "digits/solver.prototxt").write_text(text)
        solvers.append(f"s{seed}/digits/solver.prototxt")
    alone = [[sys.executable, "-m", "caffe_split.engine", solver, "--threads", "1"] for solver in solvers]
    together = [[sys.executable, __file__, "--work", *solvers]]
    found = {name: seconds(commands, folder) for name, commands in (("alone", alone), ("one process", together))}
    print(f"  {length} iterations: {', '.join(f'{who} {each:.1f} s' for who, each in found.items())}", end="")
    print(f"; alone / one process: {found['alone'] / found['one process']:.2f}", flush=True)


def seconds(commands: list[list[str]], folder: Path) -> float:
    """Processor seconds of commands, one after the other."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    for command in commands:
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train(solvers: list[str]) -> None:
    """Train solvers one after the other in this process."""
    import torch

    from caffe_split.engine import Solver
    from caffe_split.engine.device import keep_memory

    torch.set_num_threads(1)
    keep_memory()
    for solver in solvers:
        Solver(solver).solve()


if __name__ == "__main__":
    main(sys.argv[1:])
