"""Nets held against pycaffe: what they are given, a run of many by one pycaffe, and the comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from caffe_split.engine.model.net import Net
from caffe_split.formats import prototxt
from tests.engine.case import Case

RELATIVE = 1e-4
Arrays = Mapping[str, np.ndarray]


def built(case: Case, fuse: bool = False) -> Net:
    return Net(prototxt.parse(case.prototxt(), kind="net"), case.phase, fuse=fuse)


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


def run_pycaffe(folder: Path, cases: Mapping[str, Case], given: Mapping[str, Arrays]) -> dict[str, Arrays]:
    """What one pycaffe gives for each case, in `folder`."""
    jobs = []
    for name, case in cases.items():
        np.savez(folder / f"{name}.in.npz", **given[name])
        (folder / f"{name}.prototxt").write_text(case.prototxt())
        jobs.append({"name": name, "phase": case.phase, "back": case.back})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("pycaffe_job.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "GLOG_minloglevel": "2", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, f"{done.stdout.split()[-1:]}: {done.stderr[-1000:]}"
    return {name: np.load(folder / f"{name}.out.npz") for name in cases}


def computed(case: Case, given: Arrays, fuse: bool = False) -> dict[str, np.ndarray]:
    """What the engine gives for a case, under the names that pycaffe_job.py uses."""
    net = built(case, fuse)
    with torch.no_grad():
        for param in net.params:
            param.values.copy_(torch.tensor(given[f"param:{param.layer}:{param.index}"]))
    wanted = [name for name in case.inputs if name not in case.integers and (case.force or name not in case.constant)]
    inputs = {
        key[5:]: torch.tensor(array, requires_grad=case.back and key[5:] in wanted)
        for key, array in given.items()
        if key.startswith("blob:")
    }
    state = {layer.name for layer in net.layers if layer.text.type == "BatchNorm"}
    for param in net.params:
        param.values.requires_grad_(case.back and param.layer not in state)
    blobs = net.forward(inputs, keep=not fuse).blobs
    found = {f"blob:{top}": blobs[top].detach().numpy() for top in case.tops}
    if case.back:
        tops = [top for top in case.tops if blobs[top].requires_grad]
        diffs = [torch.tensor(given[f"diff:{top}"]) for top in tops]
        torch.autograd.backward([blobs[top] for top in tops], diffs)
        for bottom, tensor in inputs.items():
            if tensor.requires_grad and bottom not in case.constant:
                found[f"diff:{bottom}"] = _gradient(tensor)
        for param in net.params:
            if param.values.requires_grad:
                found[f"paramdiff:{param.layer}:{param.index}"] = _gradient(param.values)
    for param in net.params:
        found[f"param:{param.layer}:{param.index}"] = param.values.detach().numpy()
    return found


def _gradient(tensor: torch.Tensor) -> np.ndarray:
    return np.zeros(tensor.shape, np.float32) if tensor.grad is None else tensor.grad.numpy()


def difference(ours: np.ndarray, theirs: np.ndarray, least: float = 1e-6) -> float:
    """The largest difference, relative to the largest value, which counts as `least` at least."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), least))


def compare(case: Case, given: Arrays, theirs: Arrays) -> None:
    """Hold the engine's run of a case, forward and back, against what pycaffe gave."""
    for name, ours in computed(case, given).items():
        assert difference(ours, theirs[name]) <= RELATIVE, name


def misses(case: Case, given: Arrays, theirs: Arrays, fuse: bool) -> list[str]:
    """What differs from pycaffe by more than rounding: by 1e-4, and by 20 times what a rounding of the inputs changes.

    What a normalisation makes of a constant is rounding alone; so values below 0.01 count as 0.01.
    """
    found = computed(case, given, fuse)
    wrong = [name for name, ours in found.items() if difference(ours, theirs[name], 0.01) > RELATIVE]
    moved = [computed(case, _rounded(given, seed), fuse) for seed in range(5)] if wrong else []
    return [
        name
        for name in wrong
        if difference(found[name], theirs[name], 0.01)
        > 20 * max(difference(other[name], found[name], 0.01) for other in moved)
    ]


def _rounded(given: Arrays, seed: int) -> dict[str, np.ndarray]:
    """The same inputs, each value moved by one rounding up or down."""
    rng = np.random.default_rng(seed)
    return {
        name: (array * (1 + 1.2e-7 * rng.choice([-1, 1], size=array.shape))).astype(np.float32)
        for name, array in given.items()
    }
