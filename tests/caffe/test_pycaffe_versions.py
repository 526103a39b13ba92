"""pycaffe as it is installed, with the Python packages of other years: each pair in an environment of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SITE = Path(sys.prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
pytestmark = [pytest.mark.caffe, pytest.mark.slow, pytest.mark.timeout(900)]

# What users do with pycaffe: describe a net, make it, fill and read its blobs, step a solver, keep and load weights,
# turn arrays into messages and images into inputs.
USE = """
import numpy as np, google.protobuf, caffe
from caffe import layers as L
n = caffe.NetSpec()
n.data, n.label = L.DummyData(shape=[dict(dim=[4, 3, 8, 8]), dict(dim=[4])], ntop=2,
                              data_filler=[dict(type="gaussian"), dict(type="constant")])
n.conv = L.Convolution(n.data, num_output=5, kernel_size=3, weight_filler=dict(type="xavier"))
n.score = L.InnerProduct(n.conv, num_output=2, weight_filler=dict(type="xavier"))
n.loss = L.SoftmaxWithLoss(n.score, n.label)
open("net.prototxt", "w").write(str(n.to_proto()))
open("solver.prototxt", "w").write('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9 solver_mode: CPU')
caffe.set_mode_cpu()
caffe.set_random_seed(1)
solver = caffe.get_solver("solver.prototxt")
solver.net.forward()
before = float(solver.net.blobs["loss"].data)
solver.step(9)
assert float(solver.net.blobs["loss"].data) < before
weight = solver.net.params["conv"][0].data
assert weight.shape == (5, 3, 3, 3) and weight.dtype == np.float32
weight[0] = 7
solver.net.save("w.caffemodel")
net = caffe.Net("net.prototxt", caffe.TEST, weights="w.caffemodel")
assert (net.params["conv"][0].data[0] == 7).all()
net.blobs["data"].reshape(2, 3, 8, 8)
datum = caffe.io.array_to_datum(np.arange(12, dtype=np.uint8).reshape(3, 2, 2), 5)
assert caffe.io.datum_to_array(datum).sum() == 66
blob = caffe.io.array_to_blobproto(np.ones((1, 2, 3, 4), np.float32))
assert caffe.io.blobproto_to_array(blob).shape == (1, 2, 3, 4)
transformer = caffe.io.Transformer({"data": (1, 3, 8, 8)})
transformer.set_transpose("data", (2, 0, 1))
assert transformer.preprocess("data", np.ones((8, 8, 3), np.float32)).shape == (3, 8, 8)
print("numpy", np.__version__, "protobuf", google.protobuf.__version__)
"""


@pytest.mark.parametrize(
    ("numpy", "protobuf"),
    [("1.26.4", "3.20.3"), ("1.26.4", "4.25.8"), ("2.0.2", "5.29.5"), ("2.2.6", "6.33.0"), ("2", "7")],
)
def test_pycaffe_with_other_packages(tmp_path, numpy, protobuf):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    wanted = [f"numpy=={numpy}" if "." in numpy else f"numpy=={numpy}.*"]
    wanted += [f"protobuf=={protobuf}" if "." in protobuf else f"protobuf=={protobuf}.*"]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {' '.join(wanted)}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    shutil.copytree(SITE / "caffe", tmp_path / "venv" / SITE.relative_to(sys.prefix) / "caffe")
    for library in Path(sys.prefix, "lib").glob("libcaffe.so*"):
        shutil.copy(library, tmp_path / "venv/lib")
    run = subprocess.run([python, "-c", USE], capture_output=True, text=True, cwd=tmp_path, env={})
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.startswith(f"numpy {numpy}") and f"protobuf {protobuf}" in run.stdout
