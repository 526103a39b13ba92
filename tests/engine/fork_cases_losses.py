"""Losses of forks, and fields of forks of Caffe's own layers, to hold against NumPy; see `fork_cases`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.engine import fork_references as ref
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


def lifted(x: Array, t: Array, margin: float) -> list[Array]:
    def distance(i: int, k: int) -> float:
        return float(np.sqrt(((x[i] - x[k]) ** 2).sum()))

    total, pairs, count = 0.0, 0, len(x)
    for i in range(count):
        for j in range(i + 1, count):
            if t[i] == t[j]:
                others = sum(np.exp(margin - distance(m, k)) for m in (i, j) for k in range(count) if t[k] != t[m])
                total += max(0.0, np.log(others) + distance(i, j)) ** 2
                pairs += 1
    return [np.array(total / (2 * pairs))]


def refined() -> Judged:
    """RefineDet's two steps: prior boxes moved by the first, and background where its score of an object is low."""
    rng = np.random.default_rng(4)
    corner = rng.uniform(0, 0.6, size=(12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, size=(12, 2))], 1)
    variances = np.tile([0.1, 0.1, 0.2, 0.2], 12)
    bottoms = {
        "loc": rng.normal(size=(1, 48)),
        "conf": rng.dirichlet([1, 1, 1], size=(1, 12)).reshape(1, 36),
        "prior": np.stack([boxes.ravel(), variances])[None],
        "first": rng.dirichlet([1, 1], size=(1, 12)).reshape(1, 24),
        "moves": rng.normal(size=(1, 48)),
    }
    text = layer(
        "DetectionOutput",
        "loc conf prior first moves",
        options="detection_output_param { num_classes: 3 nms_param { nms_threshold: 0.4 } code_type: CENTER_SIZE "
        "confidence_threshold: 0.2 objectness_score: 0.4 }",
    )
    case = Case(text, {name: array.shape for name, array in bottoms.items()}, phase="TEST")

    def judge(given: dict[str, Array], _blobs: Sequence[Array]) -> list[Array]:
        middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        moves = given["moves"].reshape(12, 4) * variances.reshape(12, 4)
        middle, sides = middle + moves[:, :2] * sides, sides * np.exp(moves[:, 2:])
        moved = np.concatenate([middle - sides / 2, middle + sides / 2], 1)
        low = given["first"].reshape(12, 2)[:, 1] < 0.4
        conf = np.where(low[:, None], [1.0, 0, 0], given["conf"].reshape(12, 3)).reshape(1, 36)
        prior = np.stack([moved.ravel(), variances])[None]
        assert 0 < low.sum() < 12
        return [ref.detections(given["loc"], conf, prior, 3, nms=0.4, least=0.2, most=99)]

    return Judged(case, judge, False, bottoms)


JUDGED = {
    "detections_refined": refined(),
    "normalize_records": one("Normalize", "", lambda x: [x / np.sqrt((x**2).sum(1, keepdims=True))], (3, 5)),
    "lifted": labelled("LiftedStructSimilaritySoftmaxLoss", "", lambda x, t: lifted(x, t, 1)),
    "lifted_margin": labelled(
        "LiftedStructSimilaritySoftmaxLoss",
        "lifted_struct_sim_softmax_loss_param { margin: 3 }",
        lambda x, t: lifted(x, t, 3),
    ),
    "softmax_of_one_class": labelled(
        "WeightedSoftmaxWithLoss",
        "softmax_param { pos_cid: 2 pos_mult: 5 } loss_param { ignore_label: 3 }",
        lambda x, t: [(more.softmax_losses(x, t, 3)[1] * np.where(t == 2, 5, 1)).sum() / max(1, sum(t != 3))],
    ),
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
    "softmax_by_numbers_ignored": Judged(
        Case(
            layer("SoftmaxWithLoss", "x t", options="loss_param { weight_by_label_freqs: true ignore_label: -1 }"),
            {"x": (4, 3), "t": (4,)},
            constant=("t",),
        ),
        lambda given, _: [(more.softmax_losses(given["x"], given["t"], -1)[1] / [9, 2, 2, 1]).sum() / 3],
        bottoms={"t": np.array([-1.0, 0, 0, 1])},
    ),
    "softmax_by_numbers": labelled(
        "SoftmaxWithLoss",
        "loss_param { weight_by_label_freqs: true }",
        lambda x, t: [sum(loss / sum(t == k) for loss, k in zip(more.softmax_losses(x, t)[1], t)) / len(t)],
    ),
}
