"""The kernels of a training step that PyTorch would need many for: batches, BatchNorm with what follows, the update.

Images and what becomes of them are (image, row, column, channel) in memory; a BatchNorm sees it as (rows, channels).
Written in Triton, whose interpreter runs them on processors, too (TRITON_INTERPRET=1).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

SIDE = 32
CHANNELS = 8  # of an image that convolutions read: three, and zeros, since tensor cores read eight at a time


@triton.jit
def _batch(images, labels, draws, now, out, out_labels, count, batch: tl.constexpr, pad: tl.constexpr):
    """One image a program: cropped, mirrored, less the mean, scaled."""
    place = tl.program_id(0)
    step = tl.load(now)
    record = (step * batch + place) % count
    tl.store(out_labels + place, tl.load(labels + record))
    drawn = draws + (step * batch + place) * 3
    row, column, mirrored = tl.load(drawn).to(tl.int64), tl.load(drawn + 1).to(tl.int64), tl.load(drawn + 2)
    side = 32 + 2 * pad
    pixel = tl.arange(0, 1024)
    y, x = pixel // 32, pixel % 32
    x = tl.where(mirrored > 0, 31 - x, x)
    channel = tl.arange(0, 8)
    source = images + record * (side * side * 3)
    places = ((row + y) * side + column + x)[:, None] * 3 + channel[None, :]
    real = (channel < 3)[None, :] & (pixel < 1024)[:, None]
    values = tl.load(source + places, mask=real, other=0).to(tl.float32)
    mean = tl.where(channel == 0, 125.3, tl.where(channel == 1, 123.0, 113.9))
    values = tl.where(real, (values - mean[None, :]) * 0.015625, 0.0)
    target = out + place * 8192 + pixel[:, None] * 8 + channel[None, :]
    tl.store(target, values.to(out.dtype.element_ty))


def batch(images, labels, draws, now, out, out_labels) -> None:
    """Batch number `now` into `out` (N, 32, 32, 8): uint8 images (all, side, side, 3), uint8 draws (steps, N, 3)."""
    number, pad = len(out), (images.shape[1] - SIDE) // 2
    _batch[(number,)](images, labels, draws, now, out, out_labels, len(images), number, pad)


@triton.jit
def _sums(y, sums, rows, at_once: tl.constexpr, channels: tl.constexpr):
    row = tl.program_id(0) * at_once + tl.arange(0, at_once)
    channel = tl.arange(0, channels)
    mask = (row < rows)[:, None] & (channel < channels)[None, :]
    values = tl.load(y + row[:, None] * channels + channel[None, :], mask=mask, other=0).to(tl.float32)
    tl.atomic_add(sums + channel, tl.sum(values, 0))
    tl.atomic_add(sums + channels + channel, tl.sum(values * values, 0))


@triton.jit
def _normed(
    y,
    other,
    z,
    sums,
    factor,
    bias,
    means,
    variances,
    rows,
    eps,
    fraction,
    has_other: tl.constexpr,
    relu: tl.constexpr,
    at_once: tl.constexpr,
    channels: tl.constexpr,
):
    channel = tl.arange(0, channels)
    mean = tl.load(sums + channel) / rows
    variance = tl.maximum(tl.load(sums + channels + channel) / rows - mean * mean, 0.0)
    if tl.program_id(0) == 0:
        tl.store(means + channel, tl.load(means + channel) * fraction + mean)
        unbiased = variance * (rows / (rows - 1.0))
        tl.store(variances + channel, tl.load(variances + channel) * fraction + unbiased)
    a = tl.load(factor + channel) / tl.sqrt(variance + eps)
    b = tl.load(bias + channel) - mean * a
    row = tl.program_id(0) * at_once + tl.arange(0, at_once)
    mask = (row < rows)[:, None] & (channel < channels)[None, :]
    place = row[:, None] * channels + channel[None, :]
    values = tl.load(y + place, mask=mask, other=0).to(tl.float32) * a[None, :] + b[None, :]
    if has_other:
        values += tl.load(other + place, mask=mask, other=0).to(tl.float32)
    if relu:
        values = tl.maximum(values, 0.0)
    tl.store(z + place, values.to(z.dtype.element_ty), mask=mask)


@triton.jit
def _back_sums(dz, y, z, sums, back, rows, eps, relu: tl.constexpr, at_once: tl.constexpr, channels: tl.constexpr):
    channel = tl.arange(0, channels)
    mean = tl.load(sums + channel) / rows
    variance = tl.maximum(tl.load(sums + channels + channel) / rows - mean * mean, 0.0)
    inverse = 1.0 / tl.sqrt(variance + eps)
    row = tl.program_id(0) * at_once + tl.arange(0, at_once)
    mask = (row < rows)[:, None] & (channel < channels)[None, :]
    place = row[:, None] * channels + channel[None, :]
    g = tl.load(dz + place, mask=mask, other=0).to(tl.float32)
    if relu:
        g = tl.where(tl.load(z + place, mask=mask, other=0).to(tl.float32) > 0, g, 0.0)
    centred = (tl.load(y + place, mask=mask, other=0).to(tl.float32) - mean[None, :]) * inverse[None, :]
    tl.atomic_add(back + channel, tl.sum(g, 0))
    tl.atomic_add(back + channels + channel, tl.sum(g * centred, 0))


@triton.jit
def _back(
    dz,
    y,
    z,
    dy,
    dother,
    sums,
    back,
    factor,
    dfactor,
    dbias,
    rows,
    eps,
    has_other: tl.constexpr,
    relu: tl.constexpr,
    at_once: tl.constexpr,
    channels: tl.constexpr,
):
    channel = tl.arange(0, channels)
    mean = tl.load(sums + channel) / rows
    variance = tl.maximum(tl.load(sums + channels + channel) / rows - mean * mean, 0.0)
    inverse = 1.0 / tl.sqrt(variance + eps)
    sum_g, sum_gx = tl.load(back + channel), tl.load(back + channels + channel)
    if tl.program_id(0) == 0:
        tl.store(dbias + channel, sum_g)
        tl.store(dfactor + channel, sum_gx)
    a = tl.load(factor + channel) * inverse
    row = tl.program_id(0) * at_once + tl.arange(0, at_once)
    mask = (row < rows)[:, None] & (channel < channels)[None, :]
    place = row[:, None] * channels + channel[None, :]
    g = tl.load(dz + place, mask=mask, other=0).to(tl.float32)
    if relu:
        g = tl.where(tl.load(z + place, mask=mask, other=0).to(tl.float32) > 0, g, 0.0)
    centred = (tl.load(y + place, mask=mask, other=0).to(tl.float32) - mean[None, :]) * inverse[None, :]
    out = a[None, :] * (g - (sum_g / rows)[None, :] - centred * (sum_gx / rows)[None, :])
    tl.store(dy + place, out.to(dy.dtype.element_ty), mask=mask)
    if has_other:
        tl.store(dother + place, g.to(dother.dtype.element_ty), mask=mask)


def _grid(y: torch.Tensor) -> tuple[int, int, int, tuple[int]]:
    channels = y.shape[1]
    rows = y.numel() // channels
    at_once = max(32, 4096 // channels)
    return channels, rows, at_once, (triton.cdiv(rows, at_once),)


class Norm(torch.autograd.Function):
    """BatchNorm with Scale, then another blob added, then ReLU, as asked.

    `norm` has the views: its `sums` and `back` (2 x channels, 0 before the step) get the sums of the way there
    (`summed`: they are there already) and back, its running sums move on, the gradients of factor and bias are set.
    """

    @staticmethod
    def forward(ctx, y, other, relu, norm, eps, fraction, summed):
        y = y.contiguous(memory_format=torch.channels_last)
        if other is not None:
            other = other.contiguous(memory_format=torch.channels_last)
        channels, rows, at_once, grid = _grid(y)
        z = torch.empty_like(y)
        if not summed:
            add_sums(y, norm.sums)
        _normed[grid](
            y,
            y if other is None else other,
            z,
            norm.sums,
            norm.factor,
            norm.bias,
            norm.means,
            norm.variances,
            rows,
            eps,
            fraction,
            other is not None,
            relu,
            at_once,
            channels,
        )
        ctx.save_for_backward(y, z)
        ctx.rest = other is not None, relu, norm, eps
        return z

    @staticmethod
    def backward(ctx, dz):
        y, z = ctx.saved_tensors
        has_other, relu, norm, eps = ctx.rest
        dz = dz.contiguous(memory_format=torch.channels_last)
        channels, rows, at_once, grid = _grid(y)
        dy = torch.empty_like(y)
        # Without a ReLU the other blob's gradient is that of the sum as it is.
        masked = has_other and relu
        dother = torch.empty_like(y) if masked else dz if has_other else None
        _back_sums[grid](dz, y, z, norm.sums, norm.back, rows, eps, relu, at_once, channels)
        _back[grid](
            dz,
            y,
            z,
            dy,
            dother if masked else dy,
            norm.sums,
            norm.back,
            norm.factor,
            norm.factor_gradient,
            norm.bias_gradient,
            rows,
            eps,
            masked,
            relu,
            at_once,
            channels,
        )
        return dy, dother, None, None, None, None, None


def add_sums(y: torch.Tensor, sums: torch.Tensor) -> None:
    """Add the sums by channel of y and of its squares to `sums`."""
    channels, rows, at_once, grid = _grid(y)
    _sums[grid](y, sums, rows, at_once, channels)


@triton.jit
def _affine(
    y, other, z, a, b, rows, has_other: tl.constexpr, relu: tl.constexpr, at_once: tl.constexpr, channels: tl.constexpr
):
    channel = tl.arange(0, channels)
    row = tl.program_id(0) * at_once + tl.arange(0, at_once)
    mask = (row < rows)[:, None] & (channel < channels)[None, :]
    place = row[:, None] * channels + channel[None, :]
    values = tl.load(y + place, mask=mask, other=0).to(tl.float32)
    values = values * tl.load(a + channel)[None, :] + tl.load(b + channel)[None, :]
    if has_other:
        values += tl.load(other + place, mask=mask, other=0).to(tl.float32)
    if relu:
        values = tl.maximum(values, 0.0)
    tl.store(z + place, values.to(z.dtype.element_ty), mask=mask)


def affine(y, other, relu, a, b) -> torch.Tensor:
    """a y + b by channel, plus another blob, then ReLU, as asked."""
    y = y.contiguous(memory_format=torch.channels_last)
    if other is not None:
        other = other.contiguous(memory_format=torch.channels_last)
    channels, rows, at_once, grid = _grid(y)
    z = torch.empty_like(y)
    _affine[grid](y, y if other is None else other, z, a, b, rows, other is not None, relu, at_once, channels)
    return z


@triton.jit
def _update(values, speed, gradient, lr_mult, pull, rates, now, momentum, size, block: tl.constexpr):
    place = tl.program_id(0) * block + tl.arange(0, block)
    mask = place < size
    rate = tl.load(rates + tl.load(now))
    value = tl.load(values + place, mask=mask)
    slope = tl.load(gradient + place, mask=mask) + tl.load(pull + place, mask=mask) * value
    new = momentum * tl.load(speed + place, mask=mask) + rate * tl.load(lr_mult + place, mask=mask) * slope
    tl.store(speed + place, new, mask=mask)
    tl.store(values + place, value - new, mask=mask)


def update(values, speed, gradient, lr_mult, pull, *, rates, now, momentum) -> None:
    """Caffe's SGD over flat arrays; `pull` is the weight decay of each value."""
    size = values.numel()
    _update[(triton.cdiv(size, 1024),)](values, speed, gradient, lr_mult, pull, rates, now, momentum, size, 1024)
