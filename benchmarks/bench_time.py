"""`caffe-split time` beside the program `caffe time`, in turns: the sum of the layers and the whole iteration.

`python -m benchmarks.bench_time [--nets digits,cifar10_quick,resnet20_cifar10] [--rounds 5] [--iterations 50]`.
Both measure the TRAIN phase on one thread, over random images in LMDBs. `caffe time` writes into a file, which nobody
reads meanwhile. Of each run: the sum of the layers' average times, and what it calls Average Forward-Backward, which
holds the loop between the layers and the lines that it prints, too. A ratio is that of one round's two runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.bench_engine import NETS, prepare
from caffe_split.backends.caffe.timing import parse_times

BIN = Path(sys.executable).parent
# Iterations of a net, unless they are given: some seconds a run.
ITERATIONS = {"digits": 500, "cifar10_quick": 20, "resnet20_cifar10": 3}


def of_caffe(net: Path, iterations: int) -> tuple[float, float]:
    """(sum of the layers, whole iteration) in milliseconds, as `caffe time` prints them."""
    words = [str(BIN / "caffe"), "time", "-model", str(net), "-iterations", str(iterations), "-phase", "TRAIN"]
    with tempfile.TemporaryFile("w+") as lines:
        subprocess.run(words, stderr=lines, env={**os.environ, "GLOG_logtostderr": "1"}, check=True)
        lines.seek(0)
        timed = parse_times(lines.readlines(), words[0])
    return sum(each.forward + each.backward for each in timed.layers), timed.both


def of_ours(net: Path, iterations: int, engine: str) -> tuple[float, float]:
    """The same of `caffe-split time`."""
    words = [str(BIN / "caffe-split"), "time", str(net), "--iterations", str(iterations), "--threads", "1"]
    done = subprocess.run([*words, "--engine", engine, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return sum(each["forward"] + each["backward"] for each in found["layers"]), found["both"]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, help="of each run; default: 500, 20 and 3")
    parser.add_argument("--engine", default="caffe", choices=("caffe", "torch"), help="of caffe-split time")
    options = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    print("milliseconds per iteration, medians; load", *(f"{value:.1f}" for value in os.getloadavg()))
    for name in options.nets.split(","):
        iterations = options.iterations or ITERATIONS[name]
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), name, iterations)
            os.chdir(folder)
            (net,) = Path(folder, name).glob("train_val.prototxt")
            pairs = [
                (of_caffe(net, iterations), of_ours(net, iterations, options.engine)) for _ in range(options.rounds)
            ]
            os.chdir("/")
        theirs, ours = (tuple(map(statistics.median, zip(*runs))) for runs in zip(*pairs))
        print(
            f"{name}: caffe time {theirs[0]:.4g} in layers, {theirs[1]:.4g} in all; caffe-split time {ours[0]:.4g}, ",
            end="",
        )
        print(f"{ours[1]:.4g}")
        for what, index in (("layers / layers", 0), ("all / all", 1)):
            ratios = [our[index] / their[index] for their, our in pairs]
            print(f"  {what}: median {statistics.median(ratios):.3f} of", ", ".join(f"{ratio:.3f}" for ratio in ratios))
        ratios = [our[0] / their[1] for their, our in pairs]
        print(
            f"  layers / Caffe's all: median {statistics.median(ratios):.3f} of", ", ".join(f"{r:.3f}" for r in ratios)
        )


if __name__ == "__main__":
    main()
