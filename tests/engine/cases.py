"""Layers to hold against the real Caffe: text and bottoms of random shapes, drawn by a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.engine import cases_recurrent, cases_rows
from tests.engine.case import Case, Rng, image, layer


def simple(kind: str, options: str = "", **more: object) -> Callable[[Rng], Case]:
    return lambda rng: Case(layer(kind, options=options), {"x": image(rng)}, **more)  # type: ignore[arg-type]


def convolution(rng: Rng, kind: str, group: bool = False, bias: bool = True) -> Case:
    groups = int(rng.integers(2, 4)) if group else 1
    channels, outputs = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    kernel = rng.integers(1, 4, size=2)
    stride = rng.integers(1, 3, size=2)
    pad = rng.integers(0, 3, size=2)
    dilation = rng.integers(1, 3)
    options = (
        f"num_output: {outputs} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} "
        f"stride_w: {stride[1]} pad_h: {pad[0]} pad_w: {pad[1]} dilation: {dilation} group: {groups} "
        f"bias_term: {str(bias).lower()}"
    )
    if kind == "Deconvolution":
        options = options.replace(f"pad_h: {pad[0]} pad_w: {pad[1]}", "pad: 1")
    return Case(layer(kind, options=f"convolution_param {{ {options} }}"), {"x": image(rng, channels, 7)})


def slid(rng: Rng, kind: str, rank: int, options: str = "", before: int = 1) -> Case:
    """A convolution over `rank` axes, behind `before` of them and that of the channels; a number for each axis."""
    sides = [int(side) for side in rng.integers(5, 8, size=rank)]
    given = " ".join(
        f"{name}: {value}"
        for name, low, high in (("kernel_size", 1, 4), ("stride", 1, 3), ("pad", 0, 2), ("dilation", 1, 3))
        for value in rng.integers(low, high, size=rank)
    )
    shape = (*map(int, rng.integers(1, 4, size=before)), 4, *sides)
    text = layer(kind, options=f"convolution_param {{ num_output: 6 group: 2 axis: {before} {given} {options} }}")
    return Case(text, {"x": shape})


def pooling(rng: Rng, pool: str, extra: str = "", tight: bool = False, tops: str = "y") -> Case:
    # Padding of more than half a kernel takes a way of its own.
    kernel = rng.integers(3, 5, size=2) if tight else rng.integers(2, 4, size=2)
    stride = [int(rng.integers(1, k + 1)) for k in kernel]
    pad = [int(rng.integers(k - 1 if tight else 0, k)) for k in kernel]
    options = (
        f"pool: {pool} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]} "
        f"pad_h: {pad[0]} pad_w: {pad[1]} {extra}"
    )
    return Case(layer("Pooling", "x", tops, f"pooling_param {{ {options} }}"), {"x": image(rng)}, tops.split())


def inner(rng: Rng, extra: str = "") -> Case:
    options = f"inner_product_param {{ num_output: {rng.integers(1, 6)} {extra} }}"
    return Case(layer("InnerProduct", options=options), {"x": image(rng)})


def eltwise(rng: Rng, operation: str, count: int = 3, coeff: bool = False) -> Case:
    shape = image(rng)
    names = [f"x{i}" for i in range(count)]
    factors = " ".join(f"coeff: {value:.3f}" for value in rng.normal(size=count)) if coeff else ""
    text = layer("Eltwise", " ".join(names), options=f"eltwise_param {{ operation: {operation} {factors} }}")
    return Case(text, {name: shape for name in names})


def concat(rng: Rng, axis: int) -> Case:
    shape = list(image(rng))
    inputs = {}
    for name in "ab":
        shape[axis] = int(rng.integers(1, 5))
        inputs[name] = tuple(shape)
    return Case(layer("Concat", "a b", options=f"concat_param {{ axis: {axis} }}"), inputs)


def labelled(
    rng: Rng, kind: str, options: str = "", spatial: bool = False, tops: str = "y", axis: int = 1, **more: object
) -> Case:
    n, c, h, w = image(rng, int(rng.integers(4, 8)))
    shape = (n, c, h, w) if spatial else (n, c)
    labels = tuple(size for place, size in enumerate(shape) if place != axis)
    classes = shape[axis]
    back = kind != "Accuracy"
    return Case(
        layer(kind, "x t", tops, options), {"x": shape, "t": labels}, tops.split(), {"t": classes}, back=back, **more
    )  # type: ignore[arg-type]


def second(rng: Rng, kind: str, param: str, axis: int, count: int, extra: str = "") -> Case:
    shape = image(rng)
    options = f"{param} {{ axis: {axis} {extra} }}"
    return Case(layer(kind, "x s", options=options), {"x": shape, "s": shape[axis : axis + count]})


def learnt(rng: Rng, kind: str, param: str, extra: str) -> Case:
    return Case(layer(kind, options=f"{param} {{ {extra} }}"), {"x": image(rng)})


def pair(rng: Rng, legacy: str = "") -> Case:
    n, c = int(rng.integers(4, 9)), int(rng.integers(2, 5))
    text = layer("ContrastiveLoss", "a b t", options=f"contrastive_loss_param {{ margin: 2.5 {legacy} }}")
    return Case(text, {"a": (n, c), "b": (n, c), "t": (n,)}, integers={"t": 2})


def infogain(rng: Rng) -> Case:
    """Behind a Scale, because Caffe dies of `force_backward` where the matrix is a bottom."""
    n, c = int(rng.integers(2, 6)), int(rng.integers(3, 7))
    text = layer("Scale", "x", "s").replace('"l"', '"scale"') + layer("InfogainLoss", "s t h")
    shapes = {"x": (n, c), "t": (n,), "h": (1, 1, c, c)}
    return Case(text, shapes, integers={"t": c}, constant=("x", "h"), force=False)


def crop(rng: Rng) -> Case:
    shape = image(rng)
    small = (*shape[:2], shape[2] - 2, shape[3] - 3)
    text = layer("Crop", "x s", options="crop_param { axis: 2 offset: 1 offset: 2 }")
    return Case(text, {"x": shape, "s": small}, constant=("s",))


def embed(rng: Rng) -> Case:
    text = layer("Embed", options="embed_param { num_output: 4 input_dim: 9 }")
    return Case(text, {"x": (5, int(rng.integers(2, 5)))}, integers={"x": 9}, back=False)


def sigmoid_loss(rng: Rng, options: str) -> Case:
    shape = image(rng)
    return Case(layer("SigmoidCrossEntropyLoss", "x t", options=options), {"x": shape, "t": shape}, integers={"t": 2})


CASES: dict[str, Callable[[Rng], Case]] = {
    "conv": lambda r: convolution(r, "Convolution"),
    "conv_group": lambda r: convolution(r, "Convolution", group=True),
    "conv_no_bias": lambda r: convolution(r, "Convolution", bias=False),
    "deconv": lambda r: convolution(r, "Deconvolution"),
    "deconv_group": lambda r: convolution(r, "Deconvolution", group=True),
    "conv_1d": lambda r: slid(r, "Convolution", 1),
    "conv_2d_each": lambda r: slid(r, "Convolution", 2, "force_nd_im2col: true"),
    "conv_3d": lambda r: slid(r, "Convolution", 3),
    "conv_axis": lambda r: slid(r, "Convolution", 2, before=2),
    "conv_axis_first": lambda r: slid(r, "Convolution", 2, before=0),
    "deconv_1d": lambda r: slid(r, "Deconvolution", 1),
    "deconv_3d": lambda r: slid(r, "Deconvolution", 3, "bias_term: false"),
    "conv_two": lambda r: Case(
        layer("Convolution", "a b", "y z", "convolution_param { num_output: 3 kernel_size: 2 }"),
        dict.fromkeys("ab", image(r)),
        ["y", "z"],
    ),
    "inner": inner,
    "inner_axis": lambda r: inner(r, "axis: 2"),
    "inner_negative_axis": lambda r: inner(r, "axis: -1"),
    "inner_transpose": lambda r: inner(r, "transpose: true"),
    "inner_no_bias": lambda r: inner(r, "bias_term: false"),
    "embed": embed,
    "pool_max": lambda r: pooling(r, "MAX"),
    "pool_max_wide_pad": lambda r: pooling(r, "MAX", tight=True),
    "pool_max_mask": lambda r: pooling(r, "MAX", tops="y m"),
    "pool_max_mask_wide_pad": lambda r: pooling(r, "MAX", tight=True, tops="y m"),
    "pool_max_floor": lambda r: pooling(r, "MAX", "round_mode: FLOOR"),
    "pool_ave": lambda r: pooling(r, "AVE"),
    "pool_ave_wide_pad": lambda r: pooling(r, "AVE", tight=True),
    "pool_ave_floor": lambda r: pooling(r, "AVE", "round_mode: FLOOR"),
    # One side's padding cuts off the other's last window.
    "pool_one_side": lambda r: Case(
        layer("Pooling", options="pooling_param { kernel_h: 3 kernel_w: 1 stride_h: 1 stride_w: 3 pad_h: 1 pad_w: 0 }"),
        {"x": (2, 3, 6, 5)},
    ),
    "pool_global_ave": simple("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
    "pool_global_max": simple("Pooling", "pooling_param { pool: MAX global_pooling: true }"),
    "relu": simple("ReLU"),
    "relu_slope": simple("ReLU", "relu_param { negative_slope: 0.1 }"),
    "prelu": simple("PReLU"),
    "prelu_shared": simple("PReLU", "prelu_param { channel_shared: true }"),
    "elu": simple("ELU", "elu_param { alpha: 0.7 }"),
    "sigmoid": simple("Sigmoid"),
    "tanh": simple("TanH"),
    "absval": simple("AbsVal"),
    "bnll": simple("BNLL"),
    "swish": simple("Swish", "swish_param { beta: 1.3 }"),
    "clip": simple("Clip", "clip_param { min: -0.5 max: 0.8 }"),
    "threshold": simple("Threshold", "threshold_param { threshold: 0.3 }", back=False),
    "power": simple("Power", "power_param { power: 1.7 scale: 0.9 shift: 0.4 }", positive=("x",)),
    "power_square": simple("Power", "power_param { power: 2 scale: -0.9 shift: 0.4 }"),
    "power_linear": simple("Power", "power_param { scale: -0.9 shift: 0.4 }"),
    "power_constant": simple("Power", "power_param { power: 0 }"),
    "exp": simple("Exp", "exp_param { scale: 0.5 shift: 0.2 }"),
    "exp_base": simple("Exp", "exp_param { base: 2 scale: 0.5 shift: 0.2 }"),
    "log": simple("Log", "log_param { scale: 0.5 shift: 0.2 }", positive=("x",)),
    "log_base": simple("Log", "log_param { base: 10 shift: 1.2 }", positive=("x",)),
    "dropout_test": simple("Dropout", phase="TEST"),
    "bn": simple("BatchNorm"),
    "bn_fraction": simple("BatchNorm", "batch_norm_param { moving_average_fraction: 0.9 eps: 0.001 }"),
    "bn_eps_0": simple("BatchNorm", "batch_norm_param { eps: 0 }"),
    "bn_test": simple("BatchNorm", phase="TEST"),
    # A layer's own phase, which counts whatever that of its net is.
    "bn_own_test": simple("BatchNorm", "phase: TEST"),
    "bn_own_train": simple("BatchNorm", "phase: TRAIN", phase="TEST"),
    "dropout_own_test": simple("Dropout", "phase: TEST"),
    "bn_global": simple("BatchNorm", "batch_norm_param { use_global_stats: true }"),
    "bn_flat": lambda r: Case(layer("BatchNorm"), {"x": (int(r.integers(3, 9)), int(r.integers(2, 6)))}),
    "lrn": simple("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 1.5 }"),
    "lrn_wide": simple("LRN", "lrn_param { local_size: 5 alpha: 0.9 }"),
    "lrn_within": simple("LRN", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }"),
    "mvn": simple("MVN"),
    "mvn_two_axes": lambda r: Case(layer("MVN", options="mvn_param { across_channels: true }"), {"x": (3, 5)}),
    "mvn_across": simple("MVN", "mvn_param { across_channels: true }"),
    "mvn_eps": simple("MVN", "mvn_param { eps: 0.3 }"),
    "mvn_flat": simple("MVN", "mvn_param { eps: 0.3 }", factor=0),
    "mvn_mean": simple("MVN", "mvn_param { normalize_variance: false }"),
    "scale": lambda r: learnt(r, "Scale", "scale_param", ""),
    "scale_bias": lambda r: learnt(r, "Scale", "scale_param", "bias_term: true"),
    "scale_two_axes": lambda r: learnt(r, "Scale", "scale_param", "axis: 1 num_axes: 2 bias_term: true"),
    "scale_all_axes": lambda r: learnt(r, "Scale", "scale_param", "axis: 0 num_axes: -1"),
    "scale_scalar": lambda r: learnt(r, "Scale", "scale_param", "num_axes: 0 bias_term: true"),
    "scale_bottom": lambda r: second(r, "Scale", "scale_param", 1, 2),
    "scale_bottom_bias": lambda r: second(r, "Scale", "scale_param", 0, 2, "bias_term: true"),
    "bias": lambda r: learnt(r, "Bias", "bias_param", ""),
    "bias_bottom": lambda r: second(r, "Bias", "bias_param", 1, 1),
    "eltwise_sum": lambda r: eltwise(r, "SUM"),
    "eltwise_coeff": lambda r: eltwise(r, "SUM", coeff=True),
    "eltwise_prod": lambda r: eltwise(r, "PROD"),
    "eltwise_max": lambda r: eltwise(r, "MAX"),
    "eltwise_max_equal": lambda r: replace(eltwise(r, "MAX"), whole=True),
    "concat": lambda r: concat(r, 1),
    "concat_width": lambda r: concat(r, 3),
    "slice": lambda r: Case(
        layer("Slice", tops="y z", options="slice_param { axis: 2 slice_point: 2 }"), {"x": image(r)}, ["y", "z"]
    ),
    "slice_even": lambda r: Case(layer("Slice", tops="y z"), {"x": image(r, 4)}, ["y", "z"]),
    "flatten": simple("Flatten", "flatten_param { axis: 1 end_axis: 2 }"),
    "flatten_nothing": simple("Flatten", "flatten_param { axis: 2 end_axis: 1 }"),
    "reshape": simple("Reshape", "reshape_param { shape { dim: 0 dim: -1 } axis: 1 }"),
    "reshape_middle": simple("Reshape", "reshape_param { shape { dim: 1 dim: -1 dim: 1 } axis: 1 num_axes: 2 }"),
    "crop": crop,
    "crop_longer": lambda r: replace(crop(r), inputs={"x": (2, 3, 6, 7), "s": (1, 1, 4, 4, 3)}),
    "tile": simple("Tile", "tile_param { axis: 2 tiles: 3 }"),
    "reduction_sum": simple("Reduction", "reduction_param { axis: 1 coeff: 0.3 }"),
    "reduction_asum": simple("Reduction", "reduction_param { operation: ASUM axis: 2 }"),
    "reduction_sumsq": simple("Reduction", "reduction_param { operation: SUMSQ }"),
    "reduction_mean": simple("Reduction", "reduction_param { operation: MEAN axis: 1 }"),
    "argmax": simple("ArgMax", "argmax_param { top_k: 3 }", back=False),
    "argmax_equal": simple("ArgMax", "argmax_param { top_k: 7 }", back=False, whole=True),
    "argmax_equal_axis": simple("ArgMax", "argmax_param { top_k: 3 axis: 2 }", back=False, whole=True),
    "argmax_values": simple("ArgMax", "argmax_param { top_k: 2 out_max_val: true }", back=False),
    "argmax_axis": simple("ArgMax", "argmax_param { top_k: 2 axis: 2 }", back=False),
    "softmax": simple("Softmax"),
    "softmax_axis": simple("Softmax", "softmax_param { axis: 2 }"),
    "softmax_loss": lambda r: labelled(r, "SoftmaxWithLoss"),
    "softmax_loss_sure": lambda r: labelled(r, "SoftmaxWithLoss", factor=200),
    "softmax_loss_spatial": lambda r: labelled(r, "SoftmaxWithLoss", spatial=True),
    "softmax_loss_axis": lambda r: labelled(r, "SoftmaxWithLoss", "softmax_param { axis: 2 }", spatial=True, axis=2),
    "softmax_loss_ignore": lambda r: labelled(r, "SoftmaxWithLoss", "loss_param { ignore_label: 1 }", spatial=True),
    "softmax_loss_ignore_full": lambda r: labelled(
        r, "SoftmaxWithLoss", "loss_param { ignore_label: 1 normalization: FULL }", spatial=True
    ),
    "softmax_loss_batch": lambda r: labelled(
        r, "SoftmaxWithLoss", "loss_param { normalization: BATCH_SIZE }", spatial=True
    ),
    "softmax_loss_none": lambda r: labelled(r, "SoftmaxWithLoss", "loss_param { normalization: NONE }"),
    "softmax_loss_old": lambda r: labelled(r, "SoftmaxWithLoss", "loss_param { normalize: false }", spatial=True),
    "sigmoid_loss": lambda r: sigmoid_loss(r, ""),
    "sigmoid_loss_ignore": lambda r: sigmoid_loss(r, "loss_param { ignore_label: 1 normalization: VALID }"),
    "euclidean_column": lambda _: Case(layer("EuclideanLoss", "x t"), {"x": (7, 1), "t": (7,)}),
    "euclidean_flat": lambda r: Case(
        layer("EuclideanLoss", "x t"), dict.fromkeys(("x", "t"), (int(r.integers(2, 9)),))
    ),
    "euclidean": lambda r: Case(layer("EuclideanLoss", "x t"), dict.fromkeys(("x", "t"), image(r)), constant=()),
    "hinge": lambda r: labelled(r, "HingeLoss"),
    "hinge_l2": lambda r: labelled(r, "HingeLoss", "hinge_loss_param { norm: L2 }"),
    "infogain": infogain,
    "infogain_sure": lambda r: replace(infogain(r), factor=200),
    "multinomial": lambda r: labelled(r, "MultinomialLogisticLoss", positive=("x",)),
    "multinomial_zero": lambda r: labelled(r, "MultinomialLogisticLoss", factor=1e-21),
    "contrastive": pair,
    "contrastive_shapes": lambda r: replace(pair(r), inputs={"a": (4, 3), "b": (4, 3, 1, 1), "t": (4, 1)}),
    "contrastive_near": lambda r: replace(pair(r), factor=1e-4),
    "contrastive_legacy": lambda r: pair(r, "legacy_version: true"),
    "accuracy": lambda r: labelled(r, "Accuracy", phase="TEST"),
    "accuracy_equal": lambda r: labelled(r, "Accuracy", phase="TEST", whole=True),
    "accuracy_top": lambda r: labelled(r, "Accuracy", "accuracy_param { top_k: 3 }", phase="TEST"),
    "accuracy_ignore": lambda r: labelled(r, "Accuracy", "accuracy_param { ignore_label: 1 }", spatial=True),
    "accuracy_class": lambda r: labelled(r, "Accuracy", tops="y z", spatial=True),
    **cases_recurrent.CASES,
    **cases_rows.CASES,
}
