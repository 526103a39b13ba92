"""The page: sections, style and script put together, and written."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

from caffe_split import __version__
from caffe_split.errors import CaffeSplitError
from caffe_split.files import check_out, write_atomic
from caffe_split.plot.draw import draw_svg
from caffe_split.proto import prototxt
from caffe_split.report import sections
from caffe_split.report.curves import curve_data
from caffe_split.report.markup import Html, data_block, element
from caffe_split.report.runs import Run

# Width / height of the drawings: as wide as the page's text, and as long as it takes.
ASPECT = 0.8


def write_report(runs: Sequence[Run], out: Path, title: str | None = None, force: bool = False) -> None:
    """Write the page to `out`. Raises `CaffeSplitError` where that exists, unless `force`, or cannot be written."""
    check_out(out, force)
    if out.is_dir():
        raise CaffeSplitError(f"{out} is a folder; expected the name of a file, for example {out / 'report.html'}")
    write_atomic(out, page(runs, out, title).encode("utf-8", "backslashreplace"))


def page(runs: Sequence[Run], out: Path, title: str | None = None) -> str:
    """The whole page as text."""
    title = title or ", ".join(run.name for run in runs[:4]) + (" and others" if len(runs) > 4 else "")
    style, script = _part("page.css"), _part("page.js")
    curves = curve_data([run.log for run in runs], [run.name for run in runs])
    body = element(
        "main",
        element("h1", title),
        element("p", f"{len(runs)} training{'s' if len(runs) > 1 else ''} in Caffe", class_="note"),
        sections.comparison(runs),
        sections.curves(bool(curves["panels"])),
        *(sections.split(run, _drawing(run)) for run in runs if run.manifest is not None),
        sections.commands(runs, out),
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
    """The derived net around its splits; None where its file is not there or cannot be drawn."""
    assert run.manifest is not None
    path = run.log_path.parent / Path(run.manifest.net).name
    try:
        picture = draw_svg(prototxt.read(path), aspect=ASPECT)
    except CaffeSplitError:
        return None
    return element("div", Html(picture), class_="drawing", tabindex=0, role="region", aria_label=f"Net of {run.name}")


def _part(name: str) -> str:
    return resources.files("caffe_split.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The name by which the page's policy allows this text, all that stands between its tags, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
