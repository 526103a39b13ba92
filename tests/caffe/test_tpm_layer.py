"""The TPM layer in the real `caffe train`: its state against numpy on snapshots of the same iterations."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_split.net.training import open_training
from caffe_split.tpm.collect import measure_tpm
from caffe_split.tpm.scores import null_tpm
from tests.support import BARE

CAFFE = Path(sys.prefix) / "bin" / "caffe"
pytestmark = [
    pytest.mark.caffe,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not CAFFE.exists(), reason="run ./tools/build_caffe first"),
]

MAX_ITER = 40
WINDOWS = ((5, 20), (20, 35))
BATCH = 24
WATCHED = {"conv1": "4 2 3 3", "frozen": "3 4 1 1", "ip": "5 48"}

NET = """
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param {{ source: "data.txt" batch_size: {batch} }} }}
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param {{ name: "conv1_w" lr_mult: 1 }} param {{ lr_mult: 2 }}
  convolution_param {{ num_output: 4 kernel_size: 3 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }}
layer {{ name: "frozen" type: "Convolution" bottom: "conv1" top: "frozen"
  param {{ name: "frozen_w" lr_mult: 0 decay_mult: 0 }} param {{ lr_mult: 0 decay_mult: 0 }}
  convolution_param {{ num_output: 3 kernel_size: 1 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "frozen" top: "ip"
  param {{ name: "ip_w" lr_mult: 1 }} param {{ lr_mult: 2 }}
  inner_product_param {{ num_output: 5 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""

TPM = """
layer {{ name: "{layer}_tpm" type: "TPM" top: "{layer}_tpm" include {{ phase: TRAIN }}
  param {{ name: "{layer}_w" }}
  tpm_param {{ {windows} interval: {interval} iter_size: {iter_size} shape {{ {dims} }} }} }}
"""

SOLVER = """
net: "net.prototxt" type: "{type}" base_lr: 0.05 lr_policy: "fixed" {momentum} weight_decay: 0.001
max_iter: {max_iter} display: 1 snapshot: {snapshot} snapshot_prefix: "snap" snapshot_format: {format}
iter_size: {iter_size} random_seed: 3 solver_mode: CPU clip_gradients: 0.8
"""


def prepare(
    folder,
    *,
    tpm=True,
    interval=1,
    iter_size=1,
    fmt="BINARYPROTO",
    solver="SGD",
    name=None,
    windows=WINDOWS,
    max_iter=MAX_ITER,
    snapshot=1,
):
    """Data, net and solver in `folder`. Every iteration sees all the data, so a resumed run sees the same."""
    h5py = pytest.importorskip("h5py")
    folder.mkdir()
    rng = np.random.default_rng(7)
    with h5py.File(folder / "data.h5", "w") as file:
        file["data"] = rng.standard_normal((BATCH, 2, 6, 6)).astype(np.float32)
        file["label"] = rng.integers(0, 5, BATCH).astype(np.float32)
    (folder / "data.txt").write_text("data.h5\n")
    net = NET.format(batch=BATCH // iter_size)
    if tpm:
        for layer, shape in WATCHED.items():
            net += TPM.format(
                layer=layer,
                windows=" ".join(f"start_iter: {start} stop_iter: {stop}" for start, stop in windows),
                interval=interval,
                iter_size=iter_size,
                dims=" ".join(f"dim: {dim}" for dim in shape.split()),
            )
    if name:
        before, watcher = net.split('name: "conv1_tpm"')
        net = before + 'name: "conv1_tpm"' + watcher.replace("conv1_w", name)
    (folder / "net.prototxt").write_text(net)
    momentum = "momentum: 0.9"
    (folder / "solver.prototxt").write_text(
        SOLVER.format(
            type=solver, momentum=momentum, max_iter=max_iter, format=fmt, iter_size=iter_size, snapshot=snapshot
        )
    )
    return folder


def caffe(folder, *args, ok=True):
    """Run caffe in `folder` with an empty environment; its log."""
    run = subprocess.run([CAFFE, *args], cwd=folder, env=BARE, capture_output=True, text=True)
    assert (run.returncode == 0) == ok, run.stderr[-3000:]
    return run.stderr


READ = """
import sys, glob, numpy
from caffe.proto import caffe_pb2
blobs = {}
for path in glob.glob("*.caffemodel"):
    net = caffe_pb2.NetParameter()
    net.ParseFromString(open(path, "rb").read())
    for layer in net.layer:
        for i, blob in enumerate(layer.blobs):
            key = "%s/%s/%d" % (path.split("_")[-1].split(".")[0], layer.name, i)
            blobs[key] = numpy.array(blob.data, numpy.float32).reshape(blob.shape.dim)
numpy.savez("blobs.npz", **blobs)
"""


def blobs_of(folder):
    """All snapshots' blobs as {"ITER/LAYER/INDEX": array}: Caffe's own schema in a process of its own."""
    if list(folder.glob("*.caffemodel.h5")):
        import h5py

        blobs = {}
        for path in folder.glob("*.caffemodel.h5"):
            with h5py.File(path) as file:
                for layer, params in file["data"].items():
                    for index, blob in params.items():
                        blobs[f"{path.name.split('_')[-1].split('.')[0]}/{layer}/{index}"] = blob[()]
        return blobs
    subprocess.run([sys.executable, "-c", READ], cwd=folder, check=True)
    with np.load(folder / "blobs.npz") as file:
        return dict(file)


def pair(cells):
    return int(cells[0]) + (int(cells[1]) << 24)


def expected(blobs, layer, iterations):
    """Displacement and path of every kernel and of the whole weight, in float64 from snapshots."""
    weights = [blobs[f"{t}/{layer}/0"].astype(np.float64) for t in iterations]
    flat = [w.reshape(len(w), -1) for w in weights]

    def norms(difference):
        return np.append(np.linalg.norm(difference, axis=1), np.linalg.norm(difference))

    displacement = norms(flat[-1] - flat[0])
    path = sum(norms(b - a) for a, b in zip(flat, flat[1:]))
    return displacement, path


@pytest.mark.parametrize(("interval", "iter_size"), [(1, 1), (5, 1), (4, 1), (1, 4), (5, 4)])
def test_state_equals_numpy_on_snapshots(tmp_path, interval, iter_size):
    folder = prepare(tmp_path / "run", interval=interval, iter_size=iter_size)
    log = caffe(folder, "train", "-solver", "solver.prototxt")
    blobs = blobs_of(folder)
    # At the end of training, and in the middle of the second window.
    for at in (MAX_ITER, 28):
        for layer in WATCHED:
            counter = blobs[f"{at}/{layer}_tpm/4"]
            assert counter.shape == (len(WINDOWS) + 1, 8)
            assert [counter[0, 0], pair(counter[0, 1:3]), *counter[0, 3:]] == [1, at, 0, iter_size, 0, 0, 0]
            assert np.array_equal(blobs[f"{at}/{layer}_tpm/0"], blobs[f"{at}/{layer}/0"])
            for w, (start, stop) in enumerate(WINDOWS):
                # A snapshot is written before the forward that samples its own iteration.
                iterations = [t for t in range(start, min(stop, at - 1) + 1) if (t - start) % interval == 0]
                row = counter[w + 1]
                numbers = [pair(row[i : i + 2]) for i in (0, 2, 4, 6)]
                assert numbers == [len(iterations), start, stop, interval]
                result = blobs[f"{at}/{layer}_tpm/3"][w].astype(np.float64)
                displacement, path = expected(blobs, layer, iterations)
                if layer == "frozen":
                    assert not path.any() and not result.any()
                    continue
                assert (path > 0).all()
                np.testing.assert_allclose(result[:, 0], displacement, rtol=1e-5)
                np.testing.assert_allclose(result[:, 1] + result[:, 2], path, rtol=1e-6)
                tpm = displacement / path
                assert len(iterations) < 4 or (tpm < 0.999).any(), "a straight line would show nothing"
                if at == MAX_ITER and w == 1:
                    # The last display's value is the whole weight's.
                    printed = re.findall(rf"Train net output #\d+: {layer}_tpm = (\S+)", log)
                    assert float(printed[-1]) == pytest.approx(tpm[-1], rel=1e-4)
            # The copies: the weight at the latest window's first and latest sample.
            assert np.array_equal(blobs[f"{at}/{layer}_tpm/1"], blobs[f"{start}/{layer}/0"])
            assert np.array_equal(blobs[f"{at}/{layer}_tpm/2"], blobs[f"{iterations[-1]}/{layer}/0"])
    printed = re.findall(r"Train net output #\d+: conv1_tpm = (\S+)", log)
    assert len(printed) == MAX_ITER
    assert printed[5] == "nan", "one sample"
    assert printed[5 + interval] != "nan", "two samples"
    assert set(re.findall(r"Train net output #\d+: frozen_tpm = (\S+)", log)) == {"nan"}


@pytest.mark.parametrize("iter_size", [1, 4])
@pytest.mark.parametrize("interval", [1, 10, 100])
@pytest.mark.parametrize("resumed", [False, True])
def test_report_equals_numpy_on_snapshots(tmp_path, monkeypatch, interval, iter_size, resumed):
    """What the command reports, from the layers' state and from the snapshots, for each kernel."""
    window = (5, 5 + 4 * interval)
    options = {
        "interval": interval,
        "iter_size": iter_size,
        "windows": (window,),
        "max_iter": window[1] + 5,
        "snapshot": min(interval, 5),
    }
    folder = prepare(tmp_path / "run", **options)
    train = ("train", "-solver", "solver.prototxt")
    caffe(folder, *train)
    if resumed:
        # In mid-window; after a step of 100, where no sample is due.
        at = {1: 7, 10: 25, 100: 155}[interval]
        for path in folder.glob("snap_iter_*"):
            if int(path.name.split("_")[2].split(".")[0]) > at:
                path.unlink()
        caffe(folder, *train, "-snapshot", f"snap_iter_{at}.solverstate")
    blobs = blobs_of(folder)
    monkeypatch.chdir(folder)
    training = open_training("solver.prototxt")
    seen = measure_tpm(training, window[1] + 5, layers=["conv1", "frozen", "ip"])
    series = measure_tpm(training, window[1] + 5, windows=[window], layers=["conv1", "frozen"], interval=interval)
    assert [score.layer for score in seen] == ["conv1", "frozen", "ip"]
    for score in [*seen, *series]:
        assert (score.start, score.stop, score.interval, score.steps) == (*window, interval, 4)
        displacement, path = expected(blobs, score.layer, range(window[0], window[1] + 1, interval))
        with np.errstate(invalid="ignore"):
            tpm = displacement / path
        assert score.frozen == (score.layer == "frozen")
        assert np.append(score.tpm, score.layer_tpm) == pytest.approx(tpm, rel=1e-4, nan_ok=True)
        assert score.frozen or ((tpm > 0.01) & (tpm < 0.9999)).any(), "a straight line would show nothing"


@pytest.mark.parametrize("fmt", ["BINARYPROTO", "HDF5"])
def test_weight_decay_alone_moves_straight(tmp_path, monkeypatch, fmt):
    """On black images the weights have no gradient: the decay, through momentum, is all that moves them."""
    h5py = pytest.importorskip("h5py")
    folder = prepare(tmp_path / "run", interval=2, fmt=fmt, windows=((10, 110),), max_iter=110, snapshot=10)
    with h5py.File(folder / "data.h5", "r+") as file:
        file["data"][...] = 0
    net = (folder / "net.prototxt").read_text()
    (folder / "net.prototxt").write_text(net.replace("lr_mult: 0 decay_mult: 0 } param", "lr_mult: 1 } param"))
    caffe(folder, "train", "-solver", "solver.prototxt")
    monkeypatch.chdir(folder)
    training = open_training("solver.prototxt")
    found = [*measure_tpm(training, 110), *measure_tpm(training, 110, windows=[(20, 110)])]
    assert [score.layer for score in found] == ["conv1", "frozen"] * 2
    for score in found:
        assert score.norm_stop < 0.9999 * score.norm_start
        assert (score.tpm > 0.99).all() and score.layer_tpm > 0.99
        assert null_tpm(score.steps, score.interval, 0.9) < 0.6, "noise would not look like that"


@pytest.mark.parametrize("fmt", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("at", [13, 20])
def test_resumed_run_equals_uninterrupted(tmp_path, fmt, at):
    options = {"interval": 2, "iter_size": 2, "fmt": fmt}
    whole = prepare(tmp_path / "whole", **options)
    caffe(whole, "train", "-solver", "solver.prototxt")
    end = ".h5" if fmt == "HDF5" else ""
    resumed = prepare(tmp_path / "resumed", **options)
    for suffix in ("caffemodel", "solverstate"):
        name = f"snap_iter_{at}.{suffix}{end}"
        (resumed / name).write_bytes((whole / name).read_bytes())
    caffe(resumed, "train", "-solver", "solver.prototxt", "-snapshot", f"snap_iter_{at}.solverstate{end}")
    a, b = blobs_of(whole), blobs_of(resumed)
    compared = [key for key in a if int(key.split("/")[0]) > at]
    # An HDF5 snapshot leaves out blobs that are shared: blob 0 of every TPM layer.
    assert len(compared) == (MAX_ITER - at) * (6 + (4 if fmt == "HDF5" else 5) * len(WATCHED))
    for key in compared:
        assert np.array_equal(a[key], b[key]), key


@pytest.mark.parametrize("solver", ["SGD", "Adam", "RMSProp"])
def test_training_is_bit_identical_with_and_without(tmp_path, solver):
    runs = []
    for tpm in (True, False):
        folder = prepare(tmp_path / f"{tpm}", tpm=tpm, solver=solver)
        if solver == "RMSProp":  # refuses a momentum
            text = (folder / "solver.prototxt").read_text()
            (folder / "solver.prototxt").write_text(text.replace("momentum: 0.9", ""))
        log = caffe(folder, "train", "-solver", "solver.prototxt")
        losses = re.findall(r"Train net output #\d+: (?:loss) = (\S+)", log)
        assert len(losses) == MAX_ITER
        runs.append((blobs_of(folder), losses))
    (with_tpm, losses), (without, plain_losses) = runs
    assert losses == plain_losses
    assert not np.array_equal(without["1/conv1/0"], without["40/conv1/0"])
    for key, blob in without.items():
        assert blob.tobytes() == with_tpm[key].tobytes(), key


def test_name_of_no_weight_is_refused(tmp_path):
    folder = prepare(tmp_path / "run", name="conv1_typo")
    log = caffe(folder, "train", "-solver", "solver.prototxt", ok=False)
    assert "TPM layer 'conv1_tpm': param 'conv1_typo' names no weight of an earlier layer" in log


def test_wrong_shape_is_refused_with_both_shapes(tmp_path):
    folder = prepare(tmp_path / "run")
    net = (folder / "net.prototxt").read_text()
    wrong = net.replace("dim: 4 dim: 2 dim: 3 dim: 3", "dim: 4 dim: 2 dim: 5 dim: 5")
    (folder / "net.prototxt").write_text(wrong)
    log = caffe(folder, "train", "-solver", "solver.prototxt", ok=False)
    assert "4 2 3 3 (72)" in log and "4 2 5 5 (200)" in log


def test_changed_window_that_has_begun_is_refused(tmp_path):
    folder = prepare(tmp_path / "run")
    caffe(folder, "train", "-solver", "solver.prototxt")
    net = (folder / "net.prototxt").read_text()
    (folder / "net.prototxt").write_text(net.replace("stop_iter: 35", "stop_iter: 38"))
    resume = ("train", "-solver", "solver.prototxt", "-snapshot")
    log = caffe(folder, *resume, "snap_iter_25.solverstate", ok=False)
    assert "window 1 from 20 to 38, interval 1, starts before iteration 25 of the loaded state" in log
    # Not yet begun: allowed.
    caffe(folder, *resume, "snap_iter_15.solverstate")
