"""The kernels of tools/gpu_study held to PyTorch, and compiled for the device."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import ROOT

torch = pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "tools"))


from tests.gpu_study.trainings import run_names  # noqa: E402

JOB = """
import os, shutil, sys, tempfile
sys.path[:0] = [{tools!r}, {root!r}]
import torch
import tests.gpu_study.trainings as t
from gpu_study_parts.calibrate import random_scores
from gpu_study_parts.convs import Choice
from pathlib import Path
os.chdir(tempfile.mkdtemp())
shutil.copytree(t.BASELINE, "resnet20_cifar10")
weights = t.start_weights(Path("resnet20_cifar10/train_val.prototxt"), 1)
for name, blobs in weights.items():
    if name.endswith("_scale"):
        blobs[1][:] = 2.5
program = t.nets.read_program(Path("resnet20_cifar10/train_val.prototxt"), weights)
scores = random_scores(program, 1)
program, weights, _ = t.nets.split("resnet20_cifar10", "derived", 0, weights, scores, t.CUTS["MultiSplits"], seed=1)
convs = {{(16, 16, 32): Choice((64, 4), (64, 4), (64, 4, 4)), (32, 32, 16): Choice((128, 4), None, (64, 4, 4)),
         (64, 64, 8): Choice(None, (64, 4), (64, 2, 4))}}
cpu = torch.device("cpu")
ways = [t.Way("fp32-plain", cpu), t.Way("fp32", cpu), t.Way("fp32-convs", cpu, convs)]
runs = [t.run_of(program, weights, way, batch=2, images=8) for way in ways]
for run in runs:
    run.step()
    run.measure()
for run in runs[1:]:
    assert (run.x[..., :3] - runs[0].x).abs().max() < 1e-6 and not run.x[..., 3:].any() and (run.y == runs[0].y).all()
    for name, tensor in run.state().items():
        other = runs[0].state()[name].double()
        off = float((tensor.double() - other).norm() / other.norm().clamp_min(1e-9))
        print(run.way.name, name, off)
        assert off < 1e-4, name
"""


@pytest.mark.slow
def test_own_kernels_compute_what_pytorch_does() -> None:
    """In Triton's interpreter, which runs them on a processor: a step of a split net, and a test."""
    pytest.importorskip("triton")
    script = JOB.format(tools=str(ROOT / "tools"), root=str(ROOT))
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert done.stdout.count("\n") == 2 * len(run_names())


COMPILE = """
import sys
sys.path[:0] = [{tools!r}, {root!r}]
import triton
from gpu_study_parts import convs, kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

def compile(kernel, types, **constants):
    names = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(names, types.split())) | dict.fromkeys(constants, "constexpr")
    signature = {{name: signature[name] for name in kernel.arg_names}}
    places = {{(kernel.arg_names.index(name),): value for name, value in constants.items()}}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    print(kernel.__name__, constants, made.metadata.shared, "wgmma" in made.asm["ptx"] or "mma.sync" in made.asm["ptx"])

for c, side in ((16, 32), (32, 16), (64, 8)):
    shape = dict(height=side, width=side, ci=c, co=c)
    for back in (False, True):
        compile(convs._slide, "*bf16 *bf16 *bf16 *fp32 i32", **shape, back=back, stats=not back, block=128)
    compile(convs._kernel_gradient, "*bf16 *bf16 *fp32 i32", **shape, block=64, blocks=4)
size = dict(at_once=256, channels=16)
kind = dict(has_other=True, relu=True, **size)
compile(kernels._batch, "*u8 *i64 *u8 *i64 *bf16 *i64 i32", batch=128, pad=4)
compile(kernels._sums, "*bf16 *fp32 i32", **size)
compile(kernels._normed, "*bf16 *bf16 *bf16 *fp32 *fp32 *fp32 *fp32 *fp32 i32 fp32 fp32", **kind)
compile(kernels._back_sums, "*bf16 *bf16 *bf16 *fp32 *fp32 i32 fp32", relu=True, **size)
compile(kernels._back, "*bf16 *bf16 *bf16 *bf16 *bf16 *fp32 *fp32 *fp32 *fp32 *fp32 i32 fp32", **kind)
compile(kernels._affine, "*bf16 *bf16 *bf16 *fp32 *fp32 i32", **kind)
compile(kernels._update, "*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *i64 fp32 i32", block=1024)
"""


@pytest.mark.slow
def test_kernels_compile_for_hopper() -> None:
    """To machine code for sm_90, without a device; convolutions to instructions of its tensor cores."""
    pytest.importorskip("triton")
    script = COMPILE.format(tools=str(ROOT / "tools"), root=str(ROOT))
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 16 and all(line.endswith(" True") for line in lines[:9])
