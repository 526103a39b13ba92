"""All scores of a net's layers side by side, and how far they agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_split.derivation.choice import BY_TPM
from caffe_split.split.saliency import SALIENCIES, Saliency
from caffe_split.tpm.scores import LayerScores
from caffe_split.trainlog.show import aligned

_NAMES = (BY_TPM, *SALIENCIES)
_TPM = "tpm"


@dataclass(frozen=True)
class ScoreRow:
    """A layer's scores by name; NaN where one is not known. `kernels`: the same per kernel, TPM as `tpm`."""

    layer: str
    num_output: int
    num_weights: int
    values: dict[str, float]
    kernels: dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class ScoreTable:
    """The scores of several layers, in the net's order."""

    rows: tuple[ScoreRow, ...]

    @classmethod
    def of(cls, scores: Sequence[LayerScores], saliency: Sequence[Saliency]) -> ScoreTable:
        """Of all layers that have a saliency; `scores` are those of one window, or none."""
        moved = {score.layer: score for score in scores}
        rows = []
        for each in saliency:
            tpm = moved.get(each.layer)
            kernels = {_TPM: np.full(each.shape[0], np.nan) if tpm is None else tpm.tpm, **each.kernels}
            values = {BY_TPM: math.nan if tpm is None else tpm.entropy, **each.whole}
            rows.append(ScoreRow(each.layer, each.shape[0], math.prod(each.shape), values, kernels))
        return cls(tuple(rows))

    def of_layers(self) -> dict[str, dict[str, float]]:
        """The rank correlation of each two scores over the layers."""
        return _matrix({name: np.array([row.values[name] for row in self.rows]) for name in _NAMES})

    def of_kernels(self) -> dict[str, dict[str, float]]:
        """That of the kernels' scores within each layer, in the mean over the layers in which both are known."""
        found = [_matrix(row.kernels) for row in self.rows]
        names = (_TPM, *SALIENCIES)
        return {a: {b: _mean([each[a][b] for each in found]) for b in names} for a in names}

    def lines(self) -> list[str]:
        """The scores with their ranks, highest first as 1, then both tables of correlations."""
        ranks = {name: _ranks(np.array([-row.values[name] for row in self.rows])) for name in _NAMES}
        cells = [
            (
                row.layer,
                str(row.num_output),
                str(row.num_weights),
                *(_ranked(row.values[name], ranks[name][index]) for name in _NAMES),
            )
            for index, row in enumerate(self.rows)
        ]
        return [
            *aligned([("layer", "kernels", "weights", *(f"{name} (rank)" for name in _NAMES)), *cells]),
            "",
            "rank correlation over the layers (Spearman)",
            *_correlations(self.of_layers()),
            "",
            "rank correlation of kernels within a layer, mean over the layers",
            *_correlations(self.of_kernels()),
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        rows = [
            {
                "layer": row.layer,
                "num_output": row.num_output,
                "num_weights": row.num_weights,
                **row.values,
                "kernels": {name: values.tolist() for name, values in row.kernels.items()},
            }
            for row in self.rows
        ]
        return {"layers": rows, "spearman": {"layers": self.of_layers(), "kernels": self.of_kernels()}}


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Spearman's rank correlation of two rows of numbers, over the places where neither is NaN.

    Equal values share the mean of their ranks. NaN where fewer than two places are left, or where all values of a row
    are equal.

    >>> spearman([1, 2, 3, 4], [10, 20, 40, 30])
    0.8
    """
    a, b = (np.asarray(values, np.float64) for values in (first, second))
    known = ~(np.isnan(a) | np.isnan(b))
    if known.sum() < 2:
        return math.nan
    x, y = (_ranks(values[known]) for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt((x @ x) * (y @ y))
    return float(x @ y) / size if size else math.nan


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 1, the lowest value first; equal values share their mean. NaN for NaN."""
    ranks = np.array([np.sum(values < value) + (np.sum(values == value) + 1) / 2 for value in values])
    return np.where(np.isnan(values), np.nan, ranks)


def _matrix(values: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    return {a: {b: spearman(values[a], values[b]) for b in values} for a in values}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _ranked(value: float, rank: float) -> str:
    return "not known" if math.isnan(value) else f"{value:.4g} ({rank:g})"


def _correlations(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    body = [(a, *("-" if math.isnan(value) else f"{value:+.2f}" for value in row.values())) for a, row in found.items()]
    return aligned([("", *found), *body])
