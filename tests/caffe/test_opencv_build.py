"""A Caffe built with OpenCV trains from image files and encoded LMDBs; the PyTorch engine sees the same images."""

import os
import re
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from caffe_split.formats.prototxt import caffe_pb2
from caffe_split.formats.weights.caffemodel import write_weights

pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.caffe, pytest.mark.timeout(1800)]

FILES = 'type: "ImageData" image_data_param { source: "list.txt" batch_size: 20 new_height: %d new_width: %d }'
# The layer, the size of what it gives, and how far losses may be off, relatively. Where images are scaled, OpenCV's
# versions differ by a grey level here and there, and Python's is not Debian's.
DATA = {
    "files": (FILES % (16, 16), 16, 1e-4),
    "scaled": (FILES % (12, 12), 12, 2e-2),
    "encoded": ('type: "Data" data_param { source: "encoded_lmdb" backend: LMDB batch_size: 20 }', 16, 1e-4),
}
NET = """
layer { name: "data" top: "data" top: "label" transform_param { scale: 0.00390625 } %s }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 8 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 10 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "%s.prototxt" base_lr: 0.02 momentum: 0.9 lr_policy: "fixed" max_iter: 40 display: 10
snapshot_after_train: false snapshot_prefix: "%s" solver_mode: CPU
"""


@pytest.fixture(scope="module")
def caffe(tmp_path_factory):
    """The program of a build of its own; what is in .venv stays."""
    into = tmp_path_factory.mktemp("opencv")
    command = [ROOT / "tools/build_caffe", "--cpu", "--opencv", "--into", into]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return into / "bin/caffe"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """200 PNG images of 16 x 16, each digit in a tone of its own, as files and in an LMDB."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    (folder / "png").mkdir()
    lines = []
    with lmdb.open(str(folder / "encoded_lmdb"), map_size=1 << 28) as store, store.begin(write=True) as records:
        for number in range(200):
            label = number % 10
            pixels = random.integers(0, 100, (16, 16, 3)) + np.array([15 * label, 135 - 15 * label, 60])
            path = folder / f"png/{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            lines.append(f"png/{path.name} {label}\n")
            datum = caffe_pb2.Datum(encoded=True, label=label, data=path.read_bytes())
            records.put(b"%08d" % number, datum.SerializeToString())
    (folder / "list.txt").write_text("".join(lines))
    return folder


def losses(command, folder):
    """(iteration, loss) of every display."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "GLOG_logtostderr": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [
        (int(at), float(loss)) for at, loss in re.findall(r"Iteration (\d+)\b.*loss = (\S+)", done.stdout + done.stderr)
    ]


@pytest.mark.parametrize("kind", DATA)
def test_images_are_trained_on_as_by_the_engine(caffe, images, kind):
    layer, size, close = DATA[kind]
    random = np.random.default_rng(1)
    weights = {
        "conv": [random.normal(0, 0.2, (8, 3, 3, 3)), np.zeros(8)],
        "ip": [random.normal(0, 0.03, (10, 8 * (size - 2) ** 2)), np.zeros(10)],
    }
    (images / f"{kind}.prototxt").write_text(NET % layer)
    (images / f"{kind}_solver.prototxt").write_text(SOLVER % (kind, kind))
    write_weights(images / f"{kind}.caffemodel", weights)
    options = [f"{kind}_solver.prototxt", "--weights", f"{kind}.caffemodel"]
    expected = losses([caffe, "train", "-solver", options[0], "-weights", options[2]], images)
    found = losses([sys.executable, "-m", "caffe_split.engine", *options], images)
    assert [at for at, _ in expected] == [at for at, _ in found] == [0, 10, 20, 30, 40]
    assert expected[-1][1] < 0.8 * expected[0][1]
    np.testing.assert_allclose([loss for _, loss in found], [loss for _, loss in expected], rtol=close)
