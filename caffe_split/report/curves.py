"""The curves of a report, as the data that the page's script draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_split.plot.series import Curve, Curves, baseline_first, best_point, collect, mark, thin
from caffe_split.trainlog.model import TrainingLog

# (title, field of `Curves`, whether the lowest value is the best; None: no value is marked)
_PANELS = (("train loss", "train", None), ("test accuracy", "accuracy", False), ("test loss", "loss", True))


def curve_data(logs: Sequence[TrainingLog], names: Sequence[str]) -> dict[str, Any]:
    """The panels with their curves, ready for JSON; a value that is not finite is written as nan, inf or -inf.

    names: of the runs, in the order of `logs`, which is that of their colours.
    """
    curves = collect(logs)
    place = baseline_first(names)  # the order in which `collect` gives them
    panels = []
    for title, field, lowest in _PANELS:
        kind: list[Curve] = sorted(getattr(curves, field), key=lambda curve: place[curve.run])
        if kind:
            panels.append({"title": title, "curves": [shown_curve(curve, place[curve.run], lowest) for curve in kind]})
    return {
        "runs": list(names),
        "panels": panels,
        "steps": _steps(curves, place),
        "xLabel": curves.x_label,
    }


def shown_curve(curve: Curve, run: int, lowest: bool | None) -> dict[str, Any]:
    """A curve thinned for the screen, as data. lowest: whether the lowest value is the best; None: none is marked."""
    x, y = thin(curve.x, curve.y)
    star = None if lowest is None else mark(curve, lowest)
    best = None if lowest is None else best_point(curve, lowest)
    if best is not None:
        # Thinning keeps the first of equal extremes, and the best is the last of them.
        at = int(np.searchsorted(x, curve.x[best], side="right"))
        if not at or x[at - 1] != curve.x[best]:
            x, y = np.insert(x, at, curve.x[best]), np.insert(y, at, curve.y[best])
            at += 1
        best = at - 1
    # A best that a later run of the log has replaced stands beside the curve.
    beside = star is not None and (best is None or star != (x[best], y[best]))
    return {
        "run": run,
        "output": curve.output,
        "x": [int(value) for value in x],
        "y": [_value(value) for value in y],
        "of": len(curve.x),
        "best": None if beside else best,
        "star": [int(star[0]), star[1]] if star is not None and beside else None,
    }


def _steps(curves: Curves, place: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"x": step.x, "text": f"lr {step.rate:g}", "runs": sorted(place[run] for run in step.runs)}
        for step in sorted(curves.steps, key=lambda step: step.x)
    ]


def _value(value: np.float64) -> float | str:
    if math.isnan(value):
        return "nan"
    return float(value) if math.isfinite(value) else ("inf" if value > 0 else "-inf")
