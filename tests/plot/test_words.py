"""Names are drawn as they are, also those that matplotlib would take for formulas or leave out."""

from __future__ import annotations

import io
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest

from caffe_split.diagram.mosaic import kernel_mosaic
from caffe_split.plot.confusion import draw_confusion
from caffe_split.plot.figure import draw
from caffe_split.plot.gains import Gain, draw_gains
from caffe_split.plot.kernels import draw_kernels
from caffe_split.plot.pairs import draw_pairs
from caffe_split.plot.series import Curve, Curves
from caffe_split.plot.tpm_figure import draw_printed, draw_runs, draw_scores
from caffe_split.tpm.from_log import Printed
from tests.plot.test_tpm import scores

matplotlib.use("agg")
from matplotlib.figure import Figure

NAMES = [r"cost$5_vs_$7\q", r"a\$b", "_hidden"]


def curves(name: str) -> Curves:
    x, y = np.arange(3.0), np.array([0.1, 0.2, 0.3])
    accuracies = [Curve(0, output, x, y) for output in (name, "accuracy")]
    return Curves([name], [Curve(0, "loss", x, y)], accuracies, [], [], "iteration", [""])


def printed(name: str) -> Printed:
    return Printed(name, np.array([0, 10]), np.array([0.2, 0.3]), ((0, 10),), 10, 0.9)


PICTURES: dict[str, Callable[[Any, str], None]] = {
    "curves": lambda figure, name: draw(figure, curves(name)),
    "histograms": lambda figure, name: draw_scores(figure, [[scores(name, [0.1, 0.2])]], 0.9),
    "windows": lambda figure, name: draw_scores(
        figure, [[scores(name, [0.1, 0.2])], [scores(name, [0.1, 0.3], 100)]], 0.9
    ),
    "printed": lambda figure, name: draw_printed(figure, [printed(name)]),
    "runs": lambda figure, name: draw_runs(figure, {name: [[scores("conv", [0.1, 0.2])]]}, 0.9),
    "kernels": lambda figure, name: draw_kernels(figure, [kernel_mosaic(name, np.ones((4, 3, 3, 3)))], {}),
    "pairs": lambda figure, name: draw_pairs(figure, [(name, {"1": 0.5})], "accuracy"),
    "gains": lambda figure, name: draw_gains(figure, [Gain(name, "base", {"1": 0.5}, (0.1, 0.9), (0.0, 1.0), 1.0)]),
    "confusion": lambda figure, name: draw_confusion(figure, np.ones((2, 2)), [name, "cat"]),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("picture", PICTURES)
def test_a_name_is_drawn_as_it_is(picture: str, name: str) -> None:
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = Figure(layout="constrained")
        PICTURES[picture](figure, name)
        figure.savefig(stream, format="svg")
    texts = [
        "".join(text.itertext()) for text in ElementTree.fromstring(stream.getvalue()).iter() if "text" in text.tag
    ]
    assert any(name in text for text in texts), texts
