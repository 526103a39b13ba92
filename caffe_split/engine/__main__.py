"""One training as a program of its own; `caffe-split train --engine torch` starts it as it starts Caffe.

    python -m caffe_split.engine SOLVER [--weights FILE,FILE] [--snapshot FILE|auto] [--continue-data]
        [--device cpu|cuda] [--seed N] [--precision fp32|tf32|bf16] [--compile] [--threads N]
        [--workers N] [--processes K] [--sync-bn] [--scale-batch] [--python-layers MODULE|FILE.py]
    torchrun --nproc-per-node K -m caffe_split.engine SOLVER ...

The log goes to standard error. SIGINT writes a snapshot and stops; SIGHUP writes a snapshot. The exit status is 0 at
the end or after a stop, and 1 after an error, whose line in the log begins with F.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from caffe_split.engine.cores import usable_cores
from caffe_split.engine.log import Log, SilentLog
from caffe_split.engine.parallel.launch import LAUNCHER, launch, report_met
from caffe_split.engine.require import require_torch
from caffe_split.engine.spec.python_layers import load_python_layers
from caffe_split.errors import CaffeSplitError
from caffe_split.files import write_atomic

if TYPE_CHECKING:
    from caffe_split.engine.parallel.join import Meeting
    from caffe_split.engine.training.solver import Solver


class _Wishes:
    """Pending stop and snapshot requests from signals. A call returns one ("stop", "snapshot" or "") and clears it."""

    def __init__(self) -> None:
        self._stop = self._snapshot = False
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGHUP, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._stop = True
        else:
            self._snapshot = True

    def __call__(self) -> str:
        if self._stop:
            self._stop = False
            return "stop"
        if self._snapshot:
            self._snapshot = False
            return "snapshot"
        return ""


def _whole(least: int) -> Callable[[str], int]:
    """A type for argparse: whole numbers from `least` to 2^63 - 1."""

    def number(text: str) -> int:
        value = int(text)
        if not least <= value < 1 << 63:
            raise argparse.ArgumentTypeError(f"{value} is not from {least} to 2^63 - 1")
        return value

    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m caffe_split.engine")
    parser.add_argument("solver")
    parser.add_argument("--weights")
    parser.add_argument("--snapshot")
    parser.add_argument(
        "--continue-data", action="store_true", help="after --snapshot: the data continue where they stopped"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--seed", type=_whole(0))
    parser.add_argument(
        "--threads",
        type=_whole(1),
        help="of each process; default: as many as pay for the net, at most all cores, divided among the processes",
    )
    parser.add_argument(
        "--workers",
        type=_whole(1),
        help="threads that decode images for a data layer, in each process; "
        "default: one per core, and one more, at most 4",
    )
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--processes",
        type=_whole(1),
        default=1,
        help="train in this many processes on this machine, which divide each batch",
    )
    parser.add_argument(
        "--sync-bn", action="store_true", help="BatchNorm normalises by the statistics of the whole batch"
    )
    parser.add_argument("--scale-batch", action="store_true", help="each process takes batch_size records")
    parser.add_argument(
        "--python-layers", metavar="FILE.py|MODULE", help="import the PyTorch classes that stand for Python layers"
    )
    return parser


def _train(words: argparse.Namespace, run: Run) -> None:
    """Train in this process. Raises `CaffeSplitError`."""
    import torch

    from caffe_split.engine.data.workers import set_workers
    from caffe_split.engine.device import choose_device, keep_memory, threads_for
    from caffe_split.engine.kernels.board import open_board
    from caffe_split.engine.model.precision import set_precision
    from caffe_split.engine.parallel.group import ALONE
    from caffe_split.engine.parallel.join import device_for
    from caffe_split.engine.training.solver import Solver

    log, meeting = run.log, run.meet()
    _check(words, meeting)
    if words.python_layers is not None:
        load_python_layers(words.python_layers)
    keep_memory()
    if words.threads:
        torch.set_num_threads(words.threads)
    asked = words.device, words.solver
    device = device_for(meeting.seat, *asked) if meeting else choose_device(*asked)
    log.info("Use CPU." if device.type == "cpu" else f"Using GPUs {device.index}: {torch.cuda.get_device_name(device)}")
    set_precision(words.precision, device)
    how = f"{words.precision}{', compiled' if words.compile else ''}"
    log.info(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {how}")
    set_workers(words.workers)
    if words.workers and words.workers > usable_cores() + 1:
        log.info(f"Workers: {words.workers}, more than the {usable_cores()} cores, on which they only take turns")
    group = ALONE
    if meeting:
        group = meeting.group(device, multiply=words.scale_batch, sync_norms=words.sync_bn)
        group.board = open_board(group) if device.type == "cpu" else None
        log.info(
            f"{group.size} processes, every one with {'a whole' if group.multiply else 'its part of a'} batch; "
            f"BatchNorm's statistics by {'batch' if group.sync_norms else 'process, the first one keeping its own'}"
        )
    try:
        run.solver = solver = Solver(
            words.solver,
            weights=[words.weights] if words.weights else None,
            snapshot=words.snapshot,
            device=device,
            seed=words.seed,
            precision=words.precision,
            compiled=words.compile,
            log=log,
            wish=run.wishes,
            group=group,
            continue_data=words.continue_data,
        )
        if not words.threads and "OMP_NUM_THREADS" not in os.environ and device.type == "cpu":
            count = threads_for(solver.net.multiply_adds, torch.get_num_threads())
            if count < torch.get_num_threads():
                work = f"{solver.net.multiply_adds:,} multiply-adds"
                log.info(f"Threads: {count}, since a batch takes {work}; --threads N for more")
                torch.set_num_threads(count)
        if meeting:
            solver.snapshots.guard = meeting.watch.busy
        solver.solve()
    except RuntimeError as error:
        if isinstance(error, torch.cuda.OutOfMemoryError) or "not enough memory" in str(error):
            raise CaffeSplitError(
                f"there is no memory left ({str(error).splitlines()[0]}); take a smaller batch_size and a "
                "larger iter_size"
            ) from error
        if meeting:
            # Mostly because another process is gone; then the watch ends this one while it waits here.
            meeting.watch.wait_for_end()
        raise
    if meeting:
        meeting.leave()


def _check(words: argparse.Namespace, meeting: Meeting | None) -> None:
    """Raises `CaffeSplitError` for flags that do not fit together or would have no effect."""
    size = meeting.seat.size if meeting else 1
    if words.processes not in (1, size):
        raise CaffeSplitError(
            f"--processes {words.processes}, but the environment (RANK, WORLD_SIZE) says {size}: give one of them"
        )
    for name, given in (("--sync-bn", words.sync_bn), ("--scale-batch", words.scale_batch)):
        if given and size == 1:
            raise CaffeSplitError(f"{name} is for several processes: start them with --processes or torchrun")
    if words.continue_data and words.snapshot is None:
        raise CaffeSplitError("--continue-data is for a training that goes on: give --snapshot")


class Run:
    """One process of a training.

    It has its log and its pending requests from the start, and later the meeting with the other processes and a solver.
    """

    def __init__(self) -> None:
        self.wishes = _Wishes()
        # Only rank 0 logs; an incomplete environment counts as one process.
        others = os.environ.get("RANK", "0") != "0" and "WORLD_SIZE" in os.environ
        self.log = SilentLog() if others else Log()
        self.meeting: Meeting | None = None
        self.solver: Solver | None = None

    def meet(self) -> Meeting | None:
        """Meet the other processes, if there are any. Raises `CaffeSplitError`."""
        from caffe_split.engine.parallel.join import Meeting, seat

        taken = seat()
        self.meeting = Meeting(taken, self.say) if taken is not None else None
        report_met()
        launcher = os.environ.get(LAUNCHER)
        if self.meeting is not None and taken is not None and taken.rank == 0 and launcher:
            threading.Thread(target=_end_without, args=(int(launcher), self.meeting), daemon=True).start()
        return self.meeting

    def say(self, reason: str) -> None:
        """Log the line on why all processes end."""
        reason = " ".join(reason.split("\n"))
        if self.meeting is not None and self.solver is not None:
            good = self.solver.snapshots.last_good()
            reason = reason if good in reason else f"{reason.rstrip('.')}; {good}"
        Log().fatal(reason)

    def fail(self, error: CaffeSplitError) -> None:
        """Report an error, and make all processes end."""
        reason = " ".join(str(error).split("\n"))
        _tell_torchrun(reason)
        if self.meeting is not None:
            self.meeting.watch.fail(reason)
        else:
            self.log.fatal(reason)


def _end_without(launcher: int, meeting: Meeting) -> None:
    """End all processes when the one that started them is gone."""
    while os.getppid() == launcher:
        time.sleep(0.5)
    meeting.watch.end("the process that started the others is gone: it was killed")


def _tell_torchrun(reason: str) -> None:
    """Give torchrun the reason for its summary of the failure, which would otherwise say "<NONE>"."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        word = {"message": {"message": reason, "extraInfo": {"timestamp": str(int(time.time()))}}}
        with contextlib.suppress(CaffeSplitError):
            write_atomic(path, json.dumps(word).encode())


def main() -> int:
    """Train. Returns the exit status."""
    parser = _parser()
    words = parser.parse_args()
    run = Run()
    try:
        require_torch()
        if words.processes > 1 and "RANK" not in os.environ:
            return launch(words.processes, sys.argv[1:], words.threads, run.log)
        _train(words, run)
    except CaffeSplitError as error:
        run.fail(error)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # After several processes computed together, PyTorch's threads sometimes abort a process that exits normally.
    os._exit(status)
