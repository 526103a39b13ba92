"""Every layer against the real Caffe: forward, backward, and what is kept, on random shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.engine.cases import CASES, Case

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.model.net import Net
from caffe_split.formats import prototxt
from caffe_split.layertypes.table import RECORDS

pytestmark = pytest.mark.caffe
SEEDS = (1, 2, 3)
RELATIVE = 1e-4
# Layers without bottoms or with no values to compare, and those with tests of their own.
SOURCES = {"Input", "DummyData", "Data", "ImageData", "HDF5Data", "MemoryData"}
ELSEWHERE = SOURCES | {"Parameter", "Split", "Silence", "TPM"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def values(case: Case, net: Net, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Bottoms, parameters and gradients at the tops, under the names that pycaffe_job.py knows."""
    given = {}
    for name, shape in case.inputs.items():
        if name in case.integers:
            given[f"blob:{name}"] = rng.integers(case.integers[name], size=shape).astype(np.float32)
        else:
            drawn = case.factor * rng.normal(size=shape)
            drawn = np.round(drawn) if case.whole else drawn
            given[f"blob:{name}"] = (np.abs(drawn) + 0.1 if name in case.positive else drawn).astype(np.float32)
    for layer in net.layers:
        for index, blob in enumerate(layer.blobs):
            drawn = rng.normal(size=tuple(blob.shape))
            given[f"param:{layer.name}:{index}"] = (
                np.abs(drawn) + 0.5 if layer.text.type == "BatchNorm" else drawn
            ).astype(np.float32)
    for top in case.tops:
        given[f"diff:{top}"] = rng.normal(size=net.shapes[top]).astype(np.float32)
    return given


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases run by one pycaffe."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("judged")
    jobs = []
    for name, make in CASES.items():
        for seed in SEEDS:
            rng = np.random.default_rng([seed, *name.encode()])
            case = make(rng)
            net = Net(prototxt.parse(case.prototxt(), kind="net"), case.phase)
            np.savez(folder / f"{name}-{seed}.in.npz", **values(case, net, rng))
            (folder / f"{name}-{seed}.prototxt").write_text(case.prototxt())
            jobs.append({"name": f"{name}-{seed}", "phase": case.phase, "back": case.back})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("pycaffe_job.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "GLOG_minloglevel": "2", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, f"{done.stdout.split()[-1:]}: {done.stderr[-1000:]}"
    return folder


def near(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape, name
    scale = np.abs(theirs).max(initial=0)
    assert np.abs(ours - theirs).max(initial=0) <= RELATIVE * max(scale, 1e-6), name


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_each_layer_matches_caffe(judged: Path, name: str, seed: int) -> None:
    case = CASES[name](np.random.default_rng([seed, *name.encode()]))
    given, theirs = np.load(judged / f"{name}-{seed}.in.npz"), np.load(judged / f"{name}-{seed}.out.npz")
    net = Net(prototxt.parse(case.prototxt(), kind="net"), case.phase)
    with torch.no_grad():
        for param in net.params:
            param.values.copy_(torch.tensor(given[f"param:{param.layer}:{param.index}"]))
    inputs = {
        key[5:]: torch.tensor(given[key], requires_grad=case.back and key[5:] not in case.integers)
        for key in given.files
        if key.startswith("blob:")
    }
    for param in net.params:
        param.values.requires_grad_(case.back and net.layers[-1].text.type != "BatchNorm")
    blobs = net.forward(inputs, keep=True).blobs
    for top in case.tops:
        near(f"blob {top}", blobs[top].detach().numpy(), theirs[f"blob:{top}"])
    if case.back:
        tops = [blobs[top] for top in case.tops if blobs[top].requires_grad]
        diffs = [torch.tensor(given[f"diff:{top}"]) for top in case.tops if blobs[top].requires_grad]
        torch.autograd.backward(tops, diffs)
        for bottom, tensor in inputs.items():
            if tensor.requires_grad and bottom not in case.constant:
                diff = np.zeros(tensor.shape, np.float32) if tensor.grad is None else tensor.grad.numpy()
                near(f"diff of {bottom}", diff, theirs[f"diff:{bottom}"])
        for param in net.params:
            if param.values.requires_grad:
                key = f"{param.layer}:{param.index}"
                near(f"diff of {key}", param.values.grad.numpy(), theirs[f"paramdiff:{key}"])
    for param in net.params:
        key = f"{param.layer}:{param.index}"
        near(key, param.values.detach().numpy(), theirs[f"param:{key}"])


def test_each_type_is_compared_with_caffe() -> None:
    types = {
        line.split('type: "')[1].split('"')[0]
        for make in CASES.values()
        for line in make(np.random.default_rng(0)).text.splitlines()
    }
    assert types | ELSEWHERE == {name for name, record in RECORDS.items() if record.engine}
