"""Merging BatchNorm and Scale layers into the convolutions that they follow, in nets that are not trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.graph import Graph, rules
from caffe_split.net.layers import Layer, all_layers, convolutions, sharers
from caffe_split.net.state import TRAIN
from caffe_split.split.affine import CannotFoldError, affine
from caffe_split.split.algebra import Kernels

Blobs = Mapping[str, Sequence[np.ndarray]]
_NORMS = ("BatchNorm", "BN")


@dataclass(frozen=True)
class Chain:
    """A convolution and the normalisation layers after it, in order."""

    convolution: Layer
    norms: tuple[Layer, ...]

    @property
    def top(self) -> str:
        """The blob that the last of them writes."""
        return self.norms[-1].tops[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the normalisation layers."""
        return tuple(layer.name for layer in self.norms)


def check_not_trained(document: prototxt.Document) -> None:
    """Raises `CaffeSplitError` where the net is one to train: without its BatchNorm it would learn differently."""
    for layer in all_layers(document):
        if layer.runs_in(TRAIN) and (layer.type.endswith("Loss") or layer.message.has("loss_weight")):
            raise CaffeSplitError(
                f"{document.filename}: it is a net to train, by its {layer.where}, and would train differently without "
                "BatchNorm. Fold BatchNorm into the deploy net, or into a copy without TRAIN layers."
            )


def merge_batch_norms(
    documents: Sequence[prototxt.Document], blobs: dict[str, list[np.ndarray]]
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Merge BatchNorm, and a Scale after it, into every convolution where all documents have them alike.

    Changes documents and blobs; the convolutions gain a bias. Returns convolution -> the layers that went into it,
    and convolution -> why its BatchNorm stays.
    """
    chains: dict[str, list[Chain]] = {}
    kept: dict[str, str] = {}
    for document in documents:
        graph = Graph(all_layers(document))
        for layer in convolutions(graph.layers):
            try:
                chain = _chain(graph, layer)
            except CannotFoldError as reason:
                kept[layer.name] = str(reason)
            else:
                chains.setdefault(layer.name, []).append(chain)
    merged = {}
    for name, found in chains.items():
        # What one net cannot take, none does: they share the weights.
        if name in kept or not any(chain.norms for chain in found):
            continue
        try:
            merged[name] = _merge(documents, found, blobs)
        except CannotFoldError as reason:
            kept.setdefault(name, str(reason))
    return merged, kept


def _chain(graph: Graph, layer: Layer) -> Chain:
    """The BatchNorm or BN, and the Scale, after a convolution, none where there are none. Raises `CannotFoldError`."""
    index = next(i for i, other in enumerate(graph.layers) if other is layer)
    if not any(graph.layers[i].type in _NORMS for i in graph.readers(index)):
        return Chain(layer, ())
    norms: list[Layer] = []
    for kinds in (_NORMS, ("Scale",)):
        reader = graph.sole_reader(index)
        if reader is None or graph.layers[reader].type not in kinds or len(graph.layers[reader].bottoms) != 1:
            break
        norms.append(graph.layers[reader])
        index = reader
    if not norms:
        raise CannotFoldError(f"its top is read by other layers than its {_named(graph, index)} too")
    for other in norms:
        if rules(other) != rules(layer):
            raise CannotFoldError(f"{other.where} has other include or exclude rules")
    shared = sharers(graph.layers, layer)
    if shared:
        raise CannotFoldError(f"it shares its weight with {', '.join(shared)}")
    return Chain(layer, tuple(norms))


def _named(graph: Graph, index: int) -> str:
    return next(graph.layers[i].type for i in graph.readers(index) if graph.layers[i].type in _NORMS)


def _merge(
    documents: Sequence[prototxt.Document], chains: Sequence[Chain], blobs: dict[str, list[np.ndarray]]
) -> tuple[str, ...]:
    names = chains[0].names
    unlike = CannotFoldError("the nets do not normalise it alike")
    if any(chain.names != names for chain in chains):
        raise unlike
    name = chains[0].convolution.name
    own = blobs[name]
    kernels = Kernels(
        np.asarray(own[0], dtype=np.float64), np.asarray(own[1], dtype=np.float64) if len(own) > 1 else None
    )
    if kernels.weight.ndim != 4:
        raise CannotFoldError(f"its weight has shape {kernels.weight.shape}; only 2-D convolutions are handled")
    found = [_through(kernels, chain, blobs) for chain in chains]
    weight, bias = found[0]
    if not all(np.array_equal(weight, other) and np.array_equal(bias, shift) for other, shift in found):
        raise unlike
    for chain in chains:
        message = chain.convolution.message
        message.set("top", chain.top)
        add_bias(message)
        for norm in chain.norms:
            parent = norm.field.parent
            assert parent is not None
            parent.remove(norm.field, keep_blank=False)
    blobs[name] = [weight.astype(np.float32), bias.astype(np.float32)]
    for norm_name in names:
        blobs.pop(norm_name, None)
    return names


def _through(kernels: Kernels, chain: Chain, blobs: Blobs) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of the convolution that computes what the chain does. Raises `CannotFoldError`."""
    for norm in chain.norms:
        kernels = affine(norm, blobs.get(norm.name) or [], len(kernels.weight)).after(kernels)
    assert kernels.bias is not None
    return kernels.weight, kernels.bias


def add_bias(message: prototxt.Message) -> None:
    """Give a Convolution layer's text a bias, where it says that it has none."""
    param = message.sub("convolution_param")
    if param is not None and not param.get("bias_term", True):
        param.remove("bias_term")
