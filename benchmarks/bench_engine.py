"""Training by the torch engine, by the built Caffe, and by the same net written by hand in PyTorch, in turns.

`python benchmarks/bench_engine.py [--nets digits,cifar10_quick] [--iterations 20] [--rounds 3] [--threads 2] [--cpu]
[--precision bf16] [--device cuda [--caffe-gpu]] [--before CHECKOUT]`.
The images are random and the data is loaded as in a real training: from LMDBs by Caffe and the engine, from an array in
memory by hand. A contestant's time is the median over its log's intervals after the first; Caffe has
one thread and then all, and the faster counts. Ratios above 1 say that the engine is faster. Precision and device are
those of the engine and of the net written by hand; Caffe, always fp32, runs on the processor, or with `--caffe-gpu`,
where it was built with CUDA, on the device.

`--before` compares with the engine of another checkout of this project alone. `--threads 0` leaves the threads to it.

With `--cpu` each has one thread, and processor time is measured, which other work on the machine disturbs less: the
time of a run of all iterations minus that of a run of four, divided by the difference of the iterations.
"""

from __future__ import annotations

import argparse
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

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from caffe_split.data.store import write_store  # noqa: E402

INTERVAL = 4
# (side of the data set's images, channels, batch, crop or 0), as a Data layer of the net reads them.
NETS = {
    "digits": (8, 1, 16, 0),
    "cifar10_quick": (32, 3, 100, 0),
    "resnet20_cifar10": (40, 3, 128, 32),
}
# Those that nobody has written by hand.
OTHERS = {
    "all_cnn_c_cifar10": (32, 3, 128, 0),
    "cifar10_quick_bn": (32, 3, 100, 0),
    "resnet20_cifar100": (40, 3, 128, 32),
}


def prepare(folder: Path, name: str, iterations: int) -> None:
    """The net, its solver without tests and snapshots, and LMDBs of random images where its Data layers look."""
    shutil.copytree(ROOT / "prototxt" / name, folder / name)
    size, channels, _, crop = {**NETS, **OTHERS}[name]
    rng = np.random.default_rng(0)
    sources = set(re.findall(r'source: "(.*?)"', (folder / name / "train_val.prototxt").read_text()))
    for source in sorted(sources):  # The same images each time.
        edge = 32 if crop and "test" in source else size
        samples = (
            (rng.integers(0, 256, (channels, edge, edge), dtype=np.uint8), int(rng.integers(10))) for _ in range(1024)
        )
        write_store(folder / source, samples)
    text = (folder / name / "solver.prototxt").read_text()
    for field in ("test_iter", "test_interval", "display", "max_iter", "snapshot"):
        text = re.sub(rf"^{field}:.*\n", "", text, flags=re.M)
    text += f"\nmax_iter: {iterations}\ndisplay: {INTERVAL}\nsnapshot_after_train: false\n"
    (folder / "solver.prototxt").write_text(text)


def seconds(command: list[str], folder: Path, **environment: str) -> float:
    """Seconds per iteration of a program that logs as Caffe does."""
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
    spans = [float(span) for span in re.findall(r"iter/s, ([\d.e+-]+)s/", done.stderr)]
    if done.returncode or len(spans) < 3:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return statistics.median(spans[2:]) / INTERVAL


def processor_seconds(command: list[str], folder: Path, iterations: int, **environment: str) -> float:
    """Processor seconds per iteration: user and system, of the program and all its threads."""

    def run(count: int) -> float:
        words = [str(count) if word == str(iterations) else word for word in command]
        text = (folder / "solver.prototxt").read_text()
        (folder / "solver.prototxt").write_text(re.sub(r"max_iter: \d+", f"max_iter: {count}", text))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, cwd=folder, env={**os.environ, **environment}, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return (run(iterations) - run(4)) / (iterations - 4)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--caffe-gpu", action="store_true")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--by-hand", help=argparse.SUPPRESS)
    words = parser.parse_args(arguments)
    words.threads = 1 if words.cpu else words.threads
    if words.by_hand:
        by_hand(words.by_hand, words.iterations, words.threads, words.device, words.precision)
        return
    print(f"{words.threads} threads, load {os.getloadavg()[0]:.1f} at the start")
    for name in words.nets.split(","):
        if not (ROOT / "prototxt" / name).is_dir():
            print(f"{name}: no prototxt/{name}")
            continue
        with tempfile.TemporaryDirectory() as place:
            prepare(Path(place), name, words.iterations)
            compare(name, Path(place), words)


def compare(name: str, folder: Path, words: argparse.Namespace) -> None:
    """All contestants in turns, so that a slow minute hits them alike; the median ratio of the rounds."""
    iterations, rounds, threads, cpu = words.iterations, words.rounds, words.threads, words.cpu
    caffe = [str(Path(sys.executable).parent / "caffe"), "train", "-solver", "solver.prototxt"]
    caffe += ["-gpu", "0"] if words.caffe_gpu else []
    passive = {"OMP_WAIT_POLICY": "passive"}
    ours = [sys.executable, "-m", "caffe_split.engine", "solver.prototxt", "--threads", str(threads)]
    hand = [sys.executable, str(Path(__file__).resolve()), "--by-hand", name, "--iterations", str(iterations)]
    hand += ["--threads", str(threads)]
    for command in (ours, hand):
        command += ["--precision", words.precision, "--device", words.device]
    if cpu:
        contestants: dict[str, Callable[[], float]] = {
            "caffe": lambda: processor_seconds(caffe, folder, iterations, OPENBLAS_NUM_THREADS="1"),
            "by hand": lambda: processor_seconds(hand, folder, iterations, **passive),
            "engine": lambda: processor_seconds(ours, folder, iterations, PYTHONPATH=str(ROOT), **passive),
        }
    else:
        contestants = {
            "caffe, 1 thread": lambda: seconds(caffe, folder, OPENBLAS_NUM_THREADS="1"),
            f"caffe, {threads} threads": lambda: seconds(caffe, folder, OPENBLAS_NUM_THREADS=str(threads)),
            "by hand": lambda: seconds(hand, folder, **passive),
            "engine": lambda: seconds(ours, folder, PYTHONPATH=str(ROOT), **passive),
        }
    if words.before:
        chosen = ours if threads else ours[: ours.index("--threads")] + ours[ours.index("--threads") + 2 :]
        checkouts = {"engine": ROOT, "engine before": words.before.resolve()}
        measure = (
            (lambda root: processor_seconds(chosen, folder, iterations, PYTHONPATH=str(root), **passive))
            if cpu
            else (lambda root: seconds(chosen, folder, PYTHONPATH=str(root), **passive))
        )
        contestants = {who: (lambda root=root: measure(root)) for who, root in checkouts.items()}
    rows = [{who: run() for who, run in contestants.items()} for _ in range(rounds)]
    what = "processor ms, one thread" if cpu else f"ms, {threads} threads"
    what += f", {words.device}, {words.precision}"
    print(f"{name}, batch {NETS[name][2]}, {what}:", flush=True)
    for who in contestants:
        print(f"  {who:20} {statistics.median(row[who] for row in rows) * 1000:9.2f} ms per iteration")
    both = [who for who in contestants if who.startswith("caffe")]
    if words.before:
        ratios = [row["engine before"] / row["engine"] for row in rows]
        print(f"  engine against before: {statistics.median(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)})")
        return
    for what, ratios in (
        ("Caffe (the faster)", [min(row[who] for who in both) / row["engine"] for row in rows]),
        ("by hand", [row["by hand"] / row["engine"] for row in rows]),
    ):
        print(f"  engine against {what}: {statistics.median(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)})")


# The same nets, as one would write them in PyTorch.


def by_hand(name: str, iterations: int, threads: int, device: str, precision: str) -> None:
    """Train a hand-written net, and log the intervals as Caffe does."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    size, channels, batch, crop = NETS[name]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1024, channels, size, size), dtype=np.uint8)
    labels = torch.from_numpy(rng.integers(10, size=1024))
    net = _net(name).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4, foreach=True)
    clock = time.perf_counter()
    for iteration in range(iterations):
        chosen = np.arange(iteration * batch, (iteration + 1) * batch) % len(images)
        taken = images[chosen]
        if crop:
            top, left = rng.integers(size - crop + 1, size=2)
            taken = taken[:, :, top : top + crop, left : left + crop]
            taken = taken[:, :, :, ::-1] if rng.integers(2) else taken
        x = (torch.from_numpy(np.ascontiguousarray(taken)).to(device).float() - 120) * 0.015625
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            scores = net(x.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(scores.float(), labels[chosen].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value = float(loss)
        if iteration % INTERVAL == 0:
            span = time.perf_counter() - clock
            print(f"Iteration {iteration} (0 iter/s, {span}s/{INTERVAL} iters), loss = {value}", file=sys.stderr)
            clock = time.perf_counter()
        optimizer.step()


def _net(name: str):  # type: ignore[no-untyped-def]
    import torch
    from torch import nn

    def unit(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int, projects: bool) -> None:
            super().__init__()
            self.one, self.two = unit(inputs, outputs, stride), unit(outputs, outputs)
            self.short = unit(inputs, outputs, stride, 1) if projects and stride > 1 else None
            self.stride, self.more = stride, outputs - inputs

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.two(torch.relu_(self.one(x)))
            if self.short is not None:
                x = self.short(x)
            elif self.stride > 1:
                x = nn.functional.avg_pool2d(x, 1, self.stride)
                x = torch.cat([x, torch.zeros_like(x)], 1)
            return torch.relu_(x + out)

    if name == "cifar10_quick":
        return nn.Sequential(
            nn.Conv2d(3, 32, 5, 1, 2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.ReLU(True),
            nn.Conv2d(32, 32, 5, 1, 2),
            nn.ReLU(True),
            nn.AvgPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(32, 64, 5, 1, 2),
            nn.ReLU(True),
            nn.AvgPool2d(3, 2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(1024, 64),
            nn.Linear(64, 10),
        )
    digits = name == "digits"
    widths = (
        [(16, 16, 1), (16, 32, 2), (32, 32, 2)]
        if digits
        else [
            (16, 16, 1),
            (16, 16, 1),
            (16, 16, 1),
            (16, 32, 2),
            (32, 32, 1),
            (32, 32, 1),
            (32, 64, 2),
            (64, 64, 1),
            (64, 64, 1),
        ]
    )
    blocks = [Block(*width, digits) for width in widths]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1][1], 10)]
    return nn.Sequential(unit(NETS[name][1], 16), nn.ReLU(True), *blocks, *head)


if __name__ == "__main__":
    main(sys.argv[1:])
