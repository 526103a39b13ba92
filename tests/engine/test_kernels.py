"""The compiled kernels compute what PyTorch's own operations do, and a machine without a compiler does without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.kernels import build, pool
from caffe_split.engine.kernels import norm as kernel
from caffe_split.engine.kernels.pool import pooled
from caffe_split.engine.kernels.update import Update
from caffe_split.engine.model.calls import with_twins
from caffe_split.engine.model.net import Net
from caffe_split.engine.model.params import Param
from caffe_split.engine.training import updates
from caffe_split.engine.training.updates import Updater
from caffe_split.net.options import Options

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
    # A top with two readers, each of which gives it a gradient.
    "read by two": (
        NORM + SCALE + SUM + RELU + LATE.replace('"d"', '"e"') + LATE.replace('"d"', '"e"').replace('2"', '3"'),
        [(True, True, True)],
    ),
    "read by three, without a sum": (
        NORM
        + RELU.replace('"e"', '"n"')
        + "".join(LATE.replace('"d"', '"n"').replace('2"', f'{n}"').replace("2 }", f"{n} }}") for n in (2, 3, 4)),
        [(False, False, True)],
    ),
    "read by two, without a ReLU": (
        NORM + SCALE + SUM + LATE.replace('"d"', '"e"') + LATE.replace('"d"', '"e"').replace('2"', '3"'),
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
    for net in nets[1:]:
        net.calls = with_twins(net.calls, net.outputs)
    assert any(len(call.tops) > 1 for call in nets[1].calls) == name.startswith("read ")
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
    (out,) = kernel.normalised(*ours, True, (1e-5, 0.9, running))
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
    (out,) = kernel.normalised(x, None, None, None, False, (1e-5, 0.5, (mean, variance, gathered)))
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
    (out,) = kernel.normalised(x, None, None, None, True, (1e-5, 0.9, (torch.zeros(2), torch.zeros(2), torch.zeros(1))))
    assert bool(out[:, 1].isnan().all()) and bool((out[:, 0] == 0).all())


@needs_compiler
def test_several_threads_compute_the_same() -> None:
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        x = torch.randn(8, 16, 32, 32, generator=torch.Generator().manual_seed(1))
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        running = (torch.zeros(16), torch.zeros(16), torch.zeros(1))
        (out,) = kernel.normalised(x, None, None, None, True, (1e-5, 0.9, running))
        (out * out * out.detach().cos()).sum().backward()
        found.append((out.detach(), x.grad, *running))
    torch.set_num_threads(1)
    for one, three in zip(*found):
        assert torch.allclose(one, three, rtol=1e-5, atol=1e-6)


FEWER = """
import torch
from caffe_split.engine.kernels import norm
torch.set_num_threads(2)
x = torch.randn(64, 32, 32, 32).contiguous(memory_format=torch.channels_last) + 5
(out,) = norm.normalised(x, None, None, None, False, (1e-5, 0.9, (torch.zeros(32), torch.zeros(32), torch.zeros(1))))
print(float((out - torch.nn.functional.batch_norm(x, None, None, training=True)).abs().max()))
"""


@needs_compiler
@pytest.mark.parametrize("limit", ["OMP_THREAD_LIMIT", "OMP_DYNAMIC"])
def test_fewer_threads_than_were_asked_for_compute_all_of_it(limit: str) -> None:
    value = {"OMP_THREAD_LIMIT": "1", "OMP_DYNAMIC": "true"}[limit]
    child = subprocess.run(
        [sys.executable, "-c", FEWER], env={**os.environ, limit: value}, stdout=subprocess.PIPE, check=True
    )
    assert float(child.stdout) < 1e-4


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
    build.library.cache_clear()
    try:
        assert build.kernels().library is None and "no C++ compiler" in build.kernels().why
        document = prototxt.parse(HEAD + NETS["all"][0], kind="net")
        net = Net(document, "TRAIN", seed=1, fuse=True)
        assert len(chain_of(net)) == 1
        assert net.forward({"x": np.ones((4, 3, 5, 5))}).blobs["e"].shape == (4, 5, 5, 5)
    finally:
        monkeypatch.undo()
        build.kernels.cache_clear()
        build.library.cache_clear()


@needs_compiler
@pytest.mark.parametrize("kind", ["SGD", "Nesterov"])
@pytest.mark.parametrize("regularization", ["L1", "L2"])
def test_one_call_updates_all_parameters(kind: str, regularization: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f'type: "{kind}" momentum: 0.8 weight_decay: 0.01 regularization_type: "{regularization}" iter_size: 2'
    options = Options("SolverParameter", [prototxt.parse(text, kind="solver")])
    found: list[list[torch.Tensor]] = []
    done: list[bool] = []
    for kernels in (True, False):
        by_kernel = Update.__call__ if kernels else lambda *_: False
        monkeypatch.setattr(
            updates.Update, "__call__", lambda *given, by=by_kernel: done.append(by(*given)) or done[-1]
        )
        torch.manual_seed(0)
        params = [
            Param("a", 0, torch.randn(3, 2, 3, 3), 1.0, 1.0),
            Param("a", 1, torch.zeros(3), 2.0, 0.0),
            Param("b", 0, torch.randn(40, 1000), 0.5, 1.0),
            Param("c", 0, torch.randn(4), 0.0, 1.0),
        ]
        updater = Updater(params, options)
        for iteration in range(3):
            for param in params[:3]:
                param.values.grad = torch.randn(param.values.shape)
            updater.apply(0.1, iteration)
            assert all(param.values.grad is None for param in params)
        assert set(done) == {kernels}
        done.clear()
        found.append([*(param.values for param in params), *updater.history])
    for one, other in zip(*found):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-7)


@needs_compiler
@pytest.mark.parametrize("kind", ["MAX", "AVE"])
@pytest.mark.parametrize(
    "window",
    [
        "kernel_size: 3 stride: 2",
        "kernel_size: 1 stride: 2",
        "kernel_size: 2 pad: 1",
        "kernel_h: 4 kernel_w: 2 stride_h: 3 stride_w: 1 pad_h: 1 pad_w: 1",
        "kernel_size: 5 pad: 4 stride: 2",
        "kernel_size: 17 stride: 3",
    ],
)
def test_pooling_computes_what_pytorch_does(kind: str, window: str, monkeypatch: pytest.MonkeyPatch) -> None:
    side = 19 if "17" in window else 7
    text = f"""layer {{ name: "in" type: "Input" top: "x"
  input_param {{ shape {{ dim: 2 dim: 5 dim: {side} dim: {side} }} }} }}
layer {{ name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param {{
  num_output: 37 kernel_size: 1 weight_filler {{ type: "gaussian" std: 1 }} }} }}
layer {{ name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param {{ pool: {kind} {window} }} }}"""
    net = Net(prototxt.parse(text, kind="net"), "TRAIN", seed=1, fuse=True)
    x = np.random.default_rng(0).normal(size=(2, 5, side, side))
    found, seen = [], []
    monkeypatch.setattr(pool, "pooled", lambda *given, **named: seen.append(1) or pooled(*given, **named))
    for on in (True, False):
        net.layers[2].by_kernels = on
        seen.clear()
        top = net.forward({"x": x}).blobs["p"]
        # Larger kernels are left to PyTorch.
        assert bool(seen) == (on and "17" not in window)
        top.backward(torch.linspace(-1, 1, top.numel()).view(top.shape))
        found.append((top.detach(), *(param.values.grad for param in net.params)))
        for param in net.params:
            param.values.grad = None
        with torch.no_grad():
            assert torch.equal(net.forward({"x": x}).blobs["p"], found[-1][0])
    for one, other in zip(*found):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_the_largest_of_equal_values_is_the_first_and_a_nan_is_seen() -> None:
    x = torch.tensor([1.0, 3.0, 3.0, torch.nan]).view(1, 1, 2, 2).requires_grad_()
    (row,) = pooled(x, (1, 2, 1, 1, 0, 0), (2, 1), largest=True).unbind(1)
    assert row.flatten().tolist()[0] == 3 and bool(row.flatten()[1].isnan())
    # Sixteen channels are computed at once.
    many = x.detach().expand(1, 19, 2, 2).contiguous(memory_format=torch.channels_last)
    (columns,) = pooled(many, (2, 1, 1, 1, 0, 0), (1, 2), largest=True).unbind(2)
    assert bool((columns[:, :, 0] == 3).all()) and bool(columns[:, :, 1].isnan().all())
    (first,) = pooled(many.flip(3), (1, 2, 1, 1, 0, 0), (2, 1), largest=True).unbind(3)
    assert bool((first[:, :, 0] == 3).all()) and bool(first[:, :, 1].isnan().all())
    y = torch.full((1, 1, 2, 2), 7.0).requires_grad_()
    pooled(y, (2, 2, 1, 1, 0, 0), (1, 1), largest=True).sum().backward()
    assert y.grad.flatten().tolist() == [1, 0, 0, 0]


@needs_compiler
@pytest.mark.parametrize("largest", [True, False])
def test_pooling_of_bfloat16_adds_in_float(largest: bool) -> None:
    torch.manual_seed(0)
    low = torch.randn(2, 16, 9, 9).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    full = low.detach().float().requires_grad_()
    outs = [pooled(x, (3, 3, 1, 1, 0, 0), (7, 7), largest=largest) for x in (low, full)]
    gradient = torch.randn(outs[0].shape).bfloat16()
    for out in outs:
        out.backward(gradient.to(out.dtype))
    assert outs[0].dtype == low.grad.dtype == torch.bfloat16
    assert torch.equal(outs[0].float(), outs[1].bfloat16().float())
    assert torch.equal(low.grad, full.grad.bfloat16())


def test_a_user_without_a_home_trains_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(build.SWITCH, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.setattr(Path, "expanduser", _no_home)
    found = build.kernels.__wrapped__()
    assert found.library is None and "no home to keep compiled kernels in; set XDG_CACHE_HOME" in found.why


def _no_home(_: Path) -> Path:
    raise RuntimeError("Could not determine home directory.")
