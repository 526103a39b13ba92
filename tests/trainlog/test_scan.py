"""The plain lines that numpy reads: a number is what Python's float makes of its text, to the last bit."""

from __future__ import annotations

import random
import struct

import pytest

from caffe_split.trainlog import scan

STAMP = b"I0305 16:47:02.008569 17823 sgd_solver.cpp:106] "
ODD = [
    b"0",
    b".5",
    b"5.",
    b"00.50",
    b"-0.0",
    b"+1.5",
    b"1e-05",
    b"1E5",
    b"nan",
    b"-nan",
    b"inf",
    b"99999999",
    b"0.000001",
    b"1234567.8",
]
NO_NUMBERS = [b".", b"1.2.3", b"1.5x", b"0x10", b"-", b"1:5", b"1/2", b"12;", b"\xb15", b"1\xb5", b"1.5\x00", b""]


def _lines(texts: list[bytes], after: bytes) -> scan.Lines:
    return scan.scan(b"".join(STAMP + b"Iteration 5, lr = " + text + after + b"\n" for text in texts) + scan.PAD)


def _numbers(count: int) -> list[bytes]:
    """Random digits, with a point at any place or none, of one to fourteen bytes."""
    chance = random.Random(7)
    found = []
    for _ in range(count):
        digits = "".join(chance.choice("0123456789") for _ in range(chance.randint(1, 13)))
        place = chance.randint(0, 2 * len(digits))
        found.append((digits[:place] + "." + digits[place:] if place <= len(digits) else digits).encode())
    return found


@pytest.mark.parametrize("after", [b"", b" ", b"\r", b" (* 1 = 3 loss)"])
def test_a_number_is_what_float_reads(after: bytes) -> None:
    texts = ODD + _numbers(3000)
    lines = _lines(texts, after)
    assert (lines.kind == scan.RATE).all()
    for text, value in zip(texts, lines.value.tolist()):
        expected = float(text)
        assert struct.pack("d", value) == struct.pack("d", expected) or value != value != expected, text


def test_what_is_no_number_is_left_to_the_patterns() -> None:
    lines = _lines([*NO_NUMBERS, b"0.25"], b"")
    assert lines.kind.tolist() == [scan.OTHER] * len(NO_NUMBERS) + [scan.RATE]
    assert lines.value[-1] == 0.25
