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
    """Windows that stand out at the end do not count; axes of one value are dropped."""
    sides = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], kernel, stride)]
    top = np.zeros((*x.shape[:2], *sides))
    for place in np.ndindex(*sides):
        cut = tuple(slice(i * s, i * s + k) for i, s, k in zip(place, stride, kernel))
        part = x[(slice(None), slice(None), *cut)].reshape(*x.shape[:2], -1)
        top[(slice(None), slice(None), *place)] = how(part, axis=2)  # type: ignore[operator]
    return squeezed(top)


def squeezed(top: Array) -> Array:
    """Without the axes of one value behind the channels."""
    return top.reshape(*top.shape[:2], *(side for side in top.shape[2:] if side > 1))


def trim(x: Array, bits: int, fraction: int) -> Array:
    """The nearest numbers of so many bits, of which `fraction` lie behind the point."""
    top = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        whole = math.floor(abs(x[index]) * 2**fraction + 0.5) * (1 if x[index] >= 0 else -1)
        top[index] = min(max(whole, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1) / 2**fraction
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


def lattice(places: Array, values: Array) -> Array:
    """Values (n, channels) filtered by a permutohedral lattice (Adams et al.), whose corners stand in a dictionary."""
    axes = places.shape[1]
    corners: dict[tuple[int, ...], Array] = {}
    shares: list[list[tuple[tuple[int, ...], float]]] = []
    for place, value in zip(places, values):
        scaled = [place[k] * math.sqrt(2 / 3) * (axes + 1) / math.sqrt((k + 1) * (k + 2)) for k in range(axes)]
        raised = [sum(scaled[k:]) - (k * scaled[k - 1] if k else 0) for k in range(axes + 1)]
        nearest = [round(each / (axes + 1)) * (axes + 1) for each in raised]
        surplus = sum(nearest) // (axes + 1)
        # Too high: those that were rounded up most go one step down; too low: the others up.
        by_rest = sorted(range(axes + 1), key=lambda k: nearest[k] - raised[k])
        for k in by_rest[:-surplus] if surplus < 0 else by_rest[axes + 1 - surplus :]:
            nearest[k] -= (axes + 1) if surplus > 0 else -(axes + 1)
        rest = [(a - b) / (axes + 1) for a, b in zip(raised, nearest)]
        order = sorted(range(axes + 1), key=lambda k: -rest[k])
        # Corner c: the last c of the order go c - d - 1 down, the others c up.
        own = []
        for c in range(axes + 1):
            point = list(nearest)
            for at, k in enumerate(order):
                point[k] += c if at <= axes - c else c - axes - 1
            if c == 0:
                share = 1 - rest[order[0]] + rest[order[axes]]
            else:
                share = rest[order[axes - c]] - rest[order[axes - c + 1]]
            own.append((tuple(point), share))
            corners[tuple(point)] = corners.get(tuple(point), 0) + share * value
        shares.append(own)
    for axis in range(axes + 1):
        step = [axes if k == axis else -1 for k in range(axes + 1)]
        blurred = {}
        for point, value in corners.items():
            beside = [tuple(p + s * way for p, s in zip(point, step)) for way in (1, -1)]
            blurred[point] = value + sum(corners.get(other, 0) / 2 for other in beside)
        corners = blurred
    top = np.array([sum(share * corners[point] for point, share in own) for own in shares])
    return top / (1 + 2.0**-axes)


def mean_field(score: Array, first: Array, image: Array, blobs: Sequence[Array], thetas: Sequence[float]) -> Array:
    """Three steps of a CRF-RNN over one image; `thetas`: alpha, beta, gamma."""
    classes, height, width = score.shape
    alpha, beta, gamma = thetas
    places = np.array([[x, y] for y in range(height) for x in range(width)], float)
    both = [places / gamma, np.concatenate([places / alpha, image.reshape(3, -1).T / beta], 1)]
    found = first.reshape(classes, -1)
    for _ in range(3):
        likely = np.exp(found) / np.exp(found).sum(0)
        total = np.zeros_like(found)
        for place, weight in zip(both, blobs):
            total += weight[0, 0] @ (lattice(place, likely.T) / lattice(place, np.ones((len(place), 1)))).T
        found = score.reshape(classes, -1) - blobs[2][0, 0] @ total
    return found.reshape(score.shape)
