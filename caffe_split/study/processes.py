"""Running a program for a step: it ends with the step, and holds the step's lock."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from caffe_split.study.locks import Held

_GRACE = 10.0


class Crashed(Exception):
    """A run ended badly; the rest of the study goes on."""


def run(command: Sequence[str], environment: Mapping[str, str], log: Path, held: Held, fresh: bool = True) -> int:
    """Run a program to its end, all it says into `log`; its exit status, negative for a signal.

    It stays in our process group, so that what ends the group ends it; and where we are interrupted, so is it.
    """
    with log.open("wb" if fresh else "ab") as stream, _terminated_cleanly():
        if stream.tell():
            # What was killed may have left half a line.
            stream.write(b"\n")
            stream.flush()
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, pass_fds=(held.fd,)
        )
        held.owners(os.getpid(), child.pid)
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE)
            child.kill()
            child.wait()
            raise
        finally:
            held.owners(os.getpid())


def run_ours(words: Sequence[str], log: Path, held: Held) -> None:
    """Run a command of this program. Raises `Crashed` with the last line that it said."""
    environment = {**os.environ, "COLUMNS": "200"}
    status = run([sys.executable, "-m", "caffe_split", *words], environment, log, held, fresh=False)
    if status:
        raise Crashed(f"caffe-split {words[0]} {_ended(status)}: {why(log)}")


def why(log: Path) -> str:
    """What a program's output says of its end: glog's first error, which stack frames follow, or the last line."""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    errors = re.findall(r"^[EF]\d{4,} \S+ +\d+ (.*)$", text, re.M)
    lines = errors[:1] or text.splitlines()
    return str(lines[-1]) if lines else "nothing said"


def _ended(status: int) -> str:
    return f"ended with status {status}" if status > 0 else f"was ended by {signal.Signals(-status).name}"


def crash(what: str, status: int, log: Path) -> Crashed:
    """The exception for a program that ended with a status other than 0."""
    return Crashed(f"{what} {_ended(status)}: {why(log)}")


@contextlib.contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """SIGTERM as an exception, so that what we run is ended, too."""

    def ended(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
