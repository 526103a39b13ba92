"""SSD's prior boxes (Liu et al., 2016): the one reading of prior_box_param, for the engine and for ONNX models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from caffe_split.layertypes.records.detection import aspect_ratios
from caffe_split.net.options import Options


def prior_boxes(options: Options, places: Sequence[int], image: Sequence[int]) -> npt.NDArray[np.float32]:
    """The top (1, 2, 4 * boxes): (left, top, right, bottom) of each box, and the four variances of each.

    `places` and `image` are the (height, width) of the first bottom and of the image, the second. The corners are parts
    of the image, unless `img_size` gives another one. As in SSD's code, fractions of min_size and max_size are cut off.
    """
    height, width = _pair(options, "img_size", "img") or (image[0], image[1])
    step_h, step_w = _pair(options, "step", "step") or (height / places[0], width / places[1])
    offset = float(options.get("offset"))
    y, x = (np.arange(places[0]) + offset) * step_h, (np.arange(places[1]) + offset) * step_w
    sides = np.array(_sides(options))
    middles = np.stack(np.broadcast_arrays(x[None, :], y[:, None]), -1)[:, :, None, :]
    corners = np.concatenate([middles - sides / 2, middles + sides / 2], -1) / [width, height, width, height]
    corners = corners.clip(0, 1) if options.get("clip") else corners
    variances = [float(value) for value in options.all("variance")] or [0.1]
    below = np.resize(np.array(variances), corners.size)
    return np.stack([corners.reshape(-1), below]).astype(np.float32)[None]


def _pair(options: Options, both: str, name: str) -> tuple[float, float] | None:
    """(height, width) as written, for both or each; None where they are 0 or not written."""
    sides = [options.get(f"{name}_{side}") if options.has(f"{name}_{side}") else 0 for side in "hw"]
    if not any(sides) and options.has(both):
        sides = [options.get(both)] * 2
    return (float(sides[0]), float(sides[1])) if all(sides) else None


def _sides(options: Options) -> list[tuple[float, float]]:
    """(width, height) of the boxes of one place, in SSD's order; fractions of sizes are cut off."""
    largest = options.all("max_size")
    found: list[tuple[float, float]] = []
    for index, written in enumerate(options.all("min_size")):
        least = int(written)
        found.append((least, least))
        if largest:
            found.append((math.sqrt(least * int(largest[index])),) * 2)
        for ratio in aspect_ratios(options):
            if abs(ratio - 1) >= 1e-6:
                found.append((least * math.sqrt(ratio), least / math.sqrt(ratio)))
    return found
