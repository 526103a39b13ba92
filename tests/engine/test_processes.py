"""Several processes train what one process trains on the whole batch: losses, tests, weights, history, state."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_split.formats.weights.caffemodel import write_weights
from tests.engine.runs import NET, compare, near, numbers, write_training

pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

RATE = 'base_lr: 0.01 lr_policy: "step" gamma: 0.5 stepsize: 5'
# The rate keeps the stricter solvers from adding up roundings of gradients near 0.
SOLVERS = {
    "sgd": f"{RATE} momentum: 0.9 weight_decay: 0.01 average_loss: 3",
    "adam": f'{RATE} type: "Adam" momentum: 0.9 momentum2: 0.99 delta: 0.01',
    "clip": f"{RATE} momentum: 0.9 clip_gradients: 0.5",
}
BN = re.compile(r'layer \{\{? name: "bn1".*?\n.*?\n')
HDF5 = importlib.util.find_spec("h5py") is not None
CROP = "crop_size: 7 mirror: true scale:"


def without_norm(net: str) -> str:
    changed, count = BN.subn("", net)
    assert count == 1
    return changed


def losses(normalization: str) -> str:
    """A net of labels a pixel, of which one class is ignored, and losses of all kinds."""
    return f"""
layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ scale: 0.01 }}
  data_param {{ source: "train" batch_size: 8 backend: LMDB }} }}
layer {{ name: "noise" type: "DummyData" top: "noise" dummy_data_param {{ shape {{ dim: 8 dim: 5 }}
  data_filler {{ type: "gaussian" }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 5
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "sum" type: "Eltwise" bottom: "ip" bottom: "noise" top: "sum" }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss"
  loss_param {{ ignore_label: 2 normalization: {normalization} }} }}
layer {{ name: "far" type: "EuclideanLoss" bottom: "sum" bottom: "noise" top: "far" loss_weight: 0.1 }}
layer {{ name: "rows" type: "Reduction" bottom: "sum" top: "rows" loss_weight: 0.01
  reduction_param {{ operation: SUMSQ axis: 1 }} }}
layer {{ name: "own" type: "Parameter" top: "own" param {{ decay_mult: 1 }} parameter_param {{ shape {{ dim: 3 }} }} }}
layer {{ name: "size" type: "Reduction" bottom: "own" top: "size" loss_weight: 0.1
  reduction_param {{ operation: SUMSQ }} }}
layer {{ name: "mean" type: "Reduction" bottom: "sum" top: "mean" reduction_param {{ operation: MEAN }} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" top: "classes"
  accuracy_param {{ ignore_label: 2 }} }}
"""


DROPS = """
layer { name: "ones" type: "DummyData" top: "ones" dummy_data_param { shape { dim: 4 dim: 10 }
  data_filler { value: 1 } } }
layer { name: "drop" type: "Dropout" bottom: "ones" top: "drop" include { phase: TRAIN } }
layer { name: "ip" type: "InnerProduct" bottom: "ones" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "ip" top: "loss" }
"""


ROWS = """
layer { name: "rows" type: "HDF5Data" top: "x" top: "y" include { phase: TRAIN }
  hdf5_data_param { source: "list.txt" batch_size: 8 shuffle: true } }
layer { name: "rows" type: "HDF5Data" top: "x" top: "y" include { phase: TEST }
  hdf5_data_param { source: "list.txt" batch_size: 5 } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2
  weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" }
"""


def write_rows(folder: Path) -> None:
    import h5py

    rng = np.random.default_rng(5)
    for name, count in (("a.h5", 11), ("b.h5", 10)):
        with h5py.File(folder / name, "w") as file:
            file["x"], file["y"] = rng.normal(size=(count, 3)), rng.normal(size=(count, 2))
    (folder / "list.txt").write_text("a.h5\nb.h5\n")


# A layer that only the test net has.
OWN = """
layer { name: "cal" type: "Scale" bottom: "ip" top: "cal" include { phase: TEST } }
layer { name: "sizes" type: "Reduction" bottom: "cal" top: "sizes" include { phase: TEST } }
"""


class Trained:
    """Every training of this module, in the folder of all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        settings: str,
        size: int,
        net: str,
        *,
        batch: int = 8,
        iter_size: int = 1,
        iterations: int = 7,  # past the step of the rate and a test; a test at the end would make all alike
        solver: dict[str, Any] | None = None,
        **options: bool,
    ) -> None:
        folder = self.folder / name
        folder.mkdir()
        write_training(folder, settings, iterations, batch, iter_size, net)
        self.jobs.append(
            {"name": name, "folder": str(folder), "size": size, "options": options, "solver": solver or {}}
        )

    def run(self) -> None:
        (self.folder / "jobs.json").write_text(json.dumps(self.jobs))
        subprocess.run(
            [sys.executable, str(Path(__file__).with_name("processes_job.py")), str(self.folder / "jobs.json")],
            check=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def log(self, name: str, rank: int = 0) -> str:
        return (self.folder / name / f"{name}.{rank}.log").read_text()

    def arrays(self, name: str, rank: int = 0) -> dict[str, np.ndarray]:
        with np.load(self.folder / name / f"{name}.{rank}.npz") as arrays:
            return dict(arrays)


def small(batch: int = 8, iter_size: int = 1) -> str:
    return NET.format(batch=batch, iter_size=iter_size)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    all_ = Trained(tmp_path_factory.mktemp("many"))
    plain = without_norm(small())
    for name, settings in SOLVERS.items():
        for size in (1, 2):
            all_.add(f"{name}{size}", settings, size, plain)
    sgd = SOLVERS["sgd"]
    all_.add("sgd4", sgd, 4, plain)
    for size in (1, 2):
        all_.add(f"twice{size}", sgd, size, without_norm(small(iter_size=2)), iter_size=2)
    all_.add("scaled2", sgd, 2, without_norm(small(batch=4)), multiply=True)
    for size in (1, 2):
        all_.add(f"norm{size}", sgd, size, small(), sync_norms=True)
    all_.add("apart2", sgd, 2, small())
    for size in (1, 2):
        all_.add(f"crop{size}", sgd, size, plain.replace("scale:", CROP))
        for mode in ("VALID", "NONE"):
            all_.add(f"{mode}{size}", f"{RATE} momentum: 0.9", size, losses(mode), iterations=5)
        if HDF5:
            all_.add(f"rows{size}", f"{RATE} momentum: 0.9", size, ROWS)
            write_rows(all_.folder / f"rows{size}")
        all_.add(f"own{size}", sgd, size, plain + OWN, solver={"weights": ["w.caffemodel"]})
        blobs: dict[str, list[np.ndarray]] = {"cal": [np.arange(5.0)], "frozen": [np.ones((4, 6, 1, 1))]}
        write_weights(all_.folder / f"own{size}/w.caffemodel", blobs)
    for name in ("drop", "again"):
        all_.add(name, RATE, 2, DROPS, iterations=3)
    all_.add("odd3", sgd, 3, plain)
    all_.run()
    return all_


def same(trained: Trained, one: str, many: str, size: int) -> None:
    """One training by one and by many: every number of the log, all that is saved, and the same in every process."""
    compare(trained.log(one), trained.log(many), 1e-4)
    ours, theirs = trained.arrays(many), trained.arrays(one)
    assert ours.keys() == theirs.keys()
    for key, array in ours.items():
        if np.isfinite(array).all():
            near(array, theirs[key], 1e-4, key)
        for rank in range(1, size):
            assert np.array_equal(array, trained.arrays(many, rank)[key], equal_nan=True), (key, rank)


@pytest.mark.parametrize("name", [*SOLVERS, "twice"])
def test_processes_train_as_one(trained: Trained, name: str) -> None:
    assert len(numbers(trained.log(f"{name}1"))["loss or rate"]) > 10
    same(trained, f"{name}1", f"{name}2", 2)


def test_a_test_batch_that_does_not_divide_is_run_whole(trained: Trained) -> None:
    assert "Every process runs test net (#0) whole" in trained.log("sgd4")
    same(trained, "sgd1", "sgd4", 4)


def test_scaled_batches_train_as_one_large_batch(trained: Trained) -> None:
    same(trained, "sgd1", "scaled2", 2)


def test_synchronised_statistics_are_those_of_the_whole_batch(trained: Trained) -> None:
    same(trained, "norm1", "norm2", 2)


def test_without_sync_each_process_has_its_own_statistics(trained: Trained) -> None:
    """They are the first one's for all in tests, and nothing else differs between the processes."""
    first, second = trained.arrays("apart2"), trained.arrays("apart2", 1)
    assert not np.array_equal(first["bn1:0"], trained.arrays("norm1")["bn1:0"])
    assert [key for key in first if not np.array_equal(first[key], second[key], equal_nan=True)] == ["bn1:0", "bn1:1"]


@pytest.mark.parametrize("mode", ["VALID", "NONE"])
def test_losses_of_each_kind_are_those_of_the_whole_batch(trained: Trained, mode: str) -> None:
    log = numbers(trained.log(f"{mode}2"))
    assert {"Train net output #0: accuracy", "Train net output #1: classes"} <= log.keys()
    assert len(log["Train net output #10: rows"]) == 5
    same(trained, f"{mode}1", f"{mode}2", 2)


def test_weights_of_a_layer_that_only_tests_reach_every_process(trained: Trained) -> None:
    assert "Layer cal, which only test net (#0) has, starts from w.caffemodel" in trained.log("own2")
    same(trained, "own1", "own2", 2)


def test_crops_and_mirrors_do_not_depend_on_the_processes(trained: Trained) -> None:
    assert numbers(trained.log("crop1"))["loss or rate"] != numbers(trained.log("sgd1"))["loss or rate"]
    same(trained, "crop1", "crop2", 2)


@pytest.mark.skipif(not HDF5, reason="h5py is not installed")
def test_shuffled_rows_do_not_depend_on_the_processes(trained: Trained) -> None:
    same(trained, "rows1", "rows2", 2)


def test_dropout_differs_between_processes_and_is_repeatable(trained: Trained) -> None:
    logs = [numbers(trained.log(name)) for name in ("drop", "again")]
    first, second = (np.array([log[f"Train net output #{n}: drop"] for n in range(40)]) for log in logs)
    assert np.array_equal(first, second) and set(first.flat) == {0, 2}
    # Of every iteration two rows are the first process's, and two the second's.
    rows = first.T.reshape(12, 10)
    assert len({row.tobytes() for row in rows}) == 12


def test_a_batch_that_does_not_divide_is_refused(trained: Trained) -> None:
    for rank in range(3):
        said = trained.log("odd3", rank)
        assert "a batch of 8 does not divide over 3 processes" in said and "layer 'data' (line 3)" in said
