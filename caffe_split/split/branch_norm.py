"""Branch normalisation: BatchNorm and Scale at the end of each branch of a split, before they are added or joined.

A linear branch beside a convolution changes only the path of training, not what can be reached. Normalised over
the batch it does more (Ding et al., ACNet, 2019 and RepVGG, 2021). In the TEST phase it stays linear, so that
it still folds into one convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.split import naming
from caffe_split.split.parts import Part


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and (biased) variance of each channel of a blob, over images and pixels; float64 [channels] each."""

    mean: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True)
class NormSettings:
    """What the BatchNorm layers are given: the net's own where it has such layers, else Caffe's defaults."""

    eps: float = 1e-5
    moving_average_fraction: float = 0.999


def branch_ends(parts: Sequence[Part]) -> list[str]:
    """Names of the convolutions that end a branch, whose tops are summed or concatenated next, in order."""
    joined = {bottom for part in parts if part.form in ("sum", "concat") for bottom in part.bottoms}
    return [part.name for part in parts if part.is_convolution and part.top in joined]


def normalised(
    parts: Sequence[Part], statistics: Mapping[str, ChannelStatistics], settings: NormSettings
) -> list[Part]:
    """The parts with `<branch>_bn` and `<branch>_scale`, in place, after each branch's end.

    BatchNorm stores the statistics, (x - mean) / sqrt(variance + eps), and Scale starts with that undone,
    gamma = sqrt(variance + eps) and beta = mean: in the TEST phase nothing changes. The variance is
    rounded as it will be stored before gamma is computed.
    """
    ends = set(branch_ends(parts))
    result: list[Part] = []
    for part in parts:
        result.append(part)
        if part.name not in ends:
            continue
        found = statistics[part.top]
        mean, variance = (np.asarray(values, np.float32).astype(np.float64) for values in (found.mean, found.variance))
        gamma = np.sqrt(variance + settings.eps)
        one = np.ones(1)
        result += [
            Part(naming.batch_norm(part.name), "batch_norm", (part.top,), part.top, blobs=(mean, variance, one)),
            Part(naming.scale(part.name), "scale", (part.top,), part.top, blobs=(gamma, mean)),
        ]
    return result
