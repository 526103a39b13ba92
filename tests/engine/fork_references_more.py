"""More of what layers of Caffe's forks compute, in NumPy: losses, measures, regions; see `fork_references`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from tests.engine.fork_references import overlap

Array = np.ndarray


def correlation(
    a: Array, b: Array, kernel: int, most: int, pad: int, strides: Sequence[int], *, product: bool
) -> Array:
    """FlowNet's: per displacement and place, the mean over a window and the channels."""
    a, b = (np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)]) for x in (a, b))
    radius, steps = (kernel - 1) // 2, range(-(most // strides[1]), most // strides[1] + 1)
    border = most + radius
    sides = [math.ceil((n - 2 * border) / strides[0]) for n in a.shape[2:]]
    top = np.zeros((len(a), len(steps) ** 2, *sides))
    for channel, (down, right) in enumerate(itertools.product(steps, steps)):
        for y, x in np.ndindex(*sides):
            i, j = border + y * strides[0], border + x * strides[0]
            k, m = i + down * strides[1], j + right * strides[1]
            for v, w in itertools.product(range(-radius, radius + 1), repeat=2):
                one, two = a[:, :, i + v, j + w], b[:, :, k + v, m + w]
                top[:, channel, y, x] += (one * two if product else abs(one - two)).sum(1)
    return top / (kernel**2 * a.shape[1])


def softmax_losses(scores: Array, labels: Array, ignored: int | None = None) -> tuple[Array, Array]:
    """(probabilities, -log p of each label, 0 where it does not count)."""
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    kept = labels.astype(int) if ignored is None else np.where(labels == ignored, 0, labels).astype(int)
    chosen = np.take_along_axis(p, kept[:, None], 1)[:, 0]
    return p, -np.log(chosen) * (1 if ignored is None else labels != ignored)


def annotate(regions: Array, losses: Array, labels: Array, weights: Array, most: int) -> tuple[Array, Array]:
    """R-FCN's choice of the hardest regions of each image."""
    kept, chosen, left = np.full(labels.shape, -1.0), np.zeros_like(weights), {}
    for index in sorted(range(len(regions)), key=lambda k: -losses.ravel()[k]):
        image = regions[index, 0]
        if left.setdefault(image, most) > 0:
            left[image] -= 1
            kept[index], chosen[index] = labels[index], weights[index]
    return kept, chosen


def segments(scores: Array, labels: Array, ignored: Sequence[int]) -> Array:
    """DeepLab's three numbers: right pixels, their mean share per class, mean intersection over union."""
    found, classes = scores.argmax(1).ravel(), scores.shape[1]
    pairs = [(t, f) for t, f in zip(labels.astype(int).ravel(), found) if t not in ignored]
    shares, overlaps = [], []
    for k in range(classes):
        both = sum(t == f == k for t, f in pairs)
        given = sum(t == k for t, _ in pairs)
        either = sum(k in pair for pair in pairs)
        shares += [both / given] if given else []
        overlaps.append(both / either if either else 0)
    return np.array([sum(t == f for t, f in pairs) / len(pairs), np.mean(shares), np.mean(overlaps)]).reshape(
        1, 1, 1, 3
    )


def evaluate(found: Array, objects: Array, classes: int, least: float, difficult: bool, size: Sequence[float]) -> Array:
    """SSD's table of right and wrong detections; `size` is (height, width) in pixels, or nothing."""
    rows = []
    for label in range(1, classes):
        rows.append([-1, label, sum(o[1] == label and (difficult or not o[7]) for o in objects), -1, -1])
    for image in sorted({row[0] for row in found}):
        for label in sorted({row[1] for row in found if row[0] == image} - {-1}):
            own = [o for o in objects if o[0] == image and o[1] == label]
            seen: set[int] = set()
            for row in sorted((r for r in found if r[0] == image and r[1] == label), key=lambda r: -r[2]):
                shares = [_pixels(row[3:7], o[3:7], size) if size else overlap(row[3:7], o[3:7]) for o in own]
                best = int(np.argmax(shares)) if shares else -1
                fits = best >= 0 and shares[best] >= least
                counts = not fits or difficult or not own[best][7]
                right = fits and counts and best not in seen
                seen |= {best} if right else set()
                rows.append([image, label, row[2], float(right), float(counts and not right)])
    return np.array(rows, float).reshape(1, 1, -1, 5)


def _pixels(a: Sequence[float], b: Sequence[float], size: Sequence[float]) -> float:
    """The overlap of boxes, given as shares of the image, in pixels."""
    height, width = size
    a, b = ([min(max(v, 0), 1) * n for v, n in zip(box, (width, height) * 2)] for box in (a, b))
    return _closed(a, b)


def proposals(scores: Array, moves: Array, image: Array, stride: int, after: int, least: float) -> tuple[Array, Array]:
    """Faster R-CNN's regions, with its published anchors for ratios 0.5, 1, 2 and scales 8, 16, 32."""
    anchors = [
        [-83, -39, 100, 56],
        [-175, -87, 192, 104],
        [-359, -183, 376, 200],
        [-55, -55, 72, 72],
        [-119, -119, 136, 136],
        [-247, -247, 264, 264],
        [-35, -79, 52, 96],
        [-79, -167, 96, 184],
        [-167, -343, 184, 360],
    ]
    height, width, scale = image.ravel()[:3]
    boxes = []
    for y, x, k in np.ndindex(*scores.shape[2:], 9):
        left, top, right, bottom = np.array(anchors[k]) - 1 + stride * np.array([x, y, x, y])
        wide, high = right - left + 1, bottom - top + 1
        dx, dy, dw, dh = moves[0, 4 * k : 4 * k + 4, y, x]
        cx, cy = left + wide / 2 + dx * wide, top + high / 2 + dy * high
        w, h = np.exp(dw) * wide, np.exp(dh) * high
        box = np.clip([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 0, [width - 1, height - 1] * 2)
        if min(box[2] - box[0], box[3] - box[1]) + 1 >= least * scale:
            boxes.append((scores[0, 9 + k, y, x], *box))
    kept: list[tuple[float, ...]] = []
    for one in sorted(boxes, key=lambda box: -box[0]):
        kept += [one] if all(_closed(one[1:], other[1:]) <= 0.7 for other in kept) else []
    kept = kept[:after]
    return np.array([[0, *box[1:]] for box in kept]), np.array([[box[0]] for box in kept])


def _closed(a: Sequence[float], b: Sequence[float]) -> float:
    """The overlap of boxes in pixels, whose last row and column belong to them."""
    sides = [max(min(a[k + 2], b[k + 2]) - max(a[k], b[k]) + 1, 0) for k in (0, 1)]
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])
