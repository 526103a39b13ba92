"""Iterations of one net by several contestants in turns, a few at a time, so that a slow minute hits all alike.

`python benchmarks/bench_step.py NET [--precision bf16] [--threads 1] [--rounds 15] [--count 2] [--with caffe,...]
[--clock wall]`

The contestants: `engine`; `plain`, the engine with PyTorch's own operations (CAFFE_SPLIT_KERNELS=off); `hand`, the same
net written by hand in PyTorch; `caffe`, where it is built, always fp32 (on one thread by default), and `caffe2` on two.
With `+split` behind it (`engine+split`, `caffe+split`) one trains the net with residual splits of nine convolutions or,
if it has fewer, of all but the first.
Each is a process that waits while another works. A round's figure is processor time, or with `--clock wall` the time
that passes; the least of all rounds and the median of the ratios count. The images are random and lie in LMDBs, by hand
in memory. Ends with the share of the engine's time that convolutions take.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
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
    parser.add_argument("net")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=2)
    parser.add_argument("--with", dest="who", default="engine,plain,hand")
    parser.add_argument("--clock", choices=("processor", "wall"), default="processor")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--solver", default="solver.prototxt", help=argparse.SUPPRESS)
    words = parser.parse_args(arguments)
    if words.work:
        work(words)
        return
    from benchmarks.bench_engine import prepare

    how = f"{words.threads} threads, {words.clock} time, load {os.getloadavg()[0]:.1f} at the start"
    print(f"{words.net}, {words.precision}, {how}")
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        prepare(Path(place), words.net, 1_000_000)
        solver = Path(place) / "solver.prototxt"
        solver.write_text(re.sub(r"^display: .*\n", "", solver.read_text(), flags=re.M))
        if "+split" in words.who:
            os.chdir(place)  # from which the Data layers find their images
            write_split(Path(place))
        workers = {who: stack.enter_context(worker(who, words, place)) for who in words.who.split(",")}
        for each in workers.values():
            ask(each, words.count)
        rows = [{who: ask(each, words.count) for who, each in workers.items()} for _ in range(words.rounds)]
        share = ask(workers["engine"], -words.count) if "engine" in workers else 0.0
    for who in rows[0]:
        print(f"  {who:8} {min(row[who] for row in rows):9.2f} ms at least, {middle(rows, who):9.2f} median")
    for who in list(rows[0])[1:]:
        base = who.removesuffix("+split") if who.endswith("+split") else "engine"
        ratio = statistics.median(row[who] / row[base] for row in rows)
        least = min(row[who] for row in rows) / min(row[base] for row in rows)
        print(f"  {who} / {base}: {ratio:.2f} (median of the rounds), {least:.2f} (least of each)")
    print(f"  share of convolutions in the engine's time: {share:.0%}")


def write_split(place: Path) -> None:
    """The net of solver.prototxt with splits, as split_train_val.prototxt and split_solver.prototxt."""
    from caffe_split.formats.prototxt.nets import read_net, read_solver
    from caffe_split.net.layers import all_layers, convolutions
    from tests.split.nets import split_again

    solver = read_solver(place / "solver.prototxt")
    net = read_net(place / str(solver.get("net")), upgrade=True)
    names = [layer.name for layer in convolutions(all_layers(net))]
    for name in names[1:10]:
        split_again(net, name, kind="residual")
    (place / "split_train_val.prototxt").write_bytes(net.to_bytes())
    solver.set("net", "split_train_val.prototxt")
    (place / "split_solver.prototxt").write_bytes(solver.to_bytes())


def middle(rows: list[dict[str, float]], who: str) -> float:
    return statistics.median(row[who] for row in rows)


@contextlib.contextmanager
def worker(who: str, words: argparse.Namespace, place: str):  # type: ignore[no-untyped-def]
    """A contestant's process."""
    threads = "2" if who.startswith("caffe2") else str(words.threads)
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": threads}
    environment |= {"CAFFE_SPLIT_KERNELS": "off"} if who == "plain" else {}
    command = [
        sys.executable,
        __file__,
        words.net,
        "--work",
        who.removesuffix("+split"),
        "--precision",
        words.precision,
    ]
    command += ["--solver", "split_solver.prototxt"] if who.endswith("+split") else []
    command += ["--threads", str(words.threads), "--clock", words.clock]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=place, env=environment, stdin=pipe, stdout=pipe, stderr=quiet, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process, count: int) -> float:  # type: ignore[no-untyped-def]
    """Milliseconds per iteration, of `count` iterations; below 0, the share of convolutions."""
    process.stdin.write(f"{count}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def work(words: argparse.Namespace) -> None:
    """A contestant: for each number that comes in, do that many iterations and print the time of one."""
    step = {"hand": by_hand, "caffe": by_caffe, "caffe2": by_caffe}.get(words.work, by_engine)(words)
    clock = time.perf_counter if words.clock == "wall" else time.process_time
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print is no answer.
    for line in sys.stdin:
        count = int(line)
        if count < 0:
            answer = convolutions(step, -count)
        else:
            start = clock()
            step(count)
            answer = (clock() - start) / count * 1000
        out.write(f"{answer}\n")
        out.flush()


def convolutions(step: Callable[[int], None], count: int) -> float:
    """The share of convolutions, PyTorch's and the kernels', in the processor time of `count` iterations."""
    from torch.profiler import ProfilerActivity, profile

    start = time.process_time()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step(count)
        seconds = time.process_time() - start
    names = ("aten::convolution_backward", "aten::mkldnn_convolution", "_Convolved", "_ConvolvedBackward")
    return sum(each.self_cpu_time_total for each in seen.key_averages() if each.key in names) / 1e6 / seconds


def by_engine(words: argparse.Namespace) -> Callable[[int], None]:
    import torch

    from caffe_split.engine import Solver
    from caffe_split.engine.device import keep_memory
    from caffe_split.engine.log import SilentLog

    keep_memory()
    torch.set_num_threads(words.threads)
    return Solver(words.solver, precision=words.precision, log=SilentLog()).step


def by_caffe(words: argparse.Namespace) -> Callable[[int], None]:
    import caffe

    solver = caffe.get_solver(words.solver)
    return lambda count: solver.step(count)


def by_hand(words: argparse.Namespace) -> Callable[[int], None]:
    import torch
    from torch.nn import functional

    from benchmarks.bench_engine import NETS, _net

    torch.set_num_threads(words.threads)
    size, channels, batch, crop = NETS[words.net]
    images = torch.randint(0, 256, (batch, channels, crop or size, crop or size), dtype=torch.uint8)
    labels = torch.randint(0, 10, (batch,))
    net = _net(words.net).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4, foreach=True)

    def step(count: int) -> None:
        for _ in range(count):
            x = (images.float() - 120) * 0.015625
            with torch.autocast("cpu", torch.bfloat16, enabled=words.precision == "bf16"):
                scores = net(x.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(scores.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            loss.item()
            optimizer.step()

    return step


if __name__ == "__main__":
    main(sys.argv[1:])
