"""TPM as text, in the form in which the studies print it, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from caffe_split.tpm.scores import LayerScores, by_window, latest_window, mean_entropy, null_tpm, z_score, z_scores


def ranked(scores: Sequence[LayerScores]) -> list[LayerScores]:
    """The layers that move, highest entropy first; equal ones keep the net's order."""
    return sorted((score for score in scores if not score.frozen), key=lambda score: -score.entropy)


def report_lines(scores: Sequence[LayerScores], momentum: float, kernels: bool = False) -> list[str]:
    """The report: what was measured, the entropies of the window that ends last, and each layer's TPM.

    With `kernels` a table of that window's kernels follows.
    """
    last = latest_window(scores)
    lines = [header_line(group, momentum) for group in by_window(scores)]
    lines += [*entropy_lines(last), "", *window_lines(scores)]
    return [*lines, "", *kernel_lines(last, momentum)] if kernels else lines


def entropy_lines(scores: Sequence[LayerScores]) -> list[str]:
    """`Mean TPM ratio entropy = X`, then `('NAME', num_output, num_weights) entropy`, highest first.

    Layers that did not move follow as `('NAME', num_output, num_weights) frozen`: they have no entropy.
    """
    lines = [f"Mean TPM ratio entropy = {mean_entropy(scores):.6f}"]
    lines += [
        f"({score.layer!r}, {score.num_output}, {score.num_weights}) {score.entropy:.6f}" for score in ranked(scores)
    ]
    lines += [f"({score.layer!r}, {score.num_output}, {score.num_weights}) frozen" for score in scores if score.frozen]
    return lines


def window_lines(scores: Sequence[LayerScores]) -> list[str]:
    """`((start, stop), ('NAME', TPM))` and the weight's norm at start -> stop: one line per layer and window."""
    return [
        f"(({score.start}, {score.stop}), ({score.layer!r}, "
        + ("'frozen'" if score.frozen else f"{score.layer_tpm:.6f}")
        + f")) norm {_norm(score.norm_start)} -> {_norm(score.norm_stop)}"
        for score in scores
    ]


def _norm(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.6g}"


def header_line(scores: Sequence[LayerScores], momentum: float) -> str:
    """What the numbers depend on: window, N, interval, momentum, and the TPM that pure noise would give."""
    first = scores[0]
    null = null_tpm(first.steps, first.interval, momentum)
    return (
        f"TPM over iterations {first.start} to {first.stop}: N = {first.steps} steps of {first.interval}, momentum "
        f"{momentum:g}; pure noise would give {null:.3f}"
    )


def comparable(scores: Sequence[LayerScores]) -> bool:
    """Whether all have the same N and interval: else their TPM must not be compared."""
    return len({(score.steps, score.interval) for score in scores}) <= 1


def kernel_lines(scores: Sequence[LayerScores], momentum: float) -> list[str]:
    """A table with a header: layer, kernel, TPM, z-score against pure noise; a kernel that did not move is frozen."""
    width = max(len("layer"), *(len(score.layer) for score in scores))
    lines = [f"{'layer':{width}}  kernel       TPM         z"]
    for score in scores:
        for index, (value, z) in enumerate(zip(score.tpm, z_scores(score, momentum))):
            number = "  frozen" if math.isnan(value) else f"{value:.6f}  {z:+8.1f}"
            lines.append(f"{score.layer:{width}}  {index:6}  {number}")
    return lines


def as_dict(score: LayerScores, momentum: float) -> dict[str, Any]:
    """One layer and window as JSON has it."""
    return {
        "layer": score.layer,
        "window": [score.start, score.stop],
        "interval": score.interval,
        "steps": score.steps,
        "momentum": momentum,
        "null": null_tpm(score.steps, score.interval, momentum),
        "num_output": score.num_output,
        "num_weights": score.num_weights,
        "frozen": score.frozen,
        "entropy": score.entropy,
        "layer_tpm": score.layer_tpm,
        "layer_z": z_score(score, momentum),
        "norm": [score.norm_start, score.norm_stop],
        "kernels": {
            "tpm": score.tpm.tolist(),
            "z": z_scores(score, momentum).tolist(),
            "displacement": score.displacement.tolist(),
            "path": score.path.tolist(),
        },
    }


COLUMNS = (
    "layer",
    "kernel",
    "start",
    "stop",
    "interval",
    "steps",
    "momentum",
    "null",
    "tpm",
    "z",
    "displacement",
    "path",
    "num_weights",
    "entropy",
    "norm_start",
    "norm_stop",
)


def as_csv(scores: Sequence[LayerScores], momentum: float) -> str:
    """One line per kernel of each layer and window, before them one for the whole layer, with an empty kernel column.

    Entropy and norms stand in the layer's line. Values that are undefined (frozen) or unknown are empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for score in scores:
        null = null_tpm(score.steps, score.interval, momentum)
        shared = [score.start, score.stop, score.interval, score.steps, momentum, null]
        whole = [score.layer_tpm, z_score(score, momentum), score.layer_displacement, score.layer_path]
        rest = [score.num_weights, score.entropy, score.norm_start, score.norm_stop]
        writer.writerow([score.layer, "", *shared, *map(_blank, [*whole, *rest])])
        rows = zip(score.tpm, z_scores(score, momentum), score.displacement, score.path)
        for kernel, row in enumerate(rows):
            numbers = [_blank(float(value)) for value in row]
            writer.writerow([score.layer, kernel, *shared, *numbers, score.num_weights // score.num_output, "", "", ""])
    return text.getvalue()


def _blank(value: float) -> float | str:
    return "" if math.isnan(value) else value
