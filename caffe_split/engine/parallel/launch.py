"""Starting several processes on this machine, and ending them together.

torchrun does that for any program, also over many machines. But it answers a failure with a traceback of its own, gives
a snapshot only 30 seconds, and keeps the signals of `caffe-split train` from the processes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from caffe_split.engine.cores import usable_cores
from caffe_split.engine.log import Log

# The environment variable with the id of the process that started the others, which end when it is gone.
LAUNCHER = "CAFFE_SPLIT_LAUNCHER"
# The environment variable with the pipe on which the first process reports that all have met.
_MET = "CAFFE_SPLIT_MET"
# After one process has failed, the others get this many seconds to end by themselves, and again as many after SIGTERM.
# Once all have met, the first one gets longer, since it may be writing a snapshot.
_GRACE = 20.0
_FIRST_GRACE = 620.0


def launch(count: int, words: Sequence[str], threads: int | None, log: Log) -> int:
    """Run `python -m caffe_split.engine` with the arguments `words` in `count` processes.

    threads: as given to each of them; None divides the cores. Returns the exit status: 0, or 1 if one failed.
    """
    environment = {
        **os.environ,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        LAUNCHER: str(os.getpid()),
    }
    if threads is None:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    command = [sys.executable, "-m", "caffe_split.engine", *words]
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, pass_on)
    met, tell = os.pipe()
    for rank in range(count):
        own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), **({} if rank else {_MET: str(tell)})}
        children.append(subprocess.Popen(command, env=own, pass_fds=() if rank else (tell,)))
    os.close(tell)
    failed, first_gone = None, list(range(count))
    while None in [child.poll() for child in children]:
        if failed is None and any(child.returncode for child in children):
            failed = time.monotonic()
            first_gone = [rank for rank, child in enumerate(children) if child.returncode]
        elif failed is not None:
            gone = time.monotonic() - failed
            _end(children[1:] if gone < _FIRST_GRACE and _told(met) else children, gone)
        time.sleep(0.05)
    have_met = _told(met) and os.read(met, 1) != b""
    os.close(met)
    statuses = [child.returncode for child in children]
    # A process killed by a signal logs nothing; if all had met, its peers have reported it. Before that only the first
    # process logs anything.
    is_told = 1 in (statuses if have_met else statuses[:1])
    for rank, status in enumerate(statuses):
        if status < 0 or (status and not is_told):
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            say = log.info if is_told or rank not in first_gone else log.fatal
            say(f"Process {rank} of {count} {how}{'' if have_met else ' before all had met'}.")
    return 1 if any(statuses) else 0


def tell_met() -> None:
    """Report to the process that started this one, if it asks for that, that all have met."""
    pipe = os.environ.pop(_MET, None)
    if pipe is not None:
        with contextlib.suppress(OSError):
            os.write(int(pipe), b"\n")
            os.close(int(pipe))


def _told(pipe: int) -> bool:
    """Whether the first process has reported on `pipe`, or is gone."""
    return bool(select.select([pipe], [], [], 0)[0])


def _end(children: Sequence[subprocess.Popen[bytes]], gone: float) -> None:
    """End the processes that are still running `gone` seconds after a failure."""
    if gone < _GRACE:
        return
    number = signal.SIGTERM if gone < 2 * _GRACE else signal.SIGKILL
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
