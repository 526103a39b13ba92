"""TPM from snapshots: the definition, which iterations are taken, how many snapshots are open."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.caffemodel import write_weights
from caffe_split.tpm.collect import measure_snapshots
from caffe_split.tpm.from_snapshots import choose_iterations, from_snapshots, snapshots_of
from caffe_split.tpm.lengths import lengths


def walk(steps: int, seed: int = 0) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = np.cumsum(rng.standard_normal((steps + 1, 3, 2, 2, 2)), axis=0)
    weights[:, 1] = weights[0, 1]  # a kernel that does not move
    return {10 * i: weight.astype(np.float32) for i, weight in enumerate(weights)}


def measure(track: dict[int, np.ndarray], start: int, stop: int, interval: int | None = None) -> list:
    files = {iteration: Path(str(iteration)) for iteration in track}
    return from_snapshots(
        files, ["conv"], (start, stop), interval=interval, read=lambda path: {"conv": [track[int(path.name)]]}
    )


@pytest.mark.parametrize("interval", [None, 10, 20])
def test_series_against_the_definition(interval: int | None) -> None:
    track = walk(6)
    (scores,) = measure(track, 10, 50, interval)
    points = [track[i].astype(np.float64) for i in range(10, 51, interval or 10)]
    for k in (0, 2):
        displacement = np.linalg.norm(points[-1][k] - points[0][k])
        path = sum(np.linalg.norm(b[k] - a[k]) for a, b in zip(points, points[1:]))
        assert scores.tpm[k] == pytest.approx(displacement / path, rel=1e-12)
    assert np.isnan(scores.tpm[1])
    whole = sum(np.linalg.norm(b - a) for a, b in zip(points, points[1:]))
    assert scores.layer_tpm == pytest.approx(np.linalg.norm(points[-1] - points[0]) / whole, rel=1e-12)
    assert (scores.steps, scores.interval, scores.shape) == (len(points) - 1, interval or 10, (3, 2, 2, 2))
    assert scores.norm_start == pytest.approx(np.linalg.norm(points[0]))
    assert scores.norm_stop == pytest.approx(np.linalg.norm(points[-1]))


def test_lengths_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 7, 3, 5)).astype(np.float32)
    whole = lengths(a, b)
    assert whole[:-1] == pytest.approx(np.linalg.norm((a - b).astype(np.float64).reshape(7, -1), axis=1), rel=1e-6)
    assert whole[-1] == pytest.approx(np.sqrt((whole[:-1] ** 2).sum()), rel=1e-12)
    for at_once in (1, 15, 31, 1000):
        monkeypatch.setattr("caffe_split.tpm.lengths._AT_ONCE", at_once)
        assert lengths(a, b).tolist() == whole.tolist()


def test_two_snapshots_at_a_time() -> None:
    alive, most = 0, 0

    class Snapshot(dict):
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            super().__init__(conv=[np.random.default_rng(alive).standard_normal((2, 3, 1, 1))])

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    seen: list[tuple[int, int]] = []
    files = {i: Path(str(i)) for i in range(0, 100, 10)}
    gc.disable()  # it is not by luck that they go
    try:
        from_snapshots(
            files,
            ["conv"],
            (0, 90),
            progress=lambda done, total: seen.append((done, total)),
            read=lambda path: Snapshot(),
        )
    finally:
        gc.enable()
    assert most == 2 and alive == 0
    assert seen == [(done, 9) for done in range(1, 10)]


@pytest.mark.parametrize(
    ("known", "start", "stop", "interval", "message"),
    [
        ([0, 10, 20, 30], 10, 70, None, "no snapshot series over 10:70: there is none of iteration 70. .* 0, 10, 20"),
        ([0, 10, 20, 30], 40, 70, None, "none of iteration 40 and of 70"),
        ([0, 10, 20, 40, 50, 60], 0, 60, None, "not 10 iterations apart: those of 30 are missing. Choose"),
        # The first gap is not taken for the rule.
        ([0, 30, 40, 50, 60], 0, 60, None, "not 10 iterations apart: those of 10, 20 are missing"),
        # One that Ctrl-C left.
        ([0, 10, 17, 20, 30], 0, 30, None, "not 10 iterations apart: those of 17 lie between. .*--interval N"),
        ([0, 10, 20, 30, 35], 0, 35, None, "not 10 iterations apart: 35 is not among 0, 10, 20"),
        ([0, 10, 20, 30], 0, 30, 15, "not 15 iterations apart: those of 15 are missing"),
        ([0, 10, 20, 30], 0, 30, 40, "does not hold two samples 40 iterations apart"),
        ([0, 10, 20, 30], 0, 30, 20, "not 20 iterations apart: 30 is not among 0, 20, 40"),
    ],
)
def test_iterations_that_do_not_fit(
    known: list[int], start: int, stop: int, interval: int | None, message: str
) -> None:
    with pytest.raises(CaffeSplitError, match=message):
        choose_iterations(known, start, stop, interval)


def test_iterations_that_fit() -> None:
    assert choose_iterations([0, 10, 20, 30, 40], 10, 40) == [10, 20, 30, 40]
    assert choose_iterations([0, 10, 17, 20, 30], 0, 30, 10) == [0, 10, 20, 30]
    assert choose_iterations([0, 40], 0, 40) == [0, 40]


def changed(name: str, shape: tuple[int, ...]) -> Callable[[Path], dict[str, list[np.ndarray]]]:
    return lambda path: {name if path.name == "20" else "conv": [np.zeros(shape if path.name == "20" else (3, 2))]}


def test_snapshots_of_another_net() -> None:
    files = {i: Path(str(i)) for i in (0, 10, 20, 30)}
    with pytest.raises(CaffeSplitError, match=r"^20: layer 'conv' has shape \(2, 2\), but \(3, 2\) in 0. .*two nets"):
        from_snapshots(files, ["conv"], (0, 30), read=changed("conv", (2, 2)))
    with pytest.raises(CaffeSplitError, match=r"^20: no weights of layer 'conv' in it; it has those of other"):
        from_snapshots(files, ["conv"], (0, 30), read=changed("other", (3, 2)))


def test_diverged() -> None:
    track = walk(4)
    track[20] = np.full_like(track[20], np.nan)
    with pytest.raises(CaffeSplitError, match=r"'conv' were not finite somewhere in the window 0:40.*ends before"):
        measure(track, 0, 40)
    assert measure(track, 0, 10)[0].steps == 1


def test_a_snapshot_outside_the_windows_is_not_read(tmp_path: Path) -> None:
    """Such as the last one, which a full disk left cut off."""
    rng = np.random.default_rng(0)
    files = {}
    for iteration in range(0, 50, 10):
        files[iteration] = tmp_path / f"a_iter_{iteration}.caffemodel"
        write_weights(files[iteration], {"c": [rng.normal(size=(4, 3, 2, 2))]})
    (whole,) = measure_snapshots(files, windows=[(0, 30)])
    files[40].write_bytes(files[40].read_bytes()[:20])
    (again,) = measure_snapshots(files, windows=[(0, 30)])
    np.testing.assert_array_equal(again.tpm, whole.tpm)
    with pytest.raises(CaffeSplitError, match=r"a_iter_40\.caffemodel: not a whole caffemodel"):
        measure_snapshots(files)


def test_files_and_patterns(tmp_path: Path) -> None:
    for name in ("a_iter_10.caffemodel", "a_iter_9.caffemodel", "a_iter_9.caffemodel.h5", "a_iter_9.solverstate"):
        (tmp_path / name).touch()
    assert snapshots_of([f"{tmp_path}/a_iter_*"]) == {
        9: tmp_path / "a_iter_9.caffemodel",
        10: tmp_path / "a_iter_10.caffemodel",
    }
    (tmp_path / "b_iter_11.caffemodel").touch()
    with pytest.raises(CaffeSplitError, match=r"snapshots of 2 trainings are mixed, .*a_iter.* and .*b_iter"):
        snapshots_of([f"{tmp_path}/*_iter_*"])
    with pytest.raises(CaffeSplitError, match=r"no snapshot .* is called so"):
        snapshots_of([f"{tmp_path}/c*"])
    with pytest.raises(CaffeSplitError, match="its name has no iteration"):
        snapshots_of([f"{tmp_path}/final.caffemodel"])
