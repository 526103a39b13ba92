"""`time`: the words of `caffe time`, its figures, and what a layer computes and holds."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path

import pytest

import caffe_split as cs
from caffe_split.backends.caffe import timing
from caffe_split.backends.caffe.timing import parse_times
from caffe_split.backends.protocol import Timing
from caffe_split.net.state import NetState
from tests.support import caffe_split, run_caffe

LAYERS = ["data", "conv", "relu", "ip", "loss"]


def words(text: str) -> list[str]:
    """The lines with each number as #; what is put behind the milliseconds is left out."""
    lines = [re.sub(r"( ms\.)\t.*", r"\1", line) for line in text.splitlines()]
    return [re.sub(r"-?\d[-+.e\d]*", "#", line) for line in lines]


@pytest.mark.caffe
def test_the_words_are_those_of_caffe_time(small: Path) -> None:
    said = run_caffe("time", "-model", "net.prototxt", "-iterations", 2, cwd=small)
    lines = [line.split("] ", 1)[1] for line in said.splitlines() if "] " in line]
    theirs = [line for line in lines[lines.index("Testing for 2 iterations.") + 1 :] if "***" not in line]
    ours = caffe_split("time", "net.prototxt", "--iterations", 2, "--engine", "caffe", cwd=small).stdout
    assert words(ours)[:-2] == words("\n".join(theirs))


PROGRAM = """#!/bin/sh
[ -f /proc/self/fd/2 ] || { echo "a pipe" >&2; exit 3; }
for n in 1 2 3; do
  printf 'I caffe.cpp:399] Iteration: %s forward-backward time: 2 ms.\\n' $n >&2
  printf 'I caffe.cpp:1] half a' >&2
  tries=0
  until [ -e seen ]; do tries=$((tries + 1)); [ $tries -lt 400 ] || exit 4; sleep 0.05; done
  printf ' line\\n' >&2
done
printf 'I c.cpp:1]         ip\\tforward: 1.5 ms.\\nI c.cpp:1]         ip\\tbackward: 2 ms.\\n' >&2
for what in 'Forward pass' 'Backward pass' 'Forward-Backward'; do
  printf 'I c.cpp:1] Average %s: 4 ms.\\n' "$what" >&2
done
printf 'I c.cpp:1] the last line has no end' >&2
"""


def test_what_caffe_time_says_goes_into_a_file_and_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe would cost the program the time of its reader."""
    monkeypatch.setattr(timing, "_SECONDS_BETWEEN_LOOKS", 0.05)
    program = tmp_path / "caffe"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    said = []

    def say(number: int, took: float) -> None:
        # The program goes on when it sees that its first line has been read.
        (tmp_path / "seen").touch()
        said.append((number, took))

    found = timing.run_caffe_time(program, tmp_path, Timing(NetState("TRAIN"), 3, "cpu", 1), os.environ, say)
    assert said == [(1, 2.0), (2, 2.0), (3, 2.0)]
    assert found == ([("ip", 1.5, 2.0)], 4.0, 4.0, 4.0, ())


def test_layers_shares_and_costs(small: Path, backend: str) -> None:
    found = json.loads(caffe_split("time", "net.prototxt", "--iterations", 2, "--json", cwd=small).stdout)
    rows = {row["name"]: row for row in found["layers"]}
    assert [name for name in rows if "split" not in name] == LAYERS and found["engine"] == backend
    # Batch 4; conv: 5 kernels of 2x3x3 at one place, ip: 5 x 6; floats of 4 bytes.
    assert (rows["conv"]["macs"], rows["ip"]["macs"], rows["relu"]["macs"]) == (4 * 5 * 18, 4 * 30, 0)
    assert rows["conv"]["bytes"] == 4 * (4 * 5 + 5 * 18 + 5) and rows["relu"]["bytes"] == 0
    assert rows["data"]["bytes"] == 4 * (4 * 18 + 4)
    total = sum(row["forward"] + row["backward"] for row in found["layers"])
    assert 0 < total <= (found["forward"] + found["backward"]) * 1.01
    # A layer as small as these may take less than what Caffe prints of a time; then it has no speed.
    for name, macs in (("conv", 360), ("ip", 120)):
        took = rows[name]["forward"]
        assert rows[name]["gigaflops"] == (pytest.approx(2 * macs / took / 1e6) if took else None)
    text = caffe_split("time", "net.prototxt", "--iterations", 2, cwd=small).stdout
    shares = [float(share) for share in re.findall(r"\t([\d.]+) %", text)]
    assert sum(shares) == pytest.approx(100, abs=1) and len(shares) == 2 * len(rows)
    assert "Iteration: 2 forward-backward time: " in text and "GFLOP/s" in text


def test_what_a_recurrent_layer_computes_in_a_batch(tmp_path: Path, backend: str) -> None:
    """The first axis is time: two sequences, in each of whose 3 steps 4 gates of 5 outputs read 7 values and h."""
    net = tmp_path / "net.prototxt"
    net.write_text(
        'layer { name: "in" type: "DummyData" top: "x" top: "m"\n'
        "  dummy_data_param { shape { dim: 3 dim: 2 dim: 7 } shape { dim: 3 dim: 2 } } }\n"
        'layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "m" top: "h" recurrent_param { num_output: 5 } }\n'
    )
    times = cs.time_net(net, iterations=1, options=cs.RunOptions(backend))
    assert [layer.macs for layer in times.layers if layer.name == "lstm"] == [2 * 3 * 4 * 5 * (7 + 5)]


def test_csv(small: Path, any_backend: str) -> None:
    said = caffe_split("time", "net.prototxt", "--iterations", 1, "--csv", cwd=small).stdout
    rows = list(csv.DictReader(io.StringIO(said)))
    assert [row["layer"] for row in rows if "split" not in row["layer"]] == LAYERS
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-3)


def test_nothing_is_learnt_while_it_is_timed(small: Path) -> None:
    """The engine runs each layer cut off from the others, those in place and those without a gradient too."""
    pytest.importorskip("torch")
    options = cs.RunOptions("torch", threads=1)
    seen: list[int] = []
    times = cs.time_net("net.prototxt", iterations=3, options=options, say=lambda number, took: seen.append(number))
    assert seen == [1, 2, 3] and times.both == pytest.approx(times.total)
    assert {layer.name: layer.backward > 0 for layer in times.layers} == {name: name != "data" for name in LAYERS}
    test = cs.time_net("net.prototxt", iterations=1, options=options, phase="TEST")
    assert [layer.name for layer in test.layers] == ["data", "conv", "relu", "ip", "accuracy", "top3", "loss"]


def test_output_without_times_is_refused() -> None:
    with pytest.raises(cs.CaffeSplitError, match="caffe time: its output has no times of layers"):
        parse_times(["I1 t 1 caffe.cpp:397] Average Forward pass: 1 ms."], "caffe")


@pytest.mark.caffe
def test_caffes_own_words_where_it_refuses(small: Path) -> None:
    net = small / "net.prototxt"
    net.write_text(net.read_text().replace("kernel_size: 3", "kernel_size: 30"))
    said = caffe_split("time", "net.prototxt", "--engine", "caffe", cwd=small, status=1).stderr
    assert said.startswith("caffe-split: Caffe: ") and said.count("\n") == 1
    said = caffe_split("time", "net.prototxt", "--caffe", "net.prototxt", "--engine", "caffe", cwd=small, status=1)
    assert "net.prototxt is not a program" in said.stderr


def test_missing_data_and_two_formats(small: Path, any_backend: str) -> None:
    (small / "test_lmdb/data.mdb").unlink()
    said = caffe_split("time", "net.prototxt", "--phase", "TEST", cwd=small, status=1).stderr
    assert "layer 'data': no data set 'test_lmdb'" in said
    assert "exclude each other" in caffe_split("time", "net.prototxt", "--json", "--csv", cwd=small, status=2).stderr
