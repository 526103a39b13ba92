"""From bytes to messages: one pass over a training log of any Caffe."""

from __future__ import annotations

import re

import numpy as np

from caffe_split.trainlog import bulk, messages, scan
from caffe_split.trainlog.lines import NO_CLOCK, PREFIX, SHORT_PREFIX, Clock, LineSplitter
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.ranks import tagged
from caffe_split.trainlog.recorder import Handler, Place, Recorder

# Smaller blocks, such as a few lines appended to a growing log, are read line by line.
SMALLEST_BLOCK = 1 << 12


class Parser:
    """Feed it a log's bytes in order, in blocks of any size; `log` gives what has been understood so far.

    year: that of the first stamp, if the log itself does not say it. smallest_block, fewest_lines: from how many
    bytes, and from how many plain lines in a row, numpy reads them all at once. The result does not depend on these.
    """

    def __init__(
        self, year: int, *, smallest_block: int = SMALLEST_BLOCK, fewest_lines: int = bulk.FEWEST_LINES
    ) -> None:
        self._smallest_block, self._fewest_lines = smallest_block, fewest_lines
        self._clock = Clock(year)
        self._recorder = Recorder(self._clock)
        self._splitter = LineSplitter()
        self._size = 0
        self._line = 0
        self._offset = 0
        self._prefixed = False  # whether any line had a prefix
        self.several = False  # whether several processes wrote, with their ranks before each line

    @property
    def years_gone_by(self) -> int:
        """How often the year changed in a log that does not say in which year it began."""
        return self._clock.changes

    def feed(self, block: bytes) -> None:
        """Read the next block."""
        self._size += len(block)
        data = self._splitter.feed(block, scan.PAD)
        if not data:
            return
        self._offset += self._splitter.dropped
        self._splitter.dropped = 0
        if len(data) < self._smallest_block:
            for line in data[: -len(scan.PAD) - 1].split(b"\n"):
                self._one(line)
            return
        lines = scan.scan(data)
        others = np.flatnonzero(lines.kind == scan.OTHER)
        begin = 0
        for other in [*others.tolist(), len(lines.kind)]:
            self._plain(lines, begin, other)
            if other < len(lines.kind):
                self._one(lines.text(other))
            begin = other + 1

    def finish(self) -> None:
        """The file ends here: take its last line, though it has no line feed, if it is certainly complete.

        A number at the end may be cut in half, so such a line counts only if it ends as complete lines do.
        """
        rest = self._splitter.rest().rstrip(b"\r")
        if rest.endswith((b" loss)", b"Done.", b"early.", b"interrupted.")) or rest[:1] == b"F":
            self.feed(b"\n")
            self._size -= 1

    def log(self, path: str, modified: float) -> TrainingLog:
        """All that has been read, as a value; reading may go on afterwards."""
        lines = self._line + bool(self._splitter.rest())
        return TrainingLog(path, self._recorder.runs(), self._size, lines, modified)

    def _plain(self, lines: scan.Lines, begin: int, end: int) -> None:
        """Read the lines [begin, end), none of kind OTHER: many at once if that pays."""
        while begin < end:
            # What is short, or goes backwards at once, is read line by line for a while, then many at once again.
            stop, single = begin, begin + self._fewest_lines
            run = self._recorder.run
            if end - begin >= self._fewest_lines and not run.loss_first:
                first = int(lines.start[begin])
                stretch = bulk.Stretch(lines, begin, end, self._line + 1 - begin, self._offset - first)
                stretch = stretch.until(bulk.backwards(run, stretch))
                if stretch.end > begin and bulk.take(run, self._clock, stretch):
                    stop, single = stretch.end, stretch.end + 1
                    self._prefixed = True
                    self._line += stop - begin
                    self._offset += int(lines.end[stop - 1]) + 1 - first
                elif stretch.end > begin:
                    single = stretch.end  # unusual: not to be tried again and again
            begin = min(end, single)
            for place in range(stop, begin):
                self._one(lines.text(place))

    def _one(self, line: bytes) -> None:
        self._line += 1
        found = PREFIX.match(line)
        if found is None:
            self._unusual(line)
        else:
            message = line[found.end() :].strip()
            handler = self._recorder.handler(message)
            if handler is not None or found[1] == b"F":
                self._message(found, handler, message)
            elif message[:1] == b"[":
                self._unusual(line)
        self._offset += len(line) + 1

    def _message(self, found: re.Match[bytes], handler: Handler | None, message: bytes) -> None:
        place = Place(self._line, self._offset, self._clock.read(found[2], found[3], found[4], found[5]))
        self._prefixed = True
        if found[1] == b"F":
            self._recorder.fatal(f"{messages.text(found[6])}] {messages.text(message)}", place)
        else:
            self._recorder.take(handler, message, place)

    def _unusual(self, line: bytes) -> None:
        """A line that does not begin with a prefix: wrapped by another tool, tagged, stripped, or foreign."""
        found = PREFIX.search(line)
        short = None if found else SHORT_PREFIX.search(line)
        prefix = found or short
        if prefix:
            self.several = self.several or tagged(line)
            message = line[prefix.end() :].strip()
            tag = messages.TAG.match(message)
            if tag:
                message = message[tag.end() :].strip()
            if short:
                self._prefixed = True
        elif line.startswith((b"*** SIG", b"*** Aborted", b"Log file created at")) or not self._prefixed:
            # Any other line without a prefix is Caffe's own only in a log that has no prefix at all.
            message = line.strip()
        else:
            return
        handler = self._recorder.handler(message)
        if found:
            self._message(found, handler, message)
        elif handler is not None:
            self._recorder.take(handler, message, Place(self._line, self._offset, NO_CLOCK))
