"""Going on: the newest whole snapshot, and data, tests and random numbers where they stood."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.caffemodel import SolverState, write_solverstate, write_weights
from tests.engine.runs import NET, numbers, ours, write_training
from tests.support import train

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.net.resume import newest_pair

RATE = 'base_lr: 0.01 momentum: 0.9 lr_policy: "step" gamma: 0.7 stepsize: 3'
# Crops, mirrors, dropout, random blobs; 44 records by 8, tests of 2 x 7 of 20.
RANDOM = (
    NET.format(batch=8, iter_size=2)
    .replace("scale:", "crop_size: 7 mirror: true scale:")
    .replace("batch_size: 10", "batch_size: 7")
    .replace(
        'layer { name: "ip"',
        """layer { name: "drop" type: "Dropout" bottom: "frozen" top: "frozen" }
layer { name: "noise" type: "DummyData" top: "noise" include { phase: TRAIN } dummy_data_param {
  shape { dim: 8 dim: 3 } data_filler { type: "gaussian" } } }
layer { name: "heard" type: "InnerProduct" bottom: "noise" top: "heard" include { phase: TRAIN }
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loud" type: "Reduction" bottom: "heard" top: "loud" include { phase: TRAIN } loss_weight: 0.01
  reduction_param { operation: SUMSQ } }
layer { name: "ip\"""",
    )
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def pair(iteration: int, form: str = "", **changes: object) -> None:
    weights = f"a_iter_{iteration}.caffemodel{form}"
    values = np.full((2, 3), changes.get("value", 1.0), np.float32)
    write_weights(weights, {"ip": [values]}, "a", {"ip": "InnerProduct"})
    state = SolverState(int(changes.get("iter", iteration)), weights, 0, [np.zeros((2, 3), np.float32)])  # type: ignore
    write_solverstate(f"a_iter_{iteration}.solverstate{form}", state)


def test_auto_takes_the_newest_whole_pair() -> None:
    said: list[str] = []
    assert newest_pair("a", said.append) is None and not said
    for iteration in (9, 10, 20, 30, 40, 50, 60):
        pair(iteration)
    pair(30, value=np.inf)
    pair(40, iter=41)
    Path("a_iter_20.caffemodel").write_bytes(Path("a_iter_20.caffemodel").read_bytes()[:-1])
    Path("a_iter_50.caffemodel").unlink()
    Path("a_iter_60.solverstate").write_bytes(Path("a_iter_60.solverstate").read_bytes()[:-30])
    Path("a_iter_70.caffemodel").write_bytes(Path("a_iter_10.caffemodel").read_bytes())
    Path(".a_iter_80.solverstate.x.tmp").touch()
    assert newest_pair("a", said.append) == Path("a_iter_10.solverstate")
    for line, iteration, why in zip(
        said,
        (60, 50, 40, 30, 20),
        ("whole", "not there", "of iteration 41", "'ip' in a_iter_30.caffemodel are not finite", "not a whole"),
    ):
        assert line.startswith(f"Passing over a_iter_{iteration}.solverstate: ") and why in line, line
    assert len(said) == 5


def test_auto_takes_binary_and_hdf5_states() -> None:
    """Of one iteration the one written last, the other where that is not whole."""
    pytest.importorskip("h5py")
    said: list[str] = []
    for iteration, form in ((10, ""), (10, ".h5"), (20, ".h5"), (30, ""), (30, ".h5"), (40, "")):
        pair(iteration, form, value=np.inf if iteration == 40 else 1.0)
    for old, new in (("", ".h5"), (".h5", "")):
        os.utime(f"a_iter_30.solverstate{old}", (1, 1))
        os.utime(f"a_iter_30.solverstate{new}", (2, 2))
        assert newest_pair("a", said.append) == Path(f"a_iter_30.solverstate{new}")
    Path("a_iter_30.caffemodel").unlink()
    assert newest_pair("a", said.append) == Path("a_iter_30.solverstate.h5")
    Path("a_iter_30.caffemodel.h5").unlink()
    assert newest_pair("a", said.append) == Path("a_iter_20.solverstate.h5")
    assert [line.split(":")[0] for line in said[-3:]] == [
        f"Passing over a_iter_{name}" for name in ("40.solverstate", "30.solverstate", "30.solverstate.h5")
    ]


def test_a_missing_snapshot_folder_is_refused(tmp_path: Path) -> None:
    write_training(tmp_path, RATE, 1)
    path = Path("solver.prototxt")
    text = path.read_text()
    for prefix in ("nowhere/ours", "nowhere/"):
        path.write_text(text.replace('"ours"', f'"{prefix}"'))
        with pytest.raises(CaffeSplitError, match="snapshot_prefix: no folder nowhere seen from"):
            ours("solver.prototxt", snapshot="auto")


def test_a_name_that_no_hdf5_snapshot_can_have_is_refused(tmp_path: Path) -> None:
    net = NET.format(batch=8, iter_size=1).replace('"ip"', '"a/b"')
    write_training(tmp_path, f"{RATE} snapshot_format: HDF5", 1, net=net)
    with pytest.raises(CaffeSplitError, match=r"layer 'a/b' \(line .*\): it cannot be in an HDF5 file"):
        ours("solver.prototxt")


def behind(log: str, iteration: int) -> dict[str, str]:
    """The numbers of a log from the first line of an iteration on, as text: nan is nan."""
    found = numbers(log[re.search(rf"\] Iteration {iteration}\b", log).start() :])  # type: ignore[union-attr]
    assert "Test net output #0: accuracy" in found and len(found["loss or rate"]) > 10
    return {name: str(values) for name, values in found.items()}


@pytest.mark.parametrize("stop", [6, 7])
def test_a_resumed_training_continues_exactly(tmp_path: Path, stop: int) -> None:
    """At the iteration of a test, and behind it."""
    write_training(tmp_path, RATE, 14, iter_size=2, net=RANDOM)
    solver, whole = ours("solver.prototxt")
    text = Path("solver.prototxt").read_text()
    Path("solver.prototxt").write_text(text.replace("max_iter: 14", f"max_iter: {stop}"))
    for path in Path().glob("ours_iter_*"):
        path.unlink()
    assert "No whole snapshot ours_iter_*" in ours("solver.prototxt", snapshot="auto")[1]
    Path("solver.prototxt").write_text(text)
    again, rest = ours("solver.prototxt", snapshot="auto")
    assert f"Resuming from ours_iter_{stop}.solverstate" in rest
    assert behind(rest, stop) == behind(whole, stop)
    for name, blobs in solver.net.arrays().items():
        for ours_, theirs in zip(again.net.arrays()[name], blobs):
            assert np.array_equal(ours_, theirs, equal_nan=True), name
    # Caffe begins with the first record again, and so do we unless told otherwise.
    state = f"ours_iter_{stop}.solverstate"
    assert behind(ours("solver.prototxt", snapshot=state)[1], stop) != behind(whole, stop)
    assert behind(ours("solver.prototxt", snapshot=state, continue_data=True)[1], stop) == behind(whole, stop)


def test_running_means_of_nvcaffe_go_on(tmp_path: Path) -> None:
    """NVCaffe copies the first two batches' statistics, and after a resume those of the next two."""
    net = NET.format(batch=8, iter_size=1).replace("batch_norm_param {", "batch_norm_param { scale_bias: true")
    write_training(tmp_path, f"{RATE} snapshot: 1", 5, net=net)
    whole = ours("solver.prototxt")[0].net.arrays()["bn1"]
    for stop in (1, 3):
        again = ours("solver.prototxt", snapshot=f"ours_iter_{stop}.solverstate", continue_data=True)[0]
        assert all(np.array_equal(a, b) for a, b in zip(again.net.arrays()["bn1"], whole)), stop


def test_a_snapshot_that_cannot_be_written_again_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from caffe_split.engine.training import snapshots

    write_training(tmp_path, RATE, 3)
    solver, _ = ours("solver.prototxt")
    before = {path.name: path.read_bytes() for path in Path().glob("ours_iter_3.*")}
    assert len(before) == 2

    def full(*_: object) -> None:
        raise CaffeSplitError("no space left")

    with monkeypatch.context() as context:
        context.setattr(snapshots, "write_weights", full)
        with pytest.raises(CaffeSplitError, match="no space left"):
            solver.snapshot()
    assert {path.name: path.read_bytes() for path in Path().glob("ours_iter_3.*")} == before
    solver.snapshot()
    assert {path.name for path in Path().glob("ours_iter_3.*")} == set(before)


@pytest.mark.parametrize("form", ["", "snapshot_format: HDF5"])
def test_a_snapshot_is_written_again_in_a_folder_of_any_name(tmp_path: Path, form: str) -> None:
    """Only the name of the file gets the mark of a new one, not that of a folder."""
    write_training(tmp_path, RATE, 3)
    Path("old.caffemodels").mkdir()
    text = Path("solver.prototxt").read_text().replace('"ours"', '"old.caffemodels/ours.caffemodel"')
    Path("solver.prototxt").write_text(text + form)
    solver, _ = ours("solver.prototxt")
    names = {path.name for path in Path("old.caffemodels").iterdir()}
    assert len(names) == 2
    solver.snapshot()
    assert {path.name for path in Path("old.caffemodels").iterdir()} == names


def test_a_finished_training_is_not_written_again(tmp_path: Path) -> None:
    write_training(tmp_path, RATE, 3)
    ours("solver.prototxt")
    times = {path: path.stat().st_mtime_ns for path in Path().glob("ours_iter_3.*")}
    log = ours("solver.prototxt", snapshot="auto")[1]
    assert "Resuming from ours_iter_3" in log and "Optimization Done" in log and "Snapshotting" not in log
    assert {path: path.stat().st_mtime_ns for path in Path().glob("ours_iter_3.*")} == times


@pytest.mark.caffe
@pytest.mark.parametrize("settings", ["", "snapshot: 2", "snapshot: 3", "snapshot_after_train: false"])
def test_a_finished_training_under_another_prefix_is_written_as_caffe_does(tmp_path: Path, settings: str) -> None:
    write_training(tmp_path, RATE, 3)
    ours("solver.prototxt")
    solver = Path("solver.prototxt")
    solver.write_text(solver.read_text().replace('"ours"', '"again"') + settings)
    ours("solver.prototxt", snapshot="ours_iter_3.solverstate")
    solver.write_text(solver.read_text().replace('"again"', '"caffe"'))
    train("solver.prototxt", tmp_path, backend="caffe", snapshot="ours_iter_3.solverstate")
    made = [sorted(path.name.partition("_")[2] for path in Path().glob(f"{who}_iter_*")) for who in ("again", "caffe")]
    assert (
        made[0]
        == made[1]
        == (
            []
            if settings in ("snapshot: 3", "snapshot_after_train: false")
            else ["iter_3.caffemodel", "iter_3.solverstate"]
        )
    )


def test_a_finished_training_is_written_in_the_other_format(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    write_training(tmp_path, RATE, 3)
    ours("solver.prototxt")
    solver = Path("solver.prototxt")
    solver.write_text(solver.read_text() + "snapshot_format: HDF5")
    ours("solver.prototxt", snapshot="ours_iter_3.solverstate")
    assert Path("ours_iter_3.solverstate.h5").is_file() and Path("ours_iter_3.caffemodel.h5").is_file()
