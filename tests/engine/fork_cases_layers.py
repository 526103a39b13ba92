"""Further layers of forks to hold against NumPy; see `fork_cases`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.engine import fork_references_layers as ref
from tests.engine.case import Case, layer
from tests.engine.fork_cases import Array, Given, Judged, one

RNG = np.random.default_rng(11)
# The state of the batch before plays no part where the first row is 0.
MARKS = np.array([[0.0, 0], [1, 1], [0, 1], [1, 0]])
SELU = 1.0507009873554805, 1.6732632423543772
CONVOLUTION = "num_output: 3 kernel_size: 3 weight_filler { type: 'xavier' }"


def recurrent(options: str, bottoms: str = "x", shape: tuple[int, ...] = (4, 2, 3)) -> Judged:
    inputs: dict[str, tuple[int, ...]] = {"x": shape}
    if "m" in bottoms:
        inputs["m"] = (4, 2)

    def judge(given: Given, blobs: Sequence[Array]) -> Sequence[Array]:
        return [ref.lstm(given["x"], *blobs, marks=given.get("m"))]

    case = Case(layer("Lstm", bottoms, options=f"lstm_param {{ {options} }}"), inputs, constant=("m",))
    return Judged(case, judge, bottoms={"m": MARKS} if "m" in bottoms else {})


def maps(options: str, pad: int, dilation: int, exposed: bool) -> Judged:
    inputs: dict[str, tuple[int, ...]] = {"x": (4, 2, 2, 4, 3), "m": (4, 2)}
    bottoms, tops = "x m", ["y"]
    if exposed:
        inputs.update(h=(1, 2, 3, 4, 3), c=(1, 2, 3, 4, 3))
        bottoms, tops = "x m h c", ["y", "hT", "cT"]
        options += " recurrent_param { expose_hidden: true }"

    def judge(given: Given, blobs: Sequence[Array]) -> Sequence[Array]:
        zeros = np.zeros((2, 3, 4, 3))
        state = [given["h"][0], given["c"][0]] if exposed else [zeros, zeros]
        return ref.conv_lstm(given["x"], given["m"], blobs, pad, dilation, state)[: len(tops)]

    case = Case(layer("ConvLSTM", bottoms, " ".join(tops), options), inputs, tops, constant=("m", "h", "c"))
    return Judged(case, judge, exposed, {"m": MARKS})


def marginal(kind: str, message: str, word: str, more: str = "", share: float = 1.0) -> Judged:
    """Features of eight records for four classes; the sphere's gradients have a test of their own."""
    times = ["SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE"].index(word) + 1
    text = layer(kind, "x t", "y lambda", f"{message} {{ num_output: 4 type: {word} {more} }}")
    case = Case(text, {"x": (8, 3), "t": (8,)}, ["y", "lambda"], {"t": 4}, constant=("t",))
    sphere = kind == "MarginInnerProduct"

    def judge(given: Given, blobs: Sequence[Array]) -> Sequence[Array]:
        return [ref.margin(given["x"], given["t"], blobs[0], times, share, sphere), np.array([share])]

    return Judged(case, judge, not sphere, {"t": np.arange(8.0) % 4})


def moved(options: str, how: Sequence[int], channels: int, sides: tuple[int, int], parts: int = 1) -> Judged:
    options = f"deformable_convolution_param {{ num_output: 4 kernel_size: 3 {options} }}"
    shapes = {"x": (2, channels, 5, 6), "o": (2, 18 * parts, *sides)}
    case = Case(layer("DeformableConvolution", "x o", options=options), shapes)
    return Judged(case, lambda given, blobs: [ref.deformable(given["x"], given["o"], *blobs, how)])


def placed(options: str, theta: Array, height: int, width: int, written: dict[int, float] | None = None) -> Judged:
    case = Case(
        layer("SpatialTransformer", "x t", options=f"st_param {{ {options} }}"),
        {"x": (2, 3, 5, 4), "t": theta.shape},
    )

    def judge(given: Given, _: Sequence[Array]) -> Sequence[Array]:
        whole, parts = np.zeros((2, 6)), list(given["t"].reshape(2, -1).T)
        for place in range(6):
            whole[:, place] = (written or {})[place] if place in (written or {}) else parts.pop(0)
        return [ref.transformed(given["x"], whole, height, width)]

    return Judged(case, judge, bottoms={"t": theta})


def resized(kind: str, options: str, judge: object, shape: tuple[int, ...]) -> Judged:
    return one(kind, options, lambda x: [judge(x)], shape)  # type: ignore[operator]


AFFINE = np.array([[0.91, 0.13, 0.057, -0.22, 1.07, -0.11], [1.31, 0.19, 0.33, 0.12, 0.71, 0.23]])
LOST = RNG.normal(size=(2, 2, 7, 9))
LOST[0, 0, :3, :4] = LOST[1, 1, 5, 5] = np.nan
LARGE, SPHERE = "largemargin_inner_product_param", "margin_inner_product_param"

JUDGED = {
    "transpose": one(
        "Transpose", "transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 }", lambda x: [x.transpose(3, 2, 0, 1)]
    ),
    "lstm_ctpn": recurrent("num_output: 5 clipping_threshold: 100"),
    "lstm_ctpn_marks": recurrent("num_output: 5", "x m", (4, 2, 3, 2)),
    "conv_lstm": maps(f"lstm_conv_param {{ {CONVOLUTION} pad: 1 }}", 1, 1, exposed=False),
    "conv_lstm_exposed": maps(f"lstm_conv_param {{ {CONVOLUTION} pad: 2 dilation: 2 }}", 2, 2, exposed=True),
    "noise_test": one("Noise", "noise_param { gaussian_std: 1 }", lambda x: [x], phase="TEST"),
    "noise_own_test": one("Noise", "phase: TEST noise_param { gaussian_std: 1 }", lambda x: [x]),
    "spatial_dropout_test": one("SpatialDropout", "", lambda x: [x], phase="TEST"),
    "gradient_scaler": one("GradientScaler", "", lambda x: [x], back=False),
    "selu": one("SeLu", "", lambda x: [SELU[0] * np.where(x > 0, x, SELU[1] * (np.exp(np.minimum(x, 0)) - 1))]),
    "apl": one("APL", "apl_param { sums: 3 }", lambda x, s, o: [ref.apl(x, s, o)], (2, 3, 2)),
    "local": one(
        "Local",
        "local_param { num_output: 3 kernel_size: 3 stride: 2 pad: 1 }",
        lambda x, w, b: [ref.local(x, w, b, 3, 2, 1)],
        (2, 2, 5, 6),
    ),
    "deformable": moved("pad: 1 stride: 2", (2, 1, 1, 1, 1), 2, (3, 3)),
    "deformable_groups": moved("pad: 2 dilation: 2 group: 2 deformable_group: 2", (1, 2, 2, 2, 2), 4, (5, 6), 2),
    "margin_large": marginal("LargeMarginInnerProduct", LARGE, "QUADRUPLE"),
    "margin_large_3": marginal("LargeMarginInnerProduct", LARGE, "TRIPLE", "lambda_min: 5", 5.0),
    "margin_large_2": marginal("LargeMarginInnerProduct", LARGE, "DOUBLE"),
    "margin_large_1": marginal("LargeMarginInnerProduct", LARGE, "SINGLE"),
    "margin_sphere": marginal("MarginInnerProduct", SPHERE, "QUADRUPLE", "base: 9 gamma: 2 iteration: 3", 1.0),
    "margin_sphere_3": marginal("MarginInnerProduct", SPHERE, "TRIPLE"),
    "margin_sphere_2": marginal("MarginInnerProduct", SPHERE, "DOUBLE"),
    "margin_sphere_1": marginal("MarginInnerProduct", SPHERE, "SINGLE"),
    "transformer": placed("", AFFINE, 5, 4),
    "transformer_shift": placed(
        "output_H: 3 output_W: 6 theta_1_1: 0.5 theta_1_2: 0 theta_2_1: 0.25 theta_2_2: 0.75",
        AFFINE[:, :2] / 2,
        3,
        6,
        {0: 0.5, 1: 0.0, 3: 0.25, 4: 0.75},
    ),
    "warp": Judged(
        Case(layer("FlowWarp", "x f"), {"x": (2, 3, 5, 4), "f": (2, 2, 5, 4)}),
        lambda given, _: [ref.warped(given["x"], given["f"])],
    ),
    "resample_larger": resized(
        "Resample", "resample_param { height: 9 width: 7 }", lambda x: ref.resampled(x, 9, 7, "LINEAR"), (2, 2, 4, 5)
    ),
    "resample_smaller": resized(
        "Resample",
        "resample_param { height: 3 width: 4 type: CUBIC }",
        lambda x: ref.resampled(x, 3, 4, "CUBIC"),
        (1, 2, 8, 9),
    ),
    "resample_sharp": resized(
        "Resample",
        "resample_param { height: 3 width: 4 antialias: false }",
        lambda x: ref.resampled(x, 3, 4, "LINEAR", antialias=False),
        (1, 2, 8, 9),
    ),
    "resample_nearest": resized(
        "Resample",
        "resample_param { height: 8 width: 10 type: NEAREST }",
        lambda x: ref.resampled(x, 8, 10, "NEAREST"),
        (2, 2, 4, 5),
    ),
    "downsample": Judged(
        Case(layer("Downsample", options="downsample_param { top_height: 4 top_width: 5 }"), {"x": LOST.shape}),
        lambda given, _: [ref.downsampled(given["x"], 4, 5)],
        False,
        {"x": LOST},
    ),
}
