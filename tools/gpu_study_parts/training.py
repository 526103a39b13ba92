"""One training under way: what its stream is given next, and what the host does when the stream has come there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import torch

from gpu_study_parts.arms import Arm, Schedule
from gpu_study_parts.run import Run

State = Mapping[str, np.ndarray]
# Pieces of work that a stream holds at most: enough to keep it busy, few enough to change course.
DEPTH = 2


class Training:
    """`at` counts the iterations that the stream was given. on_split and on_end get the state on the host."""

    def __init__(
        self,
        key: tuple[int, str],
        arm: Arm,
        run: Run,
        schedule: Schedule,
        on_split: Callable[[Training, State], None],
        on_end: Callable[[Training, State], None],
    ) -> None:
        self.key, self.arm, self.run, self.schedule = key, arm, run, schedule
        self.on_split, self.on_end = on_split, on_end
        self.at = int(run.now.cpu()[0])
        # A state that was kept is one before the test of its iteration, but for the last iteration's.
        self.tested = int(run.test.cpu()[0]) > self.at // schedule.test_interval
        self.started = self.kept = time.perf_counter()
        self.given_all = False
        self._waiting: deque[tuple[torch.cuda.Event, Callable[[], None] | None]] = deque()
        self._on_device = run.way.device.type == "cuda"

    def poll(self) -> bool:
        """Do on the host what the stream has come to, and give it more work; whether there was any of either."""
        moved = False
        while self._waiting and self._waiting[0][0].query():
            self._pop()
            moved = True
        if not self.given_all and sum(1 for _, then in self._waiting if then is None) < DEPTH:
            self._advance()
            moved = True
        return moved

    def drain(self) -> None:
        """Wait for the stream, and do on the host what is left to do."""
        if self._on_device:
            self.run.stream.synchronize()
        while self._waiting:
            self._pop()

    def state(self) -> State:
        """Where the training stands, on the host; after `drain`."""
        return {name: tensor.cpu().numpy() for name, tensor in self.run.state().items()}

    def snapshot(self, then: Callable[[State], None]) -> None:
        """Copy the state on the device; `then` gets it on the host when it is there."""
        if not self._on_device:
            then(self.state())
            return
        with torch.cuda.stream(self.run.stream):
            state = self.run.state()
        self._mark(lambda: then({name: tensor.cpu().numpy() for name, tensor in state.items()}))

    def _pop(self) -> None:
        _, then = self._waiting.popleft()
        if then is not None:
            then()

    def _mark(self, then: Callable[[], None] | None = None) -> None:
        if self._on_device:
            event = torch.cuda.Event()
            event.record(self.run.stream)
            self._waiting.append((event, then))

    def _advance(self) -> None:
        """The next piece of work: what is due at this iteration, and the steps up to the next sample, or the end."""
        s, run, at = self.schedule, self.run, self.at
        start, stop = s.window
        if at % s.test_interval == 0 and not self.tested:
            if at or self.arm.parent is not None:
                run.do("test")
            else:
                # Before its first iteration a BatchNorm has seen nothing to normalise by.
                run.test.add_(1)
        self.tested = False
        if at == start:
            run.do("begin")
        elif start < at <= stop and (at - start) % s.interval == 0:
            run.do("sample")
        if at == s.split:
            self.snapshot(lambda state: self.on_split(self, state))
        if at == s.total:
            self.given_all = True
            self.snapshot(lambda state: self.on_end(self, state))
            return
        for _ in range(s.interval // s.unroll if self._on_device else s.interval):
            run.do("steps")
        self.at += s.interval
        self._mark()
