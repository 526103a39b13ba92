"""The net that is exported: one phase of a document, with inputs for data, without losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError
from caffe_split.exporting.table import left_out
from caffe_split.formats import prototxt
from caffe_split.layertypes.inputs import is_source, keep_tops, transforms_of, with_inputs
from caffe_split.layertypes.left_out import left_out as not_computed
from caffe_split.layertypes.shape_rules import Shape
from caffe_split.net.bottoms import check_bottoms
from caffe_split.net.layers import Layer, all_layers, phase_layers
from caffe_split.net.state import NetState


@dataclass(frozen=True)
class Opened:
    """A net ready for export.

    document: its layers alone, all of one phase, data layers as Inputs. notes: what was left out and why, a sentence
    each. transforms: blob -> the data layer, as it was written, whose transform_param the blob has.
    """

    document: prototxt.Document
    notes: list[str]
    transforms: Mapping[str, Layer]

    @property
    def layers(self) -> list[Layer]:
        """The layers in order."""
        return all_layers(self.document)


def open_net(document: prototxt.Document, state: NetState, given: Mapping[str, Shape]) -> Opened:
    """The net of `document` in `state` for export; `given` are shapes of inputs.

    Losses, accuracies, and what reads these are left out; the scores that they read become outputs, and labels that
    nothing else reads are no inputs. Raises `CaffeSplitError` for bottoms of the layers that stay which
    no layer gives in that state, and for inputs whose shapes are not known.
    """
    inside = state.in_net(document)
    written = [layer for layer in phase_layers(document, inside) if is_source(layer)]
    twin = with_inputs(document, state, _with_labels(written, given))
    kept = phase_layers(twin, inside)
    names = {id(layer.field) for layer in kept}
    for layer in all_layers(twin):
        if id(layer.field) not in names:
            _remove(layer)
    notes = [
        f"{layer.where}: a {layer.type} layer gives data; its tops are inputs"
        for layer in written
        if layer.type != "Input"
    ]
    notes += _drop(kept)
    stay = {id(field) for field in twin.all_fields("layer")}
    if all(is_source(layer) or id(layer.field) not in stay for layer in kept):
        raise CaffeSplitError(f"{document.filename}: nothing is left of it without data layers and losses.")
    originals = zip(phase_layers(document, inside), kept)
    check_bottoms(document, inside, [original for original, copy in originals if id(copy.field) in stay])
    return Opened(twin, notes, transforms_of(document, state))


def _with_labels(sources: Sequence[Layer], given: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes that were given, and for the other tops of the same layers one value per record."""
    shapes = dict(given)
    for layer in sources:
        first = given.get(layer.tops[0])
        if first and layer.type != "Input":
            for top in layer.tops[1:]:
                shapes.setdefault(top, first[:1])
    return shapes


def _drop(layers: Sequence[Layer]) -> list[str]:
    """Remove losses and what reads them from the document, and inputs that are then not read."""
    dropped: set[str] = set()
    unread: set[str] = set()
    notes = []
    read: set[str] = set()
    gone = not_computed(layers)
    for index, layer in enumerate(layers):
        because = next((bottom for bottom in layer.bottoms if bottom in dropped), "")
        if not (left_out(layer.type) or index in gone or because):
            read.update(layer.bottoms)
            dropped.difference_update(layer.tops)
            continue
        dropped.update(layer.tops)
        unread.update(layer.bottoms)
        why = f"it reads '{because}'" if because else f"{layer.type} is for training and tests"
        notes.append(f"{layer.where} is left out: {gone.get(index, why)}")
        _remove(layer)
    for layer in layers:
        if layer.type == "Input" and any(top in unread and top not in read for top in layer.tops):
            tops = [top for top in layer.tops if top in read or top not in unread]
            keep_tops(layer, tops) if tops else _remove(layer)
    return notes


def _remove(layer: Layer) -> None:
    parent = layer.field.parent
    assert parent is not None
    parent.remove(layer.field)
