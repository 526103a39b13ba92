"""The page: sections, style and script together, and writing it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

from caffe_split import __version__
from caffe_split.errors import CaffeSplitError, counted
from caffe_split.files import check_ending, check_file, write_atomic
from caffe_split.formats import prototxt
from caffe_split.plot.draw import draw_svg
from caffe_split.report import sections
from caffe_split.report.curves import curve_data
from caffe_split.report.markup import Html, data_block, element
from caffe_split.report.runs import USUAL, Asked, Run

# Width / height of the drawings: as wide as the page's text, and as long as it takes.
ASPECT = 0.8
# If the names of the runs are longer than this together, the title gives their number.
LONGEST_TITLE = 80
ENDINGS = (".html", ".htm")
# The script's parts, each of which uses names of those before it.
SCRIPTS = ("page.nodes.js", "page.curves.js", "page.events.js")


def check_page(out: Path, force: bool) -> None:
    """Raises `CaffeSplitError` if no page may be written to `out`; to be called before anything is computed."""
    check_ending(out, ENDINGS)
    check_file(out, force)


def write_report(
    runs: Sequence[Run], out: Path, title: str | None = None, force: bool = False, asked: Asked = USUAL
) -> None:
    """Write the page to `out`, on runs read as `asked`. Raises `CaffeSplitError`, see `check_page`."""
    check_page(out, force)
    write_atomic(out, page(runs, out, title, asked).encode("utf-8", "backslashreplace"), force)


def page(runs: Sequence[Run], out: Path, title: str | None = None, asked: Asked = USUAL) -> str:
    """The whole page as text."""
    repeat = sections.command_lines(runs, out, title, asked)
    count = counted(len(runs), "training")
    names = ", ".join(run.name for run in runs)
    title = title or (names if len(names) <= LONGEST_TITLE else count)
    style, script = _part("page.css"), _script()
    curves = curve_data([run.log for run in runs], [run.name for run in runs])
    body = element(
        "main",
        element("h1", title),
        element("p", count, class_="note") if title != count else Html(""),
        sections.comparison(runs),
        sections.curves(bool(curves["panels"])),
        *(sections.split(run, _drawing(run)) for run in runs if run.manifest is not None),
        sections.commands(repeat),
        element("footer", f"caffe-split {__version__}"),
    )
    return Template(_part("page.html")).substitute(
        title=element("b", title)[3:-4],
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
        style=style,
        script=script,
        body=body,
        data=data_block("curves", curves),
    )


def _drawing(run: Run) -> Html | None:
    """The derived net around its splits; None if its file is missing or cannot be drawn."""
    assert run.manifest is not None
    path = run.log_path.parent / Path(run.manifest.net).name
    try:
        picture = draw_svg(prototxt.read(path), aspect=ASPECT)
    except CaffeSplitError:
        return None
    return element("div", Html(picture), class_="drawing", tabindex=0, role="region", aria_label=f"Net of {run.name}")


def _script() -> str:
    """The parts as one script, in a function, so that their names are no globals of the page."""
    return f'"use strict";\n(() => {{\n{"".join(map(_part, SCRIPTS))}}})();\n'


def _part(name: str) -> str:
    return resources.files("caffe_split.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The expression by which the page's policy allows this script or style, given as its whole text, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
