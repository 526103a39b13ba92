"""What Caffe checks of a layer's text when it sets the layer up, and the engine's records do not say.

The conditions are those of each layer's `LayerSetUp` and of `Net::Init` in Caffe's source. Those that need the shapes
of the bottoms are checked where the layers of the engine are set up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from caffe_split.engine.spec import python_layers
from caffe_split.layertypes.blob_counts import blob_count
from caffe_split.layertypes.record import Check
from caffe_split.net.geometry import lone_side
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

# Types that may write over their first bottom, in Caffe and here.
IN_PLACE = frozenset(
    (
        *("ReLU", "PReLU", "ELU", "Sigmoid", "TanH", "BNLL", "Swish", "Clip", "Threshold", "Power", "Exp", "Log"),
        *("Dropout", "BatchNorm", "Scale", "Bias", "LRN", "MVN", "Softmax", "Eltwise", "Concat", "Slice"),
    )
)
IN_PLACE_OF_FORKS = frozenset(
    (
        *(
            "ReLU6",
            "Mish",
            "HSwish",
            "HSigmoid",
            "BN",
            "SeLu",
            "APL",
            "BReLU",
            "GroupNorm",
            "Noise",
            "SpatialDropout",
            "LabelSpecificAdd",
        ),
        "GradientScaler",
    )
)
# Caffe stops at these; in place, it computes from values that are half overwritten for the other types.
_REFUSED_IN_PLACE = ("AbsVal", "Flatten", "Reshape", "Split")


def setup_problems(layer: Layer) -> Iterator[str]:
    """What Caffe refuses in the text of one layer, or computes wrongly."""
    yield from _in_place(layer)
    yield from _params(layer)
    check = _CHECKS.get(layer.type)
    if check is not None:
        yield from check(layer)


def _params(layer: Layer) -> Iterator[str]:
    """More `param` than blobs, where the text says how many blobs there are."""
    specs, blobs = len(layer.message.subs("param")), blob_count(layer)
    if blobs is not None and specs > blobs:
        yield f"{specs} param for {blobs} blobs; Caffe takes at most one each"


def is_in_place(layer: Layer) -> bool:
    """Whether the layer writes over its first bottom."""
    return bool(layer.bottoms) and bool(layer.tops) and layer.bottoms[0] == layer.tops[0]


def _in_place(layer: Layer) -> Iterator[str]:
    over = [top for top, bottom in zip(layer.tops, layer.bottoms) if top == bottom]
    if not over:
        return
    if layer.type in _REFUSED_IN_PLACE:
        yield f"Caffe refuses {layer.type} in place: give its top another name than '{over[0]}'"
    elif layer.type not in IN_PLACE | IN_PLACE_OF_FORKS:
        yield (
            f"{layer.type} in place is not handled, since it would read '{over[0]}' while it writes over it: give its "
            "top another name"
        )
    elif layer.type == "Eltwise" and len(layer.bottoms) == 1:
        yield f"Eltwise of one bottom in place is not handled: give its top another name than '{over[0]}'"
    elif layer.type in ("Concat", "Slice") and len(layer.bottoms) + len(layer.tops) > 2:
        yield f"{layer.type} in place changes the shape of '{over[0]}': give its top another name"
    elif any(float(weight) for weight in layer.message.get_all("loss_weight")):
        yield f"'{over[0]}' is a loss that stands in place, and Caffe's gradient changes its weight: give it a name"


def _either(message: str, *pairs: tuple[str, str]) -> Check:
    """Refuse two fields of which Caffe takes one."""

    def check(layer: Layer) -> Iterator[str]:
        options = Options.of(layer.message, message)
        for one, other in pairs:
            if options.has(one) and options.has(other):
                yield f"{one} and {other}; Caffe takes one of them"

    return check


def _convolution(layer: Layer) -> Iterator[str]:
    if len(layer.bottoms) != len(layer.tops):
        yield f"{len(layer.bottoms)} bottoms and {len(layer.tops)} tops; Caffe wants a top per bottom"
    yield from _either("convolution_param", *_BOTH_AND_SIDES)(layer)


def _pooling(layer: Layer) -> Iterator[str]:
    options = Options.of(layer.message, "pooling_param")
    for both, name in _SIDES:
        sides = [f"{name}_{axis}" for axis in "hw" if options.has(f"{name}_{axis}")]
        if options.has(both) and sides:
            yield f"{both} and {sides[0]}; Caffe takes {both}, or {name}_h and {name}_w"
        elif (alone := lone_side(options, both)) and not (name == "kernel" and options.get("global_pooling")):
            yield alone
    if options.get("global_pooling"):
        kernel = [key for key in ("kernel_size", "kernel_h", "kernel_w") if options.has(key)]
        if kernel:
            yield f"{kernel[0]} with global_pooling, whose kernel is the whole image"
        moved = [
            key
            for key, usual in (("pad", 0), ("pad_h", 0), ("pad_w", 0), ("stride", 1), ("stride_h", 1), ("stride_w", 1))
            if options.has(key) and options.get(key) != usual
        ]
        if moved:
            yield f"{moved[0]} with global_pooling; Caffe takes pad 0 and stride 1 only"


def _dummy_data(layer: Layer) -> Iterator[str]:
    options = Options.of(layer.message, "dummy_data_param")
    old = [name for name in ("num", "channels", "height", "width") if options.has(name)]
    if old and options.has("shape"):
        yield f"shape and {old[0]}; Caffe takes one form"
    for name in ("num", "channels", "height", "width") if old else ("shape",):
        count = len(options.subs(name)) if name == "shape" else len(options.all(name))
        if count not in (1, len(layer.tops)):
            yield f"{count} {name} for {len(layer.tops)} tops; Caffe wants one, or one per top"


def _base(message: str, *refused: float) -> Check:
    def check(layer: Layer) -> Iterator[str]:
        base = Options.of(layer.message, message).get("base")
        if (base <= 0 and base != -1) or base in refused:
            yield f"base: {base:g}; expected a number above 0{' other than 1' if refused else ''}, or -1 for e"

    return check


def _lrn(layer: Layer) -> Iterator[str]:
    size = Options.of(layer.message, "lrn_param").get("local_size")
    if size % 2 != 1:
        yield f"local_size: {size}; Caffe takes odd numbers only"


def _reshape(layer: Layer) -> Iterator[str]:
    dims = [int(dim) for dim in Options.of(layer.message, "reshape_param").sub("shape").all("dim")]
    if dims.count(-1) > 1:
        yield f"{dims.count(-1)} dims of -1; one can be found from the others"
    for dim in dims:
        if dim < -1:
            yield f"dim: {dim}; expected -1, 0 or a length"


def _at_least_one(message: str, name: str, default: int) -> Check:
    def check(layer: Layer) -> Iterator[str]:
        options = Options.of(layer.message, message)
        value = int(options.get(name)) if options.has(name) else default
        if value < 1:
            yield f"{name}: {value}; expected 1 or more" if options.has(name) else f"{name} is missing"

    return check


def _infogain(layer: Layer) -> Iterator[str]:
    if Options.of(layer.message, "loss_param").has("normalize"):
        yield "loss_param.normalize; Caffe takes normalization here"


def _dropout(layer: Layer) -> Iterator[str]:
    ratio = Options.of(layer.message, "dropout_param").get("dropout_ratio")
    # 1 is refused in TRAIN; in TEST nothing is dropped, and Caffe runs it.
    if not 0 <= ratio <= 1:
        yield f"dropout_ratio: {ratio:g}; expected a number from 0 to below 1"


def only_run(layers: Sequence[Layer]) -> Iterator[tuple[Layer, str]]:
    """Layers whose text can be run in TEST, and not trained."""
    for layer in layers:
        if layer.type == "Dropout" and Options.of(layer.message, "dropout_param").get("dropout_ratio") == 1:
            yield layer, "dropout_ratio: 1; expected a number below 1, since Caffe divides by 0 in TRAIN"
        elif layer.type == "Normalize" and not layer.message.has("norm_param"):
            yield (
                layer,
                "without norm_param: SSD's Normalize learns a factor, others do not; write norm_param { } for SSD's",
            )


def filler_problems(filler: Options, name: str) -> Iterator[str]:
    """What Caffe refuses in one filler, whose type is known."""
    kind, sparse = filler.get("type"), int(filler.get("sparse"))
    if sparse < -1 or (sparse != -1 and kind != "gaussian"):
        yield f"a {name} of type {kind!r} with sparse: {sparse}; Caffe takes it for gaussian only, from 0 on"


_SIDES = (("kernel_size", "kernel"), ("stride", "stride"), ("pad", "pad"))
_BOTH_AND_SIDES = [(both, f"{name}_{axis}") for both, name in _SIDES for axis in "hw"]
_CHECKS: dict[str, Callable[[Layer], Iterator[str]]] = {
    "ArgMax": _at_least_one("argmax_param", "top_k", 1),
    "Im2col": _either("convolution_param", *_BOTH_AND_SIDES),
    "Concat": _either("concat_param", ("axis", "concat_dim")),
    "Convolution": _convolution,
    "ConvolutionDepthwise": _convolution,
    "Deconvolution": _convolution,
    "DepthwiseConvolution": _convolution,
    "Dropout": _dropout,
    "DummyData": _dummy_data,
    "Embed": _at_least_one("embed_param", "input_dim", 0),
    "Exp": _base("exp_param"),
    "InfogainLoss": _infogain,
    "InnerProduct": _at_least_one("inner_product_param", "num_output", 0),
    "LRN": _lrn,
    "Log": _base("log_param", 1),
    "Pooling": _pooling,
    "Python": python_layers.problems,
    "Reshape": _reshape,
    "Slice": _either("slice_param", ("axis", "slice_dim")),
    "Tile": _at_least_one("tile_param", "tiles", 0),
}
