"""A child process that is ended in steps: interrupt, wait, terminate, kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import BinaryIO

# Between terminate and kill, in seconds.
LAST_GRACE = 10.0
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Child:
    """A program in a session of its own, so that the terminal's Ctrl-C reaches this process only.

    SIGINT, SIGTERM and SIGHUP sent to this process become one SIGINT to the child: Caffe answers that with a snapshot
    and a clean end, and the other two would kill it. A further signal, or `grace` seconds without an end, terminates
    the child; one more, or `LAST_GRACE` seconds, kills it.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], output: BinaryIO, grace: float) -> None:
        self.received: int | None = None  # the first signal that asked for an end
        self._asked = 0
        self._rung = 0
        self._deadline = 0.0
        self._grace = grace
        self.on_interrupt: Callable[[], None] = lambda: None
        self._previous: dict[int, object] = {}
        for number in _PASSED_ON:
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
            )
        except BaseException:
            self.close()
            raise

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
        """Restore the handlers of the signals."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
