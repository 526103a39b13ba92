"""What layers on volumes, groups, regions and numbers of few bits compute, in NumPy; see `fork_references`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from tests.engine.fork_references_more import _closed

Array = np.ndarray


def group_norm(x: Array, groups: int, eps: float) -> Array:
    top = np.empty_like(x)
    each = x.shape[1] // groups
    for n, g in itertools.product(range(len(x)), range(groups)):
        part = x[n, g * each : (g + 1) * each]
        top[n, g * each : (g + 1) * each] = (part - part.mean()) / math.sqrt(part.var() + eps)
    return top


def convolve(x: Array, weight: Array, bias: Array, stride: Sequence[int], pad: Sequence[int], group: int = 1) -> Array:
    """Over any number of axes behind the channels."""
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in pad)])
    sides = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], weight.shape[2:], stride)]
    top = np.zeros((len(x), len(weight), *sides))
    for k, *place in np.ndindex(*top.shape[1:]):
        first = k // (len(weight) // group) * weight.shape[1]
        cut = tuple(slice(i * s, i * s + n) for i, s, n in zip(place, stride, weight.shape[2:]))
        part = x[(slice(None), slice(first, first + weight.shape[1]), *cut)]
        top[(slice(None), k, *place)] = (part * weight[k]).reshape(len(x), -1).sum(1) + bias[k]
    return top


def pool(x: Array, kernel: Sequence[int], stride: Sequence[int], how: object) -> Array:
    """Windows that stand out at the end count, with the values that lie in the bottom."""
    sides = [math.ceil((n - k) / s) + 1 for n, k, s in zip(x.shape[2:], kernel, stride)]
    top = np.zeros((*x.shape[:2], *sides))
    for place in np.ndindex(*sides):
        cut = tuple(slice(i * s, i * s + k) for i, s, k in zip(place, stride, kernel))
        part = x[(slice(None), slice(None), *cut)].reshape(*x.shape[:2], -1)
        top[(slice(None), slice(None), *place)] = how(part, axis=2)  # type: ignore[operator]
    return top


def trim(x: Array, bits: int, fraction: int) -> Array:
    """The nearest numbers of so many bits, of which `fraction` lie behind the point."""
    top = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        whole = math.floor(abs(x[index]) * 2**fraction + 0.5) * (1 if x[index] >= 0 else -1)
        top[index] = min(max(whole, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1) / 2**fraction
    return top


def power_of_2(x: Array, low: int, high: int) -> Array:
    top = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        exponent = math.log2(abs(x[index]))
        nearest = math.floor(abs(exponent) + 0.5) * (1 if exponent >= 0 else -1)
        top[index] = math.copysign(2.0 ** min(max(nearest, low), high), x[index])
    return top


def regions(scores: Array, moves: Array, image: Array, anchors: Array, how: Sequence[float]) -> list[Array]:
    """RPN's, with `how`: stride, how many of the best are compared, overlap and least side."""
    stride, most, overlap, least = how
    height, width, scale = image.ravel()[:3]
    boxes = []
    for y, x, k in np.ndindex(*scores.shape[2:], len(anchors)):
        left, top, right, bottom = anchors[k] + stride * np.array([x, y, x, y])
        wide, high = right - left + 1, bottom - top + 1
        dx, dy, dw, dh = moves[0, 4 * k : 4 * k + 4, y, x]
        cx, cy = left + wide / 2 + dx * wide, top + high / 2 + dy * high
        w, h = np.exp(dw) * wide, np.exp(dh) * high
        if min(w, h) >= least * scale:
            box = np.clip([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 0, [width, height] * 2)
            boxes.append((scores[0, len(anchors) + k, y, x], *box))
    kept: list[tuple[float, ...]] = []
    for one in sorted(boxes, key=lambda box: -box[0])[: int(most)]:
        kept += [one] if all(_closed(one[1:], other[1:]) < overlap for other in kept) else []
    return [
        np.array([[0, *box[1:]] for box in kept]).reshape(-1, 5, 1, 1),
        np.array([box[0] for box in kept]).reshape(-1, 1, 1, 1),
    ]
