"""Which layers, in Caffe, read memory that a layer in place has overwritten.

A layer in place writes over its bottom's memory. Behind a layer whose top is its bottom's memory (Split, Flatten,
Reshape, Concat of one bottom, Slice into one top) it thereby also writes over that bottom. What reads the memory
afterwards sees what then stands in it: a later layer that reads it under its other name, and the backward pass of every
layer that computes its gradient from its bottom or its top. That is what Caffe computes, not the derivative, and the
engine computes the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from caffe_split.engine.spec.backward import needed
from caffe_split.engine.spec.setup import is_in_place
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


@dataclass(frozen=True)
class Reads:
    """What a layer's backward pass reads in Caffe: bottoms by index, and the top. Copies that it keeps do not count."""

    bottoms: tuple[int, ...] = ()
    top: bool = False


@dataclass
class Access:
    """How one layer meets memory that is overwritten, each piece of which has a number.

    Attributes:
        stale: index of a bottom -> its memory, where that was overwritten before the layer reads it.
        late: whether the gradient is not the derivative, because Caffe computes it from overwritten memory.
        bottoms: index of a bottom -> its memory, where the backward pass reads it and it was overwritten.
        top: the memory of the top, likewise.
        writes: index of a top -> its memory, where a layer is late or stale in reading that.
        asked: bottoms for which Caffe computes a gradient that goes nowhere, and with which it overwrites the top's.
        why: for a late layer, the sentence that says so.
    """

    stale: dict[int, int] = field(default_factory=dict)
    late: bool = False
    bottoms: dict[int, int] = field(default_factory=dict)
    top: int | None = None
    writes: dict[int, int] = field(default_factory=dict)
    asked: tuple[int, ...] = ()
    why: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether the layer has nothing to do with overwritten memory."""
        return not (self.stale or self.late or self.writes)


def shares_memory(layer: Layer) -> bool:
    """Whether the tops of a layer are the memory of its bottom."""
    if layer.type in ("Concat", "Slice"):
        return len(layer.bottoms) == len(layer.tops) == 1
    return layer.type in ("Split", "Flatten", "Reshape")


def backward_reads(layer: Layer) -> Reads:
    """What the backward pass of a layer reads, as Caffe's `Backward_cpu` has it."""
    if layer.type in _READS:
        return _READS[layer.type]
    message = layer.message
    if layer.type in ("Convolution", "Deconvolution", "LSTM", "RNN"):
        return Reads(tuple(range(len(layer.bottoms))))
    if layer.type == "LRN":
        across = Options.of(message, "lrn_param").get("norm_region") == "ACROSS_CHANNELS"
        return Reads((0,), top=across)
    if layer.type == "MVN":
        return Reads(top=bool(Options.of(message, "mvn_param").get("normalize_variance")))
    if layer.type == "Power":
        power, scale = (Options.of(message, "power_param").get(name) for name in ("power", "scale"))
        if power == 1 or power * scale == 0:
            return Reads()
        return Reads((0,), top=power != 2)
    if layer.type == "Eltwise":
        options = Options.of(message, "eltwise_param")
        if options.get("operation") != "PROD":
            return Reads()
        return Reads(tuple(range(len(layer.bottoms))), top=not options.get("stable_prod_grad"))
    if layer.type == "Reduction":
        return Reads((0,) if Options.of(message, "reduction_param").get("operation") in ("ASUM", "SUMSQ") else ())
    if layer.type in ("PReLU", "Scale", "APL"):
        # In place they keep a copy of their bottom.
        return Reads((*(() if is_in_place(layer) else (0,)), *range(1, len(layer.bottoms))))
    return Reads()


# A second run would count once more, or draw other numbers.
_COUNT_OR_DRAW = (
    *("MarginInnerProduct", "LargeMarginInnerProduct"),
    *("ConvolutionRistretto", "DeconvolutionRistretto", "FcRistretto"),
)
_READS = {
    **dict.fromkeys(
        ("ReLU6", "Mish", "HSwish", "HSigmoid", "CReLU", "DepthwiseConvolution", "ConvolutionDepthwise"), Reads((0,))
    ),
    **dict.fromkeys(("SeLu", "BReLU", "Local", "Lstm", "NdConvolution", *_COUNT_OR_DRAW[2:]), Reads((0,))),
    **dict.fromkeys(("DeformableConvolution", "SpatialTransformer", "FlowWarp", "ConvLSTM"), Reads((0, 1))),
    "MultiStageMeanfield": Reads((1, 2)),
    **dict.fromkeys(("MarginInnerProduct", "LargeMarginInnerProduct"), Reads((0, 1))),
    "LabelSpecificAdd": Reads((1,)),
    "Convolution3D": Reads((0,)),
    "Pooling3D": Reads((0,)),
    "Correlation": Reads((0, 1)),
    "NormalizationL2": Reads((0,)),
    "Axpy": Reads((0, 1)),
    **dict.fromkeys(("Upsample", "Unpooling", "UnPooling", "PSROIPooling", "ROIPooling"), Reads((1,))),
    "Normalize": Reads((0,), top=True),
    "SmoothL1Loss": Reads((2, 3)),
    "SmoothL1LossOHEM": Reads((2,)),
    **dict.fromkeys(("FocalLoss", "CenterLoss", "SoftmaxWithLossOHEM", "WeightedSoftmaxWithLoss"), Reads((1,))),
    "LiftedStructSimilaritySoftmaxLoss": Reads((0, 1)),
    **dict.fromkeys(("ReLU", "BNLL", "Clip", "Log", "AbsVal", "InnerProduct", "Embed"), Reads((0,))),
    **dict.fromkeys(("Sigmoid", "TanH", "Exp", "Softmax", "Swish"), Reads(top=True)),
    "ELU": Reads((0,), top=True),
    **dict.fromkeys(("SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "HingeLoss"), Reads((1,))),
    "InfogainLoss": Reads((1, 2)),
    "MultinomialLogisticLoss": Reads((0, 1)),
    "ContrastiveLoss": Reads((2,)),
    "BatchReindex": Reads((1,)),
    "LSTMUnit": Reads((0, 1, 2), top=True),
}
# Whose gradient is not computed from overwritten memory; the recurrent ones would carry their state on once more.
_NEVER_LATE = frozenset(
    (*(name for name in _READS if "Loss" in name), "LSTM", "RNN", "LSTMUnit", "Lstm", "ConvLSTM", *_COUNT_OR_DRAW)
)
# In place, the gradient of these is written over the top's before that was read to the end.
_SPOILS_GRADIENT = ("Power", "Log", "MVN", "LRN", "Eltwise")
# What Caffe fills once, or what belongs to the caller: an overwritten value would stay for the next iteration.
_LASTING = {
    "Parameter": "the parameter itself",
    "MemoryData": "the arrays that it was given",
    "InfogainLoss": "the probabilities that its gradient needs",
}


class Trace:
    """The memory of a net's layers, followed once through the forward pass.

    Args:
        layers: of the net.
        read: the blobs that are read when all layers have run; without, all.

    Attributes:
        accesses: of each layer, in order.
        problems: (layer, sentence) where memory is overwritten in a way that is not handled.
        stale: of `read`, blob -> its memory, where the value that its layer gave it was overwritten.
    """

    def __init__(self, layers: Sequence[Layer], read: Collection[str] | None = None) -> None:
        self._layers = layers
        self.accesses = [Access() for _ in layers]
        self.problems: list[tuple[Layer, str]] = []
        # For each memory, the layers that have written it, in order; the first one made it.
        self._writers: list[list[Layer]] = []
        # Blob -> its memory, and the number of writes that its value has seen.
        self._blobs: dict[str, tuple[int, int]] = {}
        # Layers in place whose other bottom is the memory that they write over, with a sentence.
        self._over_own_bottoms: list[tuple[Layer, str]] = []
        # For each layer, (memory, number of writes) of its bottoms and of its tops.
        self._read = [self._forward(index, layer) for index, layer in enumerate(layers)]
        self.problems += self._over_own_bottoms
        for index, layer in enumerate(layers):
            self._backward(index, layer)
        self._ask()
        self.stale = {
            name: cell
            for name, (cell, version) in self._blobs.items()
            if version != len(self._writers[cell]) and (read is None or name in read)
        }
        watched = set(self.stale.values())
        watched |= {cell for access in self.accesses for cell in (*access.stale.values(), *access.bottoms.values())}
        watched |= {access.top for access in self.accesses if access.top is not None}
        for layer, access, (_, tops) in zip(layers, self.accesses, self._read):
            if not shares_memory(layer):
                access.writes = {index: cell for index, (cell, _) in enumerate(tops) if cell in watched}

    def overwritten(self) -> Iterator[tuple[Layer, str]]:
        """Each layer in place that writes over what is read afterwards under another name, with a sentence on it."""
        yield from self._over_own_bottoms
        for layer, access, (bottoms, _) in zip(self._layers, self.accesses, self._read):
            for place, cell in access.stale.items():
                writer = self._writers[cell][bottoms[place][1] - 1]
                who = f"layer '{layer.name}' (line {layer.field.line}) reads"
                yield writer, _writes_over(layer.bottoms[place], who)
        for name, cell in self.stale.items():
            yield self._writers[cell][-1], _writes_over(name, "is read as an output")

    def _forward(self, index: int, layer: Layer) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Follow one layer: the (memory, number of writes) of its bottoms and tops."""
        bottoms = []
        for place, name in enumerate(layer.bottoms):
            cell, version = self._blobs[name] if name in self._blobs else self._new(layer)
            if version != len(self._writers[cell]):
                self.accesses[index].stale[place] = cell
            bottoms.append((cell, len(self._writers[cell])))
        tops = []
        for place, name in enumerate(layer.tops):
            if place < len(layer.bottoms) and layer.bottoms[place] == name:
                cell = bottoms[place][0]
                self._refuse_lasting(layer, name, self._writers[cell][0])
                others = [layer.bottoms[at] for at, (other, _) in enumerate(bottoms) if other == cell and at != place]
                self._over_own_bottoms += [(layer, _writes_over(other, "it reads, too")) for other in others]
                self._writers[cell].append(layer)
                self._blobs[name] = cell, len(self._writers[cell])
            elif shares_memory(layer) and bottoms:
                self._blobs[name] = bottoms[0]
            else:
                self._blobs[name] = self._new(layer)
            tops.append(self._blobs[name])
        return bottoms, tops

    def _ask(self) -> None:
        """Find each Eltwise in place whose gradient for what is not learnt overwrites another: after a BatchNorm."""
        sums = [index for index, layer in enumerate(self._layers) if layer.type == "Eltwise" and is_in_place(layer)]
        wanted = needed(self._layers) if sums else []
        for index in sums:
            self.accesses[index].asked = (0,) if (wanted[index] or [False])[0] else ()

    def _new(self, layer: Layer) -> tuple[int, int]:
        self._writers.append([layer])
        return len(self._writers) - 1, 1

    def _refuse_lasting(self, layer: Layer, name: str, owner: Layer) -> None:
        what = _LASTING.get(owner.type)
        if owner.type == "DummyData":
            fillers = Options.of(owner.message, "dummy_data_param").subs("data_filler")
            if not fillers or any(filler.get("type") == "constant" for filler in fillers):
                what = "values that are filled once"
        if what is not None:
            where = f"'{owner.name}' (line {owner.field.line})"
            self.problems.append(
                (layer, f"it writes over '{name}', in Caffe {what} of layer {where}: give its top another name")
            )

    def _backward(self, index: int, layer: Layer) -> None:
        access, (bottoms, tops) = self.accesses[index], self._read[index]
        reads = backward_reads(layer)
        over: list[Layer] = []
        for place in reads.bottoms:
            if place < len(bottoms):
                cell, version = bottoms[place]
                found = self._writers[cell][version:]
                if found and not _harmless(layer, found):
                    access.bottoms[place] = cell
                    over += found
        if reads.top and tops:
            cell, version = tops[0]
            if self._writers[cell][version:]:
                access.top = cell
                over += self._writers[cell][version:]
        if access.top is None and list(access.bottoms) == [0] and _harmless_alone(layer, over):
            access.bottoms, over = {}, []
        access.late = bool(over) or (is_in_place(layer) and layer.type in _SPOILS_GRADIENT)
        if access.late and layer.type in _NEVER_LATE:
            names = ", ".join(dict.fromkeys(f"'{each.name}'" for each in over))
            self.problems.append(
                (layer, f"layer {names} in place overwrites what its gradient needs; give another top")
            )
        if access.late:
            access.why = _why(layer, over)


def _harmless(layer: Layer, over: Sequence[Layer]) -> bool:
    """Whether a ReLU still finds in its bottom which values were above 0, wherever a gradient arrives."""
    return _keeps_sign(layer) and all(each.type in ("Dropout", "SpatialDropout") or _keeps_sign(each) for each in over)


def _keeps_sign(layer: Layer) -> bool:
    return layer.type == "ReLU" and Options.of(layer.message, "relu_param").get("negative_slope") >= 0


def _harmless_alone(layer: Layer, over: Sequence[Layer]) -> bool:
    """Whether an ELU that only itself has overwritten finds the sign of its bottom in its top."""
    return layer.type == "ELU" and list(over) == [layer] and Options.of(layer.message, "elu_param").get("alpha") >= 0


def _why(layer: Layer, over: Sequence[Layer]) -> str:
    others = [f"'{each.name}' (line {each.field.line})" for each in dict.fromkeys(over) if each is not layer]
    who = f"{', '.join(others)} in place after it" if others else "the layer itself, in place, has overwritten"
    return (
        f"{layer.where} is Caffe's, not the derivative: Caffe computes it from memory that {who}"
        f"{' overwrites' if len(others) == 1 else ' overwrite' if others else ''}; for the derivative, give "
        f"{'its top' if not others else 'their tops' if len(others) > 1 else 'the top of that'} a name of its own"
    )


def _writes_over(name: str, why: str) -> str:
    return f"in place it writes over the memory of '{name}', which {why}: give its top another name"


def memory_problems(layers: Sequence[Layer]) -> Iterator[tuple[Layer, str]]:
    """Where layers in place overwrite memory in a way that is not handled; for nets whose wiring is right."""
    yield from Trace(layers).problems
