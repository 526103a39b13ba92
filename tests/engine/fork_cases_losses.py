"""Losses of forks, and fields of forks of Caffe's own layers, to hold against NumPy; see `fork_cases`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.engine import fork_references_more as more
from tests.engine.case import Case, layer
from tests.engine.fork_cases import Array, Judged, one

RNG = np.random.default_rng(7)
CLASS_WEIGHTS = np.array([0.5, 3.0, 0.25, 7.0])
LABELS = RNG.integers(0, 4, size=6).astype(float)


def labelled(kind: str, options: str, judge: Callable[..., Sequence[Array]], tops: str = "y") -> Judged:
    """A layer over scores or features of six records and their labels, of four classes, one of which is 3."""
    case = Case(layer(kind, "x t", tops, options), {"x": (6, 4), "t": (6,)}, tops.split(), {"t": 4}, constant=("t",))
    return Judged(case, lambda given, blobs: judge(given["x"], given["t"], *blobs), bottoms={"t": LABELS})


def weights_of_classes(weights: Array) -> str:
    return " ".join(f"class_weighting: {weight}" for weight in weights)


JUDGED = {
    "eltwise_of_one": one("Eltwise", "eltwise_param { coeff: 20 }", lambda x: [20 * x]),
    "dropout_test": one(
        "Dropout", "dropout_param { dropout_ratio: 0.3 scale_train: false }", lambda x: [0.7 * x], phase="TEST"
    ),
    "dropout_test_as_usual": one("Dropout", "dropout_param { dropout_ratio: 1 }", lambda x: [x], phase="TEST"),
    "softmax_weighted": labelled(
        "SoftmaxWithLoss",
        f"loss_param {{ weight_by_label_freqs: true ignore_label: 3 {weights_of_classes(CLASS_WEIGHTS)} }}",
        lambda x, t: [(more.softmax_losses(x, t, 3)[1] * CLASS_WEIGHTS[t.astype(int)]).sum() / max(1, sum(t != 3))],
    ),
    "softmax_by_numbers": labelled(
        "SoftmaxWithLoss",
        "loss_param { weight_by_label_freqs: true }",
        lambda x, t: [sum(loss / sum(t == k) for loss, k in zip(more.softmax_losses(x, t)[1], t)) / len(t)],
    ),
}
