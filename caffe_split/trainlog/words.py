"""Eight bytes of a text as one integer, its first byte the lowest: columns of them are compared and read at once."""

from __future__ import annotations

import numpy as np

BYTE = np.uint64(255)
MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)  # of the first 0 to 8 bytes


def word_of(text: bytes) -> np.uint64:
    """The word of up to eight bytes."""
    return np.uint64(int.from_bytes(text, "little"))


_ONES, _HIGH, _ZEROS, _DOTS = (word_of(bytes([byte]) * 8) for byte in (1, 0x80, 0x30, 0x2E))
_ABOVE_BLANK, _TO_HIGH = word_of(b"\x21" * 8), word_of(b"\x76" * 8)  # 0x76 + 9 is the last byte without the high bit
_U1, _U3, _U7, _U8, _U16, _U32, _U56, _U64 = (np.uint64(n) for n in (1, 3, 7, 8, 16, 32, 56, 64))
_TENS = 10.0 ** np.arange(8)


def eight_digits(word: np.ndarray) -> np.ndarray:
    """The integer that eight digits spell, the first in the lowest byte; a zero byte counts as 0.

    Neighbours are joined to pairs, pairs to fours, and those to one number.
    """
    word = (word & word_of(b"\x0f" * 8)) * np.uint64(10 << 8 | 1) >> _U8
    word = (word & word_of(b"\xff\0" * 4)) * np.uint64(100 << 16 | 1) >> _U16
    return (word & word_of(b"\xff\xff\0\0" * 2)) * np.uint64(10000 << 32 | 1) >> _U32


def _before(flags: np.ndarray) -> np.ndarray:
    """255 for all bytes before the first flagged one, 0 for the others; a flag is a byte's highest bit."""
    before: np.ndarray = ((flags & (~flags + _U1)) >> _U7) - _U1
    return before


def _count(bytes_of_255: np.ndarray) -> np.ndarray:
    """The number of bytes that are 255; the others are 0."""
    count: np.ndarray = (bytes_of_255 & _ONES) * _ONES >> _U56
    return count


def plain_decimals(word: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value, length, plain) of the digits, with or without a point, at the start of each word of eight bytes.

    plain: whether there are such digits, with a blank or a line's end after them in the same word; value and length
    count only there. An integer of seven digits over a power of ten is rounded once, and so is what float() gives.
    """
    inside = _before((word - _ABOVE_BLANK) & ~word & _HIGH)
    length = _count(inside)
    text = word & inside
    dots = text ^ _DOTS
    front = _before((dots - _ONES) & ~dots & _HIGH)
    pointed = front != ~np.uint64(0)
    digits = np.where(pointed, (text & front) | (text >> _U8 & ~front), text)
    used = np.where(pointed, inside >> _U8, inside)
    over = digits ^ (_ZEROS & used)
    after = word >> (length << _U3) & BYTE
    plain = (((over + _TO_HIGH) | over) & _HIGH == 0) & (used != 0) & (length < 8)
    plain &= (after == 32) | (after == 10) | (after == 13)
    whole = eight_digits(digits << (_U64 - (_count(used) << _U3)))
    value = whole.astype(np.float64)
    value /= _TENS[_count(used & ~front) & _U7]
    return value, length.astype(np.int64), plain


def has_form(word: np.ndarray, form: bytes) -> np.ndarray:
    """Whether the eight bytes have a digit where `form` has a 0, and equal its other bytes."""
    high = word_of(b"".join(b"\xf0" if byte == 48 else b"\xff" for byte in form))
    carry = word_of(bytes(6 if byte == 48 else 0 for byte in form))
    found: np.ndarray = ((word & high) == word_of(form)) & (((word + carry) & high) == word_of(form))
    return found
