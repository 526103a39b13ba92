"""Figures as files: PNG, SVG or PDF, complete or not written at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from caffe_split.files import PathLike, atomic_open, check_ending, check_file

FORMATS = (".png", ".svg", ".pdf")
DPI = 150
# What each picture says made it, and by which key of its format.
SIGN = "caffe-split"
_KEYS = {"png": "Software", "svg": "Creator", "pdf": "Creator"}


def picture_format(path: PathLike) -> str:
    """'png', 'svg' or 'pdf', by the ending of the name. Raises `CaffeSplitError` for another."""
    return check_ending(path, FORMATS)[1:]


def check_picture(path: Path, force: bool) -> None:
    """Raises `CaffeSplitError` if no picture may be written to `path`; to be called before anything is computed."""
    picture_format(path)
    check_file(path, force)


def write_picture(
    path: Path, draw: Callable[[Any], None], force: bool = False, size: tuple[float, float] | None = None
) -> None:
    """Write what `draw(figure)` draws as PNG, SVG or PDF, by the ending of `path`.

    size: width and height in inches; None if `draw` chooses them. Raises `CaffeSplitError` for another ending, if the
    file exists unless `force`, and if the system refuses to write.
    """
    check_picture(path, force)
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    kind = picture_format(path)
    with atomic_open(path, force) as stream:
        figure.savefig(stream, format=kind, dpi=DPI, metadata={_KEYS[kind]: f"{SIGN}, with Matplotlib"})
