"""Our weights and solver states in the real Caffe, and its in ours, binary and HDF5."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from caffe_split.formats.weights import caffemodel

pytestmark = pytest.mark.caffe

NET = """
name: "tiny"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } shape { dim: 2 } data_filler { value: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""

LOAD = """
import sys, numpy, caffe
net = caffe.Net(sys.argv[1], caffe.TEST, weights=sys.argv[2])
numpy.savez(sys.argv[3], **{f"{name}.{i}": b.data for name, v in net.params.items() for i, b in enumerate(v)})
if len(sys.argv) > 4:
    net.save(sys.argv[4]) if sys.argv[4].endswith("model") else net.save_hdf5(sys.argv[4])
"""

TRAIN = """
import sys, caffe
solver = caffe.get_solver(sys.argv[1])
if len(sys.argv) > 2:
    solver.restore(sys.argv[2])
solver.step(int(3))
solver.snapshot()
"""


def python(code, *arguments, folder):
    environment = {**os.environ, "GLOG_minloglevel": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True
    )
    if "No module named 'caffe'" in done.stderr:
        pytest.skip("no pycaffe; run ./tools/build_caffe")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_caffe_reads_ours_and_we_read_caffes(suffix, tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        "conv": [rng.standard_normal((5, 3, 3, 3), np.float32), rng.standard_normal(5, np.float32)],
        "ip": [rng.standard_normal((2, 20), np.float32), rng.standard_normal(2, np.float32)],
    }
    (tmp_path / "net.prototxt").write_text(NET)
    ours, theirs = tmp_path / f"ours.caffemodel{suffix}", tmp_path / f"theirs.caffemodel{suffix}"
    caffemodel.write_weights(ours, weights, "tiny", {"conv": "Convolution", "ip": "InnerProduct"})
    python(LOAD, "net.prototxt", ours, "out.npz", theirs, folder=tmp_path)
    seen = np.load(tmp_path / "out.npz")
    back = caffemodel.read_weights(theirs)
    assert {name for name in back if back[name]} == {"conv", "ip"}
    for name, arrays in weights.items():
        for index, array in enumerate(arrays):
            np.testing.assert_array_equal(seen[f"{name}.{index}"], array)
            np.testing.assert_array_equal(back[name][index], array)
            assert back[name][index].shape == array.shape


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_a_training_resumed_from_our_copy_of_a_state_ends_as_from_caffes(form, tmp_path):
    """A training resumed from our copy of its state ends where the one resumed from Caffe's own does."""
    suffix = ".h5" if form == "HDF5" else ""
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "step" stepsize: 2 gamma: 0.5 random_seed: 1 '
        f'solver_mode: CPU snapshot_prefix: "s" snapshot_format: {form} max_iter: 100 test_iter: 1 test_interval: 1000'
    )
    python(TRAIN, "solver.prototxt", folder=tmp_path)
    first = tmp_path / f"s_iter_3.solverstate{suffix}"
    state = caffemodel.read_solverstate(first)
    assert state.iter == 3 and state.current_step == 1 and len(state.history) == 4
    assert state.learned_net == f"s_iter_3.caffemodel{suffix}"
    assert state.history[0].shape == (5, 3, 3, 3) and np.abs(state.history[0]).max() > 0
    python(TRAIN, "solver.prototxt", first, folder=tmp_path)
    wanted = caffemodel.read_weights(tmp_path / f"s_iter_6.caffemodel{suffix}")
    wanted = {name: [array.copy() for array in wanted[name]] for name in wanted}
    weights = caffemodel.read_weights(tmp_path / state.learned_net)
    caffemodel.write_weights(tmp_path / f"copy.caffemodel{suffix}", weights)
    copied = caffemodel.SolverState(3, f"copy.caffemodel{suffix}", state.current_step, state.history)
    caffemodel.write_solverstate(tmp_path / f"copy.solverstate{suffix}", copied)
    os.unlink(tmp_path / f"s_iter_6.caffemodel{suffix}")
    python(TRAIN, "solver.prototxt", f"copy.solverstate{suffix}", folder=tmp_path)
    got = caffemodel.read_weights(tmp_path / f"s_iter_6.caffemodel{suffix}")
    for name, arrays in wanted.items():
        for left, right in zip(arrays, got[name]):
            np.testing.assert_array_equal(left, right)
