"""Layers of forks on volumes, groups, regions and numbers of few bits, and other names of known ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.engine import fork_references as old
from tests.engine import fork_references_quantised as ref
from tests.engine.case import Case, layer
from tests.engine.fork_cases import IMAGE, Array, Judged, masked, one

RNG = np.random.default_rng(13)
FIXED = "quantization_param { bw_layer_in: 6 fl_layer_in: 3 bw_layer_out: 8 fl_layer_out: 2 bw_params: 5 fl_params: 3 }"


def tiled(x: Array) -> list[Array]:
    n, c, h, w = x.shape
    top = np.zeros((n, c // 9, 3 * h, 3 * w))
    for k, y, z in np.ndindex(c, h, w):
        top[:, k // 9, 3 * y + k % 9 // 3, 3 * z + k % 3] = x[:, k, y, z]
    return [top]


def trimmed_product(x: Array, w: Array, b: Array) -> list[Array]:
    x, w, b = ref.trim(x, 6, 3), ref.trim(w, 5, 3), ref.trim(b, 5, 3)
    return [ref.trim(x.reshape(len(x), -1) @ w.T + b, 8, 2)]


def trimmed_convolution(x: Array, w: Array, b: Array) -> list[Array]:
    x, w, b = ref.trim(x, 6, 3), ref.trim(w, 5, 3), ref.trim(b, 5, 3)
    return [ref.trim(ref.convolve(x, w, b, (2, 2), (1, 1)), 8, 2)]


def trimmed_upwards(x: Array, w: Array, b: Array) -> list[Array]:
    x, w, b = ref.trim(x, 6, 3), ref.trim(w, 5, 3), ref.trim(b, 5, 3)
    top = np.zeros((len(x), w.shape[1], x.shape[2] + 1, x.shape[3] + 1)) + b[:, None, None]
    for i, j in np.ndindex(2, 2):
        top[:, :, i : i + x.shape[2], j : j + x.shape[3]] += np.einsum("nchw,ck->nkhw", x, w[:, :, i, j])
    return [ref.trim(top, 8, 2)]


def proposed(which: str, anchors: list[list[int]], least: int) -> Judged:
    options = f"rpn_param {{ {which} boxminsize: {least} per_nms_topn: 30 nms_thresh: 0.5 }}"
    count = len(anchors)
    shapes = {"s": (1, 2 * count, 5, 6), "b": (1, 4 * count, 5, 6), "i": (1, 3)}

    def judge(given: dict[str, Array], _: object) -> list[Array]:
        return ref.regions(given["s"], given["b"], given["i"], np.array(anchors), (16, 30, 0.5, least))

    case = Case(layer("RPN", "s b i", "y z", options), shapes, ["y", "z"], phase="TEST")
    return Judged(case, judge, False, {"b": RNG.normal(size=shapes["b"]) / 2, "i": np.array([[70.0, 90.0, 1.0]])})


def field() -> Judged:
    options = (
        "multi_stage_meanfield_param { num_iterations: 3 theta_alpha: 4 theta_beta: 2 theta_gamma: 1.5 threshold: 2 }"
    )
    shapes = {"u": (2, 3, 4, 5), "q": (2, 3, 4, 5), "i": (2, 3, 4, 5)}

    def judge(given: dict[str, Array], blobs: Sequence[Array]) -> list[Array]:
        rows = zip(given["u"], given["q"], given["i"])
        return [np.array([ref.mean_field(*row, blobs, (4, 2, 1.5)) for row in rows])]

    return Judged(Case(layer("MultiStageMeanfield", "u q i", options=options), shapes, constant=("i",)), judge)


JUDGED = {
    "mean_field": field(),
    "tiling": one("Tiling", "tiling_param { tile_dim: 3 }", tiled, (2, 18, 2, 3)),
    "unpooling_sides": masked("UnPooling", "unpooling_param { unpool: MAX unpool_h: 4 unpool_w: 7 }", 4, 7),
    "brelu": one("BReLU", "brelu_param { minval: -0.5 maxval: 1 }", lambda x: [np.clip(x, -0.5, 1)]),
    "padding": one(
        "Padding",
        "padding_param { pad_beg: 1 pad_end: 2 }",
        lambda x: [np.pad(x, [(0, 0), (0, 0), (1, 2), (1, 2)])],
    ),
    "padding_cuts": one("Padding", "padding_param { pad_beg: -1 pad_end: -2 }", lambda x: [x[:, :, 1:-2, 1:-2]]),
    "flip": one("Flip", "flip_param { flip_width: true flip_height: false }", lambda x: [x[..., ::-1]]),
    "flip_both": one("Flip", "flip_param { flip_width: true flip_height: true }", lambda x: [x[:, :, ::-1, ::-1]]),
    "group_norm": one("GroupNorm", "group_norm_param { group_num: 3 eps: 0.1 }", lambda x: [ref.group_norm(x, 3, 0.1)]),
    "interpolation": Judged(
        Case(layer("BilinearInterpolation", "x t"), {"x": IMAGE, "t": (1, 1, 7, 3)}, constant=("t",)),
        lambda given, _: [old.interp(given["x"], 7, 3)],
    ),
    "mil": one(
        "MIL", "mil_param { context_per_roi: 3 }", lambda x: [x.reshape(2, 3, 4).max(1).reshape(2, 4, 1, 1)], (6, 4)
    ),
    "regions": proposed("ratio: 1 scale: 4 scale: 1 basesize: 16", [[-24, -24, 39, 39], [0, 0, 15, 15]], 20),
    # 17 by 8.5 around 5.5: 9 high, and whole pixels.
    "regions_of_halves": proposed("ratio: 0.5 scale: 1 basesize: 12", [[-2, 1, 13, 9]], 5),
    "nd_convolution": one(
        "NdConvolution",
        "convolution_param { num_output: 4 group: 2 kernel_shape { dim: 2 dim: 3 dim: 1 } "
        "stride_shape { dim: 1 dim: 2 dim: 1 } pad_shape { dim: 0 dim: 1 dim: 0 } }",
        lambda x, w, b: [ref.convolve(x, w, b, (1, 2, 1), (0, 1, 0), 2)],
        (2, 4, 3, 4, 3),
    ),
    "nd_convolution_drops_axes": one(
        "NdConvolution",
        "convolution_param { num_output: 4 kernel_shape { dim: 2 dim: 3 } }",
        lambda x, w, b: [ref.squeezed(ref.convolve(x, w, b, (1, 1), (0, 0)))],
        (2, 3, 2, 5),
    ),
    "nd_pooling_of_all": one(
        "NdPooling",
        "pooling_param { pool: AVE global_pooling: true kernel_shape { dim: 1 dim: 1 } }",
        lambda x: [x.mean((2, 3))],
        (2, 3, 4, 5),
    ),
    "nd_pooling": one(
        "NdPooling",
        "pooling_param { pool: MAX kernel_shape { dim: 2 dim: 3 dim: 2 } stride_shape { dim: 2 dim: 2 dim: 1 } }",
        lambda x: [ref.pool(x, (2, 3, 2), (2, 2, 1), np.max)],
        (2, 2, 3, 6, 3),
    ),
    "nd_pooling_mean": one(
        "NdPooling",
        "pooling_param { pool: AVE kernel_shape { dim: 3 } stride_shape { dim: 2 } }",
        lambda x: [ref.pool(x, (3,), (2,), np.mean)],
        (2, 2, 6),
    ),
    "product_of_unit_rows": one(
        "InnerProduct",
        "inner_product_param { num_output: 3 normalize: true }",
        lambda x, w, b: [x @ (w / np.sqrt((w**2).sum(1, keepdims=True) + 1e-6)).T + b],
        (3, 4),
        phase="TEST",
        back=False,
    ),
    "ristretto_product": one(
        "FcRistretto",
        f"inner_product_param {{ num_output: 3 }} {FIXED}",
        trimmed_product,
        (3, 4),
        phase="TEST",
        back=False,
    ),
    "ristretto_convolution": one(
        "ConvolutionRistretto",
        f"convolution_param {{ num_output: 3 kernel_size: 3 stride: 2 pad: 1 }} {FIXED}",
        trimmed_convolution,
        phase="TEST",
        back=False,
    ),
    "ristretto_deconvolution": one(
        "DeconvolutionRistretto",
        f"convolution_param {{ num_output: 3 kernel_size: 2 }} {FIXED}",
        trimmed_upwards,
        phase="TEST",
        back=False,
    ),
}
