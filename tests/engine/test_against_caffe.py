"""Trainings by the engine and by the real Caffe: the same losses and snapshots, each going on from the other's."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.engine.runs import compare, near, numbers, ours, theirs, write_training
from tests.support import ROOT, Trained, caffe_split, train

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.data.store import write_store
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.caffemodel import read_weights, write_weights
from caffe_split.formats.weights.solverstate import read_solverstate

pytestmark = pytest.mark.caffe
RELATIVE = 1e-3

SOLVERS = {
    "sgd": 'base_lr: 0.05 momentum: 0.9 weight_decay: 0.01 lr_policy: "multistep" gamma: 0.3 stepvalue: 4 stepvalue: 9',
    "l1_clipped": 'base_lr: 0.05 momentum: 0.9 weight_decay: 0.003 regularization_type: "L1" lr_policy: "step" '
    "gamma: 0.5 stepsize: 5 clip_gradients: 0.4",
    "nesterov": 'type: "Nesterov" base_lr: 0.02 momentum: 0.8 weight_decay: 0.01 lr_policy: "inv" gamma: 0.1 '
    "power: 0.7",
    "adagrad": 'type: "AdaGrad" base_lr: 0.02 weight_decay: 0.01 lr_policy: "poly" power: 1.5',
    "rmsprop": 'type: "RMSProp" rms_decay: 0.95 base_lr: 0.002 weight_decay: 0.01 lr_policy: "exp" gamma: 0.9',
    "adadelta": 'type: "AdaDelta" base_lr: 1 momentum: 0.9 delta: 1e-6 weight_decay: 0.01 lr_policy: "fixed"',
    "adam": 'type: "Adam" base_lr: 0.003 momentum: 0.9 momentum2: 0.99 delta: 1e-6 weight_decay: 0.01 '
    'lr_policy: "sigmoid" gamma: 0.2 stepsize: 6 average_loss: 3',
    "hdf5": 'base_lr: 0.01 momentum: 0.9 weight_decay: 0.01 lr_policy: "fixed" snapshot_format: HDF5',
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def same_snapshots(iteration: int, ending: str = "") -> None:
    """Weights, TPM states and histories of both."""
    a, b = (read_weights(f"{who}_iter_{iteration}.caffemodel{ending}") for who in ("ours", "theirs"))
    for name in b:
        if not len(b[name]):
            continue  # Caffe lists its own Split layers.
        assert len(b[name]) == len(a[name]), name
        for index, (x, y) in enumerate(zip(a[name], b[name])):
            near(x, y, 1e-4 if name.endswith("_tpm") else RELATIVE, f"{name} {index}")
    x, y = (read_solverstate(f"{who}_iter_{iteration}.solverstate{ending}") for who in ("ours", "theirs"))
    assert (x.iter, x.current_step, len(x.history)) == (y.iter, y.current_step, len(y.history))
    assert [h.shape for h in x.history] == [h.shape for h in y.history]
    for index, (h, g) in enumerate(zip(x.history, y.history)):
        near(h, g, RELATIVE, f"history {index}")


@pytest.mark.parametrize("name", SOLVERS)
def test_trainings_match_caffe_iteration_by_iteration(name: str, tmp_path: Path) -> None:
    ending = ".h5" if name == "hdf5" else ""
    iter_size = 2 if name in ("rmsprop", "sgd") else 1
    write_training(tmp_path, SOLVERS[name], 12, iter_size=iter_size)
    # One start for both, drawn by our fillers.
    start, _ = ours("solver.prototxt", seed=5, wish=lambda: "stop")
    weights = start.snapshot()[0].rename(tmp_path / f"init.caffemodel{ending}")
    _, our_log = ours("solver.prototxt", weights=[str(weights)])
    their_log = theirs("solver.prototxt", tmp_path, weights=str(weights))
    compare(our_log, their_log, RELATIVE)
    same_snapshots(12, ending)
    # Each goes on from its own and from the other's snapshot.
    write_training(tmp_path, SOLVERS[name], 20, iter_size=iter_size)
    _, from_ours = ours("solver.prototxt", snapshot=f"ours_iter_12.solverstate{ending}")
    _, from_theirs = ours("solver.prototxt", snapshot=f"theirs_iter_12.solverstate{ending}")
    caffe_from_ours = theirs("solver.prototxt", tmp_path, snapshot=f"ours_iter_12.solverstate{ending}")
    caffe_from_theirs = theirs("solver.prototxt", tmp_path, snapshot=f"theirs_iter_12.solverstate{ending}")
    for log in (from_ours, from_theirs, caffe_from_ours):
        compare(log, caffe_from_theirs, RELATIVE)
    same_snapshots(20, ending)


def test_the_watched_digits_match_caffe(trained: Trained, tmp_path: Path) -> None:
    """Fifty iterations of the digits net, watched by TPM layers, from one start."""
    shutil.copytree(ROOT / "prototxt/digits", "digits")
    shutil.copytree(trained.folder / "data", "data")
    watch = ("--window", "0:50", "--interval", 5, "--in-place")
    caffe_split("instrument", "digits/train_val.prototxt", *watch, cwd=tmp_path)
    text = Path("digits/solver.prototxt").read_text()
    for old, new in (("max_iter: 2000", "max_iter: 50"), ("display: 20", "display: 1"), ("digits/digits", "ours")):
        assert old in text
        text = text.replace(old, new)
    Path("solver.prototxt").write_text(text)
    weights = ours("solver.prototxt", wish=lambda: "stop")[0].snapshot()[0].rename(tmp_path / "init.caffemodel")
    _, our_log = ours("solver.prototxt", weights=[str(weights)])
    compare(our_log, theirs("solver.prototxt", tmp_path, weights=str(weights)), RELATIVE)
    same_snapshots(50)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10_quick", "resnet20_cifar10", "resnet20_cifar100", "all_cnn_c_cifar10"])
def test_baseline_nets_match_caffe(name: str, tmp_path: Path) -> None:
    """Fifty iterations on random images in batches of 16, without what draws random numbers: crop, mirror, dropout.

    To 1e-3 at a small rate. At the recipes' own rates such trainings are chaotic: Caffes whose first weights differ by
    one rounding, up or down, part as well, and the engine may be ten times as far from Caffe as they are at most.
    """
    shutil.copytree(ROOT / "prototxt" / name, name)
    net = Path(name, "train_val.prototxt")
    text = re.sub(r"(mirror|crop_size): .*|batch_size: \d+", _quiet, net.read_text())
    text = re.sub(r"dropout_ratio: [\d.]+", "dropout_ratio: 1e-9", text)
    net.write_text(text)
    rng = np.random.default_rng(0)
    classes = 100 if name.endswith("100") else 10
    for source in sorted(set(re.findall(r'source: "(.*?)"', text))):
        samples = ((rng.integers(0, 256, (3, 32, 32), dtype=np.uint8), int(rng.integers(classes))) for _ in range(320))
        write_store(source, samples)
    text = Path(name, "solver.prototxt").read_text()
    for field in ("test_iter", "test_interval", "display", "max_iter", "snapshot", "snapshot_prefix"):
        text = re.sub(rf"^{field}:.*\n", "", text, flags=re.M)
    text += '\nmax_iter: 50\ndisplay: 1\ntest_iter: 2\ntest_interval: 25\nsnapshot_prefix: "ours"\n'
    Path("solver.prototxt").write_text(text)
    weights = ours("solver.prototxt", wish=lambda: "stop")[0].snapshot()[0].rename(tmp_path / "init.caffemodel")
    first = read_weights(weights)
    for moved, towards in (("up.caffemodel", np.inf), ("down.caffemodel", -np.inf)):
        blobs = {layer: [np.nextafter(blob, np.float32(towards)) for blob in first[layer]] for layer in first}
        write_weights(moved, blobs, types=first.types)
    apart = {}
    for rate in (None, "0.0001"):
        if rate:
            Path("solver.prototxt").write_text(re.sub("base_lr: .*", f"base_lr: {rate}", text))
        starts = (str(weights), "up.caffemodel", "down.caffemodel")
        runs = [theirs("solver.prototxt", tmp_path, weights=start) for start in starts]
        runs.append(ours("solver.prototxt", weights=[str(weights)])[1])
        caffe, *others = (np.array(numbers(log)["Train net output #0: loss"]) for log in runs)
        apart[rate] = [float((np.abs(losses - caffe) / np.abs(caffe)).max()) for losses in others]
        print(name, rate or "own rate", "Caffe one rounding up, down, engine:", apart[rate])
    assert apart["0.0001"][2] <= RELATIVE
    assert apart[None][2] <= 10 * max(*apart[None][:2], 1e-6)


def _quiet(match: re.Match[str]) -> str:
    return "batch_size: 16" if match[0].startswith("batch_size") else ""


@pytest.mark.parametrize("kind", ["residual", "skip", "extension", "branch-norm"])
def test_derived_nets_match_caffe(kind: str, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty iterations of a derived net from its initial weights."""
    monkeypatch.chdir(digits)
    words = ["--kind", "residual", "--branch-norm"] if kind == "branch-norm" else ["--kind", kind]
    caffe_split(
        "make-derived",
        "digits/solver.prototxt",
        "--iter",
        50,
        "--layers",
        "conv1,res2_conv1",
        *words,
        "--out",
        "new",
        cwd=digits,
    )
    solver = Path("new/solver.prototxt")
    text = solver.read_text().replace("max_iter: 100", "max_iter: 20").replace("display: 20", "display: 1")
    assert "max_iter: 20\n" in text and "display: 1\n" in text
    solver.write_text(text)
    _, our_log = ours("new/solver.prototxt")
    compare(our_log, train("new/solver.prototxt", digits, backend="caffe"), RELATIVE)


def test_weights_with_four_axes_of_2014_load(tmp_path: Path) -> None:
    write_training(tmp_path, 'base_lr: 0.01 lr_policy: "fixed"', 1)
    solver, _ = ours("solver.prototxt")
    old = solver.net.arrays()
    old["ip"] = [old["ip"][0].reshape(1, 1, 5, -1), old["ip"][1].reshape(1, 1, 1, 5)]
    solver.net.load({"ip": old["ip"]}, "old")
    assert np.array_equal(solver.net.arrays()["ip"][0].reshape(-1), old["ip"][0].reshape(-1))


PERMISSIVE = """
name: "permissive"
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.01 }
  data_param { source: "train" batch_size: 8 backend: LMDB } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" }
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" share_mode: PERMISSIVE lr_mult: 1 }
  inner_product_param { num_output: 243 bias_term: false } }
layer { name: "c" type: "InnerProduct" bottom: "b" top: "c"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" top: "loss" }
"""


def test_parameters_share_values_across_shapes(tmp_path: Path) -> None:
    """A weight of 6 x 243 that is also one of 243 x 6; the test net shares it with the train net."""
    write_training(tmp_path, 'base_lr: 0.05 momentum: 0.9 weight_decay: 0.01 lr_policy: "fixed"', 12, net=PERMISSIVE)
    weights = ours("solver.prototxt", seed=5, wish=lambda: "stop")[0].snapshot()[0].rename(tmp_path / "init.caffemodel")
    solver, our_log = ours("solver.prototxt", weights=[str(weights)])
    compare(our_log, theirs("solver.prototxt", tmp_path, weights=str(weights)), RELATIVE)
    same_snapshots(12)
    assert [param.layer for param in solver.net.params] == ["a", "a", "c", "c"]
    arrays = solver.net.arrays()
    assert arrays["b"][0].shape == (243, 6) and np.array_equal(arrays["a"][0].ravel(), arrays["b"][0].ravel())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("share_mode: PERMISSIVE", "", r"'w' has shape \(243, 6\), that of layer 'a' \(6, 243\); share_mode: PERM"),
        ("num_output: 243", "num_output: 242", r"has shape \(242, 6\), .*; Caffe shares as many values only"),
    ],
)
def test_parameters_that_cannot_be_shared_are_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    write_training(tmp_path, 'base_lr: 0.05 lr_policy: "fixed"', 2, net=PERMISSIVE.replace(old, new))
    with pytest.raises(CaffeSplitError, match=expected):
        ours("solver.prototxt")


def debug_lines(log: str) -> list[tuple[str, float]]:
    """What the [Forward] and [Backward] lines say, those of Caffe's own Split layers apart, whose blobs are theirs."""
    found = []
    for text in re.findall(r"\]     (\[(?:Forward|Backward)\] .*)", log):
        if re.search(r"Layer \w+_split,", text):
            continue
        text = re.sub(r"\b(\w+?)_\w+?_\d+_split_\d+", r"\1", text).replace("-nan", "nan")
        words, _, values = re.sub("L[12]", "", text).rpartition(": ")
        found += [(words, float(value)) for value in re.findall(r"nan|[\d.]+(?:e[-+]\d+)?", values)]
    return found


@pytest.mark.parametrize(("iter_size", "display", "max_iter"), [(1, 1, 3), (2, 1, 3), (1, 2, 4), (1, 2, 3), (1, 0, 2)])
def test_debug_info_logs_what_caffe_logs(tmp_path: Path, iter_size: int, display: int, max_iter: int) -> None:
    """Of the TRAIN net in the iterations that `display` shows, also the last forward run."""
    settings = 'base_lr: 0.05 momentum: 0.9 lr_policy: "fixed" debug_info: true'
    solver = write_training(tmp_path, settings, max_iter, iter_size=iter_size)
    solver.write_text(solver.read_text().replace("display: 1", f"display: {display}"))
    weights = ours("solver.prototxt", seed=5, wish=lambda: "stop")[0].snapshot()[0].rename(tmp_path / "init.caffemodel")
    _, log = ours("solver.prototxt", weights=[str(weights)])
    logs = log, theirs("solver.prototxt", tmp_path, weights=str(weights))
    (here, mine), (there, others) = (zip(*debug_lines(log)) for log in logs)
    assert here == there and len(here) > (250 if display == 1 else 50)
    np.testing.assert_allclose(mine, others, rtol=1e-3, atol=1e-7)
    compare(*logs, RELATIVE)
