"""A net as a graph: the layers of a phase, their blobs, shared parameters.

A `Layer` keeps its field of the document, so that an edit of the document finds the text that belongs to the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check
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
        """The text of the layer: its settings."""
        message = self.field.message
        assert message is not None
        return message

    @property
    def where(self) -> str:
        """The layer as error messages name it."""
        return f"layer '{self.name}' (line {self.field.line})"

    def runs_in(self, state: NetState) -> bool:
        """Whether the layer's include / exclude rules admit it, as Caffe's `Net::FilterNet` decides."""
        includes, excludes = self.message.subs("include"), self.message.subs("exclude")
        if includes and excludes:
            raise self.field.error(
                f"layer '{self.name}' has include and exclude rules; Caffe takes either, not both. Remove one kind."
            )
        if includes:
            return any(state.meets(rule) for rule in includes)
        # A layer that a fork's rule might leave out stays: nothing may be computed as if it were not there.
        return not any(state.meets(rule) and not check.foreign(rule, "NetStateRule") for rule in excludes)

    def phase_in(self, phase: str) -> str:
        """The phase in which the layer computes in a net of that phase: its own `phase`, if it has one."""
        return str(self.message.get("phase", phase))

    def param_names(self) -> list[str]:
        """The names of the layer's `param` messages in order; an unnamed one is ''."""
        return [spec.get("name", "") for spec in self.message.subs("param")]


def all_layers(document: prototxt.Document) -> list[Layer]:
    """Every layer of the document, whatever its phase, in file order."""
    old = document.field("layers")
    if old is not None:
        # Opening a net brings it to today's form. What comes here was to be kept as written, or stands within a
        # solver, where Caffe ignores `layers`.
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
    """The layer of that name; the first if several phases have one each. Raises `CaffeSplitError`."""
    layers = all_layers(document)
    for layer in layers:
        if layer.name == name:
            return layer
    known = ", ".join(layer.name for layer in layers)
    raise CaffeSplitError(f"{document.filename}: no layer '{name}'. Its layers: {known}.")


def convolutions(layers: Sequence[Layer]) -> Iterator[Layer]:
    """The Convolution layers, in order; a layer that is written once for each phase comes once."""
    seen = set()
    for layer in layers:
        if layer.type == "Convolution" and layer.name not in seen:
            seen.add(layer.name)
            yield layer


def weight_owners(layers: Sequence[Layer]) -> list[Layer]:
    """The convolutions, in order, except those that share the weight of an earlier one."""
    owners: dict[str, str] = {}
    found = []
    for layer in convolutions(layers):
        shared = next(iter(layer.param_names()), "")
        if not shared or owners.setdefault(shared, layer.name) == layer.name:
            found.append(layer)
    return found


def sharers(layers: Sequence[Layer], layer: Layer) -> list[str]:
    """Names of the other layers, except TPM layers, that share a parameter with `layer` by name."""
    names = {name for name in layer.param_names() if name}
    return [
        other.name
        for other in layers
        if other.name != layer.name and other.type != "TPM" and names.intersection(other.param_names())
    ]
