"""Short trainings by the torch engine in this process, and by the real Caffe, on data drawn by a seed."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from caffe_split.data.store import write_store
from tests.support import train

NET = """
name: "small"
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  transform_param {{ scale: 0.0078125 mean_value: 100 mean_value: 110 mean_value: 120 }}
  data_param {{ source: "train" batch_size: {batch} backend: LMDB }} }}
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ scale: 0.0078125 mean_value: 100 mean_value: 110 mean_value: 120 }}
  data_param {{ source: "test" batch_size: 10 backend: LMDB }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param {{ name: "conv1_w" lr_mult: 1 decay_mult: 1 }}
  convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 bias_term: false weight_filler {{ type: "msra" }} }} }}
layer {{ name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1"
  batch_norm_param {{ moving_average_fraction: 0.9 }} }}
layer {{ name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param {{ bias_term: true }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }}
layer {{ name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param {{ pool: MAX kernel_size: 3 stride: 2 }} }}
layer {{ name: "left" type: "Convolution" bottom: "pool1" top: "left" param {{ name: "both" }} param {{ name: "b" }}
  convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "left_relu" type: "ReLU" bottom: "left" top: "left" }}
layer {{ name: "right" type: "Convolution" bottom: "left" top: "right" param {{ name: "both" }} param {{ name: "b" }}
  convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "sum" type: "Eltwise" bottom: "pool1" bottom: "right" top: "sum" }}
layer {{ name: "frozen" type: "Convolution" bottom: "sum" top: "frozen" param {{ lr_mult: 0 decay_mult: 0 }}
  convolution_param {{ num_output: 4 kernel_size: 1 bias_term: false weight_filler {{ type: "gaussian" std: 0.5 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "frozen" top: "ip"
  param {{ lr_mult: 1 decay_mult: 1 }} param {{ lr_mult: 2 decay_mult: 0 }}
  inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 0.7 }}
layer {{ name: "size" type: "Reduction" bottom: "ip" top: "size" loss_weight: 0.001
  reduction_param {{ operation: SUMSQ }} include {{ phase: TRAIN }} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include {{ phase: TEST }} }}
layer {{ name: "conv1_tpm" type: "TPM" top: "conv1_tpm" param {{ name: "conv1_w" }} include {{ phase: TRAIN }}
  tpm_param {{ start_iter: 1 stop_iter: 10 start_iter: 10 stop_iter: 40 interval: 3 iter_size: {iter_size}
  shape {{ dim: 6 dim: 3 dim: 3 dim: 3 }} }} }}
"""


def write_training(
    folder: Path, settings: str, max_iter: int, batch: int = 8, iter_size: int = 1, net: str | None = None
) -> Path:
    """LMDBs, net and solver in a folder; the solver's name."""
    rng = np.random.default_rng(7)
    for name, count in (("train", 44), ("test", 20)):
        if not (folder / name).exists():
            images = rng.integers(0, 256, size=(count, 3, 9, 9), dtype=np.uint8)
            labels = rng.integers(5, size=count)
            write_store(folder / name, ((image, int(label)) for image, label in zip(images, labels)))
    (folder / "net.prototxt").write_text(net or NET.format(batch=batch, iter_size=iter_size))
    solver = folder / "solver.prototxt"
    solver.write_text(
        f'net: "net.prototxt"\nmax_iter: {max_iter}\ndisplay: 1\ntest_iter: 2\ntest_interval: 6\n'
        f'snapshot_prefix: "ours"\nsolver_mode: CPU\nrandom_seed: 3\niter_size: {iter_size}\n{settings}\n'
    )
    return solver


def ours(solver: str, **options: Any) -> tuple[Any, str]:
    """Train with the engine here; the solver and its log."""
    from caffe_split.engine.log import Log
    from caffe_split.engine.training.solver import Solver

    stream = io.StringIO()
    trained = Solver(solver, log=Log(stream), **options)
    trained.solve()
    return trained, stream.getvalue()


def theirs(solver: str, cwd: Path, **start: str) -> str:
    """Train with Caffe, from `start`, weights or a snapshot; its snapshots have the prefix "theirs"; its log."""
    text = (cwd / solver).read_text().replace('"ours"', '"theirs"')
    (cwd / "theirs.prototxt").write_text(text)
    return train("theirs.prototxt", cwd, backend="caffe", **start)


def numbers(log: str) -> dict[str, list[float]]:
    """Losses and outputs of a log, by what the lines call them."""
    found: dict[str, list[float]] = {}
    for name, value in re.findall(
        r"\] +(Iteration \d+(?= \(.*loss|, loss|, lr)|T\w+ net output #\d+: \w+)"
        r".*? = (\S+)",
        log,
    ):
        found.setdefault(re.sub(r"Iteration \d+", "loss or rate", name), []).append(float(value))
    return found


def compare(a: str, b: str, relative: float) -> float:
    """Hold two logs together, number by number; the largest relative difference. Where both say nan is right."""
    first, second = numbers(a), numbers(b)
    assert first.keys() == second.keys()
    worst = 0.0
    for name in first:
        x, y = np.array(first[name]), np.array(second[name])
        assert x.shape == y.shape, name
        assert (np.isnan(x) == np.isnan(y)).all(), name
        scale = np.maximum(np.nanmax(np.abs(y), initial=0) * 1e-2, np.abs(y))
        difference = np.nan_to_num(np.abs(x - y) / np.maximum(scale, 1e-12))
        assert difference.max(initial=0) <= relative, (name, difference.max(), x, y)
        worst = max(worst, float(difference.max(initial=0)))
    return worst


def near(ours: np.ndarray, theirs: np.ndarray, relative: float, what: str) -> None:
    """Two arrays, to a share of the largest value."""
    assert ours.shape == theirs.shape, what
    assert np.abs(ours - theirs).max(initial=0) <= relative * max(np.abs(theirs).max(initial=0), 1e-6), what
