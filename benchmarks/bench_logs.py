"""Speed of reading logs beside BVLC's parse_log.py and the shell pipeline, in one run on one generated log.

    python benchmarks/bench_logs.py [--megabytes 500] [--skip-bvlc]

Prints one line per figure, medians of short ones; the generated log is removed at the end. parse_log.py comes from the
built source (tools/build_caffe --print-source) and runs with its one Python 2 print replaced.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = 'grep Test "$LOG" | grep -i acc | sort -nk 11 | tail -3'

TURNS = 5

BVLC = """
import sys, warnings
warnings.simplefilter("ignore")
folder, log = sys.argv[1:]
sys.path.insert(0, folder)
source = open(folder + "/parse_log.py").read().replace("print 'Wrote %s' % output_filename", "pass")
module = {"__name__": "parse_log"}
exec(compile(source, "parse_log.py", "exec"), module)
train, test = module["parse_log"](log)
print(len(train), len(test))
"""
OURS = """
import sys
from caffe_split.trainlog import read_log
log = read_log(sys.argv[1])
print(len(log.table("train")), len(log.table("tests")))
"""


FOLLOWER = """
import resource, sys
from caffe_split.trainlog.follow import Follower
follower = Follower(sys.argv[1])
follower.poll()
log = follower.log
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(log.table("train")))
"""
CSV = """
import sys
from caffe_split.trainlog import export, read_log
export.write_csv(read_log(sys.argv[1]), sys.argv[2])
"""
BVLC_CSV = (
    BVLC.split("train, test")[0].replace("folder, log = sys.argv[1:]", "folder, log, out = sys.argv[1:]")
    + """
module["save_csv_files"](log, out, *module["parse_log"](log))
"""
)
# Outputs and displays of a log of many outputs.
OUTPUTS, DISPLAYS = 20_000, 10


def write_many_outputs(path: Path, name: str) -> None:
    """A log of a net with `OUTPUTS` outputs at each display, called `name`, in which {} is the output's number."""
    with path.open("w") as stream:
        stream.write("I0101 00:00:00.000000 17823 solver.cpp:272] Solving net\n")
        for second in range(DISPLAYS):
            stamp = f"I0101 00:00:{second:02d}.008569 17823 "
            stream.write(f"{stamp}solver.cpp:218] Iteration {second} (9.3 iter/s, 2.1s/20 iters), loss = 2\n")
            for k in range(OUTPUTS):
                stream.write(f"{stamp}solver.cpp:237]     Train net output #{k}: {name.format(k)} = {k % 7}\n")
            stream.write(f"{stamp}sgd_solver.cpp:105] Iteration {second}, lr = 0.1\n")


def many_outputs(folder: Path, extra: str) -> None:
    """Print the processor's time for `--csv` of logs of many outputs beside parse_log.py's."""
    for what, name in (("one name", "label"), ("a name each", "label_{}")):
        log = folder / "many.log"
        write_many_outputs(log, name)
        turns = []
        for _ in range(TURNS):
            theirs = timed([sys.executable, "-c", BVLC_CSV, extra, str(log), str(folder)], log)[1]
            turns.append((theirs, timed([sys.executable, "-c", CSV, str(log), str(folder)], log)[1]))
        theirs, ours = (statistics.median(turn[who] for turn in turns) for who in (0, 1))
        print(f"--csv, {OUTPUTS} outputs, {what}: ours {ours:.2f} s, parse_log.py {theirs:.2f} s of processor")
        log.unlink()


def write_log(path: Path, megabytes: float, runs: int = 1) -> None:
    """A training that displays every 20 iterations and tests every 200, as BVLC 1.0 prints it.

    runs: how many; each but the first resumes the one before.
    """
    limit, size, iteration, second, begun = megabytes * 1e6, 0, 0, 0, 1
    with path.open("w") as stream:
        size += stream.write("I0101 00:00:00.000000 17823 solver.cpp:272] Solving net\n")
        while size < limit:
            second += 1
            day, rest = divmod(second, 86400)
            stamp = f"I01{day % 28 + 1:02d} {rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}.008569 17823 "
            text = ""
            if size > limit / runs * begun:
                begun += 1
                text = f"{stamp}solver.cpp:272] Solving net\n"
            if iteration % 200 == 0:
                accuracy, loss = 0.67 - (iteration * 7919 % 997) / 5000, 1 + (iteration % 999) / 999
                text += (
                    f"{stamp}solver.cpp:330] Iteration {iteration}, Testing net (#0)\n"
                    f"{stamp}solver.cpp:397]     Test net output #0: accuracy = {accuracy:.6g}\n"
                    f"{stamp}solver.cpp:397]     Test net output #1: loss = {loss:.6g} (* 1 = {loss:.6g} loss)\n"
                )
            loss = 2 + (iteration % 1013) / 1013
            text += (
                f"{stamp}solver.cpp:218] Iteration {iteration} (9.3 iter/s, 2.1s/20 iters), loss = {loss:.6g}\n"
                f"{stamp}solver.cpp:237]     Train net output #0: loss = {loss:.6g} (* 1 = {loss:.6g} loss)\n"
                f"{stamp}sgd_solver.cpp:105] Iteration {iteration}, lr = 0.1\n"
            )
            size += stream.write(text)
            iteration += 20


def timed(command: list[str], log: Path) -> tuple[float, float, str]:
    """(seconds by the clock, seconds of processor time with all children, output) of a program."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    before = time.perf_counter()
    environment = {**os.environ, "LOG": str(log), "LC_ALL": "C"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    output = child.communicate()[0]
    seconds = time.perf_counter() - before
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, output


def memory_of(command: list[str], log: Path) -> float:
    """The largest resident memory in MB of a program, measured from a fresh parent."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, *command], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def refresh(log: Path) -> tuple[float, float, float]:
    """Seconds for a look at the log after it grew by 1 MB: to read and collect the curves, to draw them, and the
    processor's for both."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    from caffe_split.plot import figure as picture
    from caffe_split.plot.series import collect
    from caffe_split.trainlog.follow import Follower

    with log.open("rb+") as stream:
        stream.seek(-1_000_000, os.SEEK_END)
        stream.readline()
        cut = stream.tell()
        more = stream.read()
        stream.truncate(cut)
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    follower = Follower(log)
    follower.poll()
    picture.draw(figure, collect([follower.log]), 3)
    with log.open("ab") as stream:
        stream.write(more)
    before, worked = time.perf_counter(), time.process_time()
    assert follower.poll()
    curves = collect([follower.log])
    read = time.perf_counter() - before
    picture.draw(figure, curves, 3)
    return read, time.perf_counter() - before - read, time.process_time() - worked


def main() -> None:
    """Run all and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=500)
    parser.add_argument("--skip-bvlc", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "train.log"
        write_log(log, options.megabytes)
        size = log.stat().st_size / 1e6
        print(f"log: {size:.0f} MB")
        with log.open("rb") as stream:  # into the page cache, for all of them
            while stream.read(1 << 20):
                pass
        python = sys.executable
        turns = [
            (timed(["sh", "-c", PIPELINE], log), timed([python, "-m", "caffe_split", "best", str(log)], log))
            for _ in range(TURNS)
        ]
        for theirs, mine in turns:
            assert theirs[2] == mine[2], (theirs[2], mine[2])
        shell, shell_cpu, ours, ours_cpu = (
            statistics.median(turn[who][what] for turn in turns) for who in (0, 1) for what in (0, 1)
        )
        memory = memory_of([python, "-m", "caffe_split", "best", str(log)], log)
        print(f"best, wall: ours {ours:.2f} s, pipeline {shell:.2f} s; ratio {ours / shell:.2f}")
        print(f"best, processor: ours {ours_cpu:.2f} s, pipeline {shell_cpu:.2f} s; ratio {ours_cpu / shell_cpu:.2f}")
        print(f"best, memory: ours {memory:.0f} MB")
        half = Path(folder) / "half.log"
        write_log(half, options.megabytes / 2)
        half_best = timed([python, "-m", "caffe_split", "best", str(half)], half)[1]
        half_read = timed([python, "-c", OURS, str(half)], half)[1]
        read, read_cpu, our_rows = timed([python, "-c", OURS, str(log)], log)
        twice = f"best {ours_cpu / half_best:.2f} times, read {read_cpu / half_read:.2f} times"
        print(f"twice the size, processor: {twice}")
        half.unlink()
        if options.skip_bvlc:
            print(f"read: ours {read:.1f} s")
        else:
            tool = str(ROOT / "tools" / "build_caffe")
            source = subprocess.run([tool, "--print-source"], stdout=subprocess.PIPE, text=True, check=True)
            extra = source.stdout.strip() + "/tools/extra"
            many_outputs(Path(folder), extra)
            theirs, theirs_cpu, their_rows = timed([python, "-c", BVLC, extra, str(log)], log)
            print(f"read, wall: ours {read:.1f} s, parse_log.py {theirs:.1f} s; ratio {theirs / read:.1f}")
            ratio = theirs_cpu / read_cpu
            print(f"read, processor: ours {read_cpu:.1f} s, parse_log.py {theirs_cpu:.1f} s; ratio {ratio:.1f}")
            print(f"rows (train, test): ours {our_rows.strip()}, parse_log.py {their_rows.strip()}")
        print(
            "memory of a process that follows the log, MB, and rows:",
            timed([python, "-c", FOLLOWER, str(log)], log)[2].strip(),
        )
        for runs in (1, 6):
            write_log(log, options.megabytes, runs)
            looks = []
            for _ in range(3):
                looks.append(refresh(log))
                gc.collect()
            look, draw, worked = (statistics.median(figures) for figures in zip(*looks))
            what = f"refresh after 1 MB more, {runs} run(s)"
            print(f"{what}: {look:.3f} s, and {draw:.3f} s to draw; processor {worked:.3f} s")


if __name__ == "__main__":
    main()
