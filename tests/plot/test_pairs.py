"""The picture of paired points: a point per seed and column, joined by seed, and the mean of each column."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from caffe_split.plot.pairs import draw_pairs


def test_points_are_joined_by_seed_and_each_column_has_its_mean() -> None:
    figure = Figure(layout="constrained")
    draw_pairs(figure, [("continue", {"1": 80.0, "2": 84.0}), ("skip", {"1": 81.0}), ("gone", {})], "accuracy, %")
    (axis,) = figure.axes
    seeds = [line for line in axis.lines if str(line.get_label()).startswith("seed ")]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in seeds] == [([0, 1], [80, 81]), ([0], [84])]
    assert [text.get_text() for text in axis.texts] == ["82.00", "81.00"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["continue", "skip", "gone"]
    assert axis.get_xlim() == pytest.approx((-0.5, 2.5))
    figure.canvas.draw()


def test_each_of_twenty_seeds_looks_its_own_way() -> None:
    figure = Figure()
    draw_pairs(figure, [("continue", {str(seed): 80.0 + seed for seed in range(20)})], "accuracy, %")
    lines = [line for line in figure.axes[0].lines if str(line.get_label()).startswith("seed ")]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == 20
