"""`caffe-split report`: what the page holds, for any names of the runs, and with parts missing."""

from __future__ import annotations

import html
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from caffe_split.report.markup import Html, data_block, element
from caffe_split.report.page import SCRIPTS
from caffe_split.report.runs import read_runs
from caffe_split.report.sections import command_lines
from tests.report.made_runs import NASTY, NASTY_LAYER, Written, manifest, write_run
from tests.support import ROOT, caffe_split, train

LOGS = ROOT / "tests" / "trainlog" / "logs"


class Read(HTMLParser):
    """What a parser of HTML sees: tags with attributes, and text by the tag around it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("th", "td", "h1", "h2", "h3", "pre", "p", "figcaption", "title"):
            self.open.append(tag)
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.cells[-1] += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def written_page(folder: Path, *words: object, status: int = 0) -> tuple[str, str]:
    """(the page, what was said on stderr)."""
    done = caffe_split("report", *words, "--out", "page.html", cwd=folder, status=status)
    assert done.stdout == "wrote page.html\n"
    page = (folder / "page.html").read_text(encoding="utf-8")
    (folder / "page.html").unlink()
    return page, done.stderr


def curves_of(page: str) -> dict[str, list[dict[str, object]]]:
    found = re.search(r'<script type="application/json" id="curves">(.*?)</script>', page, re.DOTALL)
    assert found
    return {panel["title"]: panel["curves"] for panel in json.loads(found[1])["panels"]}


def test_the_table_is_that_of_table(runs: list[Written]) -> None:
    folder = runs[0].folder.parent
    page, said = written_page(folder, "base", NASTY)
    assert said == ""
    table = caffe_split("table", "base/train.log", f"{NASTY}/train.log", "--cost", cwd=folder).stdout
    expected = [[text.strip() for text in line.split("|")[1:-1]] for line in table.splitlines() if line[:1] == "|"]
    del expected[1]
    texts = list(itertools.chain.from_iterable(expected))
    cells = Read(page).cells
    at = cells.index("Comparison") + 1
    assert cells[at : at + len(texts)] == texts


def test_the_curves_are_those_of_the_logs(runs: list[Written]) -> None:
    page, _ = written_page(runs[0].folder.parent, "base", NASTY)
    curves = curves_of(page)
    assert list(curves) == ["train loss", "test accuracy", "test loss"]
    for title, (first, second) in curves.items():
        for curve, run in ((first, runs[0]), (second, runs[1])):
            said = run.said[title]
            assert curve["x"] == list(said) and curve["y"] == [float(value) for value in said.values()]
    best = curves["test accuracy"][1]["best"]
    accuracy = [float(value) for value in runs[1].said["test accuracy"].values()]
    assert accuracy[best] == max(accuracy)  # type: ignore[call-overload]


def test_curves_keep_the_order_of_the_runs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "one", 0.1), write_run(tmp_path / "baseline", 0.0)]
    page, _ = written_page(tmp_path, "one", "baseline")
    for title, curves in curves_of(page).items():
        assert [curve["run"] for curve in curves] == [0, 1]
        for curve, run in zip(curves, runs):
            assert curve["y"] == [float(value) for value in run.said[title].values()]


def test_names_are_text(runs: list[Written]) -> None:
    page, _ = written_page(runs[0].folder.parent, "base", NASTY)
    read = Read(page)
    assert read.count("script") == 2 and read.count("img") == 0
    assert f"base, {NASTY}" in read.cells and NASTY_LAYER in read.cells
    assert f"<title>base, {html.escape(NASTY)}</title>" in page
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)


def test_it_needs_nothing_else(runs: list[Written]) -> None:
    page, _ = written_page(runs[0].folder.parent, "base", NASTY)
    read = Read(page)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in read.tags}
    assert not any({"src", "href", "srcset"} & set(attributes) for _, attributes in read.tags)
    assert set(re.findall(r"https?://[^\"'<>\s]*", page)) <= {"http://www.w3.org/2000/svg"}
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style and not re.search(r"@import|url\((?!#)", style[1])
    policy = next(a["content"] for tag, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'; ")


def test_a_split_is_shown_with_its_scores_and_counts(runs: list[Written]) -> None:
    page, _ = written_page(runs[0].folder.parent, "base", NASTY)
    cells = Read(page).cells
    row = cells[cells.index(NASTY_LAYER) :]
    assert row[1:4] == ["4 / 4", "fast: 4, 5, 6, 7", "slow: 0, 1, 2, 3"]
    assert row[4:8] == ["1.200", "0.863", "0.117", "0.400"]
    assert row[8] == f"{NASTY_LAYER}_split1"
    assert "kind residual, partition median, init exact, noise 0.01, seed 0, skip pool stride." in page
    assert "In today&#x27;s form: layers renamed" in page
    named = cells[cells.index("named") :]
    assert named[8] == "named_split1; <grouped>"
    assert named[4:8] == ["-"] * 4
    assert f"{NASTY_LAYER}entropy 1.200, 8 kernels, 1 frozen" in cells
    assert "Parameters 1,000 \u2192 1,500 (x1.500); multiply-adds per image not known: 5,000 \u2192 ?." in cells
    # One histogram, with the bins of fast and slow kernels: 0.05, 2 x 0.15 | 0.75, 2 x 0.85, 1.0.
    figures = page.count('class="histogram"')
    assert figures == 1 and page.count('class="slow"') == 2 and page.count('class="fast"') == 3
    assert "0 to 0.1: 0 fast and 1 slow; 0.1 to 0.2: 0 fast and 2 slow; 0.7 to 0.8: 1 fast and 0 slow" in page


def test_the_commands_can_be_given_to_a_shell(runs: list[Written]) -> None:
    page, _ = written_page(runs[0].folder.parent, "base", NASTY)
    (commands,) = (cell for cell in Read(page).cells if "plot_loss.py" in cell)
    script = 'caffe-split() { printf \'%s\\n\' "$@"; }; plot_loss.py() { caffe-split "$@"; }\n' + commands
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert done.stderr == "" and words.count(f"{NASTY}/train.log") == 4
    assert words[:4] == ["tpm", "base/solver.prototxt", "--iter", "100"]
    at = words.index("make-derived")
    assert words[at : at + 6] == ["make-derived", "base/solver.prototxt", "--iter", "100", "--out", NASTY]
    assert f"{NASTY}/solver.prototxt" in words


def test_the_commands_have_the_weights_and_say_how_tpm_layers_came_in(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 0.0).folder
    log = folder / "train.log"
    (folder / "solver.prototxt").write_text('net: "run/net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9')
    (folder / "net.prototxt").write_text(
        'layer { name: "c" type: "Convolution" bottom: "x" top: "c" param { name: "c_w" } convolution_param { '
        'num_output: 2 kernel_size: 1 } } layer { name: "c_tpm" type: "TPM" top: "c_tpm" param { name: "c_w" } '
        "tpm_param { start_iter: 0 stop_iter: 40 interval: 5 } }"
    )
    log.write_text("I0305 14:00:00.000000 1 caffe.cpp:1] Finetuning from old runs/w.caffemodel\n" + log.read_text())
    tests = (folder / "solver.prototxt").read_text().replace("max_iter: 9", "max_iter: 0")
    (folder / "test_net.prototxt").write_text(tests)  # as `multisplit` leaves one; it trains nothing
    (run,) = read_runs([folder], lambda text: None)  # the net lies elsewhere, seen from here
    lines = command_lines([run], tmp_path / "x.html")
    assert f"caffe-split train {folder}/solver.prototxt --weights 'old runs/w.caffemodel'" in lines
    log.write_text(log.read_text().replace("caffe.cpp:1]", "engine.py:1]"))
    again = command_lines(read_runs([folder], lambda text: None), tmp_path / "x.html")
    assert f"caffe-split train {folder}/solver.prototxt --weights 'old runs/w.caffemodel' --engine torch" in again
    assert lines[1] == (
        f"# its net has TPM layers, as from: caffe-split instrument {folder}/net.prototxt --window 0:40 --interval 5 "
        "--in-place"
    )


def test_the_commands_repeat_what_was_asked_of_the_logs(tmp_path: Path) -> None:
    log = write_run(tmp_path / "run", 0.0).folder / "train.log"
    log.write_text("".join(f"[1] {line}\n" for line in log.read_text().splitlines()))
    words = ("report", "run/train.log", "--title", "A run", "--output", "accuracy", "--net", "0", "--rank", "1")
    caffe_split(*words, cwd=tmp_path)
    text = html.unescape((tmp_path / "report.html").read_text())
    for line in (
        "caffe-split best run/train.log --output accuracy --net 0 --rank 1",
        "caffe-split table run/train.log --cost --output accuracy --net 0 --rank 1",
        "plot_loss.py run/train.log --no_refresh --net 0 --rank 1",
        "caffe-split report run/train.log --out report.html --force --title 'A run' --output accuracy --net 0 --rank 1",
    ):
        assert line in text.splitlines() or f"{line}</pre>" in text
        shown = shlex.split(line)[1:]
        if not line.startswith("plot_loss"):
            caffe_split(*shown, cwd=tmp_path)


def test_a_log_without_the_output_does_not_hide_the_others_of_its_folder(tmp_path: Path) -> None:
    log = (write_run(tmp_path / "run", 0.0).folder / "train.log").read_text()
    (tmp_path / "both").mkdir()
    (tmp_path / "both/a.log").write_text(log.replace("accuracy", "top1"))
    (tmp_path / "both/b.log").write_text(log)
    said = caffe_split("report", "both", "--output", "accuracy", cwd=tmp_path, status=1)
    assert "both/a.log has no test output named accuracy" in said.stderr
    assert "caffe-split best both/b.log" in html.unescape((tmp_path / "report.html").read_text())


def test_a_report_shows_one_rank(tmp_path: Path) -> None:
    stamp = "I0305 14:00:0{}.000000 1 solver.cpp:1] "
    log = tmp_path / "ranks.log"
    log.write_text(
        "".join(
            f"[{rank}] {stamp.format(k)}{line}\n"
            for k in range(3)
            for rank in range(2)
            for line in (f"Iteration {k}, Testing net (#0)", f"    Test net output #0: accuracy = 0.{k}{rank}5")
        )
    )
    found = caffe_split("report", log, "--rank", 1, "--out", "r.html", cwd=tmp_path)
    assert "shown is rank 1" in found.stderr and "0.215" in (tmp_path / "r.html").read_text()
    said = caffe_split("report", log, "--rank", 2, "--out", "s.html", cwd=tmp_path, status=1).stderr
    assert "has no rank 2: it has 0-1" in said and not (tmp_path / "s.html").exists()


def test_a_folder_with_only_a_log_has_no_costs_and_no_split(tmp_path: Path) -> None:
    write_run(tmp_path / "alone", 0.0)
    page, said = written_page(tmp_path, "alone")
    assert said == "" and "Parameters" not in page and "Split:" not in page and "alone/train.log" in page


def test_several_solvers_of_one_net_cost_the_same_and_others_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    write_run(folder, 0.0)
    for name in ("a", "b"):
        (folder / f"{name}.prototxt").write_text(f'net: "{folder}/net.prototxt" base_lr: 0.1 snapshot_prefix: "{name}"')
    text = (
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'
        'layer { name: "c" type: "Convolution" bottom: "data" top: "c" '
        "convolution_param { num_output: 4 kernel_size: 3 } }"
    )
    (folder / "net.prototxt").write_text(text)
    page, said = written_page(tmp_path, "many")
    assert said == "" and "Parameters" in page and ">112<" in page
    (folder / "c.prototxt").write_text(f'net: "{folder}/wide.prototxt" base_lr: 0.1')
    (folder / "wide.prototxt").write_text(text.replace("num_output: 4", "num_output: 8"))
    why = "the nets of the solvers in its folder differ"
    page, said = written_page(tmp_path, "many")
    assert "Parameters" not in page and why in page
    assert said.startswith(f"note: many/train.log: what its net costs is not known: {why}")
    table = caffe_split("table", "many", "--cost", cwd=tmp_path)
    assert table.stderr.startswith("note: many/train.log: what") and "many/a.prototxt 112 / 3,888" in table.stderr


def test_a_run_given_twice_comes_once_and_derived_ones_come_last(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / "exp" / name, 0.0)
    (tmp_path / "exp/two/manifest.json").write_text(json.dumps(manifest("two", "conv1")))
    page, _ = written_page(tmp_path, "exp")
    assert "<h1>one, two</h1>" in page
    # A derived run comes behind the others; a run that is given twice comes once.
    page, _ = written_page(tmp_path, "exp/two/train.log", "exp/one", "exp/two", "--title", "A <b>")
    assert "<h1>A &lt;b&gt;</h1>" in page and page.index("one</th>") < page.index("two</th>")
    assert page.count("one</th>") == page.count("two</th>") == 1


def test_it_does_not_become_a_log(tmp_path: Path) -> None:
    write_run(tmp_path / "exp" / "one", 0.0)
    caffe_split("report", "exp", "--out", "exp/report.html", cwd=tmp_path)
    assert caffe_split("final", "exp", "--value", cwd=tmp_path).stdout.count("\n") == 1


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 0.0)
    (tmp_path / "report.html").write_text("mine")
    done = caffe_split("report", "one", cwd=tmp_path, status=1)
    assert "report.html exists" in done.stderr and (tmp_path / "report.html").read_text() == "mine"
    caffe_split("report", "one", "--force", cwd=tmp_path)
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing"], "cannot read the log missing"),
        (["empty"], "empty: no train.log in it"),
        (["binary"], "binary/train.log holds no line of a training"),
        (["one", "--out", "nowhere/x.html"], "nowhere"),
        (["one", "--out", "folder.htm", "--force"], "folder.htm is a folder"),
        (["one", "--out", "pipe.HTML", "--force"], "pipe.HTML is not an ordinary file"),
        (["one", "--out", "one/train.log", "--force"], "cannot write one/train.log: the name must end in .html, .htm"),
        (["one", "--output", "nonsense"], "no test output named nonsense; it has: accuracy, loss"),
    ],
)
def test_bad_input_is_said_and_no_page_is_written(tmp_path: Path, words: list[str], said: str) -> None:
    write_run(tmp_path / "one", 0.0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").mkdir()
    (tmp_path / "folder.htm").mkdir()
    os.mkfifo(tmp_path / "pipe.HTML")
    (tmp_path / "binary/train.log").write_bytes(bytes(range(256)) * 10)
    done = caffe_split("report", *words, cwd=tmp_path, status=1)
    assert said in done.stderr and not list(tmp_path.rglob("*.html"))


def test_what_can_be_read_is_reported_all_the_same(tmp_path: Path) -> None:
    write_run(tmp_path / "one", 0.0)
    page, said = written_page(tmp_path, "missing", "one", status=1)
    assert "missing" in said and "<h1>one</h1>" in page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "does not fit"),
        ("{}", "lacks 'plan'"),
        ('{"plan": {"layers": 3}}', "lacks"),
        (json.dumps(manifest("x", "c")).replace("[4, 5, 6, 7]", "[4, 5, 6, 99]"), "are not its 8 kernels"),
        (json.dumps(manifest("x", "c")).replace("[0, 100]", "[0]"), "does not fit"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_a_broken_manifest_is_said_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    write_run(tmp_path / "one", 0.0)
    (tmp_path / "one/manifest.json").write_text(text)
    page, complaint = written_page(tmp_path, "one", status=1)
    assert said in complaint and len(complaint.splitlines()) == 1 and "Split:" not in page


def test_what_fold_left_beside_a_log_is_no_derivation(tmp_path: Path) -> None:
    """multisplit tests the folded net in the folder in which fold has written it."""
    write_run(tmp_path / "one", 0.0)
    text = json.dumps({"command": ["caffe-split", "fold"], "plan": {"net": "n", "weights": "w", "folded": []}})
    (tmp_path / "one/manifest.json").write_text(text)
    page, complaint = written_page(tmp_path, "one")
    assert not complaint.startswith("caffe-split: ") and "Split:" not in page


@pytest.mark.parametrize("path", sorted(LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_every_log_with_a_training_gives_a_page(path: Path, tmp_path: Path) -> None:
    from caffe_split.errors import CaffeSplitError
    from caffe_split.report.page import page
    from caffe_split.report.runs import read_runs
    from caffe_split.trainlog import read_log

    trains = read_log(path).training is not None
    try:
        text = page(read_runs([path], pytest.fail if trains else lambda text: None), tmp_path / "x.html")
    except CaffeSplitError:
        assert not trains
        return
    for title, curves in curves_of(text).items():
        for curve in curves:
            assert len(curve["x"]) == len(curve["y"]) and curve["x"], title  # type: ignore[arg-type]


def test_a_long_curve_keeps_its_best(tmp_path: Path) -> None:
    from caffe_split.plot.series import MOST_POINTS, Curve
    from caffe_split.report.curves import shown_curve

    y = np.sin(np.arange(50_000) / 40)
    y[[7, 31_337, 49_000, 49_001]] = 2.0  # the last of equal ones is the best
    curve = shown_curve(Curve(0, "accuracy", np.arange(50_000.0), y), 0, lowest=False)
    assert len(curve["x"]) <= MOST_POINTS + 3 and curve["of"] == 50_000
    assert curve["x"] == sorted(curve["x"]) and curve["x"][curve["best"]] == 49_001
    assert all(y[x] == value for x, value in zip(curve["x"], curve["y"]))


def test_markup_escapes() -> None:
    assert element("p", '<&">', class_='a"b', data_x=None) == '<p class="a&quot;b">&lt;&amp;&quot;&gt;</p>'
    assert element("p", element("b", "x"), ["<", Html("<")]) == "<p><b>x</b>&lt;<</p>"
    block = data_block("d", {"a": "</script><!--&", "b": float("nan")})
    assert "<" not in block[len('<script type="application/json" id="d">') : -len("</script>")]
    assert json.loads(block[block.index("{") : block.rindex("}") + 1]) == {"a": "</script><!--&", "b": None}


def test_the_package_holds_the_page(tmp_path: Path) -> None:
    words = ["setup.py", "-q", "egg_info", "-e", str(tmp_path), "build_py", "-d", str(tmp_path / "lib")]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
    ours = {path.name for path in (ROOT / "caffe_split/report").glob("page.*")}
    assert ours == {"page.css", "page.html", "page.py", *SCRIPTS}
    assert ours <= {path.name for path in (tmp_path / "lib/caffe_split/report").iterdir()}


# How people with each kind of colour blindness see linear sRGB: Machado, Oliveira, Fernandes 2009, table 1.
SEEN = {
    "all": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def linear_light(colour: str) -> np.ndarray:
    value = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(np.array(TO_XYZ) @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("eyes", SEEN)
def test_colours_are_told_apart(theme: str, eyes: str) -> None:
    style = (ROOT / "caffe_split/report/page.css").read_text()
    part = style.split("@media screen and (prefers-color-scheme: dark)")[theme == "dark"].split("* {")[0]
    named = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", part))
    lightness = {name: float(np.array(TO_XYZ[1]) @ linear_light(colour)) for name, colour in named.items()}

    def contrast(name: str) -> float:
        low, high = sorted((lightness[name], lightness["paper"]))
        return (high + 0.05) / (low + 0.05)

    runs = [name for name in named if name.startswith("run")]
    assert len(runs) == 7 and all(contrast(name) >= 3 for name in (*runs, "fast", "slow"))
    assert all(contrast(name) >= 4.5 for name in ("ink", "soft", "press"))
    for group in (runs, ["fast", "slow"]):
        seen = {name: lab(np.array(SEEN[eyes]) @ linear_light(named[name])) for name in group}
        assert min(float(np.linalg.norm(seen[a] - seen[b])) for a, b in itertools.combinations(group, 2)) > 12


@pytest.mark.usefixtures("any_backend")
def test_a_derived_run_shows_what_its_manifest_says(digits: Path) -> None:
    (digits / "digits/train.log").write_text(train("digits/solver.prototxt", digits))
    words = ["digits/solver.prototxt", "--iter", 100, "--num-splits", 2, "--kind", "skip", "--out", "skip"]
    caffe_split("make-derived", *words, cwd=digits)
    (digits / "skip/train.log").write_text(train("skip/solver.prototxt", digits))
    page, said = written_page(digits, "skip", "digits")
    assert said == "" and "<h1>digits, skip</h1>" in page
    cells = Read(page).cells
    plan = json.loads((digits / "skip/manifest.json").read_text())["plan"]
    for layer in plan["layers"]:
        row = cells[cells.index(layer["name"]) :]
        assert row[4] == f"{layer['scores']['entropy']:.3f}" and row[8] == ", ".join(layer["parts"])
    assert page.count('class="histogram"') == 2
    # The drawing of the split layers.
    drawing = page[page.index('class="drawing"') :]
    assert all(f"{layer['name']}" in drawing for layer in plan["layers"]) and "_split2_skip" in drawing
