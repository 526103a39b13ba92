"""Running contestants side by side: each in a process of its own, in turns; the results are medians."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


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


def command(checkout: Path, words: Sequence[str], quiet: bool = False) -> Result:
    """One command line of a checkout in a process of its own: seconds of its processor, and its peak memory.

    quiet: show nothing of what it says.
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OPENBLAS_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "caffe_split", *words],
        env=environment,
        cwd=checkout,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else None,
    )
    _, ended, usage = os.wait4(child.pid, 0)
    if ended:
        raise SystemExit(f"{checkout}: {' '.join(words)} failed")
    return Result(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def beside(what: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark that runs commands of this checkout beside those of another one."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout to run the same commands in")
    return parser


def checkouts(options: argparse.Namespace) -> dict[str, Path]:
    """This checkout, and the one that the options of `beside` name."""
    return {"this": ROOT} | ({"beside": options.beside.resolve()} if options.beside else {})


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
