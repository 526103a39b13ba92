"""`tpm` over a series of snapshots of a net of VGG-16's size, side by side with another checkout and with `cat`.

    python -m benchmarks.bench_series [--beside CHECKOUT] [--snapshots 100] [--cold]

The series is two files of 553 MB under many names (hard links), so that it takes 1.1 GB of disk. `tpm` reads the
convolutions, 59 MB of each; `cat` reads the files whole, and then a file with the convolutions of all of them alone.
Seconds are the processor's, except with --cold, where a few snapshots, each a file of its own, are read from the disk
after the system was asked to forget them, by the clock.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.bench_derive import source
from benchmarks.common import beside, checkouts, command
from caffe_split.formats.weights import caffemodel

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
DENSE = {"fc6": (4096, 25088), "fc7": (4096, 4096), "fc8": (1000, 4096)}
# Snapshots of --cold, each of which is a file of its own.
COLD = 8


def net() -> tuple[str, dict[str, tuple[int, ...]]]:
    """The convolutions of VGG-16 as a deploy net, and the shape of each layer's weight, dense layers included."""
    text, below, channels = source(3, 224), "data", 3
    shapes: dict[str, tuple[int, ...]] = {}
    for stage, (count, width) in enumerate(STAGES, 1):
        for index in range(1, count + 1):
            name = f"conv{stage}_{index}"
            text += f'layer {{ name: "{name}" type: "Convolution" bottom: "{below}" top: "{name}" '
            text += f"convolution_param {{ num_output: {width} kernel_size: 3 pad: 1 }} }}\n"
            shapes[name], channels, below = (width, channels, 3, 3), width, name
    return text, {**shapes, **DENSE}


def prepare(folder: Path, count: int, files: int) -> tuple[Path, list[Path]]:
    """A solver, and `count` snapshots of which `files` are files of their own."""
    text, shapes = net()
    (folder / "net.prototxt").write_text(text)
    solver = folder / "solver.prototxt"
    solver.write_text(f'net: "{folder}/net.prototxt" max_iter: {count} momentum: 0.9 snapshot_prefix: "{folder}/vgg"\n')
    paths = [folder / f"vgg_iter_{k}.caffemodel" for k in range(count)]
    rng = np.random.default_rng(0)
    for k, path in enumerate(paths):
        if k >= files:
            os.link(paths[k % files], path)
            continue
        values = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
        caffemodel.write_weights(
            path, {name: [value, value.reshape(-1)[: len(value)]] for name, value in values.items()}
        )
    return solver, paths


def cat(paths: list[Path]) -> float:
    """Processor seconds of `cat` of these files."""
    child = subprocess.Popen(["cat", *map(str, paths)], stdout=subprocess.DEVNULL)
    usage = os.wait4(child.pid, 0)[2]
    return usage.ru_utime + usage.ru_stime


def by_the_clock(work: Callable[[], object], paths: list[Path]) -> float:
    """Seconds of `work` after the files have left the memory."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def convolutions(folder: Path, count: int) -> list[Path]:
    """As many files of the size of the convolutions as there are snapshots: one, many times."""
    size = sum(int(np.prod(shape)) for name, shape in net()[1].items() if name not in DENSE) * 4
    path = folder / "convolutions"
    path.write_bytes(bytes(size))
    return [path] * count


def main() -> None:
    parser = beside(__doc__)
    parser.add_argument("--snapshots", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help=f"{COLD} snapshots, read from the disk")
    options = parser.parse_args()
    count = COLD if options.cold else options.snapshots
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        solver, paths = prepare(folder, count, count if options.cold else 2)
        words = ["tpm", str(solver), "--window", f"0:{count - 1}"]
        works: dict[str, Callable[[], float]] = {
            f"tpm, {which}": functools.partial(lambda where: command(where, words, quiet=True).seconds, where)
            for which, where in checkouts(options).items()
        }
        works["cat of the files"] = lambda: cat(paths)
        works["cat of the convolutions"] = functools.partial(cat, convolutions(folder, count))
        seconds = measured(works, paths, options)
    print(f"{count} snapshots of 553 MB, 59 MB of them convolutions; medians of {options.rounds}")
    for which, found in seconds.items():
        print(f"  {which:26} {found:7.2f} s")


def measured(works: dict[str, Callable[[], float]], paths: list[Path], options: argparse.Namespace) -> dict[str, float]:
    """Each of the works in turns."""
    found: dict[str, list[float]] = {which: [] for which in works}
    for _ in range(options.rounds):
        for which, work in works.items():
            found[which].append(by_the_clock(work, paths) if options.cold else work())
    return {which: statistics.median(each) for which, each in found.items()}


if __name__ == "__main__":
    main()
