"""Lines from blocks of a file, glog's prefixes, and clocks that have no year."""

from __future__ import annotations

import re
from datetime import datetime

# The lines of a log are short. Of a longer one (NUL bytes where a running log was emptied, a binary file given by
# mistake) only the end is kept, where a message would stand, so that memory stays bounded.
LONGEST_LINE = 1 << 20
# The clock, in microseconds, of a line that has none; arrays of int64 can hold it.
NO_CLOCK = -(1 << 62)

# glog before 0.6 writes `I0305 16:47:02.008569 17823 solver.cpp:433] `, from 0.6 on an eight-digit date.
PREFIX = re.compile(rb"([IWEF])(\d{8}|\d{4}) (\d\d:\d\d):(\d\d)\.(\d{1,6})\d* +\d+ ([\w./+-]{1,255}:\d{1,7})\] ?")
# What is left of a prefix after its clock was cut off: `solver.cpp:213] `.
SHORT_PREFIX = re.compile(rb"(?:^|[\s|])[\w.+-]{1,64}\.(?:cpp|cu|cc|hpp|h|cxx):\d{1,7}\] ")


class LineSplitter:
    """Complete lines from blocks of bytes; an incomplete last line waits for the next block."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.dropped = 0  # bytes that are missing at the front of what the next `feed` returns

    def feed(self, block: bytes, after: bytes = b"") -> bytes:
        """All lines that `block` completes, each with its line feed, then `after`; b"" if it completes none."""
        cut = block.rfind(b"\n") + 1
        whole = b""
        if cut:
            whole = b"".join((*self._parts, memoryview(block)[:cut], after))
            self._parts, self._size = [], 0
        if cut < len(block):
            self._parts.append(block[cut:])
            self._size += len(block) - cut
            if self._size > 2 * LONGEST_LINE and not cut:
                end = b"".join(self._parts)[-LONGEST_LINE:]
                self.dropped += self._size - len(end)
                self._parts, self._size = [end], len(end)
        return whole

    def rest(self) -> bytes:
        """The incomplete last line."""
        return b"".join(self._parts)


class Clock:
    """Stamps of log lines as microseconds since 1970 in the log's own time zone.

    Old stamps have no year. It comes from the file's header or else from `year`, and goes up when the month goes back
    by six or more (a smaller step back means that the log was spliced, not that a year has passed).
    """

    def __init__(self, year: int) -> None:
        self.year = year
        self.changes = 0  # how often the year went up in a log that does not say its year
        self._known = False
        self._month = 0
        self._stamp = b""
        self._minute = NO_CLOCK

    def know(self, year: int) -> None:
        """The stamps that follow begin in this year."""
        self.year, self._known, self._month, self._stamp = year, True, 0, b""

    def read(self, date: bytes, minute: bytes, second: bytes, fraction: bytes) -> int:
        """Microseconds since 1970, or NO_CLOCK if the stamp is not a date; e.g. (b"0305", b"16:47", ...)."""
        stamp = date + minute
        if stamp != self._stamp:
            hour, minutes = int(minute[:2]), int(minute[3:])
            day = self.day(date) if hour < 24 and minutes < 60 else NO_CLOCK
            self._stamp = stamp
            self._minute = day if day == NO_CLOCK else day + (hour * 60 + minutes) * 60_000_000
        if self._minute == NO_CLOCK:
            return NO_CLOCK
        if len(fraction) != 6:
            fraction = fraction.ljust(6, b"0")
        return self._minute + int(second) * 1_000_000 + int(fraction)

    def day(self, date: bytes) -> int:
        """The day's first microsecond, or NO_CLOCK."""
        self._stamp = b""  # the same stamp may come again a year later
        month, day = int(date[-4:-2]), int(date[-2:])
        if len(date) == 8:
            self.year, self._known = int(date[:4]), True
        elif self._month - month >= 6 and month > 0:
            self.year += 1
            self.changes += not self._known
        # 29 February in a guessed year that has none: the nearest earlier leap year is meant.
        for year in range(self.year, max(self.year - 8, 0), -1):
            try:
                moment = datetime(year, month, day)
            except ValueError:
                if (month, day) != (2, 29):
                    break
                continue
            self._month = month
            return (moment - datetime(1970, 1, 1)).days * 86_400_000_000
        return NO_CLOCK
