"""What layers of Caffe's forks compute, written anew in NumPy from their published definitions, value by value.

Each function takes the bottoms, then the blobs, in float64, and returns the tops. Loops stay loops: what is slow here
is easy to read, and shares no line with the engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Array = np.ndarray


def max_pool(x: Array, kernel: int, stride: int, pad: int, ceil: bool = True) -> tuple[Array, Array]:
    """(maxima, places): each place is row * width + column in the image; the first of equal values counts."""
    sides = []
    for length in x.shape[2:]:
        count = (math.ceil if ceil else math.floor)((length + 2 * pad - kernel) / stride) + 1
        if pad and (count - 1) * stride >= length + pad:
            count -= 1
        sides.append(count)
    maxima, places = np.empty((*x.shape[:2], *sides)), np.empty((*x.shape[:2], *sides))
    for n, c, i, j in np.ndindex(*maxima.shape):
        best, where = -math.inf, -1
        for row in range(i * stride - pad, i * stride - pad + kernel):
            for column in range(j * stride - pad, j * stride - pad + kernel):
                inside = 0 <= row < x.shape[2] and 0 <= column < x.shape[3]
                if inside and x[n, c, row, column] > best:
                    best, where = x[n, c, row, column], row * x.shape[3] + column
        maxima[n, c, i, j], places[n, c, i, j] = best, where
    return maxima, places


def bn(x: Array, factor: Array, shift: Array, mean: Array, variance: Array, eps: float) -> Array:
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        y[:, c] = (x[:, c] - mean.flat[c]) / math.sqrt(variance.flat[c] + eps) * factor.flat[c] + shift.flat[c]
    return y


def statistics(x: Array) -> tuple[Array, Array]:
    """Mean and mean square deviation of each channel."""
    rows = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    return rows.mean(1), rows.var(1)


def unpool(x: Array, places: Array, height: int, width: int) -> Array:
    y = np.zeros((*x.shape[:2], height, width))
    for index in np.ndindex(*x.shape):
        row, column = divmod(int(places[index]), width)
        y[index[0], index[1], row, column] = x[index]
    return y


def interp(x: Array, height: int, width: int) -> Array:
    """Bilinear, the corner values staying in the corners."""
    y = np.zeros((*x.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            u = i * (x.shape[2] - 1) / (height - 1) if height > 1 else 0.0
            v = j * (x.shape[3] - 1) / (width - 1) if width > 1 else 0.0
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    weight = max(0.0, 1 - abs(u - row)) * max(0.0, 1 - abs(v - column))
                    y[:, :, i, j] += weight * x[:, :, row, column]
    return y


def normalize(x: Array, factor: Array, across: bool, eps: float = 1e-10) -> Array:
    y = np.empty_like(x)
    for n in range(x.shape[0]):
        for i, j in np.ndindex(*x.shape[2:]):
            length = math.sqrt((x[n] ** 2).sum() + eps) if across else math.sqrt((x[n, :, i, j] ** 2).sum() + eps)
            y[n, :, i, j] = x[n, :, i, j] / length * factor
    return y


def depthwise(x: Array, weight: Array, bias: Array, stride: int, pads: Sequence[int], dilation: int = 1) -> Array:
    """pads: top, bottom, left, right."""
    top, bottom, left, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = dilation * (weight.shape[2] - 1) + 1
    sides = [(length - reach) // stride + 1 for length in padded.shape[2:]]
    y = np.empty((*x.shape[:2], *sides))
    for n, c, i, j in np.ndindex(*y.shape):
        rows = slice(i * stride, i * stride + reach, dilation)
        columns = slice(j * stride, j * stride + reach, dilation)
        y[n, c, i, j] = (padded[n, c, rows, columns] * weight[c, 0]).sum() + bias[c]
    return y


def convolution(x: Array, weight: Array, bias: Array, pads: Sequence[int], dilation: int = 1) -> Array:
    """Of stride 1, as the sum of depthwise ones."""
    tops = []
    for kernel, shift in zip(weight, bias):
        tops.append(depthwise(x, kernel[:, None], np.zeros(x.shape[1]), 1, pads, dilation).sum(1) + shift)
    return np.stack(tops, 1)


def shuffle(x: Array, group: int) -> Array:
    each = x.shape[1] // group
    return np.stack([x[:, g * each + k] for k in range(each) for g in range(group)], 1)


def reorg(x: Array, stride: int, back: bool) -> Array:
    """Darknet's loop over the flat memory."""
    batch, channels, height, width = x.shape
    few = channels // stride**2
    flat, out = x.ravel(), np.empty(x.size)
    for b, k, j, i in np.ndindex(batch, channels, height, width):
        own = i + width * (j + height * (k + channels * b))
        part = k // few
        column, row = i * stride + part % stride, j * stride + part // stride
        other = column + width * stride * (row + height * stride * (k % few + few * b))
        if back:
            out[other] = flat[own]
        else:
            out[own] = flat[other]
    if back:
        return out.reshape(batch, few, height * stride, width * stride)
    return out.reshape(batch, channels * stride**2, height // stride, width // stride)


def smooth_l1(x: Array, t: Array, inside: Array | float, outside: Array | float, sigma: float) -> Array:
    d = ((x - t) * inside).ravel()
    f = [(sigma * v) ** 2 / 2 if abs(v) < 1 / sigma**2 else abs(v) - 0.5 / sigma**2 for v in d]
    return np.array((np.array(f).reshape(x.shape) * outside).sum() / len(x))


def prior_boxes(
    layer: tuple[int, int],
    image: tuple[int, int],
    sizes: Sequence[tuple[int, int | None]],
    ratios: Sequence[float],
    variance: Sequence[float],
    *,
    step: float | None = None,
    offset: float = 0.5,
) -> Array:
    """`ratios` other than 1, flipped ones written out; `sizes` are min_size and max_size or None."""
    boxes = []
    for row in range(layer[0]):
        for column in range(layer[1]):
            x = (column + offset) * (step or image[1] / layer[1])
            y = (row + offset) * (step or image[0] / layer[0])
            for least, most in sizes:
                sides = [(least, least)]
                if most is not None:
                    sides.append((math.sqrt(least * most),) * 2)
                sides += [(least * math.sqrt(ratio), least / math.sqrt(ratio)) for ratio in ratios]
                for width, height in sides:
                    boxes.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    corners = np.array(boxes) / [image[1], image[0], image[1], image[0]]
    return np.stack([corners.ravel(), np.tile(variance, len(boxes))])[None]


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def detections(
    loc: Array,
    conf: Array,
    prior: Array,
    classes: int,
    *,
    nms: float,
    least: float,
    most: int,
    code: str = "CENTER_SIZE",
) -> Array:
    """With shared locations; class 0 is the background."""
    boxes, variances = prior.reshape(2, -1, 4)
    rows: list[list[float]] = []
    for image in range(len(loc)):
        decoded = []
        for (left, top, right, bottom), v, d in zip(boxes, variances, loc[image].reshape(-1, 4)):
            width, height = right - left, bottom - top
            if code == "CORNER":
                decoded.append([left + v[0] * d[0], top + v[1] * d[1], right + v[2] * d[2], bottom + v[3] * d[3]])
                continue
            x, y = left + width / 2 + v[0] * d[0] * width, top + height / 2 + v[1] * d[1] * height
            w, h = math.exp(v[2] * d[2]) * width, math.exp(v[3] * d[3]) * height
            decoded.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        scores = conf[image].reshape(-1, classes)
        found: list[list[float]] = []
        for label in range(1, classes):
            kept: list[int] = []
            for index in sorted(range(len(boxes)), key=lambda k: -scores[k, label]):
                if scores[index, label] > least and all(overlap(decoded[index], decoded[k]) <= nms for k in kept):
                    kept.append(index)
            found += [[image, label, scores[k, label], *decoded[k]] for k in kept]
        if len(found) > most:
            found = sorted(sorted(found, key=lambda row: -row[2])[:most], key=lambda row: (row[1], -row[2]))
        rows += found
    return np.array(rows).reshape(1, 1, -1, 7)


def multibox(
    loc: Array,
    conf: Array,
    prior: Array,
    objects: Array,
    classes: int,
    *,
    ratio: float = 3,
    bipartite: bool = False,
    mines: bool = True,
    weight: float = 1,
    logistic: bool = False,
) -> Array:
    """With CENTER_SIZE, thresholds of 0.5, class 0 as the background; divided by the number of matched boxes."""
    boxes, variances = prior.reshape(2, -1, 4)
    total, matches = 0.0, 0
    for image in range(len(loc)):
        found = [row for row in objects.reshape(-1, 8) if row[0] == image]
        table = [[overlap(row[3:7], box) for row in found] for box in boxes]
        match: dict[int, int] = {}
        while len(match) < len(found):
            pairs = [(k, j) for k in range(len(boxes)) for j in range(len(found))]
            pairs = [(k, j) for k, j in pairs if k not in match and j not in match.values()]
            k, j = max(pairs, key=lambda pair: table[pair[0]][pair[1]])
            if table[k][j] <= 1e-6:
                break
            match[k] = j
        for k in range(len(boxes)):
            if found and k not in match and not bipartite and max(table[k]) >= 0.5:
                match[k] = int(np.argmax(table[k]))
        scores = conf[image].reshape(-1, classes)
        labels = [int(found[match[k]][1]) if k in match else 0 for k in range(len(boxes))]
        entropy = [math.log(np.exp(row).sum()) - row[label] for row, label in zip(scores, labels)]
        if logistic:
            entropy = [np.log1p(np.exp(row)).sum() - row[label] for row, label in zip(scores, labels)]
        free = [k for k in range(len(boxes)) if k not in match and max(table[k], default=0) < 0.5]
        count = min(int(len(match) * ratio), len(free)) if found else 0
        counted = [*match, *sorted(free, key=lambda k: -entropy[k])[:count]] if mines else range(len(boxes))
        total += sum(entropy[k] for k in counted)
        for k, j in match.items():
            (left, top, right, bottom), v, box = boxes[k], variances[k], found[j][3:7]
            w, h = right - left, bottom - top
            target = [
                ((box[0] + box[2]) / 2 - (left + right) / 2) / w / v[0],
                ((box[1] + box[3]) / 2 - (top + bottom) / 2) / h / v[1],
                math.log((box[2] - box[0]) / w) / v[2],
                math.log((box[3] - box[1]) / h) / v[3],
            ]
            d = np.abs(loc[image].reshape(-1, 4)[k] - target)
            total += weight * np.where(d < 1, d * d / 2, d - 0.5).sum()
        matches += len(match)
    return np.array(total / max(matches, 1))


def roi_pool(x: Array, regions: Array, height: int, width: int, scale: float) -> Array:
    out = np.zeros((len(regions), x.shape[1], height, width))
    for r, (image, *sides) in enumerate(regions):
        left, top, right, bottom = (math.floor(side * scale + 0.5) for side in sides)
        for i in range(height):
            for j in range(width):
                h, w = max(bottom - top + 1, 1) / height, max(right - left + 1, 1) / width
                rows = range(
                    max(math.floor(i * h + 1e-6) + top, 0), min(math.ceil((i + 1) * h - 1e-6) + top, x.shape[2])
                )
                columns = range(
                    max(math.floor(j * w + 1e-6) + left, 0), min(math.ceil((j + 1) * w - 1e-6) + left, x.shape[3])
                )
                for c in range(x.shape[1]):
                    values = [x[int(image), c, row, column] for row in rows for column in columns]
                    out[r, c, i, j] = max(values) if values else 0.0
    return out


def ps_roi_pool(x: Array, regions: Array, count: int, group: int, scale: float) -> Array:
    out = np.zeros((len(regions), count, group, group))
    for r, (image, *sides) in enumerate(regions):
        left, top = (math.floor(side + 0.5) * scale for side in sides[:2])
        right, bottom = ((math.floor(side + 0.5) + 1) * scale for side in sides[2:])
        h, w = max(bottom - top, 0.1) / group, max(right - left, 0.1) / group
        for k, i, j in np.ndindex(count, group, group):
            rows = range(max(math.floor(i * h + top), 0), min(math.ceil((i + 1) * h + top), x.shape[2]))
            columns = range(max(math.floor(j * w + left), 0), min(math.ceil((j + 1) * w + left), x.shape[3]))
            values = [x[int(image), (k * group + i) * group + j, row, column] for row in rows for column in columns]
            out[r, k, i, j] = np.mean(values) if values else 0.0
    return out
