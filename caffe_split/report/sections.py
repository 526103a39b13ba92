"""The sections of the page, each from values to markup."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from caffe_split.backends.check_weights import STATE_NAME
from caffe_split.errors import CaffeSplitError, counted
from caffe_split.formats import prototxt
from caffe_split.layertypes.cost import change
from caffe_split.net.which_net import solvers_in, that_train
from caffe_split.report import gradients
from caffe_split.report.derived_from import LayerSplit, Manifest
from caffe_split.report.histogram import histogram
from caffe_split.report.markup import Html, element
from caffe_split.report.runs import USUAL, Asked, Run
from caffe_split.tpm.layers import watchers, windows_of
from caffe_split.trainlog import show
from caffe_split.trainlog.text import head

# As in the page's script and style: the number of colours, and of kinds of dashes with which the colours repeat.
COLOURS, DASHES = 7, 10
# The file that the torch engine names in its lines, in place of Caffe's; it stands in the first bytes of a log.
_TORCH, _HEAD = re.compile(rb" engine\.py:\d+\] "), 1 << 12


def comparison(runs: Sequence[Run]) -> Html:
    """The table of `caffe-split table --cost`."""
    rows = [run.summary for run in runs]
    headings, *lines = show.cells(rows)
    body = [
        element("tr", element("th", _swatch(place), line[0], scope="row"), *(element("td", text) for text in line[1:]))
        for place, line in enumerate(lines)
    ]
    return element(
        "section",
        element("h2", "Comparison"),
        _wide("Comparison", headings, body),
        *(element("p", note, class_="note") for note in show.notes(rows)),
        *(element("p", f"{run.name}: {note}", class_="note") for run in runs for note in run.notes),
    )


def curves(some: bool) -> Html:
    """The elements that the page's script fills with curves. some: whether there are any."""
    if not some:
        return element("section", element("h2", "Curves"), element("p", "No run has printed an iteration yet."))
    return element(
        "section",
        element("h2", "Curves"),
        element("noscript", element("p", "The curves are drawn by this page's own script, which is switched off.")),
        element(
            "p",
            "Hover or tap to read values, drag to zoom, double-click to show all; the legend shows and hides runs. "
            "With the keyboard: arrows, + and -, 0. Stars mark the best, dotted lines a step of the learning rate.",
            class_="note",
        ),
        element(
            "div",
            element("div", id="legend", class_="tools", role="group", aria_label="Runs"),
            element(
                "label",
                "train loss: mean of",
                element("input", id="average", type="number", value=1, min=1, max=1000),
                " displays",
            ),
            element("button", "Show all", id="reset", class_="reset", type="button"),
            class_="tools",
        ),
        element("div", id="panels"),
        element("p", id="spoken", class_="unseen", role="status"),
    )


def split(run: Run, drawing: Html | None) -> Html:
    """What was split in a derived run, by which scores, and the drawing of its net."""
    manifest = run.manifest
    assert manifest is not None
    pictures = [histogram(layer) for layer in manifest.layers if layer.scores is not None]
    content = [
        element("h2", f"Split: {run.name}"),
        element("p", _made(manifest)),
        element(
            "p",
            f"Parameters {_change(manifest.parameters)}; multiply-adds per image {_change(manifest.macs)}.",
        ),
        *(element("p", f"In today's form: {note}", class_="note") for note in manifest.notes),
        _layers(manifest),
    ]
    if pictures:
        content += [
            element("h3", "TPM of the kernels"),
            element(
                "p",
                element("span", class_="key fast"),
                "fast half  ",
                element("span", class_="key slow"),
                "slow half  ",
                element("span", class_="key null"),
                "what pure noise would give",
                class_="keys",
            ),
            element("div", *pictures, class_="histograms"),
        ]
    if run.course is not None:
        content += gradients.section(run.course, run.name)
    if drawing is not None:
        content += [element("h3", "The split layers"), drawing]
    return element("section", *content)


def commands(lines: Sequence[str]) -> Html:
    """The commands that produce the runs and this page again, see `command_lines`."""
    return element(
        "section",
        element("h2", "Commands"),
        element("p", "To be given where the runs were started: the paths are relative to it.", class_="note"),
        element("pre", "\n".join(lines), tabindex=0, role="region", aria_label="Commands"),
    )


def command_lines(runs: Sequence[Run], out: Path, title: str | None = None, asked: Asked = USUAL) -> list[str]:
    """The commands, with a comment before each group."""
    lines: list[str] = []
    for run in runs:
        lines += [f"# {_one_line(run.name)}", *_run_commands(run), ""]
    logs = [str(run.log_path) for run in runs]
    same = asked.words("output", "net", "rank")
    titled = [] if title is None else ["--title", title]
    return [
        *lines,
        "# the comparison",
        shlex.join(["caffe-split", "best", *logs, *same]),
        shlex.join(["caffe-split", "table", *logs, "--cost", *same]),
        shlex.join(["plot_loss.py", *logs, "--no_refresh", *asked.words("net", "rank")]),
        shlex.join(["caffe-split", "report", *logs, "--out", str(out), "--force", *titled, *same]),
    ]


def _run_commands(run: Run) -> list[str]:
    manifest = run.manifest
    if manifest is None:
        solvers = that_train(solvers_in(run.log_path.parent))
        if len(solvers) == 1:
            return [*_instrument(run, solvers[0][1]), _train(run, *solvers[0])]
        return ["# (its folder does not say how it was trained)"]
    lines = []
    schema = _schema(manifest.command)
    scored = [layer.scores for layer in manifest.layers if layer.scores is not None]
    if manifest.solver is not None and manifest.iteration is not None and scored:
        # Without its window TPM is that of TPM layers, which not every net has.
        windows = dict.fromkeys(f"{scores.start}:{scores.stop}" for scores in scored)
        asked = [word for window in windows for word in ("--window", window)]
        lines.append(
            shlex.join(["caffe-split", "tpm", manifest.solver, "--iter", str(manifest.iteration), *asked, *schema])
        )
    # `python -m caffe_split` is the same program.
    lines.append(shlex.join(["caffe-split", *manifest.command[1:]]))
    if manifest.solver is not None:
        # The solvers say the stages, and the net of each phase, which may stand within them.
        solver = str(Path(manifest.out, Path(manifest.solver).name))
        extra = [word for word in manifest.command if word == "--ignore-extra-weights"]
        lines.append(shlex.join(["caffe-split", "verify", manifest.solver, solver, *extra, *schema]))
        goes_on = manifest.options.get("schedule") == "continue"
        state = ["--snapshot", str(Path(manifest.out, STATE_NAME))] if goes_on else []
        lines.append(shlex.join(["caffe-split", "train", solver, *state, *_engine(run)]))
    return lines


def _schema(command: Sequence[str]) -> list[str]:
    """The option --caffe-proto with its value, as a command has it, or nothing."""
    for at, word in enumerate(command):
        if word == "--caffe-proto":
            return list(command[at : at + 2])
        if word.startswith("--caffe-proto="):
            return [word]
    return []


def _train(run: Run, path: Path, solver: prototxt.Document) -> str:
    """The command of the log's first training, with the weights or the state that it started from."""
    words = ["caffe-split", "train", str(path)]
    first = run.log.runs[0]
    weights, states = ([e.text.partition(" from ")[2].strip() for e in first.of_kind(k)] for k in ("weights", "resume"))
    if weights and not solver.get_all("weights"):
        words += ["--weights", ",".join(dict.fromkeys(weights))]
    elif states:
        words += ["--snapshot", states[0]]
    return shlex.join([*words, *_engine(run)])


def _engine(run: Run) -> list[str]:
    """The option that has a training on PyTorch repeated there, which without it is Caffe's where one is built."""
    return ["--engine", "torch"] if _TORCH.search(head(run.log_path, _HEAD)) else []


def _instrument(run: Run, solver: prototxt.Document) -> list[str]:
    """How the net got its TPM layers, as a comment: the file has them now, and would not take them again."""
    name = str(solver.get("net", "") or solver.get("train_net", ""))
    path = run.log_path.parent / Path(name).name
    try:
        layers = watchers(prototxt.read(path)) if name else {}
        windows = windows_of(next(iter(layers.values()))) if layers else None
    except CaffeSplitError:
        return []
    if windows is None:
        return []
    words = ["caffe-split", "instrument", str(path)]
    for start, stop in windows.pairs:
        words += ["--window", f"{start}:{stop}"]
    words += ["--interval", str(windows.interval), "--in-place"]
    return [f"# its net has TPM layers, as from: {shlex.join(words)}"]


def _change(counts: tuple[int | None, int | None]) -> str:
    return change(*counts).replace("->", "\u2192")


def _made(manifest: Manifest) -> str:
    options = manifest.options
    source = f"iteration {manifest.iteration}" if manifest.iteration is not None else "given weights"
    words = [f"{counted(len(manifest.layers), 'layer')} of {manifest.net} at {source}"]
    first = [key for key in ("kind", "partition", "init", "noise", "seed") if key in options]
    # Of the other options only those that were set.
    others = [key for key in options if key not in first and options[key] not in (None, False, 0, "none")]
    words += [f"{key.replace('_', ' ')} {options[key]}" for key in first + others]
    return ", ".join(words) + "."


def _layers(manifest: Manifest) -> Html:
    scored = [layer.scores for layer in manifest.layers if layer.scores is not None]
    headings = ["Layer", "Fast / slow", "Entropy", "TPM fast", "TPM slow", "Noise", "New layers"]
    body = [_layer(layer) for layer in manifest.layers]
    content = [_wide("Split layers", headings, body)]
    for window in dict.fromkeys((s.start, s.stop, s.interval, s.steps, s.momentum) for s in scored):
        start, stop, interval, steps, momentum = window
        content.append(
            element(
                "p",
                f"TPM over iterations {start} to {stop}: {steps} steps of {interval}, momentum {momentum:g}.",
                class_="note",
            )
        )
    return element("div", *content)


def _layer(layer: LayerSplit) -> Html:
    scores = layer.scores
    numbers = ["-"] * 4
    if scores is not None:
        values = (scores.entropy, scores.mean(layer.fast), scores.mean(layer.slow), scores.null)
        numbers = ["-" if math.isnan(value) else f"{value:.3f}" for value in values]
    kernels = element(
        "details",
        element("summary", f"{len(layer.fast)} / {len(layer.slow)}"),
        element("p", "fast: " + ", ".join(map(str, layer.fast))),
        element("p", "slow: " + ", ".join(map(str, layer.slow))),
    )
    return element(
        "tr",
        element("th", layer.name, scope="row"),
        element("td", kernels),
        *(element("td", text) for text in numbers),
        element("td", ", ".join(layer.parts) + (f"; {layer.note}" if layer.note else ""), class_="names"),
    )


def _wide(label: str, headings: Sequence[str], body: Sequence[Html]) -> Html:
    """A table that scrolls sideways on a narrow page, by keyboard too."""
    names = {"New layers": "names"}
    head = element("tr", *(element("th", text, scope="col", class_=names.get(text)) for text in headings))
    table = element("table", element("thead", head), element("tbody", *body))
    return element("div", table, class_="wide", tabindex=0, role="region", aria_label=label)


def _swatch(run: int) -> Html:
    style = f"stroke run{run % COLOURS} dash{run // COLOURS % DASHES}"
    line = element("line", x1=1, y1=5, x2=21, y2=5, class_=style)
    return element("svg", line, viewBox="0 0 22 10", width=22, height=10, class_="swatch", aria_hidden="true")


def _one_line(text: str) -> str:
    return " ".join(text.split())
