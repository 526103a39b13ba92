"""The weights' gradient by the processor's tiles is the one that exact products of the same bfloat16 values have."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from caffe_split.formats import prototxt

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.kernels import tiles
from caffe_split.engine.model.net import Net

needs_tiles = pytest.mark.skipif(not tiles.ready(), reason="no matrix tiles (AMX) for bfloat16, or no kernels")

# N, channels, height, width, outputs; kernel; pad.
SHAPES = [
    ((2, 16, 8, 8, 16), (3, 3), (1, 1)),
    ((3, 16, 32, 32, 16), (3, 3), (1, 1)),
    ((5, 32, 16, 16, 48), (3, 3), (1, 1)),
    ((130, 64, 8, 8, 64), (3, 3), (1, 1)),
    ((2, 32, 7, 9, 16), (1, 1), (0, 0)),
    ((2, 48, 11, 5, 32), (5, 3), (2, 1)),
    ((3, 16, 13, 13, 16), (3, 3), (0, 0)),
    ((1, 16, 20, 28, 32), (2, 4), (1, 3)),
    ((7, 64, 8, 8, 32), (1, 7), (0, 3)),
    ((9, 16, 9, 11, 16), (7, 1), (6, 0)),
    ((1, 16, 1, 1, 16), (3, 3), (2, 2)),
]


def low(shape: tuple[int, ...]) -> torch.Tensor:
    """Random bfloat16 values, channels side by side."""
    return torch.randn(shape).bfloat16().contiguous(memory_format=torch.channels_last)


@needs_tiles
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("sizes", "kernel", "pad"), SHAPES)
def test_gradients_are_those_of_exact_products(
    sizes: tuple[int, ...], kernel: tuple[int, int], pad: tuple[int, int], threads: int
) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    n, channels, height, width, outputs = sizes
    x = low((n, channels, height, width)).requires_grad_()
    weight = (torch.randn(outputs, channels, *kernel) * 0.1).requires_grad_()
    bias = torch.randn(outputs).requires_grad_()
    y = tiles.convolved(x, weight, bias, pad)
    exact = [each.detach().bfloat16().double().requires_grad_() for each in (x, weight, bias)]
    wanted = torch.conv2d(*exact, padding=pad)
    # A value's eight bits.
    assert torch.allclose(y.double(), wanted, rtol=2**-8, atol=2**-8)
    gradient = low(tuple(y.shape))
    found = torch.autograd.grad(y, (x, weight, bias), gradient)
    by_hand = torch.autograd.grad(wanted, exact, gradient.double())
    assert [each.dtype for each in found] == [torch.bfloat16, torch.float32, torch.float32]
    for one, other, bound in zip(found, by_hand, (2**-7, 1e-5, 1e-5)):
        assert float((one - other).abs().max()) <= bound * float(other.abs().max())


@needs_tiles
def test_what_another_strip_has_left_does_not_count() -> None:
    """Images of nan behind finite ones, in one call and in the next."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, gradient = low((40, 16, 8, 8)), low((40, 16, 8, 8))
    x[39] = torch.nan
    weight = torch.zeros(16, 16, 3, 3, requires_grad=True)
    for images, is_finite in ((40, False), (39, True), (1, True)):
        y = tiles.convolved(x[:images], weight, None, (1, 1))
        (found,) = torch.autograd.grad(y, (weight,), gradient[:images])
        assert bool(found.isfinite().all()) == is_finite


def test_what_does_not_fit() -> None:
    x, weight = low((2, 16, 8, 8)), torch.zeros(16, 16, 3, 3, requires_grad=True)
    assert tiles.fits(x, weight, (1, 1), (1, 1)) == tiles.ready()
    assert not tiles.fits(x.float(), weight, (1, 1), (1, 1))
    assert not tiles.fits(x.contiguous(), weight, (1, 1), (1, 1))
    assert not tiles.fits(x, weight.detach(), (1, 1), (1, 1))
    assert not tiles.fits(x, weight, (1, 1), (2, 2))
    assert not tiles.fits(x, weight, (3, 1), (1, 1))
    assert not tiles.fits(x, weight[:8], (1, 1), (1, 1))
    assert not tiles.fits(low((2, 8, 8, 8)), weight[:, :8], (1, 1), (1, 1))
    assert not tiles.fits(x[:0], weight, (1, 1), (1, 1))


def test_many_threads_with_many_weights_would_take_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.empty(512, 512, 3, 3, requires_grad=True)
    for threads, takes in ((4, True), (8, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        assert tiles.fits(low((1, 512, 4, 4)), weight, (1, 1), (1, 1)) == (takes and tiles.ready())


HEAD = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param {
  num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
"""
ONE = """
layer { name: "b" type: "Convolution" bottom: "a" top: "b" convolution_param {
  num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "msra" } bias_filler { value: 0.1 } OPTION } }
"""
# Two layers that run as one convolution.
JOINED = (
    ONE.replace('top: "b"', 'top: "c"')
    + """
layer { name: "d" type: "Convolution" bottom: "c" top: "b" convolution_param {
  num_output: 16 kernel_size: 1 weight_filler { type: "msra" } } }
"""
)
LOSS = 'layer { name: "l" type: "Reduction" bottom: "b" top: "l" loss_weight: 1 reduction_param { operation: SUMSQ } }'


@needs_tiles
@pytest.mark.parametrize(("layers", "option", "calls"), [(ONE, "", 1), (JOINED, "", 1), (ONE, "stride: 2", 0)])
def test_a_net_takes_them_where_they_fit(layers: str, option: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = tiles.convolved
    monkeypatch.setattr(tiles, "convolved", lambda *given: seen.append(given) or plain(*given))
    net_text = prototxt.parse(HEAD + layers.replace("OPTION", option) + LOSS, kind="net")
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    gradients = {}
    for fits in (True, False):
        if not fits:
            monkeypatch.setattr(tiles, "fits", lambda *given: False)
        net = Net(net_text, "TRAIN", seed=1, precision="bf16", fuse=True)
        net.forward({"x": x}).loss.backward()
        gradients[fits] = [param.values.grad.clone() for param in net.params if param.values.grad is not None]
    assert len(seen) == calls
    assert gradients[True]
    for one, other in zip(gradients[True], gradients[False]):
        assert float((one - other).abs().max()) <= 2**-6 * float(other.abs().max())


def test_a_compiled_net_does_without() -> None:
    net_text = prototxt.parse(HEAD + ONE.replace("OPTION", "") + LOSS, kind="net")
    for compiled in (True, False):
        net = Net(net_text, "TRAIN", precision="bf16", fuse=True, compiled=compiled)
        assert [layer.by_kernels for layer in net.layers if hasattr(layer, "by_kernels")] == [not compiled] * 2


def test_without_kernels_there_are_no_tiles() -> None:
    code = "from caffe_split.engine.kernels import tiles; print(tiles.ready())"
    environment = {**os.environ, "CAFFE_SPLIT_KERNELS": "off"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
