"""A fuzzer without instruments: random mutations of good inputs."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable

_TOKENS = [
    b"{",
    b"}",
    b"<",
    b">",
    b"[",
    b"]",
    b":",
    b",",
    b";",
    b"'",
    b'"',
    b"#",
    b"\n",
    b"\\",
    b"-",
    b".",
    b"1e999",
    b"0x",
    b"layer",
    b"layers",
    b"layer {",
    b"type: ",
    b"\xff\xff\xff\xff\x0f",
    b"\xff" * 10,
    b"\x80",
    b"\0",
    b"\x2d",
    b"\x63",
    b"\x64",
    b"\xa2\x06",
    b"\x3a",
    b"\x2a",
    b"\x0a",
    b"\xef\xbb\xbf",
    b"inf",
    b"nan",
    b"input: 'a'",
    b"message M { ",
]


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One input changed in a few places: bytes, tokens, cuts, doubles, and a splice with another."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(out))
        end = min(len(out), at + rng.randint(0, 30))
        what = rng.randrange(6)
        if what == 0 and at < len(out):
            out[at] = rng.randrange(256)
        elif what == 1:
            out[at:at] = rng.choice(_TOKENS)
        elif what == 2:
            del out[at:end]
        elif what == 3:
            out[at:at] = out[at:end]
        elif what == 4:
            start = rng.randint(0, len(other))
            out[at:end] = other[start : start + rng.randint(0, 60)]
        else:
            out[at:end] = rng.choice(_TOKENS)
    return bytes(out)


def mutate(target: Callable[[bytes], None], seeds: list[bytes], runs: Iterable[int], seed: int | None) -> None:
    """Run a mutation for each of `runs`. An exception is the target's, with the input printed."""
    rng = random.Random(seed)
    pool = list(seeds)
    for _ in runs:
        data = mutated(rng.choice(pool), rng.choice(pool), rng)
        try:
            target(data)
        except BaseException:
            print(f"input: {data!r}")
            raise
        if len(pool) < 500 and len(data) < 4000 and rng.random() < 0.1:
            pool.append(data)


def mutate_for(target: Callable[[bytes], None], seeds: list[bytes], seconds: float, seed: int | None) -> int:
    """Run mutations for a while, as `mutate` does; the number of runs."""
    end, count = time.monotonic() + seconds, itertools.count()
    mutate(target, seeds, itertools.takewhile(lambda _: time.monotonic() < end, count), seed)
    return next(count) - 1
