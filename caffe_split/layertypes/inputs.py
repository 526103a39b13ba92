"""A net whose data layers are Input layers, so that it can be run on what a caller gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.layertypes.shape_rules import Shape, UnknownShapeError
from caffe_split.layertypes.table import record_for
from caffe_split.net.layers import Layer, phase_layers
from caffe_split.net.options import Options, shape_of
from caffe_split.net.state import NetState

# What a layer keeps when it becomes an Input: where it stands, and in which phase it runs.
_KEPT = ("name", "type", "top", "include", "exclude", "phase")


def with_inputs(
    document: prototxt.Document, state: NetState | str, given: Mapping[str, Shape] | None = None
) -> prototxt.Document:
    """A copy of a net in which the layers that give data in `state` are Input layers of the same tops.

    Input layers, learnt blobs (Parameter), TPM layers and constants (DummyData of constant fillers) stay. `given` are
    shapes by blob, in place of those that are written or that a data set has; a top without a shape of its own beside
    one that has one, as labels are, has one value per record of that. Lines of fields are those of the original.

    Raises `CaffeSplitError` for a blob in `given` that no such layer gives, and for tops whose shapes are not known.
    """
    given = dict(given or {})
    twin = document.copy()
    sources = [layer for layer in phase_layers(twin, NetState.of(state).in_net(twin)) if is_source(layer)]
    tops = [top for layer in sources for top in layer.tops]
    strange = [name for name in given if name not in tops]
    if strange:
        raise CaffeSplitError(
            f"{document.filename}: it has no input '{strange[0]}'; its inputs: {', '.join(tops) or 'none'}."
        )
    for layer in sources:
        if layer.type != "Input" or any(top in given for top in layer.tops):
            _make_input(layer, _shapes(layer, given))
    return twin


def is_source(layer: Layer) -> bool:
    """Whether a layer gives what comes from outside of the net: an Input, or data."""
    if layer.bottoms or not layer.tops or layer.type in ("Parameter", "TPM"):
        return False
    if layer.type != "DummyData":
        return True
    fillers = Options.of(layer.message, "dummy_data_param").subs("data_filler")
    return any(filler.get("type") != "constant" for filler in fillers)


def transforms_of(document: prototxt.Document, state: NetState) -> dict[str, Layer]:
    """The data layers of a net in `state` that have a transform_param, by their first top."""
    layers = phase_layers(document, state.in_net(document))
    return {layer.tops[0]: layer for layer in layers if is_source(layer) and layer.message.has("transform_param")}


def fitting_transforms(
    document: prototxt.Document, state: NetState, net: str, images: Sequence[str], otherwise: str = ""
) -> dict[str, Layer]:
    """For inputs of another net, by name: the data layer of `document` whose transform_param they go through.

    A data layer belongs to the input that has the name of its top; a single one also to a single input of another name.

    Args:
        document: the net with the data layers, which `--transform-of` names.
        state: the state in which `document` is built.
        net: the file of the other net, for messages.
        images: the names of that net's inputs of images.
        otherwise: for the message, what a user can do instead of renaming.

    Raises `CaffeSplitError` where no data layer has a transform_param, or none fits.
    """
    written = transforms_of(document, state)
    if not written:
        raise CaffeSplitError(
            f"{document.filename}: --transform-of: no data layer of its {state.phase} phase has a transform_param; "
            "name the net with the mean and the scale that the training used."
        )
    if len(images) == len(written) == 1:
        return dict(zip(images, written.values()))
    found = {top: layer for top, layer in written.items() if top in images}
    if not found:
        raise CaffeSplitError(
            f"{document.filename}: --transform-of: its data layers give {', '.join(written)}, and {net} has the "
            f"inputs of images {', '.join(images) or '(none)'}; give them the same names{otherwise}."
        )
    return found


def _shapes(layer: Layer, given: Mapping[str, Shape]) -> list[Shape]:
    try:
        return source_shapes(layer, given)[0]
    except UnknownShapeError as reason:
        lacking = next(top for top in layer.tops if top not in given)
        raise CaffeSplitError(
            f"{layer.where}: the shape of its top '{lacking}' is not known ({reason}): give it, as in "
            f"{lacking}=1x3x224x224, or take the deploy net."
        ) from None


def source_shapes(layer: Layer, given: Mapping[str, Shape]) -> tuple[list[Shape], set[str]]:
    """The shapes of the tops of a layer that gives data, `given` ones in place of its own, and tops that are guessed.

    Where a shape is given for the first top alone and those of the others are not known, as of labels, they are taken
    to hold one value per record. What is known of them is a guess, too, where the first top has other sides: images
    and maps of labels often have the same. Raises `UnknownShapeError`.
    """
    if all(top in given for top in layer.tops):
        return [given[top] for top in layer.tops], set()
    first, rule = given.get(layer.tops[0]), record_for(layer).shapes
    try:
        if isinstance(rule, str):
            raise UnknownShapeError(rule)
        known = list(rule(layer, []).tops)
        fits = first is None or known[0][1:] == first[1:]
    except UnknownShapeError:
        if not first:
            raise
        known, fits = [first, *[first[:1]] * (len(layer.tops) - 1)], False
    shapes = [given.get(top, shape) for top, shape in zip(layer.tops, known)]
    if layer.type == "Input" or not first:
        return shapes, set()
    # The other tops have as many records as the one whose shape is given.
    shapes[1:] = [shape if top in given else (*first[:1], *shape[1:]) for top, shape in zip(layer.tops[1:], shapes[1:])]
    return shapes, set() if fits else {top for top in layer.tops if top not in given}


def _make_input(layer: Layer, shapes: list[Shape]) -> None:
    message = layer.message
    for field in list(message):
        if field.name not in _KEPT:
            message.remove(field)
    message.set("type", "Input")
    message.add("input_param", {"shape": [{"dim": list(shape)} for shape in shapes]})


def keep_tops(layer: Layer, tops: Sequence[str]) -> None:
    """Take the other tops out of an Input layer."""
    param = Options.of(layer.message, "input_param")
    shapes = [shape_of(shape) for shape in param.subs("shape")]
    shapes = shapes * len(layer.tops) if len(shapes) == 1 else shapes
    kept = [shape for top, shape in zip(layer.tops, shapes) if top in tops]
    for field in layer.message.all_fields("top"):
        if not set(field.values()) & set(tops):
            layer.message.remove(field)
    _make_input(layer, kept)
