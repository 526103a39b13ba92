"""Whether processes that each see a part of the batch can compute what one process computes of the whole.

A blob is one of four: `EACH` of the records by itself (the whole blob is the parts' blobs one behind the other), `SAME`
in all processes whatever the batch holds, or a `MEAN` or a `SUM` over the batch. What is none of these, such as a
layer that mixes records, is refused, all of it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from caffe_split.engine.spec.support import Problem
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

EACH, SAME, MEAN, SUM = "EACH", "SAME", "MEAN", "SUM"
Shapes = Mapping[str, tuple[int, ...]]


class NotSharedError(CaffeSplitError):
    """Several processes cannot compute what one does."""


class _MixedError(Exception):
    """Why a layer's tops are none of the four."""


def kinds_of(document: prototxt.Document, layers: Sequence[Layer], shapes: Sequence[Shapes]) -> list[list[str]]:
    """The kinds of each layer's tops. `shapes` gives the shapes of each layer's bottoms, by name.

    Raises `NotSharedError` with everything that does not go over several processes, a line each.
    """
    now: dict[str, str] = {}
    found: list[list[str]] = []
    problems: list[Problem] = []
    for layer, known in zip(layers, shapes):
        given = [now.get(name, EACH) for name in layer.bottoms]
        try:
            rule = RULES.get(layer.type)
            if rule is None:
                raise _MixedError(f"type {layer.type} is not handled there")
            kind = rule(layer, given, known)
        except _MixedError as reason:
            problems.append(Problem(document.filename, layer.field.line, f"layer '{layer.name}': {reason}"))
            kind = EACH
        tops = [kind] * len(layer.tops)
        if layer.type == "InfogainLoss":
            tops[1:] = [EACH] * len(tops[1:])
        found.append(tops)
        now.update(zip(layer.tops, tops))
    if problems:
        listed = "".join(f"\n  {problem.file}:{problem.line}: {problem.text}" for problem in problems)
        raise NotSharedError(
            f"several processes cannot share the batch of {document.filename}; one process trains it:{listed}"
        )
    return found


def _source(_layer: Layer, _given: Sequence[str], _shapes: Shapes) -> str:
    return EACH


def _same(_layer: Layer, _given: Sequence[str], _shapes: Shapes) -> str:
    return SAME


def _alone(layer: Layer, given: Sequence[str], _shapes: Shapes) -> str:
    """A layer that does to each record what it does to any other."""
    if set(given) == {EACH} or set(given) == {SAME}:
        return given[0]
    raise _MixedError(f"its bottoms ({_named(layer, given)}) are not all of single records")


def _along(message: str, *fields: str) -> Callable[[Layer, Sequence[str], Shapes], str]:
    """Such a layer, if its axis is not that of the records. fields: its name, and an older one that goes before it."""

    def rule(layer: Layer, given: Sequence[str], shapes: Shapes) -> str:
        options = Options.of(layer.message, message)
        name = fields[-1] if options.has(fields[-1]) else fields[0]
        if EACH in given and _is_first(options.get(name), len(shapes[layer.bottoms[0]])):
            raise _MixedError(f"its {name} is that of the records, which it mixes")
        return _alone(layer, given, shapes)

    return rule


def _linear(layer: Layer, given: Sequence[str], _shapes: Shapes) -> str:
    """A layer for which the mean of the tops is the top of the mean, where all bottoms are of one kind."""
    if len(set(given)) == 1:
        return given[0]
    raise _MixedError(f"its bottoms are of several kinds ({_named(layer, given)})")


def _power(layer: Layer, given: Sequence[str], shapes: Shapes) -> str:
    options = Options.of(layer.message, "power_param")
    if options.get("power") == 1 and (given[0] == MEAN or options.get("shift") == 0):
        return given[0]
    return _alone(layer, given, shapes)


def _eltwise(layer: Layer, given: Sequence[str], shapes: Shapes) -> str:
    if Options.of(layer.message, "eltwise_param").get("operation") == "SUM":
        return _linear(layer, given, shapes)
    return _alone(layer, given, shapes)


def _factor(message: str) -> Callable[[Layer, Sequence[str], Shapes], str]:
    """Scale and Bias, of which the second bottom, or the parameter, begins at an axis of the first."""

    def rule(layer: Layer, given: Sequence[str], shapes: Shapes) -> str:
        options = Options.of(layer.message, message)
        first = _is_first(options.get("axis"), len(shapes[layer.bottoms[0]]))
        learns = len(given) == 1 or (message == "scale_param" and options.get("bias_term"))
        if learns and first and given[0] == EACH:
            raise _MixedError("it learns a value for each record of a batch")
        if len(given) == 1:
            return _alone(layer, given, shapes)
        scalar = not shapes[layer.bottoms[1]]
        if given[0] == EACH and given[1] == (EACH if first and not scalar else SAME):
            return EACH
        if set(given) == {SAME}:
            return SAME
        raise _MixedError(f"its bottoms ({_named(layer, given)}) do not go together record by record")

    return rule


def _reshape(layer: Layer, given: Sequence[str], shapes: Shapes) -> str:
    options = Options.of(layer.message, "reshape_param")
    lengths = options.sub("shape").all("dim")
    first = _is_first(options.get("axis"), len(shapes[layer.bottoms[0]]) + 1)
    if given[0] == EACH and first and lengths and lengths[0] > 0:
        raise _MixedError(f"it fixes the length of the first axis to {lengths[0]}; write 0 or -1")
    return given[0]


def _reduction(layer: Layer, given: Sequence[str], shapes: Shapes) -> str:
    options = Options.of(layer.message, "reduction_param")
    if given[0] == EACH and _is_first(options.get("axis"), len(shapes[layer.bottoms[0]])):
        return MEAN if options.get("operation") == "MEAN" else SUM
    return _alone(layer, given, shapes)


def _loss(layer: Layer, given: Sequence[str], shapes: Shapes) -> str:
    if layer.type == "InfogainLoss":
        if len(given) > 2 and given[2] != SAME:
            raise _MixedError(f"its matrix '{layer.bottoms[2]}' is not the same in all processes")
        given = given[:2]
    axis = {"InfogainLoss": "infogain_loss_param", "Accuracy": "accuracy_param", "SoftmaxWithLoss": "softmax_param"}
    if layer.type in axis:
        _along(axis[layer.type], "axis")(layer, given, shapes)
    if _alone(layer, given, shapes) != EACH:
        raise _MixedError(f"its bottoms ({_named(layer, given)}) do not hold records")
    return MEAN


def _argmax(layer: Layer, given: Sequence[str], shapes: Shapes) -> str:
    options = Options.of(layer.message, "argmax_param")
    if options.has("axis"):
        return _along("argmax_param", "axis")(layer, given, shapes)
    return _alone(layer, given, shapes)


def _is_first(axis: int, dimensions: int) -> bool:
    return axis in (0, -dimensions)


def _named(layer: Layer, given: Sequence[str]) -> str:
    words = {EACH: "by record", SAME: "the same for all", MEAN: "a mean over the batch", SUM: "a sum over the batch"}
    return ", ".join(f"'{name}' {words[kind]}" for name, kind in zip(layer.bottoms, given))


def _split(layer: Layer, given: Sequence[str], shapes: Shapes) -> str:
    return given[0]


Rule = Callable[[Layer, Sequence[str], Shapes], str]
RULES: dict[str, Rule] = {
    **dict.fromkeys(("Input", "Data", "DummyData", "ImageData", "HDF5Data", "MemoryData"), _source),
    **dict.fromkeys(("Parameter", "TPM"), _same),
    **dict.fromkeys(
        (
            "ReLU",
            "ELU",
            "Sigmoid",
            "TanH",
            "AbsVal",
            "BNLL",
            "Swish",
            "Clip",
            "Threshold",
            "Exp",
            "Log",
            "Dropout",
            "PReLU",
            "Embed",
            "BatchNorm",
            "LRN",
            "MVN",
            "Pooling",
        ),
        _alone,
    ),
    "Power": _power,
    "Eltwise": _eltwise,
    "Scale": _factor("scale_param"),
    "Bias": _factor("bias_param"),
    "Convolution": _along("convolution_param", "axis"),
    "Deconvolution": _along("convolution_param", "axis"),
    "InnerProduct": _along("inner_product_param", "axis"),
    "Softmax": _along("softmax_param", "axis"),
    "Concat": _along("concat_param", "axis", "concat_dim"),
    "Slice": _along("slice_param", "axis", "slice_dim"),
    "Tile": _along("tile_param", "axis"),
    "Crop": _along("crop_param", "axis"),
    "ArgMax": _argmax,
    "Reduction": _reduction,
    "Reshape": _reshape,
    **dict.fromkeys(("Split", "Flatten", "Silence"), _split),
    **dict.fromkeys(
        (
            "SoftmaxWithLoss",
            "SigmoidCrossEntropyLoss",
            "EuclideanLoss",
            "HingeLoss",
            "InfogainLoss",
            "MultinomialLogisticLoss",
            "ContrastiveLoss",
            "Accuracy",
        ),
        _loss,
    ),
}
