"""A child process that is ended in steps: interrupt, wait, terminate, kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import BinaryIO

# How long an interrupted training may take for its iteration and its snapshot, in seconds.
GRACE = 300.0
# Between terminate and kill, in seconds.
LAST_GRACE = 10.0
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# It waits for a line. Where none comes, the process that started it was killed: then it ends the group of processes $1
# in the same steps as that would have. A program of its own, as a killed process cannot do it; and not the system's
# "signal at the parent's death", which is Linux's alone and does not reach the children of a wrapper script.
_GUARD = """
read -r line && exit
kill -INT -"$1"
waited=0
while kill -0 -"$1"; do
  [ "$waited" -eq "$2" ] && kill -TERM -"$1"
  [ "$waited" -eq "$3" ] && kill -KILL -"$1" && exit
  waited=$((waited + 1))
  sleep 1
done
"""


def _guard(group: int, grace: float) -> subprocess.Popen[bytes]:
    """A program that ends a group of processes if this process is gone before it sends a line."""
    steps = (int(grace), int(grace + LAST_GRACE))
    return subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "caffe-split guard", str(group), *map(str, steps)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


class Child:
    """A program in a session of its own, so that the terminal's Ctrl-C reaches this process only.

    SIGINT, SIGTERM and SIGHUP sent to this process become one SIGINT to the child: Caffe answers that with a snapshot
    and a clean end, and the other two would kill it. A further signal, or `grace` seconds without an end, terminates
    the child; one more, or `LAST_GRACE` seconds, kills it. The same steps follow when this process is killed. A child
    that another thread than the main one starts gets no signals: Python hands them to the main thread alone.

    The child inherits the file descriptors `held`.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        output: BinaryIO,
        grace: float,
        held: Sequence[int] = (),
    ) -> None:
        self.received: int | None = None  # the first signal that asked for an end
        self._asked = 0
        self._rung = 0
        self._deadline = 0.0
        self._grace = grace
        self.on_interrupt: Callable[[], None] = lambda: None
        self._previous: dict[int, object] = {}
        for number in _PASSED_ON if threading.current_thread() is threading.main_thread() else ():
            # What was ignored (nohup) stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
                self._previous[number] = signal.signal(number, self._note)
        try:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=tuple(held),
            )
        except BaseException:
            self._restore()
            raise
        self._guard = _guard(self._process.pid, grace)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = self.received or number
        self._asked += 1

    def poll(self, wait: float) -> int | None:
        """Wait up to `wait` seconds. Returns the exit status when it has ended, negative for a signal, else None."""
        self._climb()
        try:
            return self._process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            return None

    def _climb(self) -> None:
        if self._rung and time.monotonic() >= self._deadline:
            self._asked = max(self._asked, self._rung + 1)
        while self._rung < min(self._asked, 3):
            self._rung += 1
            step = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[self._rung - 1]
            self._deadline = time.monotonic() + (self._grace if self._rung == 1 else LAST_GRACE)
            with contextlib.suppress(ProcessLookupError):
                # The group, for a `caffe` that is a wrapper script.
                os.killpg(self._process.pid, step)
            if self._rung == 1:
                self.on_interrupt()

    def close(self) -> None:
        """Restore the handlers of the signals. A child that has not ended is ended, by its guard."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._guard.communicate(b"" if self._process.poll() is None else b"\n", timeout=1)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
