"""Convolutions by Winograd's algorithm and their gradients are the exact ones up to rounding in float32."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from caffe_split.formats import prototxt

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.kernels import build, winograd
from caffe_split.engine.model.net import Net

needs_winograd = pytest.mark.skipif(not winograd.ready(), reason="no AVX-512 or AVX2 registers, or no kernels")

# N, channels, height, width, outputs; pad.
SHAPES = [
    ((2, 16, 8, 8, 16), (1, 1)),
    ((3, 16, 32, 32, 16), (1, 1)),
    ((5, 32, 16, 16, 48), (1, 1)),
    ((37, 64, 8, 8, 80), (1, 1)),
    ((1, 128, 9, 30, 64), (1, 1)),
    ((3, 16, 7, 7, 32), (1, 1)),
    ((2, 48, 11, 5, 32), (2, 1)),
    ((3, 16, 13, 13, 16), (0, 0)),
    ((2, 16, 20, 28, 160), (1, 2)),
    ((1, 32, 6, 64, 16), (0, 2)),
    ((1, 240, 10, 10, 16), (2, 2)),
]


def side_by_side(shape: tuple[int, ...]) -> torch.Tensor:
    """Random values with a mean that is not 0, channels side by side."""
    return (torch.randn(shape) + 0.5).contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=["as compiled", "narrow"])
def registers(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels as this processor has them, and for processors without AVX-512."""
    if request.param == "narrow":
        source = next(path for path in build.SOURCES if path.stem == "winograd")
        flags = ("-O2", "-fPIC", "-shared", "-std=c++17", "-march=native", "-mno-avx512f", "-fopenmp", "-w")
        done = subprocess.run([build.compiler(), *flags, str(source), "-o", str(tmp_path / "narrow.so")], check=False)
        if done.returncode:
            pytest.skip("this compiler or processor has no AVX-512 to go without")
        whole = build.library()
        narrow = ctypes.CDLL(str(tmp_path / "narrow.so"))
        assert narrow.winograd_ready()
        for name in ("winograd_forward", "winograd_bottom", "winograd_weights"):
            getattr(narrow, name).argtypes = getattr(whole, name).argtypes
        monkeypatch.setattr(winograd, "required_library", lambda: narrow)
    yield
    torch.set_num_threads(1)


@needs_winograd
@pytest.mark.parametrize("threads", [1, 3])
def test_values_and_gradients_are_those_of_exact_arithmetic(registers: None, threads: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    for sizes, pad in SHAPES:
        n, channels, height, width, outputs = sizes
        x = side_by_side((n, channels, height, width)).requires_grad_()
        weight = (torch.randn(outputs, channels, 3, 3) * 0.1).requires_grad_()
        bias = torch.randn(outputs).requires_grad_()
        assert winograd.fits(x, weight, pad, (1, 1))
        y = winograd.convolved(x, weight, bias, pad)
        exact = [each.detach().double().requires_grad_() for each in (x, weight, bias)]
        wanted = torch.conv2d(*exact, padding=pad)
        gradient = side_by_side(tuple(y.shape))
        found = torch.autograd.grad(y, (x, weight, bias), gradient)
        by_hand = torch.autograd.grad(wanted, exact, gradient.double())
        for one, other in zip((y, *found), (wanted, *by_hand)):
            assert one.shape == other.shape
            assert float((one - other).detach().abs().max()) <= 2e-6 * float(other.abs().max())


@needs_winograd
def test_it_rounds_hardly_more_than_a_direct_convolution() -> None:
    torch.manual_seed(1)
    x, weight = side_by_side((16, 64, 16, 16)), torch.randn(64, 64, 3, 3)
    wanted = torch.conv2d(x.double(), weight.double(), padding=1)
    errors = [
        float((y - wanted).abs().max())
        for y in (winograd.convolved(x, weight, None, (1, 1)), torch.conv2d(x, weight, padding=1))
    ]
    assert errors[0] <= 2 * errors[1]


@needs_winograd
def test_the_same_bytes_each_time() -> None:
    torch.manual_seed(2)
    torch.set_num_threads(2)
    x, weight = side_by_side((7, 32, 15, 15)), torch.randn(48, 32, 3, 3, requires_grad=True)
    seen = []
    for _ in range(3):
        y = winograd.convolved(x, weight, None, (1, 1))
        seen.append((y.detach(), *torch.autograd.grad(y.square().sum(), (weight,))))
    assert all(torch.equal(one, other) for again in seen[1:] for one, other in zip(seen[0], again))
    torch.set_num_threads(1)


@needs_winograd
def test_an_image_of_nan_does_not_reach_another() -> None:
    """Nor the next call, whose memory may be that of the last one."""
    torch.manual_seed(3)
    x, weight = side_by_side((9, 16, 7, 7)), torch.randn(16, 16, 3, 3)
    x[4] = torch.nan
    for _ in range(2):
        y = winograd.convolved(x, weight, None, (1, 1))
        assert [bool(each.isfinite().all()) for each in y] == [image != 4 for image in range(9)]
    assert bool(winograd.convolved(side_by_side((1, 16, 7, 7)), weight, None, (1, 1)).isfinite().all())


@needs_winograd
def test_weights_and_gradients_may_lie_in_another_order() -> None:
    torch.manual_seed(4)
    x = side_by_side((2, 16, 8, 8)).requires_grad_()
    weight = torch.randn(3, 3, 16, 32).permute(3, 2, 0, 1).requires_grad_()
    y = winograd.convolved(x, weight, None, (1, 1))
    gradient = torch.randn(y.shape)
    found = torch.autograd.grad(y, (x, weight), gradient)
    wanted = torch.autograd.grad(torch.conv2d(x, weight, padding=1), (x, weight), gradient)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@needs_winograd
def test_a_gradient_has_a_gradient() -> None:
    torch.manual_seed(5)
    x, weight = side_by_side((2, 16, 8, 8)).requires_grad_(), torch.randn(16, 16, 3, 3, requires_grad=True)
    found = []
    for slide in (lambda: winograd.convolved(x, weight, None, (1, 1)), lambda: torch.conv2d(x, weight, padding=1)):
        (first,) = torch.autograd.grad(slide().tanh().sum(), (x,), create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), (x, weight)))
    for one, other in zip(*found):
        assert float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


@needs_winograd
def test_float32_is_float32_whatever_the_default_is() -> None:
    torch.manual_seed(6)
    x, weight = side_by_side((2, 16, 8, 8)).requires_grad_(), torch.randn(16, 16, 3, 3, requires_grad=True)
    wanted = torch.conv2d(x, weight, padding=1)
    torch.set_default_dtype(torch.float64)
    try:
        y = winograd.convolved(x, weight, None, (1, 1))
        gradients = torch.autograd.grad(y.sum(), (x, weight))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-4)
    assert [each.dtype for each in gradients] == [torch.float32] * 2


@needs_winograd
def test_more_threads_within_a_parallel_region() -> None:
    """OMP_NUM_THREADS=2,4: what a thread counts there is not what the call has laid out."""
    code = """
import torch
from caffe_split.engine.kernels import winograd
x = torch.randn(64, 16, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
w = torch.randn(16, 16, 3, 3, requires_grad=True)
y = winograd.convolved(x, w, None, (1, 1))
g = torch.autograd.grad(y.sum(), (x, w))
z = torch.conv2d(x, w, padding=1)
for one, other in zip((y, *g), (z, *torch.autograd.grad(z.sum(), (x, w)))):
    assert float((one - other).detach().abs().max()) <= 1e-4 * float(other.detach().abs().max())
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2,64", "OMP_MAX_ACTIVE_LEVELS": "2"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    environment["OMP_NUM_THREADS"] = "64,1"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_what_does_not_fit() -> None:
    x, weight = side_by_side((2, 16, 8, 8)), torch.zeros(16, 16, 3, 3)

    def fits(x: torch.Tensor = x, weight: torch.Tensor = weight, pad: tuple = (1, 1), stride: tuple = (1, 1)) -> bool:
        return winograd.fits(x, weight, pad, stride)

    assert fits() == winograd.ready()
    assert not fits(x.bfloat16())
    assert not fits(x.double(), weight.double())
    assert not fits(x.contiguous())
    assert not fits(stride=(1, 2))
    assert not fits(pad=(3, 1))
    assert not fits(weight=torch.zeros(16, 16, 3, 1))
    assert not fits(weight=weight[:8])
    assert not fits(side_by_side((2, 8, 8, 8)), weight[:, :8])
    assert not fits(x[:0])
    # Two by two places look at a tile of which most lies beyond the edge; and few tiles.
    assert not fits(side_by_side((64, 16, 3, 3)), pad=(0, 0))
    assert not fits(side_by_side((1, 16, 4, 4)))
    assert not fits(side_by_side((1, 512, 16, 16)), torch.zeros(512, 512, 3, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert not fits()


HEAD = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 40 dim: 3 dim: 16 dim: 16 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param {
  num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
"""
ONE = """
layer { name: "b" type: "Convolution" bottom: "a" top: "b" convolution_param {
  num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "msra" } bias_filler { value: 0.1 } OPTION } }
"""
# A fork's pads, which differ at the two ends.
UNEVEN = ONE.replace("pad: 1", "pad_l: 0 pad_r: 2 pad_t: 2 pad_b: 1")
# Two layers that run as one convolution.
JOINED = (
    ONE.replace('top: "b"', 'top: "c"')
    + """
layer { name: "d" type: "Convolution" bottom: "c" top: "b" convolution_param {
  num_output: 16 kernel_size: 1 weight_filler { type: "msra" } } }
"""
)
LOSS = 'layer { name: "l" type: "Reduction" bottom: "b" top: "l" loss_weight: 1 reduction_param { operation: SUMSQ } }'


@needs_winograd
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize(
    ("layers", "option", "calls"),
    [(ONE, "", 1), (UNEVEN, "", 1), (JOINED, "", 1), (ONE, "stride: 2", 0), (ONE, "group: 2", 0)],
)
def test_a_net_takes_it_where_it_fits(
    layers: str, option: str, calls: int, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    plain = winograd.convolved
    monkeypatch.setattr(winograd, "convolved", lambda *given: seen.append(given) or plain(*given))
    net_text = prototxt.parse(HEAD + layers.replace("OPTION", option) + LOSS, kind="net")
    torch.manual_seed(0)
    x = torch.randn(40, 3, 16, 16)
    found = {}
    for fits in (True, False):
        if not fits:
            monkeypatch.setattr(winograd, "fits", lambda *given: False)
        net = Net(net_text, phase, seed=1, fuse=True)
        loss = net.forward({"x": x}).loss
        found[fits] = [loss.detach()]
        if phase == "TRAIN":
            loss.backward()
            found[fits] += [param.values.grad.clone() for param in net.params if param.values.grad is not None]
    assert len(seen) == calls
    for one, other in zip(found[True], found[False]):
        assert float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


def test_without_kernels_there_is_none() -> None:
    code = "from caffe_split.engine.kernels import winograd; print(winograd.ready())"
    environment = {**os.environ, "CAFFE_SPLIT_KERNELS": "off"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
