"""One pass over a training log of any Caffe: lines in, runs with tables and events out."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Optional

import numpy as np

from caffe_split.errors import CaffeSplitError, expect_path
from caffe_split.trainlog import bulk, messages, scan
from caffe_split.trainlog.lines import NO_CLOCK, PREFIX, SHORT_PREFIX, Clock, LineSplitter
from caffe_split.trainlog.messages import number
from caffe_split.trainlog.model import Event, TrainingLog
from caffe_split.trainlog.rows import OpenRun, Rows

BLOCK = 1 << 21
# Smaller pieces, such as a few lines appended to a growing log, are read line by line.
_SMALL = 1 << 12

_Handler = Optional[Callable[[bytes], None]]


class Parser:
    """Feed it a log's bytes in order, in pieces of any size; `log` gives what has been understood so far.

    year: of the first stamp, where the log itself does not tell.
    """

    def __init__(self, year: int) -> None:
        self._clock = Clock(year)
        self._splitter = LineSplitter()
        self._size = 0
        self._line = 0
        self._offset = 0
        self._here = (0, 0, NO_CLOCK)  # line, offset and clock of the message at hand
        self._prefixed = False
        self._runs: list[OpenRun] = []
        self._run = OpenRun(1)
        self._tail: _Handler = None  # takes the messages that begin with any name
        # Nearly all messages are told apart by their first five bytes.
        self._handlers: dict[bytes, Callable[[bytes], None]] = {
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

    @property
    def years_gone_by(self) -> int:
        """How often the year changed under a log that does not say which year it began in."""
        return self._clock.changes

    def feed(self, block: bytes) -> None:
        """Read on."""
        self._size += len(block)
        data = self._splitter.feed(block, scan.PAD)
        if not data:
            return
        self._offset += self._splitter.dropped
        self._splitter.dropped = 0
        if len(data) < _SMALL:
            for line in data[: -len(scan.PAD) - 1].split(b"\n"):
                self._one(line)
            return
        lines = scan.scan(data)
        others = np.flatnonzero(lines.kind == scan.OTHER)
        begin = 0
        for other in [*others.tolist(), len(lines.kind)]:
            self._stretch(lines, begin, other)
            if other < len(lines.kind):
                self._one(lines.text(other))
            begin = other + 1

    def _stretch(self, lines: scan.Lines, begin: int, end: int) -> None:
        """Plain lines, many at once where that pays."""
        while begin < end:
            stop = begin
            if end - begin >= bulk.FEWEST and not self._run.loss_first:
                stop = bulk.backwards(self._run, lines, begin, end)
                first = self._line + 1 - begin
                offset = self._offset - int(lines.start[begin])
                if stop > begin and bulk.take(self._run, self._clock, lines, begin, stop, first, offset):
                    self._prefixed = True
                    self._line += stop - begin
                    self._offset += int(lines.end[stop - 1]) + 1 - int(lines.start[begin])
                else:
                    stop = begin
            # What is left is backwards, short or odd: line by line, and on with the rest.
            begin = min(end, stop + (1 if stop > begin else bulk.FEWEST))
            for place in range(stop, begin):
                self._one(lines.text(place))

    def _one(self, line: bytes) -> None:
        self._line += 1
        found = PREFIX.match(line)
        if found is None:
            self._odd(line)
        else:
            message = line[found.end() :].strip()
            handler = self._handlers.get(message[:5], self._tail)
            if handler is not None or found[1] == b"F":
                self._message(found, handler, message)
            elif message[:1] == b"[":
                self._odd(line)
        self._offset += len(line) + 1

    def finish(self) -> None:
        """The file ends here: take its last line, though it lacks the line feed, where it is surely whole.

        A number at its end may be cut in half, so it counts only when it ends as whole lines do.
        """
        rest = self._splitter.rest().rstrip(b"\r")
        if rest.endswith((b" loss)", b"Done.", b"early.", b"interrupted.")) or rest[:1] == b"F":
            self.feed(b"\n")
            self._size -= 1

    def log(self, path: str, modified: float) -> TrainingLog:
        """All that has been read, as a value; reading may go on afterwards."""
        runs = [run.close() for run in (*self._runs, self._run) if run.holds_something]
        return TrainingLog(path, runs, self._size, self._line + bool(self._splitter.rest()), modified)

    # From a line to a message

    def _message(self, found: re.Match[bytes], handler: _Handler, message: bytes) -> None:
        clock = self._clock.read(found[2], found[3], found[4], found[5])
        self._prefixed = True
        self._here = (self._line, self._offset, clock)
        if found[1] == b"F":
            self._add("fatal", f"{messages.text(found[6])}] {messages.text(message)}")
        elif handler is not None:
            handler(message)
        self._run.seen(self._line, clock)

    def _odd(self, line: bytes) -> None:
        """A line that does not begin with a prefix: wrapped by another tool, tagged, stripped, or foreign."""
        found = PREFIX.search(line)
        short = None if found else SHORT_PREFIX.search(line)
        if found or short:
            message = line[(found or short).end() :].strip()  # type: ignore[union-attr]
            tag = messages.TAG.match(message)
            if tag:
                message = message[tag.end() :].strip()
            if short:
                self._prefixed = True
        elif line.startswith((b"*** SIG", b"*** Aborted", b"Log file created at")) or not self._prefixed:
            # Any other bare line is Caffe's own only in a log without any prefix.
            message = line.strip()
        else:
            return
        handler = self._handlers.get(message[:5], self._tail)
        if found:
            self._message(found, handler, message)
        elif handler is not None:
            self._here = (self._line, self._offset, NO_CLOCK)
            handler(message)
            self._run.seen(self._line, NO_CLOCK)

    # Messages with numbers

    def _iteration(self, message: bytes) -> None:
        found = messages.ITERATION.match(message)
        if found is None:
            return
        line, offset, clock = self._here
        iteration = int(found[1])
        if found[2] is not None:
            self._reach(iteration)
            self._run.test, self._run.train_iteration, self._run.test_row = (iteration, int(found[2])), None, False
            return
        rate = found[3] is not None
        value = number(found[3] if rate else found[5])
        if value is None:
            return
        self._reach(iteration)
        rows = self._run.lr if rate else self._run.displays
        rows.start(iteration, clock)
        rows.put(b"lr" if rate else b"loss", value, line, offset)
        if not rate:
            speed = number(found[4]) if found[4] is not None else None
            if speed is not None:
                rows.put(b"iter/s", speed, line, offset)
            self._run.train_iteration, self._run.test, self._run.train_row = iteration, None, False

    def _reach(self, iteration: int) -> None:
        if iteration < self._run.last_iteration:
            self._new_run()
        self._run.last_iteration = iteration

    def _train_output(self, message: bytes) -> None:
        found = messages.NET_OUTPUT.match(message, 6)
        value = number(found[2]) if found else None
        if found is None or value is None or self._run.train_iteration is None:
            return
        line, offset, clock = self._here
        if not self._run.train_row:
            self._run.train.start(self._run.train_iteration, clock)
            self._run.train_row = True
        self._run.train.put(found[1], value, line, offset)

    def _test_line(self, message: bytes) -> None:
        found = messages.NET_OUTPUT.match(message, 5)
        if found is not None:
            self._test_value(found[1], number(found[2]), outputs=True)
            return
        loss = messages.TEST_LOSS.match(message)
        if loss is not None:
            self._test_value(b"Test loss", number(loss[1]), outputs=False)
        else:
            self._event(message)

    def _test_value(self, name: bytes, value: float | None, outputs: bool) -> None:
        if value is None or self._run.test is None:
            return
        line, offset, clock = self._here
        iteration, net = self._run.test
        rows = self._run.tests.get(net)
        if rows is None:
            rows = self._run.tests[net] = Rows()
        if not self._run.test_row:
            rows.start(iteration, clock)
            self._run.test_row = True
        elif self._run.loss_first:
            rows.clock.replace_last(clock)  # a row's time is that of its first output
        self._run.loss_first = not outputs
        rows.put(name, value, line, offset)

    def _clip(self, message: bytes) -> None:
        found = messages.CLIP.match(message)
        norm, scale = (number(found[1]), number(found[2])) if found else (None, None)
        if norm is None or scale is None:
            return
        line, offset, clock = self._here
        rows = self._run.clips
        rows.start(self._run.last_iteration, clock)
        rows.put(b"norm", norm, line, offset)
        rows.put(b"scale", scale, line, offset)

    # `caffe test` and `caffe time`

    def _batch(self, message: bytes) -> None:
        found = messages.BATCH.match(message)
        value = number(found[3]) if found else None
        if found is None or value is None:
            return
        line, offset, clock = self._here
        batch, rows = int(found[1]), self._run.batches
        if rows.iteration.last() != batch:
            rows.start(batch, clock)
        rows.put(found[2], value, line, offset)

    def _mean_loss(self, message: bytes) -> None:
        found = messages.LOSS.match(message)
        value = number(found[1]) if found else None
        if value is not None and len(self._run.batches):
            self._run.results["Loss"] = value
            self._tail = self._mean

    def _mean(self, message: bytes) -> None:
        found = messages.MEAN.match(message)
        value = number(found[2]) if found else None
        if found is not None and value is not None:
            self._run.results[messages.text(found[1])] = value

    def _timings(self, message: bytes) -> None:
        if message.startswith(b"Average time per layer"):
            self._tail = self._timings
            return
        found = messages.TIMING.match(message)
        value = number(found[2]) if found else None
        if found is not None and value is not None:
            self._run.results[" ".join(messages.text(found[1]).split()) + " ms"] = value

    # Messages without

    def _new_run(self) -> None:
        self._runs.append(self._run)
        self._run = OpenRun(self._line)
        self._tail = None

    def _add(self, kind: str, text: str, iteration: int | None = None) -> None:
        line, offset, clock = self._here
        at = self._run.last_iteration if iteration is None else iteration
        self._run.events.append(Event(kind, text, at, line, offset, clock))

    def _event(self, message: bytes) -> None:
        kind = next((k for sentence, k in messages.EVENTS.items() if message.startswith(sentence)), None)
        if kind is None:
            return
        # The first of these opens a run; the others find it only begun.
        if kind in ("start", "header", "solving") and self._run.begun:
            self._new_run()
        if kind == "solving":
            self._run.solving = True
            self._run.start = self._here[2]
        self._add(kind, messages.text(message))

    def _header(self, message: bytes) -> None:
        found = messages.HEADER.match(message)
        if found:
            self._event(message)
            self._clock.know(int(found[1]))

    def _snapshot(self, message: bytes) -> None:
        found = messages.SNAPSHOT_ITERATION.search(message)
        self._add("snapshot", messages.text(message), int(found[1]) if found else None)


def open_log(path: str | os.PathLike[str]) -> tuple[Path, float]:
    """Check that `path` is a readable file; returns it with its time of change (seconds since 1970)."""
    log = Path(path)
    try:
        state = log.stat()
        if log.is_dir():
            raise CaffeSplitError(f"{log} is a folder; expected a training log, e.g. {log / 'train.log'}")
        with log.open("rb"):
            pass
    except OSError as error:
        raise CaffeSplitError(f"cannot read the log {log}: {error.strerror}") from error
    return log, state.st_mtime


def read_log(path: str | os.PathLike[str]) -> TrainingLog:
    """Read a whole training log. Any bytes give one, possibly without runs.

    Raises `CaffeSplitError` where there is no file that can be read.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "train.log")
    >>> with open(path, "w") as stream:
    ...     for second, (iteration, accuracy) in enumerate([(0, 0.1), (100, 0.9), (200, 0.8)]):
    ...         start = f"I1128 10:00:0{second}.000000  7 solver.cpp:1] "
    ...         _ = stream.write(f"{start}Iteration {iteration}, Testing net (#0)\\n")
    ...         _ = stream.write(f"{start}    Test net output #0: accuracy = {accuracy}\\n")
    >>> log = read_log(path)
    >>> log.best().value, log.best().iteration, log.final().value
    (0.9, 100, 0.8)
    >>> log.table("tests")["accuracy"].tolist()
    [0.1, 0.9, 0.8]
    """
    expect_path(path, "a log")
    log, modified = open_log(path)
    year = time.localtime(modified).tm_year
    parser = _parse(log, year)
    if parser.years_gone_by:
        # The file was last written at its end, so it began that many years before.
        parser = _parse(log, year - parser.years_gone_by)
    return parser.log(str(path), modified)


def _parse(log: Path, year: int) -> Parser:
    parser = Parser(year)
    with log.open("rb", buffering=0) as stream:
        while block := stream.read(BLOCK):
            parser.feed(block)
    parser.finish()
    return parser
