"""A net as a graph: the layers of a phase, their blobs, convolution geometry, shared parameters.

The layers of a `Net` keep hold of the document's own fields, so that whoever edits the document can find the
text that belongs to a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.state import NetState


@dataclass(frozen=True)
class Layer:
    """One layer of the document: `field` is its text there."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    field: prototxt.Field

    @property
    def message(self) -> prototxt.Message:
        message = self.field.message
        assert message is not None
        return message

    @property
    def where(self) -> str:
        return f"layer '{self.name}' (line {self.field.line})"

    def runs_in(self, state: NetState) -> bool:
        """Whether the layer's include / exclude rules admit it, as Caffe's `Net::FilterNet` decides."""
        includes, excludes = self.message.subs("include"), self.message.subs("exclude")
        if includes and excludes:
            raise CaffeSplitError(
                f"{self.where} has include and exclude rules; Caffe takes either, not both. Remove one kind."
            )
        if includes:
            return any(state.meets(rule) for rule in includes)
        return not any(state.meets(rule) for rule in excludes)

    def param_names(self) -> list[str]:
        """The names of the layer's `param` messages in order; an unnamed one is ''."""
        return [spec.get("name", "") for spec in self.message.subs("param")]


def all_layers(document: prototxt.Document) -> list[Layer]:
    """Every layer of the document, whatever its phase, in file order."""
    old = document.field("layers")
    if old is not None:
        # Whoever opens a net has it in today's form; what is left is a net to be kept as written, or one within a
        # solver, whose `layers` Caffe passes over.
        raise old.error(
            "the net is in the old form (`layers`), or mixes it with the new one; bring it to the new form first: "
            "upgrade_net_proto_text OLD NEW"
        )
    layers = []
    for field in document.all_fields("layer"):
        message = field.message
        if message is None:
            raise CaffeSplitError(f"{document.filename}:{field.line}: `layer` is not a message here.")
        layers.append(
            Layer(
                name=str(message.get("name", "")),
                type=str(message.get("type", "")),
                bottoms=tuple(message.get_all("bottom")),
                tops=tuple(message.get_all("top")),
                field=field,
            )
        )
    if not layers:
        raise CaffeSplitError(f"{document.filename}: no `layer` in it. Is it a net?")
    return layers


def phase_layers(document: prototxt.Document, state: NetState) -> list[Layer]:
    """The layers that Caffe would build in `state`, in file order."""
    return [layer for layer in all_layers(document) if layer.runs_in(state)]


def find_layer(document: prototxt.Document, name: str) -> Layer:
    """The layer of that name; where a name occurs once a phase, the first. Raises `CaffeSplitError`."""
    layers = all_layers(document)
    for layer in layers:
        if layer.name == name:
            return layer
    known = ", ".join(layer.name for layer in layers)
    raise CaffeSplitError(f"{document.filename}: no layer '{name}'. Its layers: {known}.")


@dataclass(frozen=True)
class Geometry:
    """How a 2-D convolution slides: (height, width) pairs in pixels, and its number of groups."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    group: int = 1

    @property
    def is_same(self) -> bool:
        """Whether the output has the input's size at stride 1: pad = dilation * (kernel - 1) / 2 both ways."""
        return all(2 * p == d * (k - 1) for k, p, d in zip(self.kernel, self.pad, self.dilation))

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the output for an input of `size`, by Caffe's rule (rounded down)."""
        height, width = (
            (n + 2 * p - (d * (k - 1) + 1)) // s + 1
            for n, k, s, p, d in zip(size, self.kernel, self.stride, self.pad, self.dilation)
        )
        return height, width


def _pair(message: prototxt.Message, both: str, vertical: str, horizontal: str, default: int) -> tuple[int, int]:
    """A (height, width) setting, given once, twice, or under its two own names, as BaseConvolutionLayer reads it."""
    if both not in (vertical, horizontal) and (message.has(vertical) or message.has(horizontal)):
        return int(message.get(vertical, default)), int(message.get(horizontal, default))
    values = [int(value) for value in message.get_all(both)] or [default]
    if len(values) > 2:
        raise CaffeSplitError(f"line {message.line}: {len(values)} values of {both}; only 2-D is handled.")
    return values[0], values[-1]


def convolution_geometry(layer: Layer) -> Geometry:
    """The geometry of a Convolution layer. Raises `CaffeSplitError` for what is not a 2-D convolution over axis 1."""
    param = layer.message.sub("convolution_param")
    if param is None:
        raise CaffeSplitError(f"{layer.where} is a Convolution without convolution_param.")
    if param.get("axis", 1) != 1:
        raise CaffeSplitError(f"{layer.where} convolves over axis {param.get('axis')}; only axis 1 is handled.")
    kernel = _pair(param, "kernel_size", "kernel_h", "kernel_w", 0)
    group = int(param.get("group", 1))
    if group < 1:
        raise CaffeSplitError(f"{layer.where}: group is {group}, expected 1 or more.")
    if min(kernel) < 1:
        raise CaffeSplitError(f"{layer.where} gives no kernel_size, or not both of kernel_h and kernel_w.")
    return Geometry(
        kernel=kernel,
        stride=_pair(param, "stride", "stride_h", "stride_w", 1),
        pad=_pair(param, "pad", "pad_h", "pad_w", 0),
        dilation=_pair(param, "dilation", "dilation", "dilation", 1),
        group=group,
    )


def convolutions(layers: Sequence[Layer]) -> Iterator[Layer]:
    """The Convolution layers, in order; a layer that is written once for each phase comes once."""
    seen = set()
    for layer in layers:
        if layer.type == "Convolution" and layer.name not in seen:
            seen.add(layer.name)
            yield layer


def weight_owners(layers: Sequence[Layer]) -> list[Layer]:
    """The convolutions, in order, without those that share an earlier one's weight: a weight is watched once."""
    owners: dict[str, str] = {}
    found = []
    for layer in convolutions(layers):
        shared = next(iter(layer.param_names()), "")
        if not shared or owners.setdefault(shared, layer.name) == layer.name:
            found.append(layer)
    return found


def sharers(layers: Sequence[Layer], layer: Layer) -> list[str]:
    """Names of the other layers that share a parameter with `layer` by name, watchers (TPM) apart."""
    names = {name for name in layer.param_names() if name}
    return [
        other.name
        for other in layers
        if other.name != layer.name and other.type != "TPM" and names.intersection(other.param_names())
    ]
