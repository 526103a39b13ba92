"""Time of the readers of logs and of prototxts on the pieces that would show a quadratic pattern or loop.

    python -m benchmarks.bench_linear [--times 8]

Each line gives a piece, the seconds for a text of it, those for one that is longer by the given factor, and their
quotient: about the factor where the work is linear, its square where it is quadratic. The worst comes last. The tests
count calls on the same pieces; a pattern that looks back shows here alone.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check
from caffe_split.trainlog import pipeline, read_log
from tests.fuzz.test_fuzz import BEFORE, SHAPES
from tests.trainlog.test_fuzz import worst_cases

SIZE = 100_000
LEAST = 0.005  # seconds; what is shorter than the clock is worth counts as this


def seconds(work: Callable[[int], None], size: int) -> float:
    """The processor's time, the least of three."""
    found = []
    for _ in range(3):
        start = time.process_time()
        work(size)
        found.append(time.process_time() - start)
    return max(min(found), LEAST)


def read_as_log(piece: bytes, path: Path, size: int) -> None:
    path.write_bytes(piece * (size // len(piece)))
    read_log(path)
    pipeline.best_lines(path, 3)
    pipeline.final_lines(path)


def read_as_prototxt(text: str, before: str, size: int) -> None:
    with contextlib.suppress(CaffeSplitError):
        check.problems(prototxt.parse(before + text * (size // len(text))))


def main() -> None:
    parser = argparse.ArgumentParser(description="whether reading takes linear time")
    parser.add_argument("--times", type=int, default=8, help="how many times as long the second text is")
    times = parser.parse_args().times
    found = []
    with tempfile.TemporaryDirectory() as folder:
        works: list[tuple[str, Callable[[int], None]]] = []
        for piece in worst_cases():
            works.append(
                (f"log {piece[:60]!r}", lambda size, piece=piece: read_as_log(piece, Path(folder, "log"), size))
            )
        for name, shape in SHAPES.items():
            for before in BEFORE:
                works.append(
                    (f"prototxt {before!r} {name}", lambda size, s=shape, b=before: read_as_prototxt(s, b, size))
                )
        for name, work in works:
            short, long = seconds(work, SIZE), seconds(work, times * SIZE)
            found.append((long / short, f"{name}: {short:.3f} s, {long:.3f} s, {long / short:.1f} times"))
    print("\n".join(line for _, line in sorted(found)))


if __name__ == "__main__":
    main()
