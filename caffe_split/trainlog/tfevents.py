"""TensorBoard's event files, written without TensorFlow: a few nested records with checksums."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from caffe_split.files import PathLike, make_folder, write_atomic
from caffe_split.trainlog.columns import Table
from caffe_split.trainlog.lines import NO_CLOCK
from caffe_split.trainlog.model import TrainingLog


def write_events(log: TrainingLog, folder: PathLike, name: str) -> Path:
    """Write the log's curves, where a later run wins over an earlier one, into `folder`/`name`/.

    Tags: train/loss (smoothed), train/<output>, lr, test/<output> (further test nets: test1/, ...). nan
    and inf go in as they are. Replaces what an earlier call wrote for the same name.
    """
    target = make_folder(Path(folder) / name)
    # A fixed name, so that a second export replaces the first instead of adding a second curve.
    path = target / "events.out.tfevents.0.caffe_split"
    write_atomic(path, _records(log))
    return path


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _records(log: TrainingLog) -> Iterator[bytes]:
    yield _record(_double(1, log.modified) + _bytes(3, b"brain.Event:2"))
    tables = [("train/", log.table("train")), ("", log.table("lr"))]
    smooth = log.table("displays")
    for net in log.test_nets:
        tables.append((f"test{net or ''}/", log.table("tests", net)))
    if "loss" in smooth.names:
        yield from _curve("train/smoothed loss", smooth, "loss", log.modified)
    for prefix, table in tables:
        for name in table.names:
            yield from _curve(prefix + name, table, name, log.modified)


def _curve(tag: str, table: Table, name: str, otherwise: float) -> Iterator[bytes]:
    label = _bytes(1, tag.encode("utf-8"))
    shift = _zone(table)
    rows, values = table.printed(name)
    columns = (table.clock[rows].tolist(), table.iteration[rows].tolist(), values.astype(np.float32))
    for clock, iteration, value in zip(*columns):
        wall = otherwise if clock == NO_CLOCK else clock / 1e6 + shift
        summary = _bytes(5, _bytes(1, label + b"\x15" + struct.pack("<f", value)))
        yield _record(_double(1, wall) + b"\x10" + _varint(iteration) + summary)


def _zone(table: Table) -> float:
    """Seconds to add to the clock of the log, which is local time, for UTC."""
    clocks = table.clock[table.clock != NO_CLOCK]
    if not len(clocks):
        return 0.0
    local = int(clocks[0]) // 1_000_000
    try:
        return time.mktime((*time.gmtime(local)[:8], -1)) - local
    except (OverflowError, ValueError, OSError):
        return 0.0


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _crc_table() -> list[int]:
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
        table.append(entry)
    return table


_CRC = _crc_table()
