"""Drawing a net: SVG as text, or a PNG, SVG or PDF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caffe_split.diagram.page import net_page
from caffe_split.diagram.strokes import Curve, Drawing, Rectangle, Stroke, Text, arrow_head, drawing, pieces
from caffe_split.diagram.svg import FONT, svg_text
from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, atomic_open, write_atomic
from caffe_split.formats import prototxt
from caffe_split.layertypes.shapes import document_inputs
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TRAIN, NetState
from caffe_split.plot.picture_file import DPI, picture_format

MOST_PIXELS = 8000  # along the longer side; a net of hundreds of layers stays a picture one can open


def draw_svg(
    document: prototxt.Document,
    state: NetState = TRAIN,
    whole: bool | None = None,
    title: str = "",
    aspect: float = 1.3,
) -> str:
    """The net as one self-contained `<svg>` element: data flows downwards, columns from left to right.

    A net with splits is drawn around them, stretches without one in a box each, unless `whole`; `whole` False
    asks for splits. `aspect` is the wanted width / height of the page. Raises `CaffeSplitError` for what is no
    net, has no layer in that state, or has no split where one is asked for.
    """
    return svg_text(_drawing(document, state, whole, title, aspect), title or _net_name(document))


def draw_file(
    document: prototxt.Document,
    out: PathLike,
    state: NetState = TRAIN,
    whole: bool | None = None,
    title: str = "",
    aspect: float = 1.3,
    *,
    force: bool = True,
) -> None:
    """The same as a file; its ending (.png, .svg, .pdf) sets the format, and `force` lets it replace another.

    Raises `CaffeSplitError`.
    """
    ending = picture_format(out)
    page = _drawing(document, state, whole, title, aspect)
    if ending == "svg":
        write_atomic(out, svg_text(page, title or _net_name(document)).encode("utf-8", "replace"), force)
        return
    with atomic_open(out, force) as stream:
        dpi = min(DPI, 72 * MOST_PIXELS / max(page.width, page.height))
        _figure(page).savefig(
            stream, format=ending, dpi=dpi, metadata={"CreationDate": None} if ending == "pdf" else None
        )


def _net_name(document: prototxt.Document) -> str:
    return str(document.get("name", "")) or Path(document.filename).name


def _drawing(document: prototxt.Document, state: NetState, whole: bool | None, title: str, aspect: float) -> Drawing:
    layers = phase_layers(document, state)
    if not layers:
        raise CaffeSplitError(f"{document.filename}: no layer of it runs in phase {state.phase}.")
    return drawing(net_page(layers, whole, aspect, document_inputs(document)), title or _net_name(document))


def _figure(page: Drawing) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(page.width / 72, page.height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, page.width)
    axes.set_ylim(page.height, 0)
    axes.axis("off")
    for number, stroke in enumerate(page.strokes):
        _add(axes, stroke, number)
    return figure


def _add(axes: Any, stroke: Stroke, order: int) -> None:
    from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
    from matplotlib.path import Path as Outline

    if isinstance(stroke, Text):
        weight = "bold" if stroke.bold else "normal"
        axes.text(
            stroke.x,
            stroke.y,
            stroke.text,
            fontsize=stroke.size,
            color=stroke.colour,
            weight=weight,
            family=FONT.split(", ")[0],
            va="baseline",
            zorder=order,
            parse_math=False,
        )
    elif isinstance(stroke, Rectangle):
        style = f"round,pad=0,rounding_size={stroke.radius}"
        axes.add_patch(
            FancyBboxPatch(
                (stroke.x, stroke.y),
                stroke.width,
                stroke.height,
                boxstyle=style,
                facecolor=stroke.fill,
                edgecolor=stroke.edge,
                linewidth=stroke.line,
                linestyle=(0, (3, 2)) if stroke.dashed else "-",
                zorder=order,
            )
        )
    elif isinstance(stroke, Curve):
        lines = [
            Outline(line, [Outline.MOVETO] + [Outline.CURVE4 if len(line) == 4 else Outline.LINETO] * (len(line) - 1))
            for line in pieces(stroke)
        ]
        if lines:
            outline = Outline.make_compound_path(*lines)
            axes.add_patch(PathPatch(outline, fill=False, edgecolor=stroke.colour, linewidth=0.9, zorder=order))
        head = arrow_head(stroke)
        if head is not None:
            axes.add_patch(Polygon(head, closed=True, facecolor=stroke.colour, edgecolor="none", zorder=order))
