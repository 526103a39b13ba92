"""The page in a real browser: pointer, keys and legend do what they say, and what is read is what the log says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.browser import Page, browser, find_browser
from tests.report.made_runs import NASTY, Written, write_run
from tests.support import caffe_split

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium: `./tools/environment --tests` installs it where it may"
)

PANELS = ["train loss", "test accuracy", "test loss"]


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def report(runs: list[Written]) -> Path:
    folder = runs[0].folder.parent
    caffe_split("report", "base", NASTY, "--out", "report.html", cwd=folder)
    return folder / "report.html"


@pytest.fixture
def page(tab: Page, report: Path) -> Page:
    tab.open(report)
    return tab


def box(page: Page, selector: str) -> dict[str, float]:
    """Where an element is, scrolled into view."""
    found: dict[str, float] = page.run(
        f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
        "const b = e.getBoundingClientRect();"
        "return {x: b.x, y: b.y, width: b.width, height: b.height}; })()"
    )
    return found


def plot(panel: str) -> str:
    return f'[data-panel="{panel}"] .plot'


def axis(page: Page, panel: str, which: str = "x") -> list[tuple[float, float]]:
    """(value, place in pixels within the plot) of an axis's numbers."""
    labels: list[list[str]] = page.run(
        f"[...document.querySelectorAll('[data-panel=\"{panel}\"] .{which}-axis text:not(.label)')]"
        f".map(t => [t.textContent, t.getAttribute('{which}')])"
    )
    return [(float(text), float(place)) for text, place in labels]


def shown(page: Page, panel: str) -> tuple[int, dict[int, tuple[int, str]]] | None:
    """What the hover box says: its iteration; run -> (that value's own iteration, value). None: it is hidden."""
    told: Any = page.run(
        f"(() => {{ const t = document.querySelector('[data-panel=\"{panel}\"] .tip'); if (t.hidden) return null;"
        "return [t.firstChild.dataset.iteration, [...t.querySelectorAll('[data-run]')].map("
        "r => [r.dataset.run, r.dataset.at, r.querySelector('b').textContent])]; })()"
    )
    return told and (int(told[0]), {int(run): (int(at), value) for run, at, value in told[1]})


def hover(page: Page, panel: str, share: float) -> float:
    """Point at this share of the width of the plot; returns the place in pixels within it."""
    place = box(page, plot(panel))
    page.mouse("mouseMoved", place["x"] + share * place["width"], place["y"] + place["height"] / 2)
    return share * place["width"]


def drag(page: Page, panel: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From one place to another, both in shares of the plot."""
    place = box(page, plot(panel))
    at = [(place["x"] + x * place["width"], place["y"] + y * place["height"]) for x, y in (start, end)]
    page.drag(at[0], at[1])


def drawn_runs(page: Page, panel: str) -> set[int]:
    found: list[str] = page.run(
        f"[...document.querySelectorAll('[data-panel=\"{panel}\"] path[data-run]')].map(p => p.dataset.run)"
    )
    return {int(run) for run in found}


def press(page: Page, selector: str) -> None:
    place = box(page, selector)
    page.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)


def test_it_runs_without_a_word_and_without_a_network(page: Page) -> None:
    assert page.run("[...document.querySelectorAll('[data-panel]')].map(p => p.dataset.panel)") == PANELS
    assert page.run("document.querySelector('h1').textContent") == f"base, {NASTY}"
    assert page.run("document.scripts.length") == 2 and page.run("document.images.length") == 0
    names = page.run("[...document.querySelectorAll('#legend button')].map(b => b.textContent)")
    assert names == ["base", NASTY]
    said = [event for event in page.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert said == [] and not any("dialog" in event["method"].lower() for event in page.events)
    asked = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert len(asked) == 1 and asked[0].startswith("file://")


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("share", [0.11, 0.3, 0.52, 0.77, 0.97])
def test_hover_tells_what_the_log_says(page: Page, runs: list[Written], panel: str, share: float) -> None:
    at = hover(page, panel, share)
    told = shown(page, panel)
    assert told is not None
    iteration, values = told
    assert values == {run: (iteration, shortened(runs[run].said[panel][iteration])) for run in (0, 1)}
    # It is the iteration nearest to the pointer, by the axis's own numbers.
    (low, left), *_, (high, right) = axis(page, panel)
    pointed = low + (at - left) / (right - left) * (high - low)
    assert iteration == min(runs[0].said[panel], key=lambda i: abs(i - pointed))
    assert shown(page, PANELS[PANELS.index(panel) - 1]) is None


def shortened(printed: str) -> str:
    """A number as JavaScript writes the one that the log printed."""
    return repr(float(printed)).removesuffix(".0")


def test_the_values_go_when_the_pointer_leaves(page: Page) -> None:
    hover(page, "test loss", 0.5)
    assert shown(page, "test loss") is not None
    page.mouse("mouseMoved", 5, 5)
    assert shown(page, "test loss") is None


def test_a_drag_zooms_and_a_double_click_shows_all(page: Page, runs: list[Written]) -> None:
    before = {panel: axis(page, panel) for panel in PANELS}
    heights = {panel: axis(page, panel, "y") for panel in PANELS}
    assert page.run("document.getElementById('reset').disabled") is True
    drag(page, "test accuracy", (0.4, 0.5), (0.6, 0.5))
    for panel in PANELS:  # the iterations are shared
        values = [value for value, _ in axis(page, panel)]
        assert min(values) >= 180 and max(values) <= 400 and len(values) >= 3
        assert axis(page, panel, "y") != heights[panel]
    hover(page, "test accuracy", 0.5)
    told = shown(page, "test accuracy")
    assert told is not None and 200 <= told[0] <= 380
    assert told[1][0][1] == shortened(runs[0].said["test accuracy"][told[0]])
    place = box(page, plot("train loss"))
    page.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2, times=2)
    assert {panel: axis(page, panel) for panel in PANELS} == before
    assert page.run("document.getElementById('reset').disabled") is True


def test_a_drag_over_a_box_zooms_its_values_too(page: Page) -> None:
    heights = {panel: axis(page, panel, "y") for panel in PANELS}
    drag(page, "train loss", (0.2, 0.3), (0.9, 0.6))
    values = [value for value, _ in axis(page, "train loss", "y")]
    whole = [value for value, _ in heights["train loss"]]
    assert whole[0] < min(values) and max(values) < whole[-1]
    press(page, "#reset")
    assert {panel: axis(page, panel, "y") for panel in PANELS} == heights


def test_a_click_is_no_zoom(page: Page) -> None:
    before = axis(page, "train loss")
    drag(page, "train loss", (0.5, 0.5), (0.503, 0.5))
    assert axis(page, "train loss") == before


def test_the_legend_shows_and_hides_runs(page: Page) -> None:
    assert all(drawn_runs(page, panel) == {0, 1} for panel in PANELS)
    press(page, '#legend [data-run="0"]')
    assert all(drawn_runs(page, panel) == {1} for panel in PANELS)
    assert page.run("document.querySelector('#legend button').getAttribute('aria-pressed')") == "false"
    hover(page, "test accuracy", 0.5)
    told = shown(page, "test accuracy")
    assert told is not None and list(told[1]) == [1]
    press(page, '#legend [data-run="1"]')
    assert all(drawn_runs(page, panel) == set() for panel in PANELS)
    hover(page, "test accuracy", 0.5)
    assert shown(page, "test accuracy") is None
    press(page, '#legend [data-run="0"]')
    assert all(drawn_runs(page, panel) == {0} for panel in PANELS)


def test_the_keyboard_reaches_everything(page: Page, runs: list[Written]) -> None:
    reached: list[str] = []
    for _ in range(12):
        page.key("Tab")
        focused = "document.activeElement"
        reached.append(page.run(f"{focused}.getAttribute('aria-label') || {focused}.textContent"))
        if "train loss" in reached[-1]:
            break
    assert reached[0] == "Comparison" and {"base", NASTY} <= set(reached)
    page.key("ArrowRight")
    page.key("ArrowRight")
    assert page.run("document.getElementById('spoken').textContent") == (
        f"iteration 10, base {shortened(runs[0].said['train loss'][10])}, "
        f"{NASTY} {shortened(runs[1].said['train loss'][10])}"
    )
    page.key("End")
    told = shown(page, "train loss")
    assert told is not None and told[0] == 590
    page.key("ArrowLeft")
    assert (shown(page, "train loss") or (0,))[0] == 580
    before = axis(page, "train loss")
    page.key("+")
    assert min(value for value, _ in axis(page, "train loss")) > 250
    page.key("0")
    assert axis(page, "train loss") == before
    page.run("document.querySelector('#legend button').focus()")
    page.key("Enter")
    assert drawn_runs(page, "test loss") == {1}


def test_a_finger_reads_and_zooms(tab: Page, report: Path, runs: list[Written]) -> None:
    tab.open(report, width=390, height=700)
    place = box(tab, plot("test accuracy"))
    at = [(place["x"] + share * place["width"], place["y"] + 90) for share in (0.4, 0.5, 0.6, 0.8)]
    tab.touch(at[1])
    told = shown(tab, "test accuracy")
    assert told is not None and 200 <= told[0] <= 300
    assert told[1][0][1] == shortened(runs[0].said["test accuracy"][told[0]])
    before = axis(tab, "test accuracy")
    tab.touch(*at)
    assert min(value for value, _ in axis(tab, "test accuracy")) > 100
    press(tab, "#reset")
    assert axis(tab, "test accuracy") == before


def test_the_mean_of_displays_leaves_the_values_read_alone(page: Page, runs: list[Written]) -> None:
    def curve() -> str:
        found: str = page.run(f"document.querySelector('{plot('train loss')} path[data-run]').getAttribute('d')")
        return found

    raw = curve()
    press(page, "#average")
    page.key("End")
    page.key("0")  # 1 becomes 10
    assert curve() != raw
    faint = page.run(f"document.querySelector('{plot('train loss')} path.raw').getAttribute('d')")
    assert faint.count("L") == raw.count("L") == 59
    hover(page, "train loss", 0.5)
    told = shown(page, "train loss")
    assert told is not None and told[1][1][1] == shortened(runs[1].said["train loss"][told[0]])


def test_values_that_are_none_are_said(tab: Page, tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", 0.0)
    text = (run.folder / "train.log").read_text()
    for iteration, word in ((300, "nan"), (350, "inf")):
        text = text.replace(f"accuracy = {run.said['test accuracy'][iteration]}\n", f"accuracy = {word}\n")
    (run.folder / "train.log").write_text(text)
    caffe_split("report", "one", cwd=tmp_path)
    tab.open(tmp_path / "report.html")
    (low, left), *_, (high, right) = axis(tab, "test accuracy")
    place = box(tab, plot("test accuracy"))
    for iteration, word in ((300, "nan"), (350, "inf"), (400, shortened(run.said["test accuracy"][400]))):
        x = left + (iteration - low) / (high - low) * (right - left)
        tab.mouse("mouseMoved", place["x"] + x, place["y"] + 100)
        assert shown(tab, "test accuracy") == (iteration, {0: (iteration, word)})
    path = tab.run(f"document.querySelector('{plot('test accuracy')} path[data-run]').getAttribute('d')")
    assert path.count("M") == 2 and "NaN" not in path and "Infinity" not in path


def test_a_long_curve_says_that_it_is_thinned(tab: Page, tmp_path: Path) -> None:
    run = write_run(tmp_path / "long", 0.0, displays=9000)
    caffe_split("report", "long", cwd=tmp_path)
    tab.open(tmp_path / "report.html")
    note = tab.run("document.querySelector('[data-panel=\"train loss\"] small').textContent")
    count = int(re.fullmatch(r"lowest and highest of each bunch: (\d+) of 9000 values.*", note)[1])  # type: ignore[index]
    assert 3000 < count < 4010
    assert tab.run("document.querySelector('[data-panel=\"test accuracy\"] small').textContent") == ""
    hover(tab, "train loss", 0.63)
    told = shown(tab, "train loss")
    assert told is not None and told[1][0][1] == shortened(run.said["train loss"][told[0]])


def test_many_runs_are_told_apart(tab: Page, tmp_path: Path) -> None:
    names = [f"a_run_of_quite_a_long_name_{k}" for k in range(9)]
    for k, name in enumerate(names):
        write_run(tmp_path / name, k / 80)
    caffe_split("report", *names, cwd=tmp_path)
    tab.open(tmp_path / "report.html", width=390)
    assert tab.run("document.querySelector('h1').textContent") == "9 trainings"
    look = "(s => s.stroke + s.strokeDasharray)(getComputedStyle(e))"
    styles = {
        where: tab.run(f"[...document.querySelectorAll({where!r})].map(e => {look})")
        for where in ("tbody .stroke", "#legend .stroke", f"{plot('train loss')} path[data-run]")
    }
    for where, found in styles.items():  # the table, the legend and the curves agree
        assert len(set(found)) == 9 and found == styles["tbody .stroke"], where
    assert tab.run("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("width", [320, 390, 1100])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone_and_the_dark(tab: Page, report: Path, width: int, dark: bool) -> None:
    tab.open(report, width=width, height=700, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") == width  # nothing but tables scrolls sideways
    paper = tab.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(22, 24, 28)" if dark else "rgb(255, 255, 255)")
    stroke = tab.run(f"getComputedStyle(document.querySelector('{plot('train loss')} path[data-run]')).stroke")
    assert stroke == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)")
    inside = tab.run(f"document.querySelector('{plot('train loss')}').getBoundingClientRect().right")
    assert inside <= width
    for share in (0.3, 0.9):
        at = hover(tab, "train loss", share) + box(tab, plot("train loss"))["x"]
        tip, frame = box(tab, ".tip"), box(tab, plot("train loss"))
        left, right = tip["x"], tip["x"] + tip["width"]
        assert left >= 0 and right <= width
        assert left <= at <= right or min(abs(left - at), abs(right - at)) < 40  # beside the pointer
        assert frame["y"] < tip["y"] and tip["y"] + tip["height"] < frame["y"] + frame["height"]


@pytest.mark.parametrize("last", [600, 450])
def test_the_star_of_a_best_that_a_resumed_run_replaced_stands_at_its_value(
    tab: Page, tmp_path: Path, last: int
) -> None:
    lines = []
    for tests in ({0: 0.1, 300: 0.5, 600: 0.9}, {300: 0.5, last: 0.8}):
        lines.append("Solving net")
        for iteration, accuracy in tests.items():
            lines += [f"Iteration {iteration}, Testing net (#0)", f"    Test net output #0: accuracy = {accuracy}"]
            lines.append(f"Iteration {iteration}, loss = 1")
    text = "".join(f"I0305 15:00:{k:02d}.000000 1 solver.cpp:1] {line}\n" for k, line in enumerate(lines))
    (tmp_path / "train.log").write_text(text)
    caffe_split("report", "train.log", cwd=tmp_path)
    tab.open(tmp_path / "report.html")
    shown = "[...document.querySelectorAll('[data-panel=\"test accuracy\"] .{}')]"
    (star,) = tab.run(shown.format("best") + ".map(b => b.getAttribute('points'))")
    lowest, _, highest = tab.run(shown.format("point") + ".map(p => [p.getAttribute('cx'), p.getAttribute('cy')])")
    corners = [tuple(map(float, corner.split(","))) for corner in star.split()]
    x, y = (sum(corner[place] for corner in corners[::2]) / 5 for place in (0, 1))
    # The curve has 0.1, 0.5 and, in place of 0.9, 0.8, of a run that may end earlier.
    across = (x - float(lowest[0])) / (float(highest[0]) - float(lowest[0]))
    assert across == pytest.approx(600 / last, abs=0.005)
    frame = "document.querySelector('[data-panel=\"test accuracy\"] clipPath rect')"
    left, width = (float(tab.run(f"{frame}.getAttribute('{name}')")) for name in ("x", "width"))
    assert left < x < left + width
    upwards = (y - float(lowest[1])) / (float(highest[1]) - float(lowest[1]))
    assert 0.1 + upwards * 0.7 == pytest.approx(0.9, abs=0.005) and y > 0
