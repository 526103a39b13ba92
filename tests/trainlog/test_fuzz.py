"""Any bytes give a log, numpy and the patterns read the same, and the work is linear in the size."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caffe_split.trainlog import Parser, pipeline, read_log
from tests.support import calls

LOGS = [path.read_bytes() for path in sorted((Path(__file__).parent / "logs").glob("*.log"))]
PIECES = sorted({line for data in LOGS for line in data.split(b"\n")})


def understood(data: bytes, by_numpy: bool, fewest: int = 1) -> str:
    """Everything that the log says, as text; by_numpy: read by numpy wherever possible, else never."""
    parser = Parser(2020, smallest_block=0 if by_numpy else 1 << 62, fewest_lines=fewest)
    parser.feed(data)
    parser.finish()
    log = parser.log("x", 0.0)
    tables = []
    for run in log.runs:
        for table in (run.displays, run.train, run.lr, run.clips, run.batches, *run.tests.values()):
            tables.append((table.iteration.tolist(), table.clock.tolist(), sorted(table.weights.items())))
            for name in table.names:
                columns = (table.values, table.lines, table.offsets)
                tables.append((name, *(column[name].tolist() for column in columns)))
    return f"{tables} {[(r.first_line, r.last_line, r.start, r.end, list(r.tests), r.events) for r in log.runs]}"


def same(data: bytes) -> None:
    plain = understood(data, by_numpy=False)
    assert understood(data, by_numpy=True) == plain
    assert understood(data, by_numpy=True, fewest=3) == plain


@pytest.mark.parametrize("data", LOGS)
def test_numpy_and_patterns_agree(data: bytes) -> None:
    same(data)
    # Without carriage returns whole logs are read by numpy, with every prefix.
    same(data.replace(b"\r\n", b"\n"))
    same(data + data)


@pytest.mark.parametrize("seed", range(60))
def test_numpy_and_patterns_agree_on_damaged_logs(seed: int) -> None:
    pick = random.Random(seed)
    data = bytearray(pick.choice([log for log in LOGS if len(log) > 500])[:8000])
    for _ in range(pick.choice([1, 5, 40])):
        place = pick.randrange(len(data))
        kind = pick.randrange(4)
        if kind == 0:
            data[place] = pick.choice(b"\0\n\r \t]=#:.,()-+eE0123456789_naifI\xff")
        elif kind == 1:
            del data[place : place + pick.choice([1, 3, 30])]
        elif kind == 2:
            other = pick.choice(LOGS)
            data[place:place] = other[: pick.choice([1, 20, 400])]
        else:
            data[place:place] = data[max(place - pick.choice([2, 90, 900]), 0) : place]
    same(bytes(data))


def test_a_time_that_is_no_number_is_read_alike() -> None:
    head = b"I0305 15:00:00.000000  1 caffe.cpp:1] "
    same(head + b"Average time per layer: \n" + head + b"conv1\tforward: 7.7.5 ms.\n")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=40), max_size=30), st.sampled_from([b"\n", b"\r\n", b""]))
def test_any_lines_are_read_alike(lines: list[bytes], end: bytes) -> None:
    same(end.join(lines))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_read_alike(data: bytes) -> None:
    same(data)


def worst_cases() -> list[bytes]:
    """Pieces that, repeated, would show a quadratic pattern or loop."""
    head = b"I0305 15:00:00.000000  1 solver.cpp:1] "
    return [
        b"\0",
        b"a",
        b"a.cpp:1",
        b"1 ",
        b"I0305 ",
        b"I0305 15:00:00.000000 ",
        head,
        head + b"\n",
        b"= ",
        b"Test acc ",
        b"Test acc\n",
        head + b"Iteration 1 (",
        b"\n",
        head + b"Iteration 5, loss = 1\n" + head + b"Iteration 3, loss = 1\n",
        head + b"Iteration 5, loss = 1\n" + head + b"    Train net output #0: a = 1\n" * 9,
        head + b"    Test net output #0: a = 1\n",
        head + b"Snapshotting to a_iter_1.caffemodel\n" + head + b"Optimization Done.\n",
        head + b"Gradient clipping: (L2 norm 1 > 1) by scale factor 1\n",
    ]


@pytest.mark.parametrize("piece", worst_cases())
def test_work_is_linear_in_the_size(tmp_path: Path, piece: bytes) -> None:
    """What the calls do not show, patterns that look back, benchmarks/bench_linear.py does."""
    path = tmp_path / "train.log"

    def work() -> None:
        read_log(path)
        pipeline.best_lines(path, 3)
        pipeline.final_lines(path)

    counts = []
    for size in (1_000, 5_000, 40_000):
        path.write_bytes(piece * (size // len(piece)))
        counts.append(calls(work))
    # Eight times the size; a loop within a loop would call 64 times as often. The first run also loads modules.
    assert counts[2] < 12 * max(counts[1], 500), counts


STAMPS = [
    b"I0305 24:00:00.000000",
    b"I0305 23:60:00.000000",
    b"I0305 23:59:99.999999",
    b"I1345 15:00:00.000000",
    b"I0229 15:00:00.000000",
    b"I20230229 15:00:00.000000",
    b"I00000305 15:00:00.000000",
    b"I0000 15:00:00.000000",
    b"I99991231 23:59:59.999999",
    b"I0305 15:00:00.0000",
    b"I0305 15:00:00.0000001",
    b"I03051 5:00:00.000000",
    b"I0305  15:00:00.000000",
    b"F0305 15:00:00.000000",
    b"E0305 15:00:00.000000",
    b"i0305 15:00:00.000000",
    b"I0305 1a:00:00.000000",
    b"I0305 15:00:00,000000",
    b" I0305 15:00:00.000000",
    b"I030515:00:00.0000000000",
]
MIDDLES = [b" 1 s.cpp:1] ", b" s.cpp:1] ", b" 1 s.cpp] ", b" 1 s.cpp:1]", b" 1 s cpp:1] ", b" 1 [0] s.cpp:1] "]


@pytest.mark.parametrize("stamp", STAMPS)
def test_odd_prefixes_are_read_alike(stamp: bytes) -> None:
    for middle in MIDDLES:
        for message in (b"Iteration 5, lr = 0.1", b"Iteration 7, loss = 2", b"    Train net output #0: a = 3"):
            good = b"I0304 14:00:00.000000 1 s.cpp:1] "
            lines = [good + b"Iteration 3, loss = 1", stamp + middle + message, good + b"Iteration 9, loss = 1", b""]
            same(b"\n".join(lines))


@pytest.mark.parametrize(
    "kind", ["a name of its own in every row", "one row of many elements", "many names in one row"]
)
def test_many_columns_are_linear_work(kind: str) -> None:
    head = "I0305 15:00:00.000000  1 solver.cpp:1] "
    counts = []
    for count in (200, 1600):
        lines = [f"{head}Iteration 0, loss = 1"]
        for k in range(count):
            if kind.startswith("a name"):
                lines.append(f"{head}Iteration {k}, loss = 1")
            lines.append(f"{head}    Train net output #0: {'a' if kind.startswith('one') else f'a{k}'} = 1")
        parser = Parser(2020)

        counts.append(calls(partial(parser.feed, "\n".join([*lines, ""]).encode())))
        counts[-1] += calls(partial(parser.log, "x", 0.0))
        assert len(parser.log("x", 0.0).runs[0].train.names) == count
    assert counts[1] < 12 * counts[0], counts
