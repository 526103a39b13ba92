"""3x3 convolutions of few channels, in Triton, for where they are faster than cuDNN's: forward, and both ways back.

Images are (image, row, column, channel), kernels (output, row, column, input channel). The forward one also adds up
what the BatchNorm behind it needs. Sums are float32. Which of both computes what is chosen by measuring: see `choose`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch.nn import functional


@triton.jit
def _slide(
    x,
    w,
    y,
    sums,
    rows,
    height: tl.constexpr,
    width: tl.constexpr,
    ci: tl.constexpr,
    co: tl.constexpr,
    back: tl.constexpr,
    stats: tl.constexpr,
    block: tl.constexpr,
):
    """A program makes `block` output pixels; stride 1, pad 1. `back`: y is the input's gradient, x the output's."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    column = row % width
    line = (row // width) % height
    inputs, outputs = tl.arange(0, ci), tl.arange(0, co)
    sums_of = tl.zeros((block, co), tl.float32)
    for r in tl.static_range(3):
        for s in tl.static_range(3):
            inside = (line + r >= 1) & (line + r <= height) & (column + s >= 1) & (column + s <= width) & (row < rows)
            place = (row + (r - 1) * width + (s - 1))[:, None] * ci + inputs[None, :]
            values = tl.load(x + place, mask=inside[:, None], other=0.0)
            if back:
                kernel = w + inputs[:, None] * (9 * co) + outputs[None, :] + ((2 - r) * 3 + 2 - s) * co
            else:
                kernel = w + outputs[None, :] * (9 * ci) + inputs[:, None] + (r * 3 + s) * ci
            sums_of = tl.dot(values, tl.load(kernel), sums_of)
    out = sums_of.to(y.dtype.element_ty)
    tl.store(y + row[:, None] * co + outputs[None, :], out, mask=(row < rows)[:, None])
    if stats:
        seen = tl.where((row < rows)[:, None], out.to(tl.float32), 0.0)
        tl.atomic_add(sums + outputs, tl.sum(seen, 0))
        tl.atomic_add(sums + co + outputs, tl.sum(seen * seen, 0))


@triton.jit
def _kernel_gradient(
    x,
    dy,
    dw,
    rows,
    height: tl.constexpr,
    width: tl.constexpr,
    ci: tl.constexpr,
    co: tl.constexpr,
    block: tl.constexpr,
    blocks: tl.constexpr,
):
    """A program adds `blocks` blocks of `block` pixels, for one row of the kernel's three, to dw (float32)."""
    r = tl.program_id(1)
    inputs, outputs = tl.arange(0, ci), tl.arange(0, co)
    first = tl.zeros((co, ci), tl.float32)
    second = tl.zeros((co, ci), tl.float32)
    third = tl.zeros((co, ci), tl.float32)
    for number in range(blocks):
        row = (tl.program_id(0) * blocks + number) * block + tl.arange(0, block)
        column = row % width
        line = (row // width) % height
        there = row < rows
        slope = tl.load(dy + row[:, None] * co + outputs[None, :], mask=there[:, None], other=0.0)
        slope = tl.trans(slope)
        inside = there & (line + r >= 1) & (line + r <= height)
        place = (row + (r - 1) * width)[:, None] * ci + inputs[None, :]
        left = tl.load(x + place - ci, mask=(inside & (column >= 1))[:, None], other=0.0)
        first = tl.dot(slope, left, first)
        middle = tl.load(x + place, mask=inside[:, None], other=0.0)
        second = tl.dot(slope, middle, second)
        right = tl.load(x + place + ci, mask=(inside & (column + 2 <= width))[:, None], other=0.0)
        third = tl.dot(slope, right, third)
    target = dw + outputs[:, None] * (9 * ci) + r * 3 * ci + inputs[None, :]
    tl.atomic_add(target, first)
    tl.atomic_add(target + ci, second)
    tl.atomic_add(target + 2 * ci, third)


@dataclass(frozen=True)
class Choice:
    """Of a shape (channels in, channels out, height): (block, warps) forward and back, (block, blocks, warps) for the
    kernel; None where cuDNN is faster."""

    forward: tuple[int, int] | None = None
    back: tuple[int, int] | None = None
    kernel: tuple[int, int, int] | None = None


FORWARDS = [(64, 4), (128, 4), (128, 8), (256, 8)]
KERNELS = [(64, 4, 4), (64, 16, 4), (128, 2, 4), (128, 8, 4)]


def slide(x, w, y, sums, how, back=False) -> None:
    """`y` from `x` and the kernels `w`; `sums` (2 x outputs) gains the sums of y, unless None. `back`: see `_slide`."""
    ci, (_, co, height, width) = x.shape[1], y.shape
    rows = y.numel() // co
    block, warps = how
    summed = sums is not None
    _slide[(triton.cdiv(rows, block),)](
        x, w, y, sums if summed else y, rows, height, width, ci, co, back, summed, block, num_warps=warps
    )


def kernel_gradient(x, dy, dw, how) -> None:
    """Add the kernels' gradient to `dw`."""
    ci, (_, co, height, width) = x.shape[1], dy.shape
    rows = dy.numel() // co
    block, blocks, warps = how
    grid = triton.cdiv(rows, block * blocks), 3
    _kernel_gradient[grid](x, dy, dw, rows, height, width, ci, co, block, blocks, num_warps=warps)


class Conv(torch.autograd.Function):
    """A convolution whose kernels' gradient goes to `target` (float32, any strides), which the step has set to 0.

    `sums`: the BatchNorm's behind it, filled where `how.forward` is ours. `first`: nothing goes back to the images.
    """

    @staticmethod
    def forward(ctx, x, w, target, sums, site, how, first):
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, w)
        ctx.rest = target, site, how, first
        if how.forward is not None:
            shape = len(x), len(w), x.shape[2], x.shape[3]
            y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
            slide(x, w, y, sums, how.forward)
            return y
        return functional.conv2d(x, w, None, site.stride, site.pad)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        target, site, how, first = ctx.rest
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = None
        if how.back is not None and not first:
            dx = torch.empty_like(x)
            slide(dy, w, dx, None, how.back, back=True)
        if how.kernel is not None:
            kernel_gradient(x, dy, target, how.kernel)
        wanted = [dx is None and not first, how.kernel is None, False]
        if any(wanted):
            found = torch.ops.aten.convolution_backward(
                dy, x, w, None, list(site.stride), list(site.pad), [1, 1], False, [0, 0], 1, wanted
            )
            dx = found[0] if wanted[0] else dx
            if wanted[1]:
                target.copy_(found[1][:, : target.shape[1]])
        return dx, *[None] * 6


def possible(x_channels: int, site) -> bool:
    """Whether our kernels do a site's convolution at all."""
    _, inputs, height, width = site.shape
    return (height, width) == (3, 3) and site.stride == site.pad == (1, 1) and x_channels == inputs and inputs >= 16


def choose(batch: int, dtype: torch.dtype, shapes, say, repeat: int = 30) -> dict[tuple[int, int, int], Choice]:
    """The fastest for each (channels in, out, height), measured on the device, of what computes as cuDNN."""
    found = {}
    for shape in shapes:
        ci, co, side = shape
        generator = torch.Generator("cuda").manual_seed(1)

        def random(n, c, h, w, generator=generator):
            drawn = torch.randn(n, c, h, w, device="cuda", generator=generator).to(dtype)
            return drawn.contiguous(memory_format=torch.channels_last)

        x, dy, w = random(batch, ci, side, side), random(batch, co, side, side), random(co, ci, 3, 3) * 0.1
        w = w.contiguous(memory_format=torch.channels_last)
        sums, dw = torch.zeros(2 * co, device="cuda"), torch.zeros(co, 3, 3, ci, device="cuda")
        y, dx = torch.empty_like(dy), torch.empty_like(x)

        def back(mask, dy=dy, x=x, w=w):
            return torch.ops.aten.convolution_backward(dy, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)

        truth = {
            "forward": functional.conv2d(x, w, None, 1, 1),
            "back": back([True, False, False])[0],
            "kernel": back([False, True, False])[1].permute(0, 2, 3, 1).float(),
        }
        cudnn = {
            # The sums of the BatchNorm are a kernel more there.
            "forward": lambda: _with_sums(functional.conv2d(x, w, None, 1, 1), sums),  # noqa: B023
            "back": lambda: back([True, False, False]),
            "kernel": lambda: back([False, True, False])[1].float(),
        }
        ours = {
            "forward": (FORWARDS, lambda how: slide(x, w, y, sums, how), y),  # noqa: B023
            "back": (FORWARDS, lambda how: slide(dy, w, dx, None, how, back=True), dx),  # noqa: B023
            "kernel": (KERNELS, lambda how: kernel_gradient(x, dy, dw, how), dw),  # noqa: B023
        }
        best = {}
        for what, (candidates, work, out) in ours.items():
            times = {None: _microseconds(cudnn[what], repeat)}
            for how in candidates:
                try:
                    out.zero_()
                    work(how)
                    off = float((out.float() - truth[what].float()).norm() / truth[what].float().norm())
                    if off < 2e-2:
                        times[how] = _microseconds(lambda: work(how), repeat)  # noqa: B023
                    else:
                        say(f"{shape} {what} {how}: off by {off:.3g}, not taken")
                except Exception as error:  # a kernel that does not run is not taken
                    say(f"{shape} {what} {how}: {type(error).__name__}: {str(error)[:200]}")
            best[what] = min(times, key=times.get)
            listed = ", ".join(f"{'cudnn' if how is None else how} {spent:.1f}" for how, spent in times.items())
            say(f"{shape} {what}, us: {listed}")
        found[shape] = Choice(**best)
    return found


def _with_sums(y: torch.Tensor, sums: torch.Tensor) -> None:
    from gpu_study_parts.kernels import add_sums

    add_sums(y, sums)


def _microseconds(work, repeat: int) -> float:
    """Of one, in a captured graph of `repeat`: without the host's share."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
        work()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(repeat):
            work()
    graph.replay()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(5):
        graph.replay()
    stop.record()
    torch.cuda.synchronize()
    return 1000 * start.elapsed_time(stop) / (5 * repeat)
