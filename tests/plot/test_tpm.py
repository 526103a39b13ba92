"""What the TPM pictures show."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from caffe_split.errors import CaffeSplitError
from caffe_split.plot.picture_file import write_picture
from caffe_split.plot.tpm_figure import draw_printed, draw_runs, draw_scores
from caffe_split.tpm.from_log import Printed
from caffe_split.tpm.scores import LayerScores, null_tpm


def scores(layer: str, tpm: list[float], start: int = 0, whole: float = 0.5) -> LayerScores:
    values = np.array(tpm)
    moving = ~np.isnan(values)
    return LayerScores(
        layer,
        start,
        start + 100,
        2,
        50,
        (len(tpm), 3, 3, 3),
        np.where(moving, values, 0),
        moving * 1.0,
        whole * bool(moving.any()),
        1.0 * bool(moving.any()),
        1.0,
        1.0,
    )


def test_each_layer_has_a_histogram_on_common_bins_with_the_null() -> None:
    figure = Figure()
    layers = [scores(f"conv{i}", [0.1 * i, 0.1 * i, 0.55, math.nan]) for i in range(1, 8)]
    draw_scores(figure, [[*layers, scores("frozen", [math.nan] * 3)]], 0.9)
    shown = [axis for axis in figure.subfigs[0].axes if axis.get_visible()]
    assert [axis.get_title().split("\n")[0] for axis in shown] == [layer.layer for layer in layers]
    assert all("1 frozen" in axis.get_title() for axis in shown)
    edges = [tuple(round(bar.get_x(), 6) for bar in axis.patches) for axis in shown]
    assert len(set(edges)) == 1 and len(edges[0]) == 50
    assert len({axis.get_xlim() for axis in shown}) == 1
    for axis in shown:
        assert sum(bar.get_height() for bar in axis.patches) == 3
        assert axis.lines[0].get_xdata()[0] == pytest.approx(null_tpm(50, 2, 0.9))
    assert "N = 50 steps of 2, momentum 0.9" in figure.subfigs[0].get_suptitle()


def test_over_several_windows_each_layer_has_a_line() -> None:
    figure = Figure()
    windows = [[scores("a", [0.3, 0.4], 100 * w, 0.1 * (w + 1)), scores("b", [math.nan] * 2)] for w in range(3)]
    draw_scores(figure, windows, 0.0)
    (axis,) = figure.subfigs[0].axes
    lines = {line.get_label(): line for line in axis.lines}
    assert set(lines) == {"a", "pure noise"}, "a frozen layer has no line"
    assert lines["a"].get_xdata() == pytest.approx([50, 150, 250])
    assert lines["a"].get_ydata() == pytest.approx([0.1, 0.2, 0.3])
    assert lines["pure noise"].get_ydata() == pytest.approx([null_tpm(50, 2, 0.0)] * 3)
    assert "iterations 200 to 300" in figure.subfigs[1].get_suptitle()


def test_printed_tpm_is_a_line_per_layer_beside_the_null() -> None:
    figure = Figure()
    layer = Printed("a", np.array([0, 5, 10, 20]), np.array([np.nan, 0.9, 0.8, 0.7]), ((0, 20),), 5, 0.0)
    draw_printed(figure, [layer, dataclasses.replace(layer, layer="b", tpm=layer.tpm / 2)])
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines) == {"a", "b", "pure noise"}
    assert lines["b"].get_ydata()[1:] == pytest.approx([0.45, 0.4, 0.35])
    assert lines["pure noise"].get_ydata()[1:] == pytest.approx([1.0, null_tpm(2, 5), null_tpm(4, 5)])
    figure = Figure()
    draw_printed(figure, [dataclasses.replace(layer, windows=())])
    assert [line.get_label() for line in figure.axes[0].lines] == ["a"], "no window, no null"


def test_a_window_in_which_nothing_moved_is_drawn(tmp_path: Path) -> None:
    write_picture(tmp_path / "x.pdf", lambda figure: draw_scores(figure, [[scores("a", [math.nan])]], 0.0))
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


def test_pictures_never_replace_a_file_unasked(tmp_path: Path) -> None:
    group = [scores(f"conv{i}", [0.5, 0.6]) for i in range(40)]
    write_picture(tmp_path / "x.png", lambda figure: draw_scores(figure, [group, group], 0.0))
    with pytest.raises(CaffeSplitError, match="exists; nothing is overwritten unasked"):
        write_picture(tmp_path / "x.png", lambda figure: None)
    with pytest.raises(CaffeSplitError, match="must end in"):
        write_picture(tmp_path / "x.jpeg", lambda figure: None)
    with pytest.raises(CaffeSplitError, match="there is no folder"):
        write_picture(tmp_path / "none/x.png", lambda figure: None)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_runs_are_compared_by_mean_and_by_their_last_kernels() -> None:
    figure = Figure()
    runs = {
        name: [[scores("a", [0.3, at], 100 * w, at), scores("b", [at, math.nan], 100 * w, at / 2)] for w in range(2)]
        for name, at in (("one", 0.8), ("other", 0.4))
    }
    draw_runs(figure, runs, 0.0)
    over, last = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in over.lines}
    assert lines["one"] == pytest.approx([0.6, 0.6]) and lines["other"] == pytest.approx([0.3, 0.3])
    assert lines["pure noise"] == pytest.approx([null_tpm(50, 2, 0.0)] * 2)
    assert "iterations 100 to 200" in last.get_xlabel()


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_the_title_of_a_narrow_picture_is_not_cut_off(layers: int) -> None:
    window = [scores(f"conv{place}", [0.2, 0.5], start=40_000) for place in range(layers)]
    figure = Figure(layout="constrained")
    draw_scores(figure, [window], 0.9)
    figure.canvas.draw()
    (title,) = [text for text in figure.findobj(Text) if text.get_text().startswith("TPM of the kernels")]
    box = title.get_window_extent()
    assert box.x0 > 0 and box.x1 < figure.bbox.width and box.y1 <= figure.bbox.height
