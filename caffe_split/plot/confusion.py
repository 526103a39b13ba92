"""A picture of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffe_split.plot.picture_file import write_picture
from caffe_split.plot.words import plain

# Beyond this many classes neither names nor numbers can be read.
MOST_NAMED = 60
MOST_COUNTED = 25


def confusion_file(matrix: np.ndarray, names: Sequence[str], out: Path, *, force: bool = False) -> None:
    """Write the picture: a row per label, a column per predicted class, coloured by the share of its row.

    The ending of the name (.png, .svg, .pdf) sets the format. Raises `CaffeSplitError` as `write_picture` does.
    """
    side = min(14.0, 3.0 + 0.34 * len(matrix))
    write_picture(out, lambda figure: draw_confusion(figure, matrix, names), force, (side + 1.0, side))


def draw_confusion(figure: Any, matrix: np.ndarray, names: Sequence[str]) -> None:
    """Draw the matrix, of shape (labels, predicted classes), on an empty matplotlib figure."""
    axis = figure.subplots()
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    right = int(np.trace(matrix))
    axis.set_title(f"{right:,} of {int(matrix.sum()):,} right", fontsize=10)
    axis.set_xlabel("predicted")
    axis.set_ylabel("label")
    if len(matrix) <= MOST_NAMED:
        places, shown = range(len(matrix)), [plain(name) for name in names]
        axis.set_xticks(places, shown, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=7)
        axis.set_yticks(places, shown, fontsize=7)
    if len(matrix) <= MOST_COUNTED:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, str(int(count)), ha="center", va="center", fontsize=6, color=colour)
    figure.colorbar(image, ax=axis, shrink=0.8, label="share of the label")
