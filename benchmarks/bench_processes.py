"""Training ResNet-20 in two processes with a thread each, and in one process with two threads, in turns.

`python -m benchmarks.bench_processes [--net resnet20_cifar10] [--iterations 20] [--rounds 3] [--precision bf16] [--cpu]
[--before CHECKOUT]`. The data are random images in LMDBs; a time is the median over a log's intervals after the first.
Ratios above 1 say that two processes are faster. Two processes that train half of each batch and know nothing of each
other show what could be reached at most; the net written by hand in PyTorch, in one process with two threads, shows
what others have without processes. With `--cpu` the processor time of all processes is compared, which
other programs disturb less; it does not show how long processes wait for each other.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.bench_engine import NETS, ROOT, prepare, processor_seconds, seconds

ONE = "one process, 2 threads"
APART = "two that know nothing"
HAND = "by hand, 2 threads"


def apart(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Seconds per iteration of two trainings at once, each of half of the batch."""
    net = folder / "half.prototxt"
    written = (folder / "solver.prototxt").read_text()
    whole = re.search(r'net: "(.*?)"', written)
    assert whole
    text = (folder / whole[1]).read_text()
    net.write_text(re.sub(r"batch_size: (\d+)", lambda found: f"batch_size: {int(found[1]) // 2}", text, count=1))
    (folder / "half_solver.prototxt").write_text(written.replace(whole[1], net.name))
    words = ["half_solver.prototxt" if word == "solver.prototxt" else word for word in command]
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(seconds, words, folder, **environment) for _ in range(2)]
        return statistics.mean(each.result() for each in both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="resnet20_cifar10", choices=NETS)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--before", type=Path)
    words = parser.parse_args()
    ours = [sys.executable, "-m", "caffe_split.engine", "solver.prototxt", "--precision", words.precision]
    kinds = {
        ONE: ["--threads", "2"],
        "two processes": ["--threads", "1", "--processes", "2"],
        "two, --sync-bn": ["--threads", "1", "--processes", "2", "--sync-bn"],
    }
    hand = [sys.executable, str(ROOT / "benchmarks/bench_engine.py"), "--by-hand", words.net]
    hand += ["--iterations", str(words.iterations), "--threads", "2", "--precision", words.precision]
    roots = {"": ROOT, **({"before: ": words.before.resolve()} if words.before else {})}
    print(f"{words.net}, {words.precision}, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, words.net, words.iterations)
        measured: dict[str, list[float]] = {}
        for _ in range(words.rounds):
            if not words.cpu:
                measured.setdefault(HAND, []).append(seconds(hand, folder, OMP_WAIT_POLICY="passive"))
            for when, root in roots.items():
                for what, more in kinds.items():
                    environment = {"PYTHONPATH": str(root), "OMP_WAIT_POLICY": "passive"}
                    took = (
                        processor_seconds([*ours, *more], folder, words.iterations, **environment)
                        if words.cpu
                        else seconds([*ours, *more], folder, **environment)
                    )
                    measured.setdefault(when + what, []).append(took)
                if not words.cpu:
                    took = apart([*ours, "--threads", "1"], folder, environment)
                    measured.setdefault(when + APART, []).append(took)
    for name, found in measured.items():
        alone = measured[name.split(": ")[0] + ": " + ONE if ": " in name else ONE]
        against = f"one / this: {shown(alone, found)}"
        if HAND in measured and name != HAND:
            against += f"; by hand / this: {shown(measured[HAND], found)}"
        print(f"  {name:32} {statistics.median(found) * 1000:7.1f} ms per iteration; {against}")


def shown(others: list[float], found: list[float]) -> str:
    """The median of the rounds' ratios, and each."""
    ratios = [other / own for other, own in zip(others, found)]
    return f"{statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"


if __name__ == "__main__":
    main()
