"""Layers of forks to hold against NumPy: nets of one layer, and what they have to give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tests.engine import fork_references as ref
from tests.engine.case import Case, layer

Array = np.ndarray
Given = dict[str, Array]


@dataclass
class Judged:
    """A case and its judge, from the bottoms by name and the layer's blobs in order to the tops.

    `back`: whether the gradient is checked, against differences of the engine's own values in double precision.
    `bottoms` gives those that random values would not suit.
    """

    case: Case
    judge: Callable[[Given, Sequence[Array]], Sequence[Array]]
    back: bool = True
    bottoms: Given | None = None


IMAGE = (2, 6, 5, 4)
ROWS = np.array([[0, 1.3, 0.6, 6.2, 7], [1, 0, 0, 3.5, 9.1], [1, 5, 4, 5, 4], [0, 8, 8, 40, 40], [0, 2, 3, 7, 6]])


def one(
    kind: str, options: str, judge: Callable[..., Sequence[Array]], shape: tuple[int, ...] = IMAGE, **more: object
) -> Judged:
    """A layer of one bottom, x; `judge` gets it and the blobs."""
    phase = str(more.pop("phase", "TRAIN"))
    case = Case(layer(kind, options=options), {"x": shape}, phase=phase)
    return Judged(case, lambda given, blobs: judge(given["x"], *blobs), **more)  # type: ignore[arg-type]


def pooled(options: str, *how: object) -> Judged:
    text = layer("Pooling", tops="y m", options=f"pooling_param {{ pool: MAX {options} }}")
    case = Case(text, {"x": (2, 3, 7, 8)}, ["y", "m"])
    return Judged(case, lambda given, blobs: ref.max_pool(given["x"], *how))  # type: ignore[arg-type]


def masked(kind: str, options: str, height: int, width: int) -> Judged:
    rng = np.random.default_rng(1)
    places = np.stack([rng.permutation(height * width)[:6].reshape(2, 3) for _ in range(6)]).reshape(2, 3, 2, 3)
    case = Case(layer(kind, "x m", options=options), {"x": (2, 3, 2, 3), "m": (2, 3, 2, 3)}, constant=("m",))
    return Judged(
        case,
        lambda given, blobs: [ref.unpool(given["x"], given["m"], height, width)],
        bottoms={"m": places.astype(np.float64)},
    )


def batch_normed(x: Array, mean: Array, variance: Array, weight: Array, factor: Array, shift: Array) -> list[Array]:
    return [ref.bn(x, factor, shift, *ref.statistics(x), 1e-3)]


def stored(x: Array, mean: Array, variance: Array, weight: Array, factor: Array, shift: Array) -> list[Array]:
    return [ref.bn(x, factor, shift, mean / weight, variance / weight, 1e-3)]


def segnets(x: Array, factor: Array, shift: Array) -> list[Array]:
    return [ref.bn(x, factor, shift, *ref.statistics(x), 1e-9)]


def smooth(bottoms: str, sigma: float) -> Judged:
    names = bottoms.split()
    text = layer("SmoothL1Loss", bottoms, options=f"smooth_l1_loss_param {{ sigma: {sigma} }}")
    case = Case(text, dict.fromkeys(names, (3, 4, 2, 1)), constant=("u", "v"))
    return Judged(
        case, lambda given, _: [ref.smooth_l1(given["x"], given["t"], given.get("u", 1.0), given.get("v", 1.0), sigma)]
    )


def priors(options: str, *how: object, **more: object) -> Judged:
    text = layer("PriorBox", "x d", options=f"prior_box_param {{ {options} }}")
    case = Case(text, {"x": (2, 4, 3, 2), "d": (2, 3, 60, 50)})
    return Judged(case, lambda given, blobs: [ref.prior_boxes((3, 2), (60, 50), *how, **more)], back=False)  # type: ignore[arg-type]


def found(options: str, most: int, code: str = "CENTER_SIZE") -> Judged:
    rng = np.random.default_rng(4)
    corner = rng.uniform(0, 0.6, size=(12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, size=(12, 2))], 1)
    prior = np.stack([boxes.ravel(), np.tile([0.1, 0.1, 0.2, 0.2], 12)])[None]
    text = layer(
        "DetectionOutput",
        "loc conf prior",
        options=f"detection_output_param {{ num_classes: 3 nms_param {{ nms_threshold: 0.4 }} code_type: {code} "
        f"confidence_threshold: 0.2 keep_top_k: {most} {options} }}",
    )
    case = Case(text, {"loc": (2, 48), "conf": (2, 36), "prior": (1, 2, 48)}, phase="TEST")
    bottoms = {
        "loc": rng.normal(size=(2, 48)),
        "conf": rng.dirichlet([1, 1, 1], size=(2, 12)).reshape(2, 36),
        "prior": prior,
    }
    return Judged(
        case,
        lambda given, _: [
            ref.detections(given["loc"], given["conf"], given["prior"], 3, nms=0.4, least=0.2, most=most, code=code)
        ],
        back=False,
        bottoms=bottoms,
    )


def multiboxes(options: str, **how: object) -> Judged:
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 0.6, size=(12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, size=(12, 2))], 1)
    # Boxes that overlap an object much, and are not the best for it.
    boxes[9:] = boxes[[2, 7, 4]] + 0.03
    objects = np.zeros((5, 8))
    for row, (image, label, box) in enumerate(((0, 1, 2), (0, 2, 7), (1, 2, 4), (0, 1, 7))):
        objects[row] = [image, label, 0, *(boxes[box] + rng.uniform(-0.03, 0.03, size=4)), 0]
    objects[4, 0] = -1
    text = layer(
        "MultiBoxLoss",
        "loc conf prior label",
        options=f"multibox_loss_param {{ num_classes: 3 code_type: CENTER_SIZE {options} }}",
    )
    case = Case(
        text,
        {"loc": (3, 48), "conf": (3, 36), "prior": (1, 2, 48), "label": (1, 1, 5, 8)},
        constant=("prior", "label"),
    )
    prior = np.stack([boxes.ravel(), np.tile([0.1, 0.1, 0.2, 0.2], 12)])[None]
    return Judged(
        case,
        lambda given, _: [ref.multibox(given["loc"], given["conf"], given["prior"], given["label"], 3, **how)],  # type: ignore[arg-type]
        bottoms={"prior": prior, "label": objects.reshape(1, 1, 5, 8)},
    )


def regions(kind: str, options: str, judge: Callable[[Array, Array], Array], channels: int) -> Judged:
    case = Case(layer(kind, "x r", options=options), {"x": (2, channels, 9, 8), "r": (5, 5)}, constant=("r",))
    return Judged(case, lambda given, blobs: [judge(given["x"], given["r"])], bottoms={"r": ROWS})


def mish(x: Array) -> list[Array]:
    return [x * np.tanh(np.log1p(np.exp(x)))]


CONV = "convolution_param {{ num_output: {} kernel_size: 3 {} }}"
BATCH_NORM = "batch_norm_param {{ eps: 0.001 {} }}"
JUDGED: dict[str, Judged] = {
    "pool_mask": pooled("kernel_size: 3 stride: 2", 3, 2, 0),
    "pool_mask_pad": pooled("kernel_size: 3 stride: 2 pad: 1", 3, 2, 1),
    "pool_mask_wide_pad": pooled("kernel_size: 3 stride: 2 pad: 2", 3, 2, 2),
    "pool_mask_floor": pooled("kernel_size: 3 stride: 2 ceil_mode: false", 3, 2, 0, False),
    "pool_ceil_mode": pooled("kernel_size: 3 stride: 2 ceil_mode: true", 3, 2, 0, True),
    "relu6": one("ReLU6", "", lambda x: [np.clip(x, 0, 6)]),
    "mish": one("Mish", "", mish),
    "depthwise": one(
        "DepthwiseConvolution",
        CONV.format(6, "group: 6 stride: 2 pad: 1"),
        lambda x, w, b: [ref.depthwise(x, w, b, 2, (1, 1, 1, 1))],
    ),
    "depthwise_no_group": one(
        "ConvolutionDepthwise",
        CONV.format(6, "dilation: 2 pad: 2"),
        lambda x, w, b: [ref.depthwise(x, w, b, 1, (2, 2, 2, 2), 2)],
    ),
    "conv_hole": one(
        "Convolution",
        CONV.format(3, "hole: 2 pad: 1"),
        lambda x, w, b: [ref.convolution(x, w, b, (1, 1, 1, 1), 2)],
        (2, 2, 6, 5),
    ),
    "conv_sides": one(
        "Convolution",
        CONV.format(3, "pad_l: 0 pad_r: 2 pad_t: 1 pad_b: 0"),
        lambda x, w, b: [ref.convolution(x, w, b, (1, 0, 0, 2))],
        (2, 2, 6, 5),
    ),
    "bn_segnet": one("BN", "bn_param { bn_mode: LEARN scale_filler { value: 1 } }", segnets, phase="TEST"),
    "bn_segnet_inference": one(
        "BN", "bn_param { bn_mode: INFERENCE }", lambda x, s, t: [x * s.reshape(1, -1, 1, 1) + t.reshape(1, -1, 1, 1)]
    ),
    "bn_running": one(
        "BN", "bn_param { eps: 0.001 }", lambda x, s, t, m, v: [ref.bn(x, s, t, *ref.statistics(x), 1e-3)]
    ),
    "bn_running_test": one(
        "BN", "bn_param { eps: 0.001 }", lambda x, s, t, m, v: [ref.bn(x, s, t, m, v, 1e-3)], phase="TEST"
    ),
    "bn_running_own_train": one(
        "BN",
        "phase: TRAIN bn_param { eps: 0.001 }",
        lambda x, s, t, m, v: [ref.bn(x, s, t, *ref.statistics(x), 1e-3)],
        phase="TEST",
    ),
    "bn_frozen": one("BN", "bn_param { frozen: true slope_filler { value: 1 } }", lambda x, *b: [ref.bn(x, *b, 1e-5)]),
    "batch_norm_nvcaffe": one("BatchNorm", BATCH_NORM.format("scale_bias: true"), batch_normed),
    "batch_norm_intel": one("BatchNorm", BATCH_NORM.format("use_weight_bias: true"), batch_normed),
    "batch_norm_scale_test": one("BatchNorm", BATCH_NORM.format("scale_bias: true"), stored, phase="TEST"),
    "normalize_place": one(
        "Normalize",
        "norm_param { across_spatial: false channel_shared: false scale_filler { value: 20 } }",
        lambda x, s: [ref.normalize(x, s, False)],
    ),
    "normalize_image": one("Normalize", "norm_param { }", lambda x, s: [ref.normalize(x, s, True)]),
    "upsample": masked("Upsample", "upsample_param { scale: 2 }", 4, 6),
    "upsample_pad_out": masked("Upsample", "upsample_param { scale: 2 pad_out_h: true pad_out_w: true }", 3, 5),
    "upsample_size": masked("Upsample", "upsample_param { upsample_h: 5 upsample_w: 7 }", 5, 7),
    "unpooling": masked("Unpooling", "unpooling_param { kernel_size: 2 stride: 2 unpool_size: 6 }", 6, 6),
    "upsample_yolo": one("Upsample", "upsample_param { scale: 2 }", lambda x: [x.repeat(2, 2).repeat(2, 3)]),
    "interp_size": one("Interp", "interp_param { height: 9 width: 3 }", lambda x: [ref.interp(x, 9, 3)]),
    "interp_zoom": one("Interp", "interp_param { zoom_factor: 3 }", lambda x: [ref.interp(x, 13, 10)]),
    "interp_shrink": one("Interp", "interp_param { shrink_factor: 2 }", lambda x: [ref.interp(x, 3, 2)]),
    "interp_both": one("Interp", "interp_param { shrink_factor: 2 zoom_factor: 4 }", lambda x: [ref.interp(x, 9, 5)]),
    "interp_crop": one(
        "Interp",
        "interp_param { height: 4 width: 4 pad_beg: -1 pad_end: -2 }",
        lambda x: [ref.interp(x[:, :, 1:-2, 1:-2], 4, 4)],
    ),
    "interp_one": one("Interp", "interp_param { height: 1 width: 1 }", lambda x: [ref.interp(x, 1, 1)]),
    "permute": one("Permute", "permute_param { order: 0 order: 2 order: 3 }", lambda x: [np.einsum("nchw->nhwc", x)]),
    "shuffle": one("ShuffleChannel", "shuffle_channel_param { group: 3 }", lambda x: [ref.shuffle(x, 3)]),
    "reverse": one("Reverse", "reverse_param { axis: -1 }", lambda x: [x[..., ::-1]]),
    "reorg": one("Reorg", "reorg_param { stride: 2 }", lambda x: [ref.reorg(x, 2, False)], (2, 8, 4, 6)),
    "reorg_back": one(
        "Reorg", "reorg_param { stride: 2 reverse: true }", lambda x: [ref.reorg(x, 2, True)], (2, 8, 2, 3)
    ),
    "axpy": Judged(
        Case(layer("Axpy", "a x y", "z"), {"a": (2, 6, 1, 1), "x": IMAGE, "y": IMAGE}, ["z"]),
        lambda given, blobs: [given["a"] * given["x"] + given["y"]],
    ),
    "smooth_l1": smooth("x t", 1),
    "smooth_l1_inside": smooth("x t u", 3),
    "smooth_l1_both": smooth("x t u v", 3),
    "priors": priors(
        "min_size: 12 max_size: 20 aspect_ratio: 2 clip: false variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2",
        [(12, 20)],
        [2, 0.5],
        [0.1, 0.1, 0.2, 0.2],
    ),
    "priors_steps": priors(
        "min_size: 12.7 min_size: 9 aspect_ratio: 3 aspect_ratio: 3 flip: false step: 16 offset: 0.4",
        [(12, None), (9, None)],
        [3],
        [0.1] * 4,
        step=16.0,
        offset=0.4,
    ),
    "detections": found("", 200),
    "detections_few": found("", 5),
    "detections_corner": found("", 200, "CORNER"),
    "multibox": multiboxes("overlap_threshold: 0.5"),
    "multibox_logistic": multiboxes("conf_loss_type: LOGISTIC", logistic=True),
    "multibox_bipartite": multiboxes("match_type: BIPARTITE loc_weight: 2", bipartite=True, weight=2),
    "multibox_few_negatives": multiboxes("neg_pos_ratio: 1", ratio=1),
    "multibox_no_mining": multiboxes("mining_type: NONE do_neg_mining: false", mines=False),
    "roi_pooling": regions(
        "ROIPooling",
        "roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.5 }",
        lambda x, r: ref.roi_pool(x, r, 3, 2, 0.5),
        3,
    ),
    "ps_roi_pooling": regions(
        "PSROIPooling",
        "psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 0.5 }",
        lambda x, r: ref.ps_roi_pool(x, r, 2, 3, 0.5),
        18,
    ),
}
