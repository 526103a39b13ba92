"""Which layers and fields the engine handles: one table, and the check of a whole net against it.

Three outcomes. Handled; ignored, because the field cannot change what is computed, with the reason; refused by name,
all refusals of a net together, before anything is read or allocated. Nothing here needs PyTorch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from caffe_split.data.store import is_store
from caffe_split.engine.options import Options
from caffe_split.errors import CaffeSplitError
from caffe_split.net import Layer, all_layers
from caffe_split.proto import prototxt
from caffe_split.proto.schema import caffe

Range = tuple[int, int]
ANY = 1 << 30


@dataclass(frozen=True)
class Kind:
    """A layer type: where its class is, what it reads of each of its option messages, how many blobs it takes.

    `ignored` maps fields of those messages to the reason why they do not matter. `check` says what else is refused,
    a sentence each.
    """

    module: str
    options: Mapping[str, str] = field(default_factory=dict)
    bottoms: Range = (1, 1)
    tops: Range = (1, 1)
    ignored: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Layer], Iterator[str]] | None = None
    is_loss: bool = False


@dataclass(frozen=True)
class Note:
    """A field that is passed over: where, and why."""

    line: int
    layer: str
    field: str
    reason: str


@dataclass(frozen=True, order=True)
class Problem:
    """What the engine cannot run, and where."""

    file: str
    line: int
    text: str


_ENGINE = {"engine": "it chooses among Caffe's own implementations"}
_TRANSFORM = "scale mirror crop_size mean_file mean_value"
_WEIGHTED = "num_output bias_term weight_filler bias_filler"
_CONVOLUTION = f"{_WEIGHTED} pad kernel_size group stride dilation pad_h pad_w kernel_h kernel_w stride_h stride_w axis"
_LOSS = "ignore_label normalize normalization"
FILLERS = ("constant", "gaussian", "uniform", "xavier", "msra", "positive_unitball", "bilinear")


def _value(message: str, name: str, *handled: str) -> Callable[[Layer], Iterator[str]]:
    """Refuse the values of an enum that are not handled."""

    def check(layer: Layer) -> Iterator[str]:
        value = Options.of(layer.message, message).get(name)
        if value not in handled:
            yield f"{name}: {value} is not handled; {' and '.join(handled)} are"

    return check


def _data(layer: Layer) -> Iterator[str]:
    options = Options.of(layer.message, "data_param")
    if options.get("backend") != "LMDB":
        written = "" if options.has("backend") else " (Caffe's default, as none is written)"
        yield (
            f"backend: {options.get('backend')}{written} is not handled; write the data set anew as an LMDB "
            "(convert_imageset --backend lmdb), and backend: LMDB"
        )
    elif not is_store(str(options.get("source"))):
        yield (
            f"source: no LMDB at '{options.get('source')}' seen from {Path.cwd()}; paths are relative to the folder in "
            "which the training is started"
        )
    transform = Options.of(layer.message, "transform_param")
    if transform.get("force_color") and transform.get("force_gray"):
        yield "force_color and force_gray; Caffe takes one of them"
    yield from _mean(layer)


def _mean(layer: Layer) -> Iterator[str]:
    mean = Options.of(layer.message, "transform_param").get("mean_file")
    if mean and not Path(mean).is_file():
        yield f"mean_file: no file '{mean}' seen from {Path.cwd()}"


def _listed(message: str) -> Callable[[Layer], Iterator[str]]:
    """The text file that lists a layer's files."""

    def check(layer: Layer) -> Iterator[str]:
        source = Options.of(layer.message, message).get("source")
        if not Path(source or "").is_file():
            yield f"source: no file '{source}' seen from {Path.cwd()}"

    return check


def _image_data(layer: Layer) -> Iterator[str]:
    options = Options.of(layer.message, "image_data_param")
    if bool(options.get("new_height")) != bool(options.get("new_width")):
        yield "new_height and new_width go together; one of them is missing or 0"
    yield from _listed("image_data_param")(layer)
    yield from _mean(layer)


def _hdf5_data(layer: Layer) -> Iterator[str]:
    if layer.message.has("transform_param"):
        yield "HDF5Data does not transform; take transform_param out"
    if importlib.util.find_spec("h5py") is None:
        yield "HDF5Data needs h5py: pip install 'caffe-split[hdf5]'"
    yield from _listed("hdf5_data_param")(layer)


def _infogain(layer: Layer) -> Iterator[str]:
    source = Options.of(layer.message, "infogain_loss_param").get("source")
    if len(layer.bottoms) < 3 and not Path(source or "").is_file():
        yield f"source: no file '{source}' seen from {Path.cwd()}"


def _scale(layer: Layer) -> Iterator[str]:
    if len(layer.bottoms) == 1 and layer.message.has("scale_param"):
        options = Options.of(layer.message, "scale_param")
        if options.get("num_axes") < -1:
            yield f"num_axes: {options.get('num_axes')}; expected -1 or more"


KINDS: dict[str, Kind] = {
    # data
    "Input": Kind("source", {"input_param": "shape"}, (0, 0), (1, ANY)),
    "DummyData": Kind(
        "source", {"dummy_data_param": "data_filler num channels height width shape"}, (0, 0), (1, ANY)
    ),
    "Data": Kind(
        "source",
        {
            "data_param": "source batch_size backend prefetch",
            "transform_param": f"{_TRANSFORM} force_color force_gray",
        },
        (0, 0),
        (1, 2),
        dict.fromkeys(("rand_skip", "force_encoded_color"), "Caffe's Data layer of today does not read it"),
        _data,
    ),
    "ImageData": Kind(
        "source",
        {
            "image_data_param": "source batch_size rand_skip shuffle new_height new_width is_color root_folder",
            "transform_param": _TRANSFORM,
        },
        (0, 0),
        (2, 2),
        dict.fromkeys(("force_color", "force_gray"), "an ImageData layer has is_color"),
        _image_data,
    ),
    "HDF5Data": Kind("source", {"hdf5_data_param": "source batch_size shuffle"}, (0, 0), (1, ANY), check=_hdf5_data),
    "MemoryData": Kind(
        "source",
        {"memory_data_param": "batch_size channels height width"},
        (0, 0),
        (2, 2),
        {"transform_param": "Caffe does not transform arrays that it is given"},
    ),
    # weights
    "Convolution": Kind(
        "dense",
        {"convolution_param": _CONVOLUTION},
        (1, ANY),
        (1, ANY),
        {**_ENGINE, "force_nd_im2col": "it chooses among Caffe's own implementations"},
    ),
    "Deconvolution": Kind(
        "dense",
        {"convolution_param": _CONVOLUTION},
        (1, ANY),
        (1, ANY),
        {**_ENGINE, "force_nd_im2col": "it chooses among Caffe's own implementations"},
    ),
    "InnerProduct": Kind("dense", {"inner_product_param": f"{_WEIGHTED} axis transpose"}),
    "Embed": Kind("dense", {"embed_param": f"{_WEIGHTED} input_dim"}),
    "Bias": Kind("dense", {"bias_param": "axis num_axes filler"}, (1, 2)),
    "Scale": Kind(
        "dense",
        {"scale_param": "axis num_axes filler bias_term bias_filler"},
        (1, 2),
        check=_scale,
    ),
    "Parameter": Kind("dense", {"parameter_param": "shape"}, (0, 0)),
    "PReLU": Kind("pointwise", {"prelu_param": "filler channel_shared"}),
    # one value at a time
    "ReLU": Kind("pointwise", {"relu_param": "negative_slope"}, ignored=_ENGINE),
    "ELU": Kind("pointwise", {"elu_param": "alpha"}),
    "Sigmoid": Kind("pointwise", {"sigmoid_param": ""}, ignored=_ENGINE),
    "TanH": Kind("pointwise", {"tanh_param": ""}, ignored=_ENGINE),
    "AbsVal": Kind("pointwise"),
    "BNLL": Kind("pointwise"),
    "Swish": Kind("pointwise", {"swish_param": "beta"}),
    "Clip": Kind("pointwise", {"clip_param": "min max"}),
    "Threshold": Kind("pointwise", {"threshold_param": "threshold"}),
    "Power": Kind("pointwise", {"power_param": "power scale shift"}),
    "Exp": Kind("pointwise", {"exp_param": "base scale shift"}),
    "Log": Kind("pointwise", {"log_param": "base scale shift"}),
    "Dropout": Kind("pointwise", {"dropout_param": "dropout_ratio"}),
    # neighbours and whole blobs
    "BatchNorm": Kind("norm", {"batch_norm_param": "use_global_stats moving_average_fraction eps"}),
    "LRN": Kind("norm", {"lrn_param": "local_size alpha beta norm_region k"}, ignored=_ENGINE),
    "MVN": Kind("norm", {"mvn_param": "normalize_variance across_channels eps"}),
    "Pooling": Kind(
        "pool",
        {
            "pooling_param": "pool kernel_size stride pad kernel_h kernel_w stride_h stride_w pad_h pad_w "
            "global_pooling round_mode"
        },
        ignored=_ENGINE,
        check=_value("pooling_param", "pool", "MAX", "AVE"),
    ),
    "Split": Kind("shape", tops=(1, ANY)),
    "Silence": Kind("shape", bottoms=(1, ANY), tops=(0, 0)),
    "Concat": Kind("shape", {"concat_param": "axis concat_dim"}, (1, ANY)),
    "Slice": Kind("shape", {"slice_param": "axis slice_dim slice_point"}, tops=(1, ANY)),
    "Flatten": Kind("shape", {"flatten_param": "axis end_axis"}),
    "Reshape": Kind("shape", {"reshape_param": "shape axis num_axes"}),
    "Crop": Kind("shape", {"crop_param": "axis offset"}, (2, 2)),
    "Tile": Kind("shape", {"tile_param": "axis tiles"}),
    "Reduction": Kind("shape", {"reduction_param": "operation axis coeff"}),
    "ArgMax": Kind("shape", {"argmax_param": "out_max_val top_k axis"}),
    "Eltwise": Kind(
        "shape",
        {"eltwise_param": "operation coeff"},
        (2, ANY),
        ignored={"stable_prod_grad": "autograd's gradient of a product is the stable one"},
    ),
    # losses and measures
    "Softmax": Kind("loss", {"softmax_param": "axis"}, ignored=_ENGINE),
    # A second top for the probabilities dies in Caffe, too, of its own check on loss_weight.
    "SoftmaxWithLoss": Kind(
        "loss", {"softmax_param": "axis", "loss_param": _LOSS}, (2, 2), (1, 1), _ENGINE, is_loss=True
    ),
    "SigmoidCrossEntropyLoss": Kind("loss", {"loss_param": _LOSS}, (2, 2), is_loss=True),
    "EuclideanLoss": Kind("loss", {}, (2, 2), ignored={"loss_param": "Caffe does not read it here"}, is_loss=True),
    "HingeLoss": Kind("loss", {"hinge_loss_param": "norm"}, (2, 2), is_loss=True),
    "InfogainLoss": Kind(
        "loss",
        {"infogain_loss_param": "source axis", "loss_param": "ignore_label normalization"},
        (2, 3),
        (1, 2),
        check=_infogain,
        is_loss=True,
    ),
    "MultinomialLogisticLoss": Kind("loss", {}, (2, 2), is_loss=True),
    "ContrastiveLoss": Kind("loss", {"contrastive_loss_param": "margin legacy_version"}, (3, 3), is_loss=True),
    "Accuracy": Kind("loss", {"accuracy_param": "top_k axis ignore_label"}, (2, 2), (1, 2)),
    # ours
    "TPM": Kind("tpm", {"tpm_param": "start_iter stop_iter interval iter_size shape"}, (0, 0)),
}

# What every layer may say; its own options come on top.
_COMMON = {
    "name", "type", "bottom", "top", "loss_weight", "param", "include", "exclude", "propagate_down", "phase",
}  # fmt: skip


def layers_of(document: prototxt.Document, phase: str, stages: Sequence[str], level: int) -> list[Layer]:
    """The layers that Caffe would build for this state and what the net's own `state` adds to it."""
    state = document.sub("state")
    own: Sequence[str] = ()
    if state is not None:
        own = tuple(map(str, state.get_all("stage")))
        level = level if level else int(state.get("level", 0))
        if state.has("phase") and state.get("phase") != phase:
            raise CaffeSplitError(
                f"{document.filename}:{state.line}: the net's own state asks for phase {state.get('phase')} always; "
                "that is not handled."
            )
    return [layer for layer in all_layers(document) if layer.runs_in(phase, (*own, *stages), level)]


def check_net(document: prototxt.Document, layers: Sequence[Layer]) -> list[Note]:
    """Check the layers of one phase. Returns what is ignored.

    Raises `CaffeSplitError` with all that is refused, a line each.
    """
    problems, notes = judge(document, layers)
    if problems:
        raise refusal(problems)
    return notes


def refusal(problems: Sequence[Problem]) -> CaffeSplitError:
    """All that stands in the way, each once, in the order of the files."""
    lines = list(dict.fromkeys(sorted(problems)))
    files = " and ".join(dict.fromkeys(problem.file for problem in problems))
    listed = "".join(f"\n  {problem.file}:{problem.line}: {problem.text}" for problem in lines)
    return CaffeSplitError(
        f"the torch engine cannot run {files}; what stands in the way (--engine caffe may run it):{listed}"
    )


def judge(document: prototxt.Document, layers: Sequence[Layer]) -> tuple[list[Problem], list[Note]]:
    """What is refused of the layers of one phase, and what is ignored."""
    problems: list[tuple[int, str]] = []
    notes: list[Note] = []
    written: dict[str, str] = {}
    for layer in layers:
        kind = KINDS.get(layer.type)
        if kind is None:
            problems.append((layer.field.line, f"layer '{layer.name}': type {layer.type} is not handled"))
        else:
            problems += [(line, f"layer '{layer.name}': {text}") for line, text in _problems(layer, kind, notes)]
        problems += [(layer.field.line, f"layer '{layer.name}': {text}") for text in _wiring(layer, written)]
    return [Problem(document.filename, line, text) for line, text in problems], notes


def _problems(layer: Layer, kind: Kind, notes: list[Note]) -> Iterator[tuple[int, str]]:
    line = layer.field.line
    for what, found, (least, most) in (
        ("bottoms", len(layer.bottoms), kind.bottoms),
        ("tops", len(layer.tops), kind.tops),
    ):
        if not least <= found <= most:
            expected = str(least) if least == most else f"{least} or more" if most == ANY else f"{least} to {most}"
            yield line, f"a {layer.type} with {found} {what} is not handled; expected {expected}"
    weights = layer.message.get_all("loss_weight")
    if weights and len(weights) != len(layer.tops):
        yield line, f"{len(weights)} loss_weight for {len(layer.tops)} tops; Caffe wants none or one a top"
    downs = layer.message.get_all("propagate_down")
    if downs and len(downs) != len(layer.bottoms):
        yield line, f"{len(downs)} propagate_down for {len(layer.bottoms)} bottoms; Caffe wants none or one a bottom"
    for entry in layer.message:
        if entry.name in kind.options:
            yield from _fields(layer, kind, entry, notes)
        elif entry.name in kind.ignored:
            notes.append(Note(entry.line, layer.name, entry.name, kind.ignored[entry.name]))
        elif entry.name.endswith("_param") and entry.name in caffe().messages["LayerParameter"].fields:
            notes.append(Note(entry.line, layer.name, entry.name, f"a {layer.type} layer does not read it"))
        elif entry.name not in _COMMON:
            yield entry.line, f"field {entry.name} is not handled"
    yield from ((line, text) for text in kind.check(layer)) if kind.check is not None else ()


def _fields(layer: Layer, kind: Kind, entry: prototxt.Field, notes: list[Note]) -> Iterator[tuple[int, str]]:
    """The fields of one option message."""
    handled = kind.options[entry.name].split()
    for message in (value for value in entry.values() if isinstance(value, prototxt.Message)):
        for inner in message:
            if inner.name in handled:
                if "filler" in inner.name:
                    yield from _filler(inner)
            elif inner.name in kind.ignored:
                notes.append(Note(inner.line, layer.name, f"{entry.name}.{inner.name}", kind.ignored[inner.name]))
            else:
                yield inner.line, f"field {entry.name}.{inner.name} is not handled"


def _filler(entry: prototxt.Field) -> Iterator[tuple[int, str]]:
    for message in entry.values():
        kind = message.get("type", "constant")
        if kind not in FILLERS:
            yield entry.line, f"a {entry.name} of type {kind!r} is not handled; {', '.join(FILLERS)} are"


def _wiring(layer: Layer, written: dict[str, str]) -> Iterator[str]:
    """What Caffe dies of when it wires the net: `written` maps a blob to the layer that has it as a top so far."""
    for bottom in layer.bottoms:
        if bottom not in written:
            yield f"bottom '{bottom}' is no top of a layer above it in this phase"
    for index, top in enumerate(layer.tops):
        in_place = index < len(layer.bottoms) and layer.bottoms[index] == top
        if top in written and not in_place:
            yield f"top '{top}' is one of layer '{written[top]}' already; only a layer in place may write it again"
        written[top] = layer.name
