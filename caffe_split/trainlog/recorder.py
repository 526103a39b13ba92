"""From messages to runs: each message that Caffe prints goes into the tables or the events of the current run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from caffe_split.trainlog import messages
from caffe_split.trainlog.lines import NO_CLOCK, Clock
from caffe_split.trainlog.messages import number
from caffe_split.trainlog.rows import OpenRun, Rows
from caffe_split.trainlog.run import Event, Run

Handler = Callable[[bytes], None]


class Place(NamedTuple):
    """Where a message stands: line from 1, offset of the line's first byte, microseconds since 1970 or NO_CLOCK."""

    line: int
    offset: int
    clock: int


class Recorder:
    """Takes the messages of a log in order and keeps its runs. `run`: the current one."""

    def __init__(self, clock: Clock) -> None:
        self.run = OpenRun(1)
        self._clock = clock
        self._earlier: list[OpenRun] = []
        self._here = Place(0, 0, NO_CLOCK)
        # Takes the messages that no other handler takes: in a summary a message may begin with any name.
        self._fallback: Handler | None = None
        # The first five bytes of a message are enough to find its handler.
        self._handlers: dict[bytes, Handler] = {
            **{sentence[:5]: self._event for sentence in messages.EVENTS},
            b"Itera": self._iteration,
            b"Train": self._train_output,
            b"Test ": self._test_line,
            b"Gradi": self._clip,
            b"Batch": self._batch,
            b"Snaps": self._snapshot,
            b"Log f": self._header,
            b"Loss:": self._mean_loss,
            b"Avera": self._timings,
        }

    def handler(self, message: bytes) -> Handler | None:
        """The function that takes such a message; None if the message says nothing about a training."""
        return self._handlers.get(message[:5], self._fallback)

    def take(self, handler: Handler | None, message: bytes, place: Place) -> None:
        """Give a message to its handler. With None only the line and its clock count, as part of the run."""
        self._here = place
        if handler is not None:
            handler(message)
        self.run.seen(place.line, place.clock)

    def fatal(self, text: str, place: Place) -> None:
        """Record a fatal message."""
        self._here = place
        self._add("fatal", text)
        self.run.seen(place.line, place.clock)

    def runs(self) -> list[Run]:
        """The runs up to now, as values."""
        return [run.as_run() for run in (*self._earlier, self.run) if run.holds_something]

    # Messages with numbers

    def _iteration(self, message: bytes) -> None:
        found = messages.ITERATION.match(message)
        if found is None:
            return
        line, offset, clock = self._here
        iteration = int(found[1])
        if found[2] is not None:
            self._reach(iteration)
            net = int(found[3] or 0)  # the first versions have one test net
            self.run.test, self.run.train_iteration, self.run.test_row = (iteration, net), None, False
            return
        rate = found[4] is not None
        value = number(found[4] if rate else found[6])
        if value is None:
            return
        self._reach(iteration)
        rows = self.run.lr if rate else self.run.displays
        rows.start(iteration, clock)
        rows.put(b"lr" if rate else b"loss", value, line, offset)
        if not rate:
            speed = number(found[5]) if found[5] is not None else None
            if speed is not None:
                rows.put(b"iter/s", speed, line, offset)
            self.run.train_iteration, self.run.test, self.run.train_row = iteration, None, False

    def _reach(self, iteration: int) -> None:
        if iteration < self.run.last_iteration:
            self._new_run()
        self.run.last_iteration = iteration

    def _train_output(self, message: bytes) -> None:
        found = messages.NET_OUTPUT.match(message, 6)
        value = number(found[2]) if found else None
        if found is None or value is None or self.run.train_iteration is None:
            return
        line, offset, clock = self._here
        if not self.run.train_row:
            self.run.train.start(self.run.train_iteration, clock)
            self.run.train_row = True
        self.run.train.put(found[1], value, line, offset, messages.weight_sign(found[3]))

    def _test_line(self, message: bytes) -> None:
        found = messages.NET_OUTPUT.match(message, 5)
        if found is not None:
            self._test_value(found[1], number(found[2]), outputs=True, weight=messages.weight_sign(found[3]))
            return
        score = messages.TEST_SCORE.match(message)
        if score is not None:
            self._test_value(b"score " + score[1], number(score[2]), outputs=True)
            return
        loss = messages.TEST_LOSS.match(message)
        if loss is not None:
            self._test_value(b"Test loss", number(loss[1]), outputs=False)
        else:
            self._event(message)

    def _test_value(self, name: bytes, value: float | None, outputs: bool, weight: int = 0) -> None:
        if value is None or self.run.test is None:
            return
        line, offset, clock = self._here
        iteration, net = self.run.test
        rows = self.run.tests.get(net)
        if rows is None:
            rows = self.run.tests[net] = Rows()
        if not self.run.test_row:
            rows.start(iteration, clock)
            self.run.test_row = True
        elif self.run.loss_first:
            rows.clock.replace_last(clock)  # a row's time is that of its first output
        self.run.loss_first = not outputs
        rows.put(name, value, line, offset, weight)

    def _clip(self, message: bytes) -> None:
        found = messages.CLIP.match(message)
        norm, scale = (number(found[1]), number(found[2])) if found else (None, None)
        if norm is None or scale is None:
            return
        line, offset, clock = self._here
        rows = self.run.clips
        rows.start(self.run.last_iteration, clock)
        rows.put(b"norm", norm, line, offset)
        rows.put(b"scale", scale, line, offset)

    # `caffe test` and `caffe time`

    def _batch(self, message: bytes) -> None:
        found = messages.BATCH.match(message)
        value = number(found[3]) if found else None
        if found is None or value is None:
            return
        line, offset, clock = self._here
        batch, rows = int(found[1]), self.run.batches
        if rows.iteration.last() != batch:
            rows.start(batch, clock)
        rows.put(found[2], value, line, offset)

    def _mean_loss(self, message: bytes) -> None:
        found = messages.LOSS.match(message)
        value = number(found[1]) if found else None
        if value is not None and len(self.run.batches):
            self.run.results["Loss"] = value
            self._fallback = self._mean

    def _mean(self, message: bytes) -> None:
        found = messages.MEAN.match(message)
        value = number(found[2]) if found else None
        if found is not None and value is not None:
            self.run.results[messages.text(found[1])] = value

    def _timings(self, message: bytes) -> None:
        if message.startswith(b"Average time per layer"):
            self._fallback = self._timings
            return
        found = messages.TIMING.match(message)
        value = number(found[2]) if found else None
        if found is not None and value is not None:
            self.run.results[" ".join(messages.text(found[1]).split()) + " ms"] = value

    # Messages without numbers

    def _new_run(self) -> None:
        self._earlier.append(self.run)
        self.run = OpenRun(self._here.line)
        self._fallback = None

    def _add(self, kind: str, text: str, iteration: int | None = None) -> None:
        line, offset, clock = self._here
        at = self.run.last_iteration if iteration is None else iteration
        self.run.events.append(Event(kind, text, at, line, offset, clock))

    def _event(self, message: bytes) -> None:
        kind = next((k for sentence, k in messages.EVENTS.items() if message.startswith(sentence)), None)
        if kind is None:
            return
        # Of the messages at a run's start the first opens the run; it has not begun yet when the others come.
        if kind in ("start", "header", "solving") and self.run.begun:
            self._new_run()
        if kind == "solving":
            self.run.solving = True
            self.run.start = self._here.clock
        self._add(kind, messages.text(message))

    def _header(self, message: bytes) -> None:
        found = messages.HEADER.match(message)
        if found:
            self._event(message)
            self._clock.know(int(found[1]))

    def _snapshot(self, message: bytes) -> None:
        found = messages.SNAPSHOT.match(message)
        self._add("snapshot", messages.text(message), int(found["iteration"]) if found else None)
