"""More layers of forks to hold against NumPy, and all of them together; see `fork_cases`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tests.engine import fork_cases, fork_cases_layers, fork_cases_losses, fork_cases_quantised
from tests.engine import fork_references_more as more
from tests.engine.case import Case, layer
from tests.engine.fork_cases import Array, Judged, one
from tests.engine.fork_cases_losses import labelled

RNG = np.random.default_rng(7)


def pair(kind: str, options: str, judge: Callable[[Array, Array], Sequence[Array]], shape: tuple[int, ...]) -> Judged:
    """A layer of two bottoms, x and t, of one shape."""
    case = Case(layer(kind, "x t", options=options), {"x": shape, "t": shape})
    return Judged(case, lambda given, _: judge(given["x"], given["t"]))


def correlated(options: str, *how: object, product: bool = True) -> Judged:
    return pair(
        "Correlation",
        f"correlation_param {{ {options} }}",
        lambda x, t: [more.correlation(x, t, *how, product=product)],  # type: ignore[arg-type]
        (2, 3, 6, 7),
    )


def focal(x: Array, t: Array) -> list[Array]:
    log = -more.softmax_losses(x, t)[1]
    return [(-0.5 * (1 - np.exp(log)) ** 3 * log).mean()]


def l1(x: Array, t: Array) -> list[Array]:
    return [abs(x - t).sum() / len(x)]


def lengths(x: Array, t: Array) -> list[Array]:
    return [np.sqrt(0.01 + ((x - t) ** 2).sum(1)).sum() / len(x)]


def hardest() -> Judged:
    regions = np.concatenate([RNG.integers(0, 2, size=(8, 1)), RNG.uniform(0, 9, size=(8, 4))], 1)
    bottoms = {"r": regions, "l": np.abs(RNG.normal(size=(8,))), "t": RNG.integers(0, 4, size=(8,)).astype(float)}
    text = layer("BoxAnnotatorOHEM", "r l t w", "y z", "box_annotator_ohem_param { roi_per_img: 2 }")
    case = Case(text, {"r": (8, 5), "l": (8,), "t": (8,), "w": (8, 8)}, ["y", "z"])
    return Judged(
        case, lambda given, _: more.annotate(given["r"], given["l"], given["t"], given["w"], 2), False, bottoms
    )


def segmented() -> Judged:
    text = layer("SegAccuracy", "x t", options="seg_accuracy_param { ignore_label: 255 }")
    case = Case(text, {"x": (2, 5, 4, 3), "t": (2, 1, 4, 3)})
    labels = RNG.choice([0, 1, 2, 4, 255], size=(2, 1, 4, 3)).astype(float)
    return Judged(case, lambda given, _: [more.segments(given["x"], given["t"], [255])], False, {"t": labels})


def evaluated(options: str, difficult: bool = True) -> Judged:
    corner = RNG.uniform(0, 0.6, size=(9, 2))
    boxes = np.concatenate([corner, corner + 0.3], 1)
    objects = [[image, 1 + k % 2, 0, *boxes[k], k == 3] for k, image in enumerate([0, 0, 0, 0, 2, 2, 2])]
    found = []
    for k, image in enumerate([0, 0, 0, 0, 2, 2, 2]):
        found += [[image, 1 + k % 2, RNG.uniform(), *(boxes[k] + move)] for move in (0.02, 0.03, 0.25)]
    found += [[1, 1, 0.5, *boxes[7]], [0, 3, 0.4, *boxes[8]]]
    bottoms = {"d": np.array(found).reshape(1, 1, -1, 7), "t": np.array(objects, float).reshape(1, 1, -1, 8)}
    text = layer("DetectionEvaluate", "d t", options=f"detection_evaluate_param {{ num_classes: 4 {options} }}")
    case = Case(text, {name: array.shape for name, array in bottoms.items()}, phase="TEST")
    return Judged(
        case,
        lambda given, _: [more.evaluate(given["d"].reshape(-1, 7), given["t"].reshape(-1, 8), 4, 0.5, difficult, ())],
        False,
        bottoms,
    )


def proposed(tops: str) -> Judged:
    options = "proposal_param { post_nms_topn: 20 min_size: 8 ratio: 0.5 ratio: 1 ratio: 2 "
    options += "scale: 8 scale: 16 scale: 32 }"
    case = Case(
        layer("Proposal", "s b i", tops, options),
        {"s": (1, 18, 4, 5), "b": (1, 36, 4, 5), "i": (1, 3)},
        tops.split(),
        phase="TEST",
    )
    moves = RNG.normal(size=(1, 36, 4, 5)) / 2
    moves.reshape(9, 4, 20)[:, 2:] -= 1.5
    return Judged(
        case,
        lambda given, _: more.proposals(given["s"], given["b"], given["i"], 16, 20, 8)[: len(tops.split())],
        False,
        {"b": moves, "i": np.array([[64.0, 80.0, 1.5]])},
    )


def volume(x: Array, w: Array, b: Array) -> list[Array]:
    """Kernels of 2x3x3, a temporal padding of 1, a stride of 2 over the images, in two groups."""
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0), (0, 0)])
    top = np.zeros((len(x), len(w), x.shape[2] - 1, 3, 2))
    for k, t, i, j in np.ndindex(*top.shape[1:]):
        first = k // (len(w) // 2) * 2
        part = x[:, first : first + 2, t : t + 2, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        top[:, k, t, i, j] = (part * w[k]).sum((1, 2, 3, 4)) + b[k]
    return [top]


def largest(x: Array) -> list[Array]:
    """Windows of 2x2x2, two steps apart, also those that stand out at the end."""
    top = np.zeros((*x.shape[:2], *((n + 1) // 2 for n in x.shape[2:])))
    for t, i, j in np.ndindex(*top.shape[2:]):
        top[:, :, t, i, j] = x[:, :, 2 * t : 2 * t + 2, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((2, 3, 4))
    return [top]


def shuffled(x: Array) -> list[Array]:
    n, c, h, w = x.shape
    top = np.zeros((n, c // 4, 2 * h, 2 * w))
    for k, y, z in np.ndindex(c, h, w):
        top[:, k // 4, 2 * y + k % 4 // 2, 2 * z + k % 2] = x[:, k, y, z]
    return [top]


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.1 * x)


def smooth_ohem(x: Array, t: Array, u: Array) -> list[Array]:
    d = abs((x - t) * u)
    losses = np.where(d < 1, d * d / 2, d - 0.5)
    return [losses.sum() / 7, losses.sum(1).reshape(3, 1, 1, 1)]


JUDGED = {
    **fork_cases.JUDGED,
    **fork_cases_losses.JUDGED,
    **fork_cases_layers.JUDGED,
    **fork_cases_quantised.JUDGED,
    "hswish": one("HSwish", "", lambda x: [x * np.clip(x / 6 + 0.5, 0, 1)]),
    "hsigmoid": one("HSigmoid", "", lambda x: [np.clip(x / 6 + 0.5, 0, 1)]),
    "crelu": one("CReLU", "", lambda x: [np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], 1)]),
    "crelu_slope": one(
        "CReLU",
        "crelu_param { negative_slope: 0.1 concat_axis: -1 }",
        lambda x: [np.concatenate([leaky(x), leaky(-x)], 3)],
    ),
    "pixel_shuffle": one("PixelShuffle", "pixel_shuffle_param { upscale_factor: 2 }", shuffled, (2, 8, 3, 2)),
    "length_2": one("NormalizationL2", "", lambda x: [x / np.sqrt((x**2).sum(1, keepdims=True))], (3, 5)),
    "convolution_3d": one(
        "Convolution3D",
        "convolution_param { num_output: 4 kernel_size: 3 kernel_depth: 2 stride: 2 temporal_pad: 1 group: 2 }",
        volume,
        (2, 4, 3, 7, 6),
    ),
    "pooling_3d": one(
        "Pooling3D",
        "pooling_param { kernel_size: 2 kernel_depth: 2 stride: 2 temporal_stride: 2 }",
        largest,
        (2, 3, 5, 4, 7),
    ),
    "correlation": correlated("kernel_size: 1 max_displacement: 2 pad: 2", 1, 2, 2, (1, 1)),
    "correlation_steps": correlated(
        "kernel_size: 3 max_displacement: 3 pad: 4 stride_1: 2 stride_2: 2", 3, 3, 4, (2, 2)
    ),
    "correlation_differences": correlated(
        "kernel_size: 1 max_displacement: 1 pad: 1 correlation_type: SUBTRACT", 1, 1, 1, (1, 1), product=False
    ),
    "l1": pair("L1Loss", "", l1, (3, 4)),
    "l1_lengths": pair("L1Loss", "l1_loss_param { l2_per_location: true }", lengths, (2, 3, 4, 2)),
    "focal": labelled("FocalLoss", "focal_loss_param { alpha: 0.5 gamma: 3 }", focal),
    "centers": labelled(
        "CenterLoss",
        "center_loss_param { num_output: 4 }",
        lambda x, t, c: [((x - c[t.astype(int)]) ** 2).sum() / 12],
    ),
    "softmax_ohem": labelled(
        "SoftmaxWithLossOHEM",
        "loss_param { ignore_label: 3 normalization: PRE_FIXED pre_fixed_normalizer: 5 }",
        lambda x, t: [more.softmax_losses(x, t, 3)[1].sum() / 5, *more.softmax_losses(x, t, 3)],
        "y p e",
    ),
    "smooth_l1_ohem": Judged(
        Case(
            layer(
                "SmoothL1LossOHEM",
                "x t u",
                "y e",
                "loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 7 }",
            ),
            dict.fromkeys("xtu", (3, 4)),
            ["y", "e"],
            constant=("u",),
        ),
        lambda given, _: smooth_ohem(given["x"], given["t"], given["u"]),
    ),
    "hardest": hardest(),
    "segments": segmented(),
    "evaluation": evaluated(""),
    "evaluation_without_difficult": evaluated("evaluate_difficult_gt: false", difficult=False),
    "proposals": proposed("y"),
    "proposals_scores": proposed("y z"),
}
