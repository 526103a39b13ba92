"""The picture of gains: the points of each seed, the mean with its intervals, and what a run costs."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from caffe_split.plot.gains import Gain, draw_gains

NONE = (math.nan, math.nan)


def test_a_gain_has_its_points_mean_intervals_and_cost() -> None:
    figure = Figure(layout="constrained")
    gains = [
        Gain("skip", "continue", {"1": 0.5, "2": 1.5}, (0.2, 1.8), (-0.5, 2.5), 1.0),
        Gain("wider-skip", "continue", {"1": 0.25}, NONE, NONE, 1.423),
        Gain("lost", "continue2", {"2": -0.25}, NONE, NONE, None),
    ]
    draw_gains(figure, gains)
    (axis,) = figure.axes
    assert [[(round(x + 0.14), y) for x, y in seed.get_offsets()] for seed in axis.collections] == [
        [(0, 0.5), (1, 0.25)],
        [(0, 1.5), (2, -0.25)],
    ]
    lines = [(list(line.get_ydata()), line) for line in axis.lines if len(line.get_xdata())]
    bars = {tuple(ys): line.get_linewidth() for ys, line in lines if len(ys) == 2 and ys[0] != ys[1]}
    assert set(bars) == {(0.2, 1.8), (-0.5, 2.5)} and bars[0.2, 1.8] > bars[-0.5, 2.5]
    means = {ys[0]: line.get_markerfacecolor() for ys, line in lines if line.get_marker() == "s"}
    assert means == {1.0: "0.2", 0.25: "white", -0.25: "white"}
    assert [text.get_text() for text in axis.texts] == ["+1.00", "+0.25", "-0.25"]
    assert [label.get_text() for label in axis.get_xticklabels()] == [
        "skip\nless continue",
        "wider-skip\nless continue\n1.42 x the multiply-adds",
        "lost\nless continue2\ncost not known",
    ]
    figure.canvas.draw()


def test_seeds_of_one_colour_have_markers_of_their_own() -> None:
    figure = Figure(layout="constrained")
    draw_gains(figure, [Gain("skip", "continue", {str(seed): 0.1 * seed for seed in range(10)}, NONE, NONE, 1.0)])
    looks = {
        (tuple(seed.get_facecolor()[0]), seed.get_paths()[0].vertices.tobytes()) for seed in figure.axes[0].collections
    }
    assert len(looks) == 10


def test_without_gains_there_is_an_empty_picture() -> None:
    figure = Figure(layout="constrained")
    draw_gains(figure, [])
    figure.canvas.draw()
