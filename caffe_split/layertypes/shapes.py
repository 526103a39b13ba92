"""Blob shapes of a net without running it, and from them parameters and multiply-adds.

What a layer makes of its bottoms is the `shapes` of its type's record. Where that is no rule, where a data set is not
there, or where a field of a fork may change the result, the layer is 'unknown': its parameters are not known, its tops
have no shape, and what depends on them has none either; it is listed, never guessed. Tops that stand in place, and
those of types that keep a shape by what they are, have the shape of their bottom all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from caffe_split.errors import CaffeSplitError, counted
from caffe_split.formats import prototxt
from caffe_split.layertypes.foreign import why_not_known
from caffe_split.layertypes.inputs import source_shapes
from caffe_split.layertypes.records.loss import NUMBERS
from caffe_split.layertypes.records.recurrent import in_time
from caffe_split.layertypes.shape_rules import Found, Shape, UnknownShapeError
from caffe_split.layertypes.table import record_for
from caffe_split.net.layers import Layer

__all__ = ["NetShapes", "Shape", "document_inputs", "infer_shapes"]


@dataclass
class NetShapes:
    """What is known of a net, layers by name.

    `blobs` name -> shape; `params` layer -> shapes of its parameters; `shared` layer -> which of them (by index)
    an earlier layer has under the same name; `state` layer -> shapes of its other blobs (BatchNorm statistics, a
    TPM layer's state); `batch_macs` layer -> multiply-adds of a forward pass over the batch, which has as many
    `images`; `tops` layer -> shapes of its tops, where they are known; `first_param` layer -> the index of its first
    parameter among all its blobs; `unknown` layer -> why its parameters, and its shapes unless they are in `tops`,
    cannot be known.
    """

    blobs: dict[str, Shape] = field(default_factory=dict)
    params: dict[str, list[Shape]] = field(default_factory=dict)
    shared: dict[str, frozenset[int]] = field(default_factory=dict)
    state: dict[str, list[Shape]] = field(default_factory=dict)
    batch_macs: dict[str, int] = field(default_factory=dict)
    tops: dict[str, list[Shape]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    first_param: dict[str, int] = field(default_factory=dict)
    images: int = 1

    def stored(self, layer: str) -> list[Shape]:
        """The shapes of all blobs of a layer in Caffe's order: parameters and state."""
        params, state = self.params.get(layer, []), self.state.get(layer, [])
        return [*state, *params] if self.first_param.get(layer) else [*params, *state]

    def parameters_of(self, layer: str) -> int:
        """Number of parameters of a layer, except those that an earlier layer has; 0 for a layer without any."""
        shared = self.shared.get(layer, frozenset())
        return sum(math.prod(shape) for i, shape in enumerate(self.params.get(layer, ())) if i not in shared)

    @property
    def parameter_count(self) -> int | None:
        """Number of parameters: with frozen ones (lr_mult 0), shared ones once, without statistics and TPM state.

        None where the shapes of some layer are not known.
        """
        return None if self.unknown else self.least_parameters

    @property
    def least_parameters(self) -> int:
        """Number of parameters of the layers of which it is known."""
        return sum(self.parameters_of(layer) for layer in self.params)

    @property
    def macs(self) -> dict[str, int]:
        """Layer -> multiply-adds for one image, rounded up where the batch's do not divide."""
        return {layer: -(-macs // self.images) for layer, macs in self.batch_macs.items()}

    @property
    def mac_count(self) -> int | None:
        """Multiply-adds of convolutions, inner products and recurrent layers for one image; None if unknown."""
        return None if self.unknown else self.least_macs

    @property
    def least_macs(self) -> int:
        """Multiply-adds of the layers of which they are known."""
        return sum(self.macs.values())


def infer_shapes(layers: Sequence[Layer], inputs: Mapping[str, Shape] | None = None) -> NetShapes:
    """Shapes of all blobs of `layers` (of one phase, in order).

    `inputs` gives the shapes of blobs that no layer gives, or whose data set is not there, blob -> (N, C, H, W). Raises
    `CaffeSplitError` for a layer that Caffe would refuse.
    """
    given = dict(inputs or {})
    made = {top for layer in layers for top in layer.tops}
    net = NetShapes(blobs={blob: shape for blob, shape in given.items() if blob not in made})
    owners: dict[str, str] = {}
    guessed: set[str] = set()  # blobs whose shapes are guesses, or follow from one
    for layer in layers:
        guess = next((bottom for bottom in layer.bottoms if bottom in guessed), None)
        guessed = {*guessed, *layer.tops} if guess is not None else guessed.difference(layer.tops)
        try:
            found, guesses = _find(net, layer, given)
        except UnknownShapeError as reason:
            net.unknown[layer.name] = str(reason)
            _keep_shapes(net, layer)
            continue
        except CaffeSplitError as error:
            if guess is None:
                raise layer.field.error(str(error)) from None  # with the file, which the rule does not know
            if layer.type not in NUMBERS or len(layer.tops) > 1:
                net.unknown[layer.name] = (
                    f"the shape of its bottom '{guess}' is a guess, which does not fit: give it, too"
                )
                _keep_shapes(net, layer)
                continue
            found, guesses = Found([()] * len(layer.tops)), set()
        guessed |= guesses
        net.tops[layer.name] = list(found.tops)
        net.blobs.update(zip(layer.tops, found.tops))
        if found.params:
            net.params[layer.name] = list(found.params)
            net.first_param[layer.name] = found.first_param
            net.shared[layer.name] = _shared(layer, found, owners)
        if found.state:
            net.state[layer.name] = list(found.state)
        if found.macs:
            net.batch_macs[layer.name] = found.macs
    net.images = _images(net, layers)
    return net


def _images(net: NetShapes, layers: Sequence[Layer]) -> int:
    """How many images a batch has: the first axis of the largest image that the net is given.

    A net that is given none has as many sequences as a recurrent layer, whose first axis is time, reads of what is
    given; else as many records as its largest input. Layers may have other first axes: of regions, of time steps.
    """
    made = {top for layer in layers if layer.bottoms or layer.name in net.params for top in layer.tops}
    given = {blob: shape for blob, shape in net.blobs.items() if blob not in made and len(shape) > 0}
    in_time_read = [blob for layer in layers if record_for(layer).batch is in_time for blob in layer.bottoms]
    streams = [given[blob][1] for blob in in_time_read if len(given.get(blob, ())) > 1]
    images = [shape for blob, shape in given.items() if len(shape) > 3 and blob not in in_time_read]
    if streams and not images:
        return max(streams[0], 1)
    largest = max(images or given.values(), key=lambda shape: math.prod(shape[1:]), default=(1,))
    return max(largest[0], 1)


def document_inputs(document: prototxt.Document) -> dict[str, Shape]:
    """The inputs that an older deploy net declares at its top: `input` with `input_shape` or four `input_dim`."""
    names = [str(name) for name in document.get_all("input")]
    shapes = [tuple(int(d) for d in shape.get_all("dim")) for shape in document.subs("input_shape")]
    dims = [int(d) for d in document.get_all("input_dim")]
    shapes += [tuple(dims[i : i + 4]) for i in range(0, len(dims), 4)]
    if len(shapes) != len(names) or any(len(dims) % 4 for _ in names):
        raise CaffeSplitError(
            f"{document.filename}: {counted(len(names), 'input')}, but {counted(len(shapes), 'shape')} of them. Give "
            "each `input` an `input_shape`, or four `input_dim`."
        )
    return dict(zip(names, shapes))


def _find(net: NetShapes, layer: Layer, inputs: Mapping[str, Shape]) -> tuple[Found, set[str]]:
    """What the rule finds of a layer, and those of its tops whose shapes are guesses."""
    if not layer.bottoms and any(top in inputs for top in layer.tops):
        shapes, guesses = source_shapes(layer, inputs)
        return Found(shapes), guesses
    rule = record_for(layer).shapes
    if isinstance(rule, str):
        raise UnknownShapeError(f"shapes of {layer.type} layers are not known here: {rule}")
    # Of types without any option for the engine, the rule itself says when sizes are not known.
    engine = record_for(layer).engine
    all_read = engine is not None and "*" in engine.ignored
    reason = None if all_read else why_not_known(layer, record_for(layer).options)
    if reason is not None:
        raise UnknownShapeError(reason)
    lacking = [bottom for bottom in layer.bottoms if bottom not in net.blobs]
    if lacking:
        raise UnknownShapeError(f"the shape of its bottom '{lacking[0]}' is not known")
    return rule(layer, [net.blobs[bottom] for bottom in layer.bottoms]), set()


def _keep_shapes(net: NetShapes, layer: Layer) -> None:
    """The tops of an unknown layer: those in place, and those of a type that keeps a shape, are as their bottom."""
    first = layer.bottoms[0] if layer.bottoms and record_for(layer).keeps_shape else None
    known = [net.blobs.get(top if top in layer.bottoms else first or "") for top in layer.tops]
    for top, shape in zip(layer.tops, known):
        if shape is None:
            net.blobs.pop(top, None)  # of a layer above that has written a blob of that name
        else:
            net.blobs[top] = shape
    if None not in known:
        net.tops[layer.name] = [shape for shape in known if shape is not None]


def _shared(layer: Layer, found: Found, owners: dict[str, str]) -> frozenset[int]:
    names = layer.param_names()[found.first_param :][: len(found.params)]
    shared = frozenset(i for i, name in enumerate(names) if name in owners)
    owners.update({name: layer.name for name in names if name and name not in owners})
    return shared
