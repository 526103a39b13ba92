"""How long commands take to start: processor seconds of short command lines, side by side with another checkout.

    python -m benchmarks.bench_start [--beside CHECKOUT] [--rounds 9] [--only summary]

The smallest of the rounds is shown, with imports: what else runs on the machine only adds to it. `python -c pass` and
`import numpy` stand beside them, as what no command can go below.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench_logs import write_log
from benchmarks.common import ROOT, beside, checkouts, command
from caffe_split.formats.weights import caffemodel

NET = "prototxt/resnet20_cifar10/deploy.prototxt"


def program(code: str) -> float:
    """Processor seconds of a Python program."""
    child = subprocess.Popen([sys.executable, "-c", code])
    usage = os.wait4(child.pid, 0)[2]
    return usage.ru_utime + usage.ru_stime


def lines(folder: Path) -> dict[str, list[str]]:
    """The command lines, by a short name."""
    from benchmarks.bench_derive import weights_for

    log, weights = folder / "train.log", folder / "w.caffemodel"
    write_log(log, 0.1)
    caffemodel.write_weights(weights, weights_for((ROOT / NET).read_text()))
    split = ["--weights", str(weights), "--layers", "conv1", "--partition", "random:0", "--dry-run"]
    helps = ["make-derived", "summary", "train", "tpm", "multisplit", "report"]
    return {
        "--help": ["--help"],
        **{f"{name} --help": [name, "--help"] for name in helps},
        "best LOG": ["best", str(log)],
        "table LOG": ["table", str(log)],
        "summary NET": ["summary", "prototxt/resnet20_cifar10/train_val.prototxt"],
        "make-derived NET --dry-run": ["make-derived", NET, *split],
    }


def main() -> None:
    parser = beside(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="only the lines whose name has this in it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        asked = {which: words for which, words in lines(Path(name)).items() if options.only in which}
        runs: dict[tuple[str, str], Callable[[], float]] = {
            (which, where): functools.partial(lambda checkout, words: command(checkout, words).seconds, checkout, words)
            for which, words in asked.items()
            for where, checkout in checkouts(options).items()
        }
        for code in ("pass", "import numpy"):
            runs[f"python -c '{code}'", "this"] = functools.partial(program, code)
        least = dict.fromkeys(runs, float("inf"))
        for _ in range(options.rounds):
            for key, run in runs.items():
                least[key] = min(least[key], run())
    print(f"processor seconds to start, the least of {options.rounds} rounds")
    for (which, where), seconds in least.items():
        print(f"  {which:30} {where:8} {seconds:6.3f}")


if __name__ == "__main__":
    main()
