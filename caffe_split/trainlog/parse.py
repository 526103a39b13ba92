"""One pass over a training log of any Caffe: lines in, runs with tables and events out."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog.lines import NO_CLOCK, PREFIX, SHORT_PREFIX, Clock, LineSplitter
from caffe_split.trainlog.model import Event, Run, TrainingLog
from caffe_split.trainlog.rows import Rows

BLOCK = 1 << 20

# Fifteen digits: what is longer is no iteration, and would not fit int64.
_ITERATION = re.compile(
    rb"Iteration (\d{1,15})"
    rb"(?:, Testing net \(#(\d{1,6})\)"
    rb"|, lr = (\S+?),?(?:\s|$)"
    rb"|(?: \((\S+) iter/s, [^)]*\))?(?:, [\d.]+/[\d.]+ ?ep)?, loss = (\S+))"
)
_NET_OUTPUT = re.compile(rb"net output #\d+: (.+?) = (\S+)")
_SNAPSHOT_ITERATION = re.compile(rb"_iter_(\d{1,15})\.")
_CLIP = re.compile(rb"Gradient clipping: .*\(L2 norm (\S+) > \S+\) by scale factor (\S+)")
_BATCH = re.compile(rb"Batch (\d{1,15}), (.+?) = (\S+)")
_HEADER = re.compile(rb"Log file created at: (\d{4})/\d\d/\d\d")
_TAG = re.compile(rb"\[[\w.]{1,20}\] ")

# How Microsoft's C library prints what is no number.
_WINDOWS = {b"1.#QNAN": "nan", b"-1.#IND": "nan", b"1.#INF": "inf", b"-1.#INF": "-inf"}


def number(text: bytes) -> float | None:
    """The value of a printed number, nan and inf included, or None where it is none."""
    try:
        return float(text)
    except ValueError:
        return float(_WINDOWS[text]) if text in _WINDOWS else None


class _OpenRun:
    """A run that may still grow."""

    def __init__(self, line: int) -> None:
        self.first_line = self.last_line = line
        self.start = self.end = NO_CLOCK
        self.solving = False
        self.last_iteration = -1
        self.displays, self.train, self.lr = Rows(), Rows(), Rows()
        self.clips, self.batches = Rows(), Rows()
        self.tests: dict[int, Rows] = {}
        self.events: list[Event] = []

    def close(self) -> Run:
        """Its state now, as a value."""
        start = self.start
        return Run(
            first_line=self.first_line,
            last_line=self.last_line,
            start=start,
            end=self.end,
            displays=self.displays.table(start),
            train=self.train.table(start),
            lr=self.lr.table(start),
            clips=self.clips.table(start),
            tests={net: rows.table(start) for net, rows in sorted(self.tests.items())},
            batches=self.batches.table(start),
            events=list(self.events),
        )


class Parser:
    """Feed it a log's bytes in order, in pieces of any size; `log` gives what has been understood so far."""

    def __init__(self, year: int) -> None:
        self._clock = Clock(year)
        self._splitter = LineSplitter()
        self._line = 0
        self._offset = 0
        self._prefixed = False
        self._runs: list[_OpenRun] = []
        self._run = _OpenRun(1)
        # The row that values go to: None until its first value, so that a phase cut short leaves no row.
        self._train_iteration: int | None = None
        self._test: tuple[int, int] | None = None
        self._train_row = self._test_row = False
        self._here = (0, 0, NO_CLOCK)
        self._handlers: dict[bytes, Callable[[bytes], None]] = {
            **{text[:5]: self._event for text in _EVENTS},
            b"Itera": self._iteration,
            b"Train": self._train_output,
            b"Test ": self._test_line,
            b"Gradi": self._clip,
            b"Batch": self._batch,
            b"Snaps": self._snapshot,
            b"Log f": self._header,
        }

    @property
    def size(self) -> int:
        """Bytes read so far, the unfinished line included."""
        return self._offset + self._splitter.dropped + len(self._splitter.rest())

    def feed(self, block: bytes) -> None:
        """Read on."""
        lines = self._splitter.feed(block)
        if lines:
            self._offset += self._splitter.dropped
            self._splitter.dropped = 0
        match = PREFIX.match
        handlers = self._handlers
        for line in lines:
            self._line += 1
            found = match(line)
            if found:
                message = line[found.end() :].strip()
                handler = handlers.get(message[:5])
                if handler is not None or found[1] == b"F":
                    self._message(found, handler, message)
                elif message[:1] == b"[":
                    self._odd(line)
            else:
                self._odd(line)
            self._offset += len(line) + 1

    def finish(self) -> None:
        """The file ends here: take the last line too, though without line feed, where it is surely whole.

        A number at its end may be cut in half, so such a line counts only when it ends with a bracket or
        is one of the fixed sentences.
        """
        rest = self._splitter.rest()
        if rest.rstrip(b"\r").endswith((b")", b"Done.", b"early.", b"interrupted.")):
            self.feed(b"\n")

    def log(self, path: str, modified: float) -> TrainingLog:
        """All that has been read, as a value; reading may go on afterwards."""
        runs = [run.close() for run in (*self._runs, self._run) if run.events or run.last_iteration >= 0]
        return TrainingLog(path, runs, self.size, self._line + bool(self._splitter.rest()), modified)

    def _message(
        self, found: re.Match[bytes], handler: Callable[[bytes], None] | None, message: bytes
    ) -> None:
        clock = self._clock.read(found[2], found[3], found[4], found[5])
        self._prefixed = True
        self._here = (self._line, self._offset, clock)
        if found[1] == b"F":
            self._fatal(found, message)
        elif handler is not None:
            handler(message)
        if clock != NO_CLOCK:
            if self._run.start == NO_CLOCK:
                self._run.start = clock
            self._run.end = clock
        self._run.last_line = self._line

    def _odd(self, line: bytes) -> None:
        """A line that does not begin with a prefix: wrapped by another tool, tagged, stripped, or foreign."""
        found = PREFIX.search(line)
        short = None if found else SHORT_PREFIX.search(line)
        if found or short:
            message = line[(found or short).end() :].strip()  # type: ignore[union-attr]
            tag = _TAG.match(message)  # NVCaffe names the device: `[0] Iteration ...`
            if tag:
                message = message[tag.end() :].strip()
        elif line.startswith((b"*** SIG", b"*** Aborted")):
            message = line.strip()
        elif not self._prefixed or line.startswith(b"Log file created"):
            # Only in a log without any prefix may a bare line be Caffe's own.
            message = line.strip()
        else:
            return
        handler = self._handlers.get(message[:5])
        if found:
            self._message(found, handler, message)
        elif handler is not None:
            self._here = (self._line, self._offset, NO_CLOCK)
            handler(message)
            self._run.last_line = self._line

    # Lines with numbers

    def _iteration(self, message: bytes) -> None:
        found = _ITERATION.match(message)
        if found is None:
            return
        line, offset, clock = self._here
        iteration = int(found[1])
        if iteration < self._run.last_iteration:
            self._new_run()
        run = self._run
        if found[2] is not None:
            self._test = (iteration, int(found[2]))
            self._train_iteration, self._test_row = None, False
        elif found[3] is not None:
            value = number(found[3])
            if value is None:
                return
            run.lr.start(iteration, clock)
            run.lr.put(b"lr", value, line, offset)
        else:
            value = number(found[5])
            if value is None:
                return
            run.displays.start(iteration, clock)
            run.displays.put(b"loss", value, line, offset)
            speed = number(found[4]) if found[4] is not None else None
            if speed is not None:
                run.displays.put(b"iter/s", speed, line, offset)
            self._train_iteration, self._test = iteration, None
            self._train_row = False
        run.last_iteration = iteration

    def _train_output(self, message: bytes) -> None:
        found = _NET_OUTPUT.match(message, 6)
        if found is None or self._train_iteration is None:
            return
        value = number(found[2])
        if value is None:
            return
        line, offset, clock = self._here
        if not self._train_row:
            self._run.train.start(self._train_iteration, clock)
            self._train_row = True
        self._run.train.put(found[1], value, line, offset)

    def _test_line(self, message: bytes) -> None:
        if message.startswith(b"Test loss: "):
            name, text = b"Test loss", message[11:]
        elif message.startswith(b"Test interrupted"):
            self._event(message)
            return
        else:
            found = _NET_OUTPUT.match(message, 5)
            if found is None:
                return
            name, text = found[1], found[2]
        value = number(text)
        if value is None or self._test is None:
            return
        line, offset, clock = self._here
        iteration, net = self._test
        rows = self._run.tests.get(net)
        if rows is None:
            rows = self._run.tests[net] = Rows()
        if not self._test_row:
            rows.start(iteration, clock)
            self._test_row = True
        rows.put(name, value, line, offset)

    def _clip(self, message: bytes) -> None:
        found = _CLIP.match(message)
        if found is None:
            return
        norm, scale = number(found[1]), number(found[2])
        if norm is None or scale is None:
            return
        line, offset, clock = self._here
        self._run.clips.start(self._run.last_iteration, clock)
        self._run.clips.put(b"norm", norm, line, offset)
        self._run.clips.put(b"scale", scale, line, offset)

    def _batch(self, message: bytes) -> None:
        found = _BATCH.match(message)
        value = number(found[3]) if found else None
        if found is None or value is None:
            return
        line, offset, clock = self._here
        batch, rows = int(found[1]), self._run.batches
        if not len(rows) or rows.iteration[-1] != batch:
            rows.start(batch, clock)
        rows.put(found[2], value, line, offset)
        if not self._run.events:
            self._add("note", "caffe test")

    # Lines without

    def _new_run(self) -> None:
        self._runs.append(self._run)
        self._run = _OpenRun(self._line)
        self._train_iteration = self._test = None

    def _add(self, kind: str, text: str, iteration: int | None = None) -> None:
        line, offset, clock = self._here
        at = self._run.last_iteration if iteration is None else iteration
        self._run.events.append(Event(kind, text, at, line, offset, clock))

    def _event(self, message: bytes) -> None:
        kind = next((kind for text, kind in _EVENTS.items() if message.startswith(text)), None)
        if kind is None:
            return
        if kind in ("start", "header", "solving"):
            # The first of these opens a run; the others find it only begun.
            run = self._run
            if run.solving or run.last_iteration >= 0 or any(event.kind == "done" for event in run.events):
                self._new_run()
            if kind == "solving":
                self._run.solving = True
                if self._here[2] != NO_CLOCK:
                    self._run.start = self._here[2]
        self._add(kind, message.decode("utf-8", "backslashreplace"))

    def _header(self, message: bytes) -> None:
        found = _HEADER.match(message)
        if found:
            self._event(message)
            self._clock.year = int(found[1])

    def _snapshot(self, message: bytes) -> None:
        found = _SNAPSHOT_ITERATION.search(message)
        self._add("snapshot", message.decode("utf-8", "backslashreplace"), int(found[1]) if found else None)

    def _fatal(self, found: re.Match[bytes], message: bytes) -> None:
        where = found[6].decode("utf-8", "backslashreplace")
        self._add("fatal", f"{where}] {message.decode('utf-8', 'backslashreplace')}")


_EVENTS = {
    b"Log file created at": "header",
    b"Use CPU": "start",
    b"Using GPUs": "start",
    b"Initializing solver": "start",
    b"Starting Optimization": "start",
    b"Solving ": "solving",
    b"Resuming from": "resume",
    b"Restoring previous solver": "restore",
    b"Finetuning from": "weights",
    b"MultiStep Status": "multistep",
    b"Optimization stopped early": "stopped",
    b"Optimization Done": "done",
    b"Test interrupted": "interrupted",
    b"GPUs pairs": "gpus",
    b"Waiting for data": "waiting",
    b"Ignoring source layer": "ignored",
    b"*** SIG": "signal",
    b"*** Aborted": "signal",
    b"Loss: ": "note",
    b"Average": "timing",
}


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


def read(path: str | os.PathLike[str]) -> TrainingLog:
    """Read a whole log. Any bytes give one, possibly without runs; CaffeSplitError: no readable file."""
    log, modified = open_log(path)
    parser = Parser(time.localtime(modified).tm_year)
    with log.open("rb", buffering=0) as stream:
        while block := stream.read(BLOCK):
            parser.feed(block)
    parser.finish()
    return parser.log(str(path), modified)
