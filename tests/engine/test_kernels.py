"""The compiled kernels compute what PyTorch's own operations do, and a machine without a compiler does without."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.kernels import build
from caffe_split.engine.kernels import norm as kernel
from caffe_split.engine.model.net import Net

needs_compiler = pytest.mark.skipif(build.kernels().library is None, reason=build.kernels().why or "kernels")

HEAD = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 5 dim: 5 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param {
  num_output: 5 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "d" type: "Convolution" bottom: "x" top: "d" convolution_param {
  num_output: 5 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" std: 0.3 } } }
"""
NORM = 'layer { name: "n" type: "BatchNorm" bottom: "c" top: "n" } '
SCALE = 'layer { name: "s" type: "Scale" bottom: "n" top: "n" scale_param { bias_term: true } } '
SUM = 'layer { name: "e" type: "Eltwise" bottom: "d" bottom: "n" top: "e" } '
RELU = 'layer { name: "r" type: "ReLU" bottom: "e" top: "e" } '
LATE = 'layer { name: "p" type: "Power" bottom: "d" top: "d2" power_param { scale: 2 } } '


def chain_of(net: Net) -> list[tuple[bool, bool, bool]]:
    """Of each chain, whether it has a Scale, a sum, and a ReLU."""
    found = [call.chain for call in net.calls if call.chain is not None]
    return [(chain.scale is not None, chain.total is not None, chain.relu is not None) for chain in found]


# A net's layers behind its two convolutions -> what of them runs in one pass.
NETS = {
    "all": (NORM + SCALE + SUM + RELU, [(True, True, True)]),
    "no scale": (NORM + SUM + RELU, [(False, True, True)]),
    "no sum": (NORM + SCALE + RELU.replace('"e"', '"n"'), [(True, False, True)]),
    "no relu": (NORM + SCALE + SUM, [(True, True, False)]),
    "a layer between": (NORM + SCALE + LATE + SUM.replace('"d"', '"d2"') + RELU, [(True, True, True)]),
    "in place": (
        (NORM + SCALE + SUM + RELU).replace('top: "n"', 'top: "c"').replace('bottom: "n"', 'bottom: "c"'),
        [(True, True, True)],
    ),
    "both sides": (
        NORM
        + SCALE
        + (NORM + SCALE).replace('"n"', '"m"').replace('"c"', '"d"').replace('"s"', '"t"')
        + SUM.replace('"d"', '"m"')
        + RELU,
        [(True, False, False), (True, True, True)],
    ),
    "frozen": (
        NORM + 'layer { name: "s" type: "Scale" bottom: "n" top: "n" param { lr_mult: 0 } } ' + SUM + RELU,
        [(True, True, True)],
    ),
    # What must stay apart.
    "read twice": (
        NORM + SCALE + SUM + RELU + 'layer { name: "q" type: "Power" bottom: "n" top: "q" } ',
        [(True, False, False)],
    ),
    "coefficients": (
        NORM + SCALE + SUM.replace('top: "e"', 'top: "e" eltwise_param { coeff: 1 coeff: -1 }') + RELU,
        [(True, False, False)],
    ),
    "slope": (
        NORM + SCALE + SUM + RELU.replace('"ReLU"', '"ReLU" relu_param { negative_slope: 0.1 }'),
        [(True, True, False)],
    ),
    "a sum with itself": (NORM + SCALE + SUM.replace('"d"', '"n"') + RELU, [(True, False, False)]),
}


def results(net: Net, x: np.ndarray, monkeypatch: pytest.MonkeyPatch, on: bool) -> dict[str, torch.Tensor]:
    """The outputs, gradients and state after two iterations, by PyTorch's own operations unless `on`."""
    with monkeypatch.context() as patch:
        if not on:
            patch.setattr(kernel, "fits", lambda *_: False)
        out = net.forward({"x": x}).blobs
        out = net.forward({"x": x}).blobs
    total = sum((blob.float() * torch.linspace(-1, 1, blob.numel()).view(blob.shape)).sum() for blob in out.values())
    total.backward()
    found = {f"blob {name}": blob.detach().float() for name, blob in out.items()}
    for param in net.params:
        found[f"{param.layer} {param.index}"] = param.values.detach()
        if param.values.grad is not None:
            found[f"{param.layer} {param.index} gradient"] = param.values.grad
    return found


@needs_compiler
@pytest.mark.parametrize("name", NETS)
def test_one_pass_computes_what_the_layers_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, expected = NETS[name]
    document = prototxt.parse(HEAD + text, kind="net")
    x = np.random.default_rng(1).normal(size=(4, 3, 5, 5)) * 3 + 2
    nets = [Net(document, "TRAIN", seed=1, fuse=fuse) for fuse in (False, True, True)]
    assert chain_of(nets[1]) == expected
    plain, off, on = (results(net, x, monkeypatch, net is nets[2]) for net in nets)
    assert plain.keys() == on.keys() and any("gradient" in key for key in on)
    for key, value in on.items():
        for other in (plain, off):
            assert float((value - other[key]).abs().max()) <= 1e-4 * (1 + float(other[key].abs().max())), key


@needs_compiler
@pytest.mark.parametrize("shape", [(8, 3), (4, 5, 6, 7), (2, 16, 4, 4)])
def test_bfloat16_values_are_rounded_once(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    x, other, gradient = (torch.randn(shape).bfloat16().contiguous(memory_format=layout) for _ in range(3))
    weight, bias = torch.rand(shape[1]) + 0.5, torch.randn(shape[1])
    exact, ours = (
        [each.to(dtype).requires_grad_() for each, dtype in zip((x, other, weight, bias), dtypes)]
        for dtypes in ([torch.float64] * 4, [torch.bfloat16] * 2 + [torch.float32] * 2)
    )
    running = (torch.zeros(shape[1]), torch.zeros(shape[1]), torch.zeros(1))
    out = kernel.normalised(*ours, True, (1e-5, 0.9, running))
    wanted = torch.nn.functional.batch_norm(exact[0], None, None, exact[2], exact[3], True, 0.0, 1e-5) + exact[1]
    assert out.dtype == torch.bfloat16
    # Half of the last of 8 bits.
    assert bool(((out - wanted.relu()).abs() <= 2**-8 * wanted.abs() + 1e-5).all())
    out.backward(gradient)
    wanted.backward(gradient.double() * (out > 0))
    for one, other in zip(ours, exact):
        assert one.grad is not None and one.grad.dtype == one.dtype
        assert torch.allclose(one.grad.double(), other.grad, rtol=2**-8, atol=1e-4 * float(other.grad.abs().max()))


@needs_compiler
@pytest.mark.parametrize("shape", [(6, 3), (2, 1, 3, 3), (3, 16, 2, 2), (5, 37, 3, 1), (2, 64, 40, 40)])
def test_any_number_of_channels_and_any_mean(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) + 1000 * torch.arange(1, shape[1] + 1).view(1, -1, *[1] * (len(shape) - 2))
    x = x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x
    mean, variance, gathered = torch.ones(shape[1]), torch.ones(shape[1]), torch.ones(1)
    out = kernel.normalised(x, None, None, None, False, (1e-5, 0.5, (mean, variance, gathered)))
    axes = [axis for axis in range(len(shape)) if axis != 1]
    exact = x.double()
    form = (1, -1, *[1] * (len(shape) - 2))
    middle, spread = exact.mean(axes), exact.var(axes, unbiased=False)
    wanted = (exact - middle.view(form)) / (spread + 1e-5).sqrt().view(form)
    # The bottom itself has seven digits, of which a mean of 37,000 takes five.
    assert float((out - wanted).abs().max()) < 1e-2
    assert torch.allclose(mean.double(), 0.5 + middle) and float(gathered) == 1.5
    count = x.numel() / shape[1]
    assert torch.allclose(variance.double(), 0.5 + spread * count / (count - 1), rtol=1e-3)


@needs_compiler
def test_a_value_that_is_none_stays_one() -> None:
    x = torch.zeros(4, 2)
    x[1, 1] = torch.nan
    out = kernel.normalised(x, None, None, None, True, (1e-5, 0.9, (torch.zeros(2), torch.zeros(2), torch.zeros(1))))
    assert bool(out[:, 1].isnan().all()) and bool((out[:, 0] == 0).all())


@needs_compiler
def test_several_threads_compute_the_same() -> None:
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        x = torch.randn(8, 16, 32, 32, generator=torch.Generator().manual_seed(1))
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        running = (torch.zeros(16), torch.zeros(16), torch.zeros(1))
        out = kernel.normalised(x, None, None, None, True, (1e-5, 0.9, running))
        (out * out * out.detach().cos()).sum().backward()
        found.append((out.detach(), x.grad, *running))
    torch.set_num_threads(1)
    for one, three in zip(*found):
        assert torch.allclose(one, three, rtol=1e-5, atol=1e-6)


# -- how they are built

SMALL = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "small.cpp"
    path.write_text(SMALL)
    monkeypatch.setattr(build, "SOURCES", [path])
    return path


@needs_compiler
def test_a_build_is_kept_until_something_changes(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, command = tmp_path / "cache", build.compiler()
    assert build.load(folder, command).answer() == 42
    (built,) = folder.iterdir()
    written = built.stat().st_mtime_ns
    assert build.load(folder, command).answer() == 42
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == [written]
    before = {build.key(command)}
    for change in ("torch", "processor", "source"):
        with monkeypatch.context() as patch:
            if change == "torch":
                patch.setattr(torch, "__version__", "1.0")
            elif change == "processor":
                patch.setattr(build, "_processor", lambda: "another")
            else:
                source.write_text(SMALL.replace("42", "43"))
            assert build.key(command) not in before, change
    assert build.load(folder, command).answer() == 43
    assert len(list(folder.iterdir())) == 2


@needs_compiler
def test_a_damaged_build_is_made_anew(tmp_path: Path, source: Path) -> None:
    folder, command = tmp_path / "cache", build.compiler()
    folder.mkdir()
    (folder / f"kernels-{build.key(command)}.so").write_bytes(b"half of it")
    assert build.load(folder, command).answer() == 42


@needs_compiler
def test_an_error_of_the_compiler_is_told_and_nothing_is_left(tmp_path: Path, source: Path) -> None:
    source.write_text("int answer(\n")
    with pytest.raises(CaffeSplitError, match=r"does not compile the kernels: .*small.cpp.*error"):
        build.load(tmp_path / "cache", build.compiler())
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_compiler_pytorch_computes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    build.kernels.cache_clear()
    kernel.library.cache_clear()
    try:
        assert build.kernels().library is None and "no C++ compiler" in build.kernels().why
        document = prototxt.parse(HEAD + NETS["all"][0], kind="net")
        net = Net(document, "TRAIN", seed=1, fuse=True)
        assert len(chain_of(net)) == 1
        assert net.forward({"x": np.ones((4, 3, 5, 5))}).blobs["e"].shape == (4, 5, 5, 5)
    finally:
        monkeypatch.undo()
        build.kernels.cache_clear()
        kernel.library.cache_clear()
