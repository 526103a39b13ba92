"""The report's lines, in the form in which the studies print them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from caffe_split.tpm.scores import LayerScores, mean_entropy, null_tpm, z_scores


def ranked(scores: Sequence[LayerScores]) -> list[LayerScores]:
    """The layers that move, highest entropy first; equal ones keep the net's order."""
    return sorted((score for score in scores if not score.frozen), key=lambda score: -score.entropy)


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
    """`((start, stop), ('NAME', TPM))` and the weight's norm at start -> stop, one line a layer and window."""
    return [
        f"(({score.start}, {score.stop}), ({score.layer!r}, "
        + ("'frozen'" if score.frozen else f"{score.layer_tpm:.6f}")
        + f")) norm {score.norm_start:.6g} -> {score.norm_stop:.6g}"
        for score in scores
    ]


def header_line(scores: Sequence[LayerScores], momentum: float) -> str:
    """What the numbers depend on: window, N, interval, momentum, and the TPM that pure noise would give."""
    first = scores[0]
    null = null_tpm(first.steps, first.interval, momentum)
    return (
        f"TPM over iterations {first.start} to {first.stop}: N = {first.steps} steps of {first.interval}, momentum "
        f"{momentum:g}; pure noise would give {null:.3f}"
    )


def kernel_lines(scores: Sequence[LayerScores], momentum: float) -> list[str]:
    """`NAME kernel TPM z`, one line a kernel; a kernel that did not move is frozen."""
    lines = []
    for score in scores:
        for index, (value, z) in enumerate(zip(score.tpm, z_scores(score, momentum))):
            number = "frozen" if math.isnan(value) else f"{value:.6f} z {z:+.1f}"
            lines.append(f"{score.layer} {index} {number}")
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
        "norm": [score.norm_start, score.norm_stop],
        "kernels": {"tpm": score.tpm.tolist(), "z": z_scores(score, momentum).tolist()},
    }
