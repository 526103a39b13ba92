"""Running a program for a step: it ends when the step ends, and holds the step's lock."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from caffe_split.files import append_to
from caffe_split.study.locks import Held

_GRACE = 10.0


class StepFailedError(Exception):
    """A program that a step ran failed, or a step before it did; the rest of the study goes on."""


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    held: Held,
    *,
    fresh: bool = True,
    inherited: Sequence[int] = (),
) -> int:
    """Run a program to its end, its output into `log`; returns its exit status, negative for a signal.

    It holds the step's lock, and inherits the file descriptors `inherited`, locks of its own.
    It stays in our process group, so that a signal to the group ends it; when we are interrupted, it is terminated.
    """
    with append_to(log) as stream, _terminated_cleanly():
        if fresh:
            stream.truncate(0)
        elif stream.tell():
            # A program that was killed may have left half a line.
            stream.write(b"\n")
            stream.flush()
        child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            pass_fds=(held.fd, *inherited),
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


def why(log: Path) -> str:
    """Why a program ended, by its output: glog's first error (stack frames follow it), else the last line."""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    errors = re.findall(r"^[EF]\d{4,} \S+ +\d+ (.*)$", text, re.M)
    lines = errors[:1] or text.splitlines()
    return str(lines[-1]) if lines else "nothing said"


def _ended(status: int) -> str:
    return f"ended with status {status}" if status > 0 else f"was ended by {signal.Signals(-status).name}"


def crash(what: str, status: int, log: Path) -> StepFailedError:
    """The exception for a program that ended with a status other than 0."""
    return StepFailedError(f"{what} {_ended(status)}: {why(log)}")


@contextlib.contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """SIGTERM as an exception, so that the program that we run is ended, too."""

    def ended(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
