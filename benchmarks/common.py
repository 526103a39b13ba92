"""Running contestants side by side: each in a process of its own, in turns; the results are medians."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Result(NamedTuple):
    """Seconds of the work itself, without imports, and the peak memory of the process, in bytes."""

    seconds: float
    peak: int


def report(work: Callable[[], object]) -> None:
    """In a contestant's process: do the work and print its time and the process's peak memory."""
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    print(f"RESULT {seconds} {peak()}", flush=True)


def peak() -> int:
    """The largest resident memory of this process, in bytes.

    Not getrusage's, which begins at that of the process that started this one.
    """
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def run(command: Sequence[str]) -> Result:
    """One contestant in a process of its own."""
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    _, seconds, peak = lines[-1].split()
    return Result(float(seconds), int(peak))


def in_turns(contestants: dict[str, Callable[[], Result]], rounds: dict[str, int]) -> dict[str, Result]:
    """Medians over rounds in which the contestants take turns, so that a slow minute hits all alike."""
    results: dict[str, list[Result]] = {name: [] for name in contestants}
    for index in range(max(rounds.values())):
        for name, contestant in contestants.items():
            if index < rounds[name]:
                results[name].append(contestant())
                print(
                    f"  round {index + 1}: {name}: {results[name][-1].seconds:.3f} s",
                    file=sys.stderr,
                    flush=True,
                )
    return {
        name: Result(statistics.median(r.seconds for r in rows), max(r.peak for r in rows))
        for name, rows in results.items()
        if rows
    }
