"""Exports for other programs: BVLC's CSV byte for byte, JSON, pandas, TensorBoard."""

from __future__ import annotations

import csv
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from caffe_split.trainlog import Parser, export, read_log, tfevents

ROOT = Path(__file__).parents[2]
LOGS = Path(__file__).parent / "logs"

# Logs that BVLC's script reads right. It stops at an eight-digit date, at a log without "Solving" and at
# foreign lines behind a prefix, drops nan, cuts names at blanks and mixes test nets.
READABLE = [
    "bvlc_1_0",
    "bvlc_2016",
    "crlf",
    "cut_at_30000",
    "glog_file_2015",
    "googlenet",
    "huge_iterations",
    "killed_by_sigterm",
    "net_without_accuracy",
    "new_year",
    "nvcaffe_digits",
    "resumed",
    "shell_noise",
    "six_runs",
    "source_2014",
    "spliced",
    "ssd",
]


@pytest.fixture(scope="session")
def parse_log() -> Any:
    """BVLC's own script, from the built source; it is Python 2, and its one print statement is replaced."""
    tool = ROOT / "tools" / "build_caffe"
    found = subprocess.run([str(tool), "--print-source"], stdout=subprocess.PIPE, text=True, check=False)
    folder = Path(found.stdout.strip() or "none") / "tools" / "extra"
    if not (folder / "parse_log.py").is_file():
        pytest.skip("no Caffe source: tools/build_caffe has not run")
    source = (folder / "parse_log.py").read_text().replace("print 'Wrote %s' % output_filename", "pass")
    sys.path.insert(0, str(folder))
    try:
        module: dict[str, Any] = {"__name__": "parse_log"}
        exec(compile(source, "parse_log.py", "exec"), module)
    finally:
        sys.path.remove(str(folder))
    return module


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", READABLE)
def test_csv_is_that_of_bvlc(parse_log: Any, tmp_path: Path, name: str) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    path = LOGS / f"{name}.log"
    parse_log["save_csv_files"](str(path), str(theirs), *parse_log["parse_log"](str(path)))
    export.write_csv(read_log(path), ours)
    written = sorted(p.name for p in theirs.iterdir())
    assert written
    for file in written:
        assert (ours / file).read_bytes() == (theirs / file).read_bytes()
    # BVLC's script does not write a table of one row; ours may write nothing else in addition.
    for alone in {p.name for p in ours.iterdir()} - set(written):
        assert len((ours / alone).read_text().splitlines()) == 2


def test_a_repeated_name_has_a_column_each(tmp_path: Path) -> None:
    write = export.write_csv(read_log(LOGS / "vector_output.log"), tmp_path)
    assert write[1].read_text().splitlines()[:2] == [
        "NumIters,Seconds,LearningRate,accuracy,per_class,per_class[1],loss",
        "0.0,2.0,0.1,0.5,0.25,0.75,2.0",
    ]


@pytest.mark.parametrize("name", ["label", "label_%d"])
def test_thousands_of_outputs_are_read_alike_by_both_readers(tmp_path: Path, name: str) -> None:
    path, lines = tmp_path / "train.log", ["Solving net"]
    for iteration in range(4):
        outputs = [f"    Train net output #{k}: {name % k if '%' in name else name} = {k}" for k in range(500)]
        lines += [f"Iteration {iteration}, loss = 1", *outputs, f"Iteration {iteration}, lr = 0.1"]
    path.write_text("".join(f"I0305 15:00:00.000000  7 solver.cpp:1] {line}\n" for line in lines))
    data = path.read_bytes()
    for options in ({}, {"smallest_block": 1 << 62}):
        parser = Parser(2020, **options)
        for start in range(0, len(data), 9000):
            parser.feed(data[start : start + 9000])
        (run,) = parser.log("x", 0.0).runs
        expected = [name % k if "%" in name else f"label[{k}]" if k else "label" for k in range(500)]
        assert run.train.names == expected
        assert all(run.train[column].tolist() == [k] * 4 for k, column in enumerate(expected))
    (written,) = export.write_csv(read_log(path), tmp_path)
    assert written.read_text().splitlines()[4].startswith("3.0,0.0,0.1,0.0,1.0,2.0")
    assert tfevents.write_events(read_log(path), tmp_path, "x").stat().st_size > 2000 * 40


def test_each_test_net_has_a_csv_file(tmp_path: Path) -> None:
    written = export.write_csv(read_log(LOGS / "two_test_nets.log"), tmp_path)
    assert [p.name for p in written] == ["two_test_nets.log.test", "two_test_nets.log.test1"]
    rows = list(csv.DictReader(written[1].open()))
    assert [row["accuracy"] for row in rows] == ["0.2", "0.3"]


def test_csv_keeps_nan(tmp_path: Path) -> None:
    train, _ = export.write_csv(read_log(LOGS / "diverged.log"), tmp_path)
    assert [row["L2_Loss"] for row in csv.DictReader(train.open())] == ["15000000.0", "inf", "nan"]


@pytest.mark.parametrize("path", sorted(LOGS.glob("*.log")), ids=lambda p: p.stem)
def test_json_holds_everything(path: Path) -> None:
    log = read_log(path)
    data = json.loads(export.as_json(log), parse_constant=pytest.fail)
    assert len(data["runs"]) == len(log.runs)
    for run, written in zip(log.runs, data["runs"]):
        assert written["displays"]["iteration"] == run.displays.iteration.tolist()
        assert list(written["tests"]) == [str(net) for net in run.tests]
        assert len(written["events"]) == len(run.events)


def test_a_table_becomes_a_data_frame() -> None:
    pytest.importorskip("pandas")
    frame = read_log(LOGS / "bvlc_2016.log").to_pandas()
    assert list(frame.columns) == ["iteration", "seconds", "accuracy", "loss"] and len(frame) == 2


def records(data: bytes) -> list[bytes]:
    """The records of an event file, checksums checked."""
    found = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        for body, crc in ((data[:8], data[8:12]), (data[12 : 12 + length], data[12 + length : 16 + length])):
            plain = tfevents.crc32c(body)
            masked = ((plain >> 15 | plain << 17) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.pack("<I", masked) == crc
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


def test_event_files_hold_the_curves_and_are_replaced(tmp_path: Path) -> None:
    assert tfevents.crc32c(b"123456789") == 0xE3069283  # the known check value of CRC-32C
    path = tfevents.write_events(read_log(LOGS / "resumed.log"), tmp_path, "resumed")
    assert path.parent == tmp_path / "resumed" and path.name.startswith("events.out.tfevents.")
    events = records(path.read_bytes())
    assert b"brain.Event:2" in events[0]
    accuracy = [event for event in events if b"test/accuracy" in event]
    values = [struct.unpack("<f", event[-4:])[0] for event in accuracy]
    assert values == pytest.approx([0.5, 0.51, 0.62, 0.63, 0.64, 0.65, 0.66])
    assert [event[10] for event in accuracy] == [0, 10, 20, 30, 40, 50, 60]  # the step's one-byte varint
    tfevents.write_events(read_log(LOGS / "resumed.log"), tmp_path, "resumed")
    assert len(list(path.parent.iterdir())) == 1
