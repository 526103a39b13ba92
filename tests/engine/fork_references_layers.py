"""What further layers of Caffe's forks compute, in NumPy, value by value; see `fork_references`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm(x: Array, of_x: Array, of_h: Array, bias: Array, marks: Array | None = None) -> Array:
    """CTPN's, stream by stream."""
    count = len(bias) // 4
    top = np.zeros((*x.shape[:2], count))
    for n in range(x.shape[1]):
        h, c = np.zeros(count), np.zeros(count)
        for t in range(len(x)):
            goes_on = t > 0 if marks is None else bool(marks.reshape(x.shape[:2])[t, n])
            gates = of_x @ x[t, n].ravel() + bias + (of_h @ h if goes_on else 0)
            i, f, o, g = (gates[k * count : (k + 1) * count] for k in range(4))
            c = (sigmoid(f) * c if goes_on else 0) + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            top[t, n] = h
    return top


def convolve(x: Array, weight: Array, pad: int, dilation: int = 1) -> Array:
    """(N, C, H, W) by kernels (K, C, h, w), without a bias."""
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    sides = [n - dilation * (k - 1) for n, k in zip(x.shape[2:], weight.shape[2:])]
    top = np.zeros((len(x), len(weight), *sides))
    for i, j in np.ndindex(*weight.shape[2:]):
        part = x[:, :, i * dilation : i * dilation + sides[0], j * dilation : j * dilation + sides[1]]
        top += np.einsum("nchw,kc->nkhw", part, weight[:, :, i, j])
    return top


def conv_lstm(x: Array, marks: Array, blobs: Sequence[Array], pad: int, dilation: int, state: Sequence[Array]) -> Array:
    """(outputs, h, c) of an unrolled ConvLSTM with weights of the cells per row and column."""
    h, c = state
    tops = []
    for t in range(len(x)):
        kept = marks[t][:, None, None, None]
        gates = [
            convolve(x[t], blobs[k], pad, dilation)
            + convolve(h * kept, blobs[4 + 2 * k], pad, dilation)
            + blobs[5 + 2 * k][:, None, None]
            + (c * blobs[12 + k] if k < 3 else 0)
            for k in range(4)
        ]
        c = kept * sigmoid(gates[1]) * c + sigmoid(gates[0]) * np.tanh(gates[3])
        h = sigmoid(gates[2]) * np.tanh(c)
        tops.append(h)
    return np.array(tops), h[None], c[None]


def apl(x: Array, slopes: Array, offsets: Array) -> Array:
    top, values = np.empty_like(x), int(np.prod(x.shape[1:]))
    for n, k in itertools.product(range(len(x)), range(values)):
        value, sums = x[n].flat[k], slopes.shape[2]
        total = max(value, 0)
        for s in range(sums):
            total += slopes.flat[k * sums + s] * max(offsets.flat[k * sums + s] - value, 0)
        top[n].flat[k] = total
    return top


def local(x: Array, weight: Array, bias: Array, kernel: int, stride: int, pad: int) -> Array:
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    sides = [(n - kernel) // stride + 1 for n in x.shape[2:]]
    top = np.zeros((len(x), len(weight), *sides))
    for place, (i, j) in enumerate(np.ndindex(*sides)):
        part = x[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel].reshape(len(x), -1)
        for k in range(len(weight)):
            top[:, k, i, j] = part @ weight[k, 0, :, place] + bias[0, 0, k, place]
    return top


def pixel(image: Array, row: float, column: float, beyond: bool) -> float:
    """One value of an image (H, W) between its pixels."""
    height, width = image.shape
    if not beyond and not (0 <= row < height and 0 <= column < width):
        return 0.0
    total = 0.0
    for i, j in itertools.product(range(-1, height + 2), range(-1, width + 2)):
        share = max(0.0, 1 - abs(row - i)) * max(0.0, 1 - abs(column - j))
        if beyond and not (0 <= i < height and 0 <= j < width):
            continue
        total += share * image[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
    return total


def deformable(x: Array, moves: Array, weight: Array, bias: Array, how: Sequence[int]) -> Array:
    """`how`: stride, pad, dilation, groups, deformable groups."""
    stride, pad, dilation, group, parts = how
    kernel = weight.shape[2:]
    top = np.zeros((len(x), len(weight), *moves.shape[2:])) + bias[:, None, None]
    per_group, per_part = x.shape[1] // group, x.shape[1] // parts
    for n, k, i, j in np.ndindex(*top.shape):
        for c in range(per_group):
            channel = k // (len(weight) // group) * per_group + c
            for place, (u, v) in enumerate(np.ndindex(*kernel)):
                at = 2 * (channel // per_part * kernel[0] * kernel[1] + place)
                row = i * stride - pad + u * dilation + moves[n, at, i, j]
                column = j * stride - pad + v * dilation + moves[n, at + 1, i, j]
                top[n, k, i, j] += weight[k, c, u, v] * pixel(x[n, channel], row, column, beyond=False)
    return top


def transformed(x: Array, theta: Array, height: int, width: int) -> Array:
    top = np.zeros((*x.shape[:2], height, width))
    for n, c, i, j in np.ndindex(*top.shape):
        place = theta[n].reshape(2, 3) @ np.array([2 * i / height - 1, 2 * j / width - 1, 1])
        row, column = (place + 1) / 2 * x.shape[2:]
        top[n, c, i, j] = pixel(x[n, c], row, column, beyond=True)
    return top


def warped(x: Array, flow: Array) -> Array:
    top = np.empty_like(x)
    for n, c, i, j in np.ndindex(*top.shape):
        top[n, c, i, j] = pixel(x[n, c], i + flow[n, 1, i, j], j + flow[n, 0, i, j], beyond=False)
    return top


def resampled(x: Array, height: int, width: int, kind: str, antialias: bool = True) -> Array:
    top = np.zeros((*x.shape[:2], height, width))
    fy, fx = x.shape[2] / height, x.shape[3] / width
    narrow = antialias and (fx > 1 or fy > 1)

    def share(place: float, pixel: int, factor: float) -> float:
        scale = 1 / factor if narrow else 1.0
        far = 2 if factor < 1 else math.ceil((4 if kind == "CUBIC" else 2) / scale)
        return curve(kind, scale * (place - pixel)) if abs(pixel - math.floor(place + 0.5)) <= far else 0.0

    for i, j in np.ndindex(height, width):
        row, column = i * fy + fx / 2 - 0.5, j * fx + fy / 2 - 0.5
        if kind == "NEAREST":
            top[:, :, i, j] = x[:, :, math.floor(row + 0.5), math.floor(column + 0.5)]
            continue
        shares = np.array(
            [[share(row, v, fy) * share(column, u, fx) for u in range(x.shape[3])] for v in range(x.shape[2])]
        )
        top[:, :, i, j] = (shares * x).sum((2, 3)) / shares.sum()
    return top


def curve(kind: str, x: float) -> float:
    x = abs(x)
    if kind == "LINEAR":
        return max(0.0, 1 - x)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def downsampled(x: Array, height: int, width: int) -> Array:
    top = np.zeros((*x.shape[:2], height, width))
    steps = [(old - 1) / (new - 1) for old, new in zip(x.shape[2:], (height, width))]
    for n, c, i, j in np.ndindex(*top.shape):
        total = weight = lost = 0.0
        for v, u in np.ndindex(*x.shape[2:]):
            share = max(0.0, 1 - abs(v - i * steps[0]) / steps[0]) * max(0.0, 1 - abs(u - j * steps[1]) / steps[1])
            if math.isnan(x[n, c, v, u]):
                lost += share
            else:
                total, weight = total + share * x[n, c, v, u], weight + share
        top[n, c, i, j] = math.nan if lost > 0.5 * weight else total / weight
    return top


def margin(x: Array, labels: Array, weight: Array, times: int, share: float, sphere: bool) -> Array:
    """Scores with (-1)^k cos(m t) - 2 k for the angle t between features and the weights of the label."""
    if sphere:
        weight = weight / np.sqrt((weight**2).sum(1, keepdims=True))
    top = x @ weight.T
    for n, label in enumerate(labels.astype(int)):
        if times > 1:
            lengths = np.linalg.norm(x[n]) * np.linalg.norm(weight[label])
            angle = math.acos(min(max(top[n, label] / lengths, -1), 1))
            k = math.floor(times * angle / math.pi)
            lowered = lengths * ((-1) ** k * math.cos(times * angle) - 2 * k)
            top[n, label] = (share * top[n, label] + lowered) / (1 + share)
    return top
