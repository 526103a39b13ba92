"""TPM from states and snapshots; against numpy on what the real Caffe wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights import caffemodel
from caffe_split.net.snapshots import find_snapshots
from caffe_split.net.training import Training, open_training
from caffe_split.tpm.collect import measure_tpm
from caffe_split.tpm.scores import latest_window
from caffe_split.tpm.state import from_state, is_state
from tests.support import Trained


def reference(trained: Trained, layer: str, iterations: list[int]) -> np.ndarray:
    """TPM of every kernel, and last of the layer, from the snapshots, by numpy alone."""
    points = []
    for iteration in iterations:
        weights = caffemodel.read_weights(trained.folder / f"digits/digits_iter_{iteration}.caffemodel")
        points.append(np.asarray(weights[layer][0], dtype=np.float64))
    flat = [np.concatenate([p.reshape(len(p), -1), np.zeros((len(p), 1))], 1) for p in points]
    kernels = np.linalg.norm(flat[-1] - flat[0], axis=1) / sum(
        np.linalg.norm(b - a, axis=1) for a, b in zip(flat, flat[1:])
    )
    whole = np.linalg.norm(flat[-1] - flat[0]) / sum(np.linalg.norm(b - a) for a, b in zip(flat, flat[1:]))
    return np.append(kernels, whole)


def opened(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Training:
    monkeypatch.chdir(trained.folder)
    return open_training(trained.solver)


@pytest.mark.caffe
def test_snapshots_equal_numpy(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    training = opened(trained, monkeypatch)
    scores = measure_tpm(training, 100, windows=[(10, 90)])
    assert len(scores) == 9
    for score in scores:
        expected = reference(trained, score.layer, list(range(10, 91, 10)))
        assert np.append(score.tpm, score.layer_tpm) == pytest.approx(expected, rel=1e-6)


@pytest.mark.caffe
@pytest.mark.parametrize("iteration", [50, 100])
def test_state_equals_numpy_on_snapshots(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, iteration: int
) -> None:
    """Also in mid-window (50): the snapshot's own weight is the last sample."""
    training = opened(trained, monkeypatch)
    # The snapshot of iteration 0 does not exist; start the series from the state's own first sample.
    for score in measure_tpm(training, iteration):
        assert (score.start, score.stop, score.interval, score.steps) == (0, iteration, 10, iteration // 10)
        state = caffemodel.read_weights(training.snapshot(iteration))[score.layer + "_tpm"]
        points = [np.asarray(state[1], dtype=np.float64)]
        for t in range(10, iteration + 1, 10):
            points.append(np.asarray(caffemodel.read_weights(training.snapshot(t))[score.layer][0], dtype=np.float64))
        flat = [p.reshape(len(p), -1) for p in points]
        path = sum(np.linalg.norm(b - a, axis=1) for a, b in zip(flat, flat[1:]))
        assert score.tpm == pytest.approx(np.linalg.norm(flat[-1] - flat[0], axis=1) / path, rel=1e-4)
        whole = sum(np.linalg.norm(b - a) for a, b in zip(flat, flat[1:]))
        assert score.layer_tpm == pytest.approx(np.linalg.norm(flat[-1] - flat[0]) / whole, rel=1e-4)
        assert score.norm_start == pytest.approx(np.linalg.norm(flat[0]), rel=1e-6)
        assert score.norm_stop == pytest.approx(np.linalg.norm(flat[-1]), rel=1e-6)


def state(samples: int = 3, weight: np.ndarray | None = None, iteration: int = 20) -> list[np.ndarray]:
    """A layer of two kernels of one weight each that moved one step of 1 and, the second, back, every 10 iterations."""
    start, previous = np.zeros((2, 1), np.float32), np.array([[2], [0]], np.float32)
    whole = np.array([2, 2 * np.sqrt(2), 0], np.float32)
    result = np.stack([[2, 2, 0], [0, 2, 0], whole])[None].astype(np.float32)
    counter = np.array([[1, iteration, 0, 0, 1, 0, 0, 0], [samples, 0, 0, 0, 100, 0, 10, 0]], np.float32)
    blob = previous if weight is None else weight
    return [blob, start, previous, result, counter]


def test_state_alone() -> None:
    (scores,) = from_state(state(), "a")
    assert (scores.start, scores.stop, scores.interval, scores.steps) == (0, 20, 10, 2)
    assert scores.tpm.tolist() == [1.0, 0.0] and scores.layer_tpm == pytest.approx(1 / np.sqrt(2))
    assert (scores.norm_start, scores.norm_stop) == (0.0, 2.0)


def test_a_sample_due_comes_from_the_snapshots_own_weight() -> None:
    now = np.array([[2], [3]], np.float32)
    blobs = state(weight=now, iteration=30)
    (scores,) = from_state(blobs, "a", 30)
    assert (scores.stop, scores.steps) == (30, 3)
    assert scores.path.tolist() == [2.0, 5.0] and scores.displacement.tolist() == [2.0, 3.0]
    # HDF5 leaves the shared weight out.
    blobs[0] = np.empty(0, np.float32)
    assert is_state(blobs)
    (other,) = from_state(blobs, "a", 30, now)
    assert other.path.tolist() == scores.path.tolist() and other.norm_stop == scores.norm_stop
    with pytest.raises(CaffeSplitError, match=r"watched a weight of shape .2, 1., but .* has shape .3, 1."):
        from_state(blobs, "a", 30, np.zeros((3, 1), np.float32))


def test_states_that_tell_nothing() -> None:
    with pytest.raises(CaffeSplitError, match="has another form"):
        from_state(state()[:4], "a")
    never = state()
    never[4][0, 0] = 0
    with pytest.raises(CaffeSplitError, match=r"'a' has never run.*Train the net with it"):
        from_state(never, "a")
    with pytest.raises(CaffeSplitError, match="counted 20 iterations in the snapshot of iteration 40: is its"):
        from_state(state(), "a", 40)
    newer = state()
    newer[4][0, 0] = 2
    with pytest.raises(CaffeSplitError, match="has layout 2, expected 1"):
        from_state(newer, "a")
    assert from_state(state(samples=1, iteration=5), "a") == []
    wild = state()
    wild[3][0, -1, 1] = np.nan
    with pytest.raises(CaffeSplitError, match="not finite somewhere in the window 0:20: the training diverged"):
        from_state(wild, "a")


@pytest.mark.caffe
def test_latest_window(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    training = opened(trained, monkeypatch)
    scores = measure_tpm(training, 100, windows=[(10, 50), (50, 90)])
    assert {(s.start, s.stop) for s in scores} == {(10, 50), (50, 90)}
    assert {(s.start, s.stop) for s in latest_window(scores)} == {(50, 90)}


def test_find_snapshots(tmp_path: Path) -> None:
    names = [
        "a_iter_5.caffemodel",
        "a_iter_20.caffemodel.h5",
        "ab_iter_7.caffemodel",
        "a_iter_5.solverstate",
        "a_iter_x",
    ]
    for name in names:
        (tmp_path / name).touch()
    assert list(find_snapshots(tmp_path / "a")) == [5, 20]
    assert find_snapshots(tmp_path / "a", "solverstate") == {5: tmp_path / "a_iter_5.solverstate"}
    assert find_snapshots(tmp_path / "none/a") == {}
