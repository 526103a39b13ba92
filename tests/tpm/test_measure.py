"""TPM from states and snapshots; against numpy on what the real Caffe wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import Trained

from caffe_split.errors import CaffeSplitError
from caffe_split.proto import caffemodel
from caffe_split.tpm.gather import gather, latest_window
from caffe_split.tpm.measure import from_snapshots
from caffe_split.training import Training, find_snapshots, open_training


def walk(steps: int, seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = np.cumsum(rng.standard_normal((steps + 1, 3, 2, 2, 2)), axis=0)
    weights[:, 1] = weights[0, 1]  # a kernel that does not move
    return {10 * i: weight.astype(np.float32) for i, weight in enumerate(weights)}


def measure(track: dict[int, np.ndarray], start: int, stop: int) -> list:
    files = {iteration: Path(str(iteration)) for iteration in track}
    return from_snapshots(files, lambda path: {"conv": [track[int(path.name)]]}, ["conv"], start, stop)


def test_series_against_the_definition() -> None:
    track = walk(6)
    (scores,) = measure(track, 10, 50)
    points = [track[i].astype(np.float64) for i in range(10, 51, 10)]
    for k in (0, 2):
        displacement = np.linalg.norm(points[-1][k] - points[0][k])
        path = sum(np.linalg.norm(b[k] - a[k]) for a, b in zip(points, points[1:]))
        assert scores.tpm[k] == pytest.approx(displacement / path, rel=1e-12)
    assert np.isnan(scores.tpm[1])
    whole = sum(np.linalg.norm(b - a) for a, b in zip(points, points[1:]))
    assert scores.layer_tpm == pytest.approx(np.linalg.norm(points[-1] - points[0]) / whole, rel=1e-12)
    assert (scores.steps, scores.interval, scores.shape) == (4, 10, (3, 2, 2, 2))
    assert scores.norm_stop == pytest.approx(np.linalg.norm(points[-1]))


def test_series_errors() -> None:
    track = walk(6)
    with pytest.raises(CaffeSplitError, match=r"no snapshot series over \[10, 70\].*0, 10, 20"):
        measure(track, 10, 70)
    gap = {i: w for i, w in track.items() if i != 30}
    with pytest.raises(CaffeSplitError, match="not equally far apart: 10 iterations at first.*30"):
        measure(gap, 0, 60)
    other = {**track, 40: np.zeros((2, 2), np.float32)}
    with pytest.raises(CaffeSplitError, match=r"layer 'conv' has shape \(2, 2\)"):
        measure(other, 0, 60)


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
    scores = gather(training, 100, [(10, 90)])
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
    for score in gather(training, iteration):
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


@pytest.mark.caffe
def test_latest_window(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    training = opened(trained, monkeypatch)
    scores = gather(training, 100, [(10, 50), (50, 90)])
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
