"""Which windows and snapshots TPM is read from where layers watched the training: by the window that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs
from caffe_split.errors import WrongUseError
from tests.support import caffe_split

NET = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 4 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 2 kernel_size: 1 } }
"""


def snapshot(iteration: int) -> None:
    """One that has seen the window 0:50, sampled every 7 iterations, in which one kernel of two moved straight on."""
    weight = np.array([7, 0], np.float32).reshape(2, 1, 1, 1)
    result = np.array([[[7, 7, 0], [0, 7, 0], [7, 7 * np.sqrt(2), 0]]], np.float32)
    counter = np.array([[1, iteration, 0, 0, 1, 0, 0, 0], [8, 0, 0, 0, 50, 0, 7, 0]], np.float32)
    state = [weight, np.zeros_like(weight), weight, result, counter]
    cs.write_weights(f"s_iter_{iteration}.caffemodel", {"conv": [weight, np.zeros(2)], "conv_tpm": state})


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `instrument` says of the window."""
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("s.prototxt").write_text('net: "net.prototxt" max_iter: 120 momentum: 0.9 snapshot_prefix: "s"')
    words = ("instrument", "s.prototxt", "--window", "0:50", "--interval", "7", "--in-place")
    return caffe_split(*words, cwd=tmp_path).stderr


def test_a_window_that_the_interval_does_not_divide_is_that_of_its_layers(watched: str) -> None:
    assert "note: 7 does not divide the window 0:50; its last sample is at 49\n" in watched
    snapshot(60)
    for window in ((0, 50), (0, 49)):
        (scores,) = cs.measure_tpm(cs.open_training("s.prototxt"), 60, windows=[window])
        assert (scores.start, scores.stop, scores.steps, scores.tpm.tolist()) == (0, 49, 7, [1, 0])


def test_every_later_snapshot_has_the_window(watched: str) -> None:
    for iteration in (120, 60):
        snapshot(iteration)
        (scores,) = cs.measure_tpm(cs.open_training("s.prototxt"), windows=[(0, 50)])
        assert scores.steps == 7


def test_an_interval_is_that_of_a_series(watched: str) -> None:
    snapshot(60)
    with pytest.raises(WrongUseError, match="an interval belongs to a window"):
        cs.measure_tpm(cs.open_training("s.prototxt"), interval=7)


def test_a_window_that_nothing_asks_for_is_said(watched: str, tmp_path: Path) -> None:
    snapshot(60)
    words = ("make-derived", "s.prototxt", "--iter", "60", "--layers", "conv", "--window", "0:50", "--dry-run")
    assert "--window is not looked at" not in caffe_split(*words, cwd=tmp_path).stderr
    by_chance = caffe_split(*words, "--partition", "random:0", cwd=tmp_path).stderr
    assert "note: --window is not looked at: neither layers nor kernels are chosen by TPM\n" in by_chance
