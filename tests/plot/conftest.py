"""The nets that are drawn, derived once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plot.drawn_nets import RESNET, ROUNDS, random_weights
from tests.support import caffe_split


@pytest.fixture(scope="session")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ResNet-20 with nine splits, the same again on that, and again; and nine splits of the other kinds."""
    folder = tmp_path_factory.mktemp("rounds")
    nets = {"baseline": RESNET}
    net, weights = RESNET, random_weights(RESNET, folder / "w.caffemodel")
    for number, layers in enumerate(ROUNDS, 1):
        out = folder / f"round{number}"
        options = ["--weights", weights, "--layers", layers, "--partition", f"random:{number}", "--out", out]
        caffe_split("make-derived", net, *options, cwd=folder)
        net, weights = out / "deploy.prototxt", out / "init.caffemodel"
        nets[f"round{number}"] = net
    for kind in ("skip", "extension"):
        out = folder / kind
        options = ["--weights", folder / "w.caffemodel", "--layers", ROUNDS[0], "--partition", "random:0"]
        caffe_split("make-derived", RESNET, *options, "--kind", kind, "--out", out, cwd=folder)
        nets[kind] = out / "deploy.prototxt"
    return nets
