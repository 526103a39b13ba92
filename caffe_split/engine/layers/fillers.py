"""The initial values of parameters: Caffe's fillers. The distributions are Caffe's, the random numbers are not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from caffe_split.errors import CaffeSplitError
from caffe_split.net.options import Options


def fill(shape: Sequence[int], options: Options, generator: torch.Generator | None) -> torch.Tensor:
    """A new float32 blob of that shape, filled as the FillerParameter `options` says (include/caffe/filler.hpp).

    Without a generator its values are arbitrary: for blobs that are given others before the net runs.

    Of a type that is not known the values are nan. Raises `CaffeSplitError` for shapes that a type cannot fill.
    """
    kind = options.get("type")
    out = torch.empty(tuple(shape))
    if generator is None:
        return out
    if kind == "constant":
        return out.fill_(options.get("value"))
    if kind == "uniform":
        return out.uniform_(options.get("min"), options.get("max"), generator=generator)
    if kind == "gaussian":
        out.normal_(options.get("mean"), options.get("std"), generator=generator)
        sparse = options.get("sparse")
        if sparse >= 0:
            out *= torch.empty_like(out).bernoulli_(min(1.0, sparse / shape[0]), generator=generator)
        return out
    if kind == "xavier":
        scale = math.sqrt(3 / _fan(shape, options))
        return out.uniform_(-scale, scale, generator=generator)
    if kind == "msra":
        return out.normal_(0, math.sqrt(2 / _fan(shape, options)), generator=generator)
    if kind == "positive_unitball":
        rows = out.uniform_(generator=generator).view(shape[0], -1)
        rows /= rows.sum(1, keepdim=True)
        return out
    if kind == "bilinear":
        return _bilinear(shape)
    # A fork's, which the check takes for nets whose weights are loaded: what is not loaded shows.
    return out.fill_(math.nan)


def _fan(shape: Sequence[int], options: Options) -> float:
    """What xavier and msra divide by: fan_in, fan_out or their mean, as Caffe finds them from the first two axes."""
    count = math.prod(shape)
    fan_in = count // shape[0] if shape else 1
    fan_out = count // shape[1] if len(shape) > 1 else count
    norm = options.get("variance_norm")
    return fan_out if norm == "FAN_OUT" else (fan_in + fan_out) / 2 if norm == "AVERAGE" else fan_in


def _bilinear(shape: Sequence[int]) -> torch.Tensor:
    if len(shape) != 4 or shape[2] != shape[3]:
        raise CaffeSplitError(f"a bilinear filler needs square kernels; found a blob of shape {tuple(shape)}")
    half = math.ceil(shape[3] / 2)
    centre = (shape[3] - 1) / (2 * half)
    line = 1 - (torch.arange(shape[3], dtype=torch.float64) / half - centre).abs()
    return (line[:, None] * line[None, :]).float().expand(tuple(shape)).clone()
