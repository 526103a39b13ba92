"""A drawing as SVG text that needs nothing else: no fonts, style sheets, ids or links."""

from __future__ import annotations

from xml.sax.saxutils import escape

from caffe_split.diagram.strokes import Curve, Drawing, Rectangle, Stroke, Text, arrow_head, pieces

FONT = "DejaVu Sans, Verdana, Arial, sans-serif"


def svg_text(drawing: Drawing, title: str) -> str:
    """The SVG element, to be a file or to stand in an HTML page."""
    width, height = _number(drawing.width), _number(drawing.height)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}pt" height="{height}pt" '
        # In a browser a picture that is wider than the window is shown smaller, not cut off.
        f'viewBox="0 0 {width} {height}" style="max-width:100%;height:auto" font-family="{FONT}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#FFFFFF"/>',
        *(_element(stroke) for stroke in drawing.strokes),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _element(stroke: Stroke) -> str:
    if isinstance(stroke, Rectangle):
        return _rectangle(stroke)
    return _text(stroke) if isinstance(stroke, Text) else _curve(stroke)


def _rectangle(stroke: Rectangle) -> str:
    x, y, width, height = map(_number, (stroke.x, stroke.y, stroke.width, stroke.height))
    dashes = ' stroke-dasharray="3 2"' if stroke.dashed else ""
    head = (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{_number(stroke.radius)}" '
        f'fill="{stroke.fill}" stroke="{stroke.edge}" stroke-width="{_number(stroke.line)}"{dashes}'
    )
    return f"{head}><title>{escape(stroke.label)}</title></rect>" if stroke.label else f"{head}/>"


def _text(stroke: Text) -> str:
    weight = ' font-weight="bold"' if stroke.bold else ""
    return (
        f'<text x="{_number(stroke.x)}" y="{_number(stroke.y)}" font-size="{_number(stroke.size)}" '
        f'fill="{stroke.colour}"{weight}>{escape(stroke.text)}</text>'
    )


def _curve(stroke: Curve) -> str:
    words: list[str] = []
    for start, *rest in pieces(stroke):
        if not words:
            words.append("M" + _point(start))
        words.append(("C" if len(rest) == 3 else "L") + " ".join(map(_point, rest)))
    line = f'<path d="{"".join(words)}" fill="none" stroke="{stroke.colour}" stroke-width="0.9"/>' if words else ""
    head = arrow_head(stroke)
    if head is None:
        return line
    return line + f'<path d="M{"L".join(map(_point, head))}Z" fill="{stroke.colour}"/>'


def _point(point: tuple[float, float]) -> str:
    return f"{_number(point[0])},{_number(point[1])}"
