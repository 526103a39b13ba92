"""The report for those who do not see it, or see it dark or printed: an accessibility checker, and colours on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.browser import Page, browser, find_browser
from tests.report.made_runs import NASTY, Written
from tests.support import caffe_split

axe_core = pytest.importorskip("axe_core_python", reason="no axe: ./tools/environment --tests (Python 3.10 or later)")
pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium: `./tools/environment --tests` installs it where it may"
)


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def report(runs: list[Written]) -> Path:
    folder = runs[0].folder.parent
    caffe_split("report", "base", NASTY, "--out", "accessible.html", cwd=folder)
    return folder / "accessible.html"


def complaints(page: Page) -> list[Any]:
    """What axe finds wrong with the page as it is shown: rule and element."""
    page.run((Path(axe_core.__file__).parent / "axe.min.js").read_text(encoding="utf-8") + "; true")
    found: list[Any] = page.run(
        "axe.run(document).then(r => r.violations.flatMap(v => v.nodes.map(n => [v.id, n.html.slice(0, 200)])))"
    )
    return found


@pytest.mark.parametrize("width", [1100, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_checker_has_no_complaint(tab: Page, report: Path, width: int, dark: bool) -> None:
    tab.open(report, width, 900, dark)
    assert complaints(tab) == []


def test_the_checker_would_complain(tab: Page, report: Path) -> None:
    tab.open(report)
    tab.run("document.getElementById('reset').textContent = ''; document.body.style.color = '#bbb'; 0")
    rules = {rule for rule, _ in complaints(tab)}
    assert {"button-name", "color-contrast"} <= rules


def test_what_a_screen_reader_is_told(tab: Page, report: Path) -> None:
    """Each curve has a name, the legend says which runs are shown, and values are spoken as they are read."""
    tab.open(report)
    tree = tab.call("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]}
    assert {role for role, name in named if name.startswith("test accuracy: arrow keys read values")}
    assert ("heading", "Curves") in named and ("region", "Commands") in named
    pressed = [p for node in tree for p in node.get("properties", ()) if p["name"] == "pressed"]
    assert len(pressed) == 2 and all(each["value"]["value"] == "true" for each in pressed)
    tab.run("document.querySelector('[data-panel=\"test accuracy\"] .plot').focus()")
    tab.key("ArrowRight")
    tab.wait_for("document.getElementById('spoken').textContent.includes('iteration')")
    spoken = tab.run("document.getElementById('spoken').textContent")
    assert "base" in spoken and NASTY in spoken


def test_on_paper_it_is_dark_on_white(tab: Page, report: Path) -> None:
    """Also from a dark screen; nothing is cut off."""
    tab.open(report, dark=True)
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    assert tab.run(colours)[0] == "rgb(22, 24, 28)"
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    tab.call("Emulation.setEmulatedMedia", media="print", features=[dark])
    assert tab.run(colours) == ["rgb(255, 255, 255)", "rgb(28, 30, 33)"]
    assert tab.run("getComputedStyle(document.getElementById('reset')).display") == "none"
    assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    tab.call("Emulation.setEmulatedMedia", media="")
