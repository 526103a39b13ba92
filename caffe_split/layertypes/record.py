"""What is known of a layer type, as one record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from caffe_split.layertypes.batch_rules import BatchRule
from caffe_split.layertypes.shape_rules import ShapeRule
from caffe_split.net.layers import Layer

Range = tuple[int, int]
Check = Callable[[Layer], Iterator[str]]
# More bottoms or tops than a net has.
ANY = 1 << 30


def never(_layer: Layer) -> bool:
    """For `Engine.lets_overwrite`: the gradient needs the tops; for `remembers`: each batch stands for itself."""
    return False


def always(_layer: Layer) -> bool:
    """For `Engine.lets_overwrite`: the gradient never needs the tops."""
    return True


def its_type(layer: Layer) -> list[str]:
    """For `LayerType.words`: the name of the type says it all."""
    return [layer.type]


@dataclass(frozen=True)
class Engine:
    """How the torch engine runs a type.

    Attributes:
        module: the module of `caffe_split.engine.layers` with the class, which has the name of the type.
        class_name: the name of the class where it serves several types.
        bottoms: least and most number of bottoms; `ANY` for no limit.
        tops: the same of its tops.
        ignored: fields that change nothing of what is computed, each with the reason, by name or as `message.name`; "*"
            stands for all options.
        check: yields a sentence for everything else that is refused: what is missing, or contradicts itself.
        files: yields a sentence for each file that a layer needs and that is not there, or cannot be used.
        takes_bf16: it may be given bfloat16 values with `--precision bf16`; others get float32.
        rule_refuses: the shape rule and the class's `setup` refuse all bottoms that do not fit. Layers of other types
            are run without values to find out, which costs a second at the start.
        forms: yields a sentence for each mode of a fork that is not computed; a loss with one can be left out.
        lets_overwrite: whether the gradient of a layer does without the values of its tops, so that a ReLU in place
            may write over them.
    """

    module: str
    bottoms: Range = (1, 1)
    tops: Range = (1, 1)
    ignored: Mapping[str, str] = field(default_factory=dict)
    check: Check | None = None
    files: Check | None = None
    takes_bf16: bool = False
    rule_refuses: bool = False
    lets_overwrite: Callable[[Layer], bool] = never
    class_name: str = ""
    forms: Check | None = None


@dataclass(frozen=True)
class LayerType:
    """All that is known of a layer type.

    Attributes:
        name: as `type` has it in a prototxt.
        shapes: the rule for the shapes of its tops and parameters, or the reason why there is none.
        options: the messages of options that it reads, e.g. `pooling_param`, each with the fields that the engine
            handles, separated by blanks.
        batch: the rule for processes that share a batch; None where they cannot.
        words: what a layer does, in a few words, a line each: for pictures.
        short: the name of the type in pictures, where boxes are narrow; else its name.
        joins_box: in pictures it stands in the box of the layer that it alone reads, as an activation does.
        has_kernels: its first parameter is a weight with a kernel per output (or, transposed, per input).
        keeps_shape: its top has the shape of its first bottom, by what the type is: no option could change that.
        keeps_channels: its tops have as many channels (axis 1) as its first bottom, and other bottoms must have them.
        pairs_channels: of a type that keeps them: each top has those of the bottom with its number, and no other
            bottom has a say.
        is_loss: its first top counts in the objective unless loss_weight says otherwise.
        engine: how the torch engine runs it; None where it does not.
        blob_names: what its blobs are called in a PyTorch module, in Caffe's order; one without a name is `blob` and
            its index.
        remembers: whether what a layer computes depends on the batches before. Not of layers that give data: these can
            go on from any batch.
        ignores_ones: files may have its blobs with more or fewer axes of 1.
    """

    name: str
    shapes: ShapeRule | str
    options: Mapping[str, str] = field(default_factory=dict)
    batch: BatchRule | None = None
    words: Callable[[Layer], list[str]] = its_type
    short: str = ""
    joins_box: bool = False
    has_kernels: bool = False
    keeps_shape: bool = False
    keeps_channels: bool = False
    pairs_channels: bool = False
    is_loss: bool = False
    engine: Engine | None = None
    blob_names: tuple[str, ...] = ("weight", "bias")
    remembers: Callable[[Layer], bool] = never
    ignores_ones: bool = False

    def blob_name(self, index: int) -> str:
        """What a blob is called in a module and in an ONNX model, after the layer's name and a dot."""
        return self.blob_names[index] if index < len(self.blob_names) else f"blob{index}"
