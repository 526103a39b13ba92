"""TPM as a log has it: which outputs, which windows, what noise would have given."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.tpm.from_log import Printed, choose, printed_as_csv, printed_lines, printed_tpm, window_values
from caffe_split.tpm.scores import null_tpm
from caffe_split.trainlog import read_log
from tests.support import Trained, caffe_split, train

STAMP = "I0305 16:47:02.008569 17823 "
SAID = "tpm_layer.cpp:99] TPM layer '{}': window {} from {} to {}, interval {}\n"
SOLVER = "solver.cpp:45] Initializing solver from parameters: \nbase_lr: 0.1\nmomentum: 0.5\nmax_iter: 100\n"


def log(folder: Path, values: dict[int, dict[str, str]], head: str = "") -> Path:
    lines = [head]
    for iteration, outputs in values.items():
        lines.append(f"{STAMP}solver.cpp:218] Iteration {iteration}, loss = 1.5\n")
        for number, (name, value) in enumerate(outputs.items()):
            lines.append(f"{STAMP}solver.cpp:237]     Train net output #{number}: {name} = {value}\n")
    path = folder / "train.log"
    path.write_text("".join(lines))
    return path


def test_windows_said_at_set_up(tmp_path: Path) -> None:
    head = STAMP + SOLVER
    for window, (start, stop) in enumerate([(0, 20), (30, 50)]):
        head += STAMP + SAID.format("a_tpm", window, start, stop, 4)
    values = {10 * i: {"a_tpm": "nan" if i in (0, 3) else f"0.{i}5", "loss": "1"} for i in range(6)}
    (printed,) = printed_tpm(read_log(log(tmp_path, values, head + head)))
    assert (printed.layer, printed.windows, printed.interval, printed.momentum) == ("a", ((0, 20), (30, 50)), 4, 0.5)
    first, second = window_values(printed)
    assert (first.start, first.stop, first.steps, first.tpm) == (0, 20, 5, 0.25)
    assert (second.start, second.stop, second.steps, second.tpm) == (30, 50, 5, 0.55)
    assert first.null == null_tpm(5, 4, 0.5)
    # At iteration 10 two steps of 4 had been taken; at 30 the second window had one sample.
    assert printed.null()[1] == null_tpm(2, 4, 0.5) and math.isnan(printed.null()[3])
    assert printed_lines([printed])[:4] == [
        f"TPM over iterations 0 to 20: N = 5 steps of 4, momentum 0.5; pure noise would give {first.null:.3f}",
        f"TPM over iterations 30 to 50: N = 5 steps of 4, momentum 0.5; pure noise would give {first.null:.3f}",
        "((0, 20), ('a', 0.25))",
        "((30, 50), ('a', 0.55))",
    ]


def test_windows_of_the_printed_net(tmp_path: Path) -> None:
    head = (
        f"{STAMP}net.cpp:51] Initializing net from parameters: \nlayer {{\n"
        '  name: "watch"\n  type: "TPM"\n  top: "watch"\n  tpm_param {\n    start_iter: 5\n    stop_iter: 25\n'
        "    interval: 10\n    shape {\n      dim: 4\n    }\n  }\n}\n"
    )
    values = {i: {"watch": "0.5"} for i in (20, 40)}
    (printed,) = printed_tpm(read_log(log(tmp_path, values, head)))
    assert (printed.layer, printed.windows, printed.interval) == ("watch", ((5, 25),), 10)
    assert math.isnan(printed.momentum), "no solver was printed"
    assert printed_lines([printed])[0] == "TPM over iterations 5 to 25: N = 2 steps of 10, momentum unknown"


def test_a_log_that_does_not_tell_the_windows(tmp_path: Path) -> None:
    (printed,) = printed_tpm(read_log(log(tmp_path, {10: {"a_tpm": "0.7"}, 20: {"a_tpm": "0.5"}})))
    assert window_values(printed) == []
    assert printed_lines([printed])[:2] == [
        "the log does not say the windows of TPM; the last values, printed up to iteration 20:",
        "('a', 0.5)",
    ]


def test_frozen_layer(tmp_path: Path) -> None:
    head = STAMP + SAID.format("a_tpm", 0, 0, 20, 1)
    (printed,) = printed_tpm(read_log(log(tmp_path, {10: {"a_tpm": "nan"}, 20: {"a_tpm": "nan"}}, head)))
    assert printed_lines([printed])[1:] == ["((0, 20), ('a', 'frozen'))"]


def test_logs_without_tpm(tmp_path: Path) -> None:
    with pytest.raises(CaffeSplitError, match="no TPM layer printed anything in it; train a net with TPM layers"):
        printed_tpm(read_log(log(tmp_path, {10: {"loss": "1"}})))
    printed = printed_tpm(read_log(log(tmp_path, {10: {"a_tpm": "0.7", "b_tpm": "0.5"}})))
    assert [layer.layer for layer in choose(printed, ["b"], 0.25, tmp_path)] == ["b"]
    assert choose(printed, None, 0.25, tmp_path)[0].momentum == 0.25
    with pytest.raises(CaffeSplitError, match="no TPM of layer 'c' in it; it has that of a, b"):
        choose(printed, ["c"], None, tmp_path)


def test_csv() -> None:
    layer = Printed("a", np.array([5, 10]), np.array([np.nan, 0.5]), ((0, 10),), 5, 0.0)
    rows = list(csv.DictReader(io.StringIO(printed_as_csv([layer]))))
    assert rows == [
        {"layer": "a", "iteration": "5", "tpm": "", "null": "1.0"},
        {"layer": "a", "iteration": "10", "tpm": "0.5", "null": str(null_tpm(2, 5, 0.0))},
    ]


@pytest.mark.caffe
def test_what_the_real_caffe_prints(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(trained.log)
    assert "] TPM layer 'conv1_tpm': window 0 from 0 to 100, interval 10\n" in trained.log
    printed = printed_tpm(read_log(path))
    assert len(printed) == 9 and {layer.windows for layer in printed} == {((0, 100),)}
    assert {(layer.interval, layer.momentum) for layer in printed} == {(10, 0.9)}
    (value,) = window_values(printed[0])
    assert value.layer == "conv1" and 0 < value.tpm < 1
    # The last display came before the end.
    assert (value.start, value.stop, value.steps) == (0, 80, 8)


def test_the_torch_engine_says_the_windows_as_caffe_does(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 1 dim: 4 dim: 4 } '
        'data_filler { type: "gaussian" } } } layer { name: "c" type: "Convolution" bottom: "x" top: "c" '
        'convolution_param { num_output: 2 kernel_size: 4 weight_filler { type: "xavier" } } } '
        'layer { name: "loss" type: "Reduction" bottom: "c" top: "loss" loss_weight: 1 }'
    )
    (tmp_path / "s.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 12 display: 1 snapshot_prefix: "s" '
        "momentum: 0.5 solver_mode: CPU"
    )
    windows = ("--window", "0:4", "--window", "5:9")
    caffe_split("instrument", "s.prototxt", *windows, "--interval", "2", "--in-place", cwd=tmp_path)
    text = train("s.prototxt", tmp_path, backend="torch")
    for window, (start, stop) in enumerate([(0, 4), (5, 9)]):
        assert "] " + SAID.partition("] ")[2].format("c_tpm", window, start, stop, 2) in text
    (tmp_path / "train.log").write_text(text)
    (printed,) = printed_tpm(read_log(tmp_path / "train.log"))
    assert [(value.stop, value.steps) for value in window_values(printed)] == [(4, 2), (9, 2)]
