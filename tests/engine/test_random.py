"""Random values: fillers have Caffe's distributions, dropout its ratio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.model.net import Net

FILLERS = {
    "constant": "value: 0.7",
    "uniform": "min: -0.3 max: 1.1",
    "gaussian": "mean: 0.4 std: 0.6",
    "gaussian sparse": "std: 0.6 sparse: 20",
    "xavier": "",
    "xavier out": "variance_norm: FAN_OUT",
    "xavier average": "variance_norm: AVERAGE",
    "msra": "",
    "msra out": "variance_norm: FAN_OUT",
    "msra average": "variance_norm: AVERAGE",
    "positive_unitball": "",
}
# 180 x 40 x 3 x 3 weights, and 100 x 700 of an inner product.
NET = """
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 1 dim: 40 dim: 5 dim: 5 }} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param {{ num_output: 180 kernel_size: 3
  bias_term: false weight_filler {{ {filler} }} }} }}
layer {{ name: "flat" type: "Input" top: "flat" input_param {{ shape {{ dim: 1 dim: 700 }} }} }}
layer {{ name: "inner" type: "InnerProduct" bottom: "flat" top: "i" inner_product_param {{ num_output: 100
  bias_term: false weight_filler {{ {filler} }} }} }}
"""
BILINEAR = "\n".join(
    f'layer {{ name: "x{n}" type: "Input" top: "x{n}" input_param {{ shape {{ dim: 1 dim: 2 dim: 9 dim: 9 }} }} }}\n'
    f'layer {{ name: "up{n}" type: "Deconvolution" bottom: "x{n}" top: "y{n}" convolution_param {{ num_output: 2 '
    f'group: 2 kernel_size: {n} bias_term: false weight_filler {{ type: "bilinear" }} }} }}'
    for n in (2, 3, 4, 5, 6)
)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights that pycaffe fills."""
    folder = tmp_path_factory.mktemp("filled")
    nets = {name: NET.format(filler=f'type: "{name.split()[0]}" {options}') for name, options in FILLERS.items()}
    for name, text in {**nets, "bilinear": BILINEAR}.items():
        (folder / f"{name}.prototxt").write_text(text)
        np.savez(folder / f"{name}.in.npz")
    jobs = [{"name": name, "phase": "TRAIN", "back": False} for name in (*nets, "bilinear")]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("pycaffe_job.py")
    subprocess.run(
        [sys.executable, str(script), str(folder)], check=True, env={**os.environ, "GLOG_minloglevel": "2"}, timeout=120
    )
    return folder


@pytest.mark.caffe
@pytest.mark.parametrize("name", FILLERS)
def test_fillers_have_caffes_distributions(theirs: Path, name: str) -> None:
    found = np.load(theirs / f"{name}.out.npz")
    net = Net(prototxt.parse((theirs / f"{name}.prototxt").read_text(), kind="net"), "TRAIN", seed=3)
    for param in net.params:
        ours, other = param.values.detach().numpy(), found[f"param:{param.layer}:0"]
        scale = max(float(np.abs(other).max()), 1e-12)
        share = np.linspace(0.02, 0.98, 25)
        np.testing.assert_allclose(np.quantile(ours, share), np.quantile(other, share), atol=0.02 * scale)
        assert ours.std() == pytest.approx(other.std(), rel=0.03, abs=1e-7)
        assert np.mean(ours == 0) == pytest.approx(np.mean(other == 0), abs=0.01)
        # Each kernel is drawn anew, and has the sum that Caffe's kernels have.
        rows, others = (values.reshape(len(values), -1) for values in (ours, other))
        assert rows.sum(1).std() == pytest.approx(others.sum(1).std(), rel=0.25, abs=1e-4)


@pytest.mark.caffe
def test_bilinear_kernels_are_caffes(theirs: Path) -> None:
    found = np.load(theirs / "bilinear.out.npz")
    net = Net(prototxt.parse(BILINEAR, kind="net"), "TRAIN")
    for param in net.params:
        np.testing.assert_allclose(param.values.detach().numpy(), found[f"param:{param.layer}:0"], rtol=1e-6)


def test_a_bilinear_filler_refuses_other_shapes() -> None:
    with pytest.raises(CaffeSplitError, match=r"layer 'inner' \(line \d+\): a bilinear filler needs square kernels"):
        Net(prototxt.parse(NET.format(filler='type: "bilinear"'), kind="net"), "TRAIN")


@pytest.mark.parametrize("ratio", [0.2, 0.7])
def test_dropout_drops_its_ratio_and_scales_the_rest(ratio: float) -> None:
    text = f"""layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 100 dim: 200 }} }} }}
layer {{ name: "d" type: "Dropout" bottom: "x" top: "y" dropout_param {{ dropout_ratio: {ratio} }} }}"""
    net = Net(prototxt.parse(text, kind="net"), "TRAIN")
    torch.manual_seed(1)
    ones = torch.ones(100, 200, requires_grad=True)
    first, second = (net.forward({"x": ones}, keep=True).blobs["y"] for _ in range(2))
    for out in (first, second):
        assert float((out == 0).float().mean()) == pytest.approx(ratio, abs=0.02)
        assert torch.allclose(out[out != 0], torch.tensor(1 / (1 - ratio)))
    assert not torch.equal(first, second)
    first.sum().backward()
    assert torch.equal(ones.grad, first.detach())
