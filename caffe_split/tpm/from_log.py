"""TPM from a training log: the values that the TPM layers printed beside the train net's other outputs."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_split.errors import CaffeSplitError
from caffe_split.tpm.layers import SUFFIX
from caffe_split.tpm.scores import null_tpm
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.text import head

# The first bytes of a log hold the solver and the net as Caffe prints them, and what the layers say at set-up.
_HEAD = 1 << 22
_SAID = re.compile(rb"\] TPM layer '([^'\n]*)': window \d+ from (\d+) to (\d+), interval (\d+)\r?\n")
_LAYER = re.compile(rb'^layer \{\n  name: "([^"\n]*)"\n  type: "TPM"\n(.*?)^\}', re.MULTILINE | re.DOTALL)
_START = re.compile(rb"start_iter: (\d+)")
_STOP = re.compile(rb"stop_iter: (\d+)")
_INTERVAL = re.compile(rb"interval: (\d+)")
_MOMENTUM = re.compile(rb"^momentum: ([0-9.eE+-]+)\r?$", re.MULTILINE)
_SOLVER = b"Initializing solver from parameters"


@dataclass(frozen=True, eq=False)
class Printed:
    """The values that one TPM layer printed: `iteration` (int64, n, ascending) and `tpm` (float64, n; NaN: undefined).

    `layer` is the watched layer. `windows` are pairs (start, stop) and `interval` is the iterations between samples:
    () and 0 where the log does not say them. `momentum` is NaN where the log does not say it.
    """

    layer: str
    iteration: npt.NDArray[np.int64]
    tpm: npt.NDArray[np.float64]
    windows: tuple[tuple[int, int], ...]
    interval: int
    momentum: float

    def steps(self, iteration: int, window: tuple[int, int]) -> int:
        """N of the value printed at `iteration`, which belongs to `window`."""
        return (min(iteration, window[1]) - window[0]) // self.interval

    def null(self) -> npt.NDArray[np.float64]:
        """The TPM that pure noise would give, for each printed value; NaN where the log does not say enough."""
        values = np.full(len(self.tpm), math.nan)
        if math.isnan(self.momentum):
            return values
        for at, iteration in enumerate(self.iteration):
            window = next((w for w in reversed(self.windows) if w[0] <= iteration), None)
            if window is not None and self.steps(int(iteration), window) > 0:
                values[at] = null_tpm(self.steps(int(iteration), window), self.interval, self.momentum)
        return values


@dataclass(frozen=True)
class WindowValue:
    """The last value that a layer printed in a window: TPM over [start, stop]; NaN where it did not move.

    `steps` is N and `null` what pure noise would give: NaN where the log does not say the momentum.
    """

    layer: str
    start: int
    stop: int
    steps: int
    null: float
    tpm: float


def printed_tpm(log: TrainingLog) -> list[Printed]:
    """The values of each TPM layer, in the log's order. Raises `CaffeSplitError` where no TPM layer printed any."""
    said = head(log.path, _HEAD)
    windows, intervals = _windows_in(said)
    found = _MOMENTUM.search(said)
    momentum = float(found[1]) if found else (0.0 if _SOLVER in said else math.nan)
    table = log.table("train")
    outputs = [name for name in table.names if name in windows or name.endswith(SUFFIX)]
    if not outputs:
        raise CaffeSplitError(
            f"{log.path}: no TPM layer printed anything in it; train a net with TPM layers (caffe-split instrument), "
            "or give the solver and a --window to measure its snapshots."
        )
    result = []
    for name in outputs:
        there = table.lines[name] > 0
        result.append(
            Printed(
                name[: -len(SUFFIX)] if name.endswith(SUFFIX) else name,
                table.iteration[there],
                table[name][there],
                windows.get(name, ()),
                intervals.get(name, 0),
                momentum,
            )
        )
    return result


def window_values(printed: Printed) -> list[WindowValue]:
    """The last value of every window that has one; none where the log does not say the windows."""
    null = printed.null()
    values = []
    ends = [start for start, _ in printed.windows[1:]] + [np.iinfo(np.int64).max]
    for window, end in zip(printed.windows, ends):
        rows = np.flatnonzero((printed.iteration >= window[0] + printed.interval) & (printed.iteration < end))
        if len(rows):
            steps = printed.steps(int(printed.iteration[rows[-1]]), window)
            stop = window[0] + steps * printed.interval
            values.append(
                WindowValue(printed.layer, window[0], stop, steps, float(null[rows[-1]]), float(printed.tpm[rows[-1]]))
            )
    return values


def printed_lines(layers: Sequence[Printed], most: int = 8) -> list[str]:
    """The report of a log: the windows' lines, then a table of TPM, layers down, iterations across (at most `most`)."""
    lines = []
    values = [value for layer in layers for value in window_values(layer)]
    for start, stop, steps, null in dict.fromkeys((v.start, v.stop, v.steps, v.null) for v in values):
        known = "unknown" if math.isnan(layers[0].momentum) else f"{layers[0].momentum:g}"
        noise = "" if math.isnan(null) else f"; pure noise would give {null:.3f}"
        lines.append(
            f"TPM over iterations {start} to {stop}: N = {steps} steps of {layers[0].interval}, momentum {known}{noise}"
        )
    lines += [
        f"(({v.start}, {v.stop}), ({v.layer!r}, {_value(v.tpm)}))"
        for v in sorted(values, key=lambda v: (v.start, v.stop))
    ]
    unknown = [layer for layer in layers if not layer.windows]
    if unknown:
        last = max(int(layer.iteration[-1]) for layer in unknown)
        lines.append(f"the log does not say the windows of TPM; the last values, printed up to iteration {last}:")
        lines += [f"({layer.layer!r}, {_value(layer.tpm[-1])})" for layer in unknown]
    iterations = np.unique(np.concatenate([layer.iteration[~np.isnan(layer.tpm)] for layer in layers]))
    if len(iterations):
        shown = iterations[np.unique(np.linspace(0, len(iterations) - 1, most).round().astype(int))]
        width = max(len("iteration"), *(len(layer.layer) for layer in layers))
        lines += ["", "iteration".ljust(width) + "".join(f"{iteration:>10}" for iteration in shown)]
        for layer in layers:
            cells = dict(zip(layer.iteration.tolist(), layer.tpm.tolist()))
            texts = [_cell(cells.get(int(iteration), math.nan)) for iteration in shown]
            lines.append(layer.layer.ljust(width) + "".join(texts))
    return lines


def _value(tpm: float) -> str:
    return "'frozen'" if math.isnan(tpm) else f"{tpm:.6g}"


def _cell(value: float) -> str:
    return f"{'-':>10}" if math.isnan(value) else f"{value:>10.4f}"


def _windows_in(head: bytes) -> tuple[dict[str, tuple[tuple[int, int], ...]], dict[str, int]]:
    """Windows and interval of each TPM layer: from what the layer logs at set-up, else from the net that Caffe prints.

    glog cuts the printed net at 30,000 bytes, usually before the TPM layers of a big net.
    """
    windows: dict[str, tuple[tuple[int, int], ...]] = {}
    intervals: dict[str, int] = {}
    for name, start, stop, interval in _SAID.findall(head):
        key, pair = name.decode("utf-8", "replace"), (int(start), int(stop))
        if pair not in windows.get(key, ()):  # A log that was appended to has them once per run.
            windows[key] = (*windows.get(key, ()), pair)
        intervals[key] = int(interval)
    for name, body in _LAYER.findall(head):
        key = name.decode("utf-8", "replace")
        if key not in intervals:
            windows[key] = tuple((int(a), int(b)) for a, b in zip(_START.findall(body), _STOP.findall(body)))
            found = _INTERVAL.search(body)
            intervals[key] = int(found[1]) if found else 1
    return windows, intervals


def choose(
    printed: Sequence[Printed], layers: Sequence[str] | None, momentum: float | None, path: Path
) -> list[Printed]:
    """The layers of `layers` (all when None), with `momentum` in place of the log's where given.

    Raises `CaffeSplitError` for a layer that printed nothing.
    """
    known = [layer.layer for layer in printed]
    for name in layers or ():
        if name not in known:
            raise CaffeSplitError(f"{path}: no TPM of layer '{name}' in it; it has that of {', '.join(known)}.")
    chosen = [layer for layer in printed if layers is None or layer.layer in layers]
    return chosen if momentum is None else [dataclasses.replace(layer, momentum=momentum) for layer in chosen]


def printed_as_dict(layer: Printed) -> dict[str, Any]:
    """One layer as JSON has it."""
    return {
        "layer": layer.layer,
        "windows": [list(window) for window in layer.windows],
        "interval": layer.interval or None,
        "momentum": layer.momentum,
        "iteration": layer.iteration.tolist(),
        "tpm": layer.tpm.tolist(),
        "null": layer.null().tolist(),
    }


def printed_as_csv(layers: Sequence[Printed]) -> str:
    """One line per layer and display: layer, iteration, TPM, null; values that are undefined or unknown are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("layer", "iteration", "tpm", "null"))
    for layer in layers:
        for iteration, value, null in zip(layer.iteration.tolist(), layer.tpm.tolist(), layer.null().tolist()):
            cells = ["" if math.isnan(number) else number for number in (value, null)]
            writer.writerow((layer.layer, iteration, *cells))
    return text.getvalue()
