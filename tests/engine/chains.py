"""Random chains of layers in place, for pycaffe and the engine, with what makes the blob and what reads it."""

from __future__ import annotations

import numpy as np

from tests.engine.case import Case, Rng

SHAPE = (2, 4, 5, 5)
# What may stand in place, by a name of its own: type and options.
IN_PLACE = {
    "relu": ("ReLU", ""),
    "relu_slope": ("ReLU", "relu_param { negative_slope: 0.1 }"),
    "relu_turned": ("ReLU", "relu_param { negative_slope: -0.3 }"),
    "prelu": ("PReLU", ""),
    "elu": ("ELU", "elu_param { alpha: 0.7 }"),
    "elu_turned": ("ELU", "elu_param { alpha: -0.5 }"),
    "sigmoid": ("Sigmoid", ""),
    "tanh": ("TanH", ""),
    "bnll": ("BNLL", ""),
    "swish": ("Swish", "swish_param { beta: 1.3 }"),
    "clip": ("Clip", "clip_param { min: -0.5 max: 0.8 }"),
    "power_linear": ("Power", "power_param { scale: -0.9 shift: 0.4 }"),
    "power_square": ("Power", "power_param { power: 2 scale: 0.8 shift: 0.3 }"),
    "power_cube": ("Power", "power_param { power: 3 shift: 0.3 }"),
    "power_constant": ("Power", "power_param { scale: 0 shift: 0.7 }"),
    "power_cube_plain": ("Power", "power_param { power: 3 scale: 0.9 }"),
    "exp": ("Exp", "exp_param { base: 1.7 scale: 0.5 shift: 0.2 }"),
    "log": ("Log", "log_param { base: 2 scale: 0.2 shift: 4 }"),
    "dropout": ("Dropout", "dropout_param { dropout_ratio: 0 }"),
    "bn": ("BatchNorm", ""),
    "bn_global": ("BatchNorm", "batch_norm_param { use_global_stats: true }"),
    "scale": ("Scale", "scale_param { bias_term: true }"),
    "scale_all": ("Scale", "scale_param { axis: 0 num_axes: -1 }"),
    "bias": ("Bias", ""),
    # A small alpha: Caffe adds and takes off the squares of channels in turn, which leaves a rounding of the largest.
    "lrn": ("LRN", "lrn_param { local_size: 3 alpha: 0.02 beta: 0.6 k: 1.5 }"),
    "lrn_within": ("LRN", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }"),
    "mvn": ("MVN", "mvn_param { eps: 0.1 }"),
    "mvn_across": ("MVN", "mvn_param { across_channels: true eps: 0.1 }"),
    "mvn_mean": ("MVN", "mvn_param { normalize_variance: false }"),
    "softmax": ("Softmax", ""),
    "sum": ("Eltwise", "eltwise_param { coeff: 0.5 coeff: 2 }"),
    "product": ("Eltwise", "eltwise_param { operation: PROD }"),
    "quotient": ("Eltwise", "eltwise_param { operation: PROD stable_prod_grad: false }"),
    "maximum": ("Eltwise", "eltwise_param { operation: MAX }"),
    "scale_bottom": ("Scale", "scale_param { axis: 0 }"),
    "concat": ("Concat", ""),
    "slice": ("Slice", ""),
}
CONSTANT = {"constant", "ones", "power_constant"}
# What these make of a constant is rounding alone; an LRN in place leaves nearly one.
NORMALISATIONS = ("bn", "mvn", "mvn_across", "mvn_mean")
TWO_BOTTOMS = ("sum", "product", "quotient", "maximum", "scale_bottom")
# What makes the blob, not in place.
HEADS = {
    "conv": ("Convolution", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"),
    "plus": ("Power", "power_param { shift: 0.1 }"),
    "constant": ("Power", "power_param { scale: 0 shift: 0.7 }"),
    "ones": ("Power", "power_param { power: 0 }"),
    "statistics": ("BatchNorm", ""),
    "learnt_statistics": ("BatchNorm", "param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }"),
    "pool": ("Pooling", "pooling_param { kernel_size: 3 stride: 1 pad: 1 }"),
    "product_head": ("Eltwise", "eltwise_param { operation: PROD }"),
}
SQUARES = ("Reduction", "reduction_param { operation: SUMSQ axis: 1 }")
TAILS: dict[str, tuple[str, str] | None] = {
    "none": None,
    "conv": ("Convolution", "convolution_param { num_output: 3 kernel_size: 3 }"),
    "inner": ("InnerProduct", "inner_product_param { num_output: 3 }"),
    "squares": SQUARES,
}
# Layers whose top is their bottom's memory; behind them the bottom is read as well.
ALIASES = {
    "flatten": ("Flatten", "flatten_param { axis: 0 end_axis: 0 }"),
    "reshape": ("Reshape", "reshape_param { shape { dim: 0 dim: 0 dim: -1 dim: 5 } }"),
    "concat": ("Concat", ""),
    "slice": ("Slice", ""),
    "split": ("Split", ""),
}


def chain(rng: Rng, length: int, alias: bool = False, forced: bool = True) -> tuple[str, Case]:
    """A chain of `length` layers in place behind a head; with `alias`, on memory that another layer reads as well.

    forced: gradients go to all inputs. Else only to what is learnt: the second bottom of each link comes from a Scale,
    and often nothing learnt stands before the first. Returns the chain's name, which says what is in it, and the case.
    """
    heads = HEADS | {name: layer for name, layer in IN_PLACE.items() if name not in TWO_BOTTOMS}
    tails = [name for name in TAILS if forced or name != "none"]
    head, tail = (str(rng.choice(list(choices))) for choices in (heads, tails))
    links = [str(name) for name in rng.choice(list(IN_PLACE if forced else TWO_BOTTOMS), size=length)]
    if {head, *links} & CONSTANT or "lrn" in links:
        links = ["sum" if link in NORMALISATIONS else link for link in links]
    loss = "" if forced else " loss_weight: 1"
    inputs = {"x": SHAPE}
    text = _layer("head", *heads[head], ["x", "x"] if head == "product_head" else ["x"], "y")
    name, blob, tops = f"{head}-{'-'.join(links)}-{tail}", "y", ["y"]
    if alias:
        kind = str(rng.choice(list(ALIASES)))
        name, blob, tops = f"{name}-{kind}", "v", ["v"]
        text += _layer("alias", *ALIASES[kind], ["y"], "v")
    before = str(rng.choice([*TAILS, "sigmoid", "square"])) if alias else "none"
    reader = {**TAILS, "sigmoid": ("Sigmoid", ""), "square": ("Power", "power_param { power: 2 }")}[before]
    if reader is not None:
        # It reads the memory before the chain overwrites it.
        text += _layer("before", reader[0], reader[1] + loss, ["y"], "before")
        name, tops = f"{name}-{before}", [*tops, "before"]
    for index, link in enumerate(links):
        bottoms = [blob]
        if link in TWO_BOTTOMS:
            bottoms.append(f"z{index}")
            inputs[f"z{index}"] = SHAPE
            if not forced:
                bottoms[1] = f"s{index}"
                text += _layer(f"learnt{index}", "Scale", "", [f"z{index}"], f"s{index}")
        text += _layer(f"link{index}", *IN_PLACE[link], bottoms, blob)
    if alias:
        text += _layer("behind", "InnerProduct", f"inner_product_param {{ num_output: 2 }}{loss}", ["y"], "behind")
        tops.append("behind")
    last = TAILS[tail]
    if last is not None:
        text += _layer("tail", last[0], last[1] + loss, [blob], "t")
        tops[0] = "t"
    return name, Case(text, inputs, tops, constant=() if forced else tuple(inputs), force=forced)


def _layer(name: str, kind: str, options: str, bottoms: list[str], top: str) -> str:
    wires = "".join(f' bottom: "{bottom}"' for bottom in bottoms)
    return f'layer {{ name: "{name}" type: "{kind}"{wires} top: "{top}" {options} }}\n'


def single(link: str) -> Case:
    """A convolution, one layer in place, and an InnerProduct."""
    inputs = {"x": SHAPE} | ({"z": SHAPE} if link in TWO_BOTTOMS else {})
    text = _layer("head", *HEADS["conv"], ["x"], "y")
    text += _layer("link", *IN_PLACE[link], ["y", "z"][: len(inputs)], "y")
    return Case(text + _layer("tail", *(TAILS["inner"] or ("", "")), ["y"], "t"), inputs, ["t"])


def chains(seed: int, count: int) -> dict[str, Case]:
    """Random chains of lengths 1 to 4: every third one on shared memory, every fourth one without forced gradients."""
    rng = np.random.default_rng(seed)
    found = {}
    for index in range(count):
        name, case = chain(rng, int(rng.integers(1, 5)), alias=index % 3 == 2, forced=index % 4 != 3)
        found[f"{index}-{name}"] = case
    return found


def over_what_learns_nothing() -> dict[str, Case]:
    """Each layer of two bottoms in place over a blob that is constant, or behind which nothing learnt stands."""
    found = {}
    for head in ("constant", "ones", "statistics", "learnt_statistics", "plus"):
        for link in TWO_BOTTOMS:
            text = _layer("head", *HEADS[head], ["x"], "y") + _layer("learnt", "Scale", "", ["z"], "s")
            text += _layer("link", *IN_PLACE[link], ["y", "s"], "y")
            text += _layer("tail", SQUARES[0], f"{SQUARES[1]} loss_weight: 1", ["y"], "t")
            inputs = {"x": SHAPE, "z": SHAPE}
            found[f"{head}-{link}"] = Case(text, inputs, ["t"], constant=("x", "z"), force=False)
    return found
