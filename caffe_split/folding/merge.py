"""Merging splits back in all files that belong together: their text, TPM layers and blobs.

One round after the other, the splits inside others' layers first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.folding.batch_norm import add_bias
from caffe_split.folding.bias import absorbing_norm, shifted
from caffe_split.folding.trim import Trim, TrimmedSplit, trim
from caffe_split.formats import prototxt
from caffe_split.net.geometry import convolution_geometry
from caffe_split.net.graph import Graph
from caffe_split.net.layers import Layer, all_layers
from caffe_split.split.affine import CannotFoldError
from caffe_split.split.algebra import Array
from caffe_split.split.groups import grouped
from caffe_split.split.recognise import Split, all_splits, near_misses
from caffe_split.split.unsplit import Unsplit, innermost_first, unsplit
from caffe_split.tpm.layers import Windows, add_watchers, remove_watchers, watchers, windows_of

Blobs = dict[str, "list[np.ndarray]"]


@dataclass(frozen=True)
class FoldedLayer:
    """A convolution made of the layers of one split.

    kind: what the split had added. layers: how many layers it was. note: what else had to change.
    """

    name: str
    kind: str
    layers: int
    note: str = ""


@dataclass(frozen=True)
class _Merge:
    """A stem that can be folded.

    places: its occurrences, each the document's number and what stands there. whole: the layers that are X itself, in
    documents that were never split. kernels, bias: the convolution's new parameters, float64 of shapes
    (out, in / group, height, width) and (out,). norm: blobs that change of a BatchNorm after it, by the layer's name.
    """

    stem: str
    places: tuple[tuple[int, Unsplit], ...]
    whole: tuple[Layer, ...]
    kernels: Array
    bias: Array | None
    group: int
    norm: Blobs
    notes: tuple[str, ...]

    @property
    def folded(self) -> FoldedLayer:
        found = self.places[0][1]
        return FoldedLayer(self.stem, found.kind, len(found.members), ", ".join(self.notes))


class Merged(NamedTuple):
    """What was folded, why each other stem stays, the new blobs, and which splits lost branches."""

    folded: list[FoldedLayer]
    kept: dict[str, str]
    blobs: Blobs
    trimmed: list[TrimmedSplit]


def merge_stems(
    documents: Sequence[prototxt.Document],
    blobs: Blobs,
    ungroup: bool = False,
    *,
    layers: Collection[str] | None = None,
    smaller_than: float | None = None,
) -> Merged:
    """Fold the stems that can be folded alike in all documents, and change the documents.

    `ungroup` lets a convolution lose its groups where the split has learnt to mix them. Of the splits only those of
    `layers`, and those inside them, are folded. With `smaller_than` only branches whose share of the slow half is below
    it go, and a split that would have none left. Raises `CaffeSplitError` where one of `layers` was not split.
    """
    folded: list[FoldedLayer] = []
    trimmed: list[TrimmedSplit] = []
    kept: dict[str, str] = {}
    for document in documents:
        kept.update({name: why for name, why in near_misses(all_layers(document)).items() if _in(name, layers)})
    found = [split for document in documents for split in all_splits(all_layers(document))]
    for names in innermost_first(_chosen(documents[0].filename, found, layers)):
        graphs = [Graph(all_layers(document)) for document in documents]
        splits = [all_splits(graph) for graph in graphs]
        merges: list[_Merge] = []
        trims: list[Trim] = []
        for stem in names:
            try:
                same = [[split for split in each if split.origin == stem] for each in splits]
                found_small = None if smaller_than is None else trim(graphs, same, blobs, smaller_than)
                if found_small is None or found_small.is_whole:
                    merges.append(_merged(documents, graphs, same, blobs, ungroup))
                else:
                    trims.append(found_small)
            except CannotFoldError as reason:
                kept[stem] = str(reason)
        for number, document in enumerate(documents):
            for small in trims:
                small.edit(document, number)
            _put_back(document, [(each, found) for each in merges for n, found in each.places if n == number])
        for merge in merges:
            for layer in merge.whole:
                _adapt(layer.message, merge)
        for small in trims:
            blobs = small.blobs(blobs)
        blobs = _replaced(blobs, merges)
        folded += [merge.folded for merge in merges]
        trimmed += [small.trimmed for small in trims]
    return Merged(folded, kept, blobs, trimmed)


def _in(name: str, layers: Collection[str] | None) -> bool:
    return layers is None or name in layers


def _chosen(filename: str, splits: Sequence[Split], layers: Collection[str] | None) -> list[str]:
    """The origins of the splits of `layers` and of those inside them, or of all. Raises `CaffeSplitError`."""
    if layers is None:
        return [split.origin for split in splits]
    origins = list(dict.fromkeys(split.origin for split in splits))
    for name in layers:
        if name not in origins:
            raise CaffeSplitError(
                f"{filename}: --layers: no layer '{name}' was split. Those that were: {', '.join(origins) or 'none'}."
            )
    chosen = [split for split in splits if split.origin in layers]
    for split in chosen:
        chosen += split.inside
    return [split.origin for split in chosen]


def _merged(
    documents: Sequence[prototxt.Document],
    graphs: Sequence[Graph],
    splits: Sequence[Sequence[Split]],
    blobs: Blobs,
    ungroup: bool,
) -> _Merge:
    """What folding the splits of one layer in each document comes to, or `CannotFoldError`."""
    places = tuple(
        (number, unsplit(graph, split, blobs)) for number, graph in enumerate(graphs) for split in splits[number]
    )
    first = places[0][1]
    stem = first.stem
    if not all(_same(first, found) for _, found in places):
        raise CannotFoldError("the nets put its layers together differently")
    whole = []
    for number, graph in enumerate(graphs):
        for index in graph.named(stem):
            if splits[number] or not _is_whole(graph.layers[index], first):
                raise CannotFoldError(f"there is another layer named '{stem}' in {documents[number].filename}")
            whole.append((number, index))
    weight, bias, group = first.kernels.weight, first.kernels.bias, first.geometry.group
    notes = []
    try:
        weight = grouped(weight, group)
    except CannotFoldError:
        if not ungroup:
            raise
        notes.append(f"group {group} -> 1")
        group = 1
    norm: Blobs = {}
    if not _has_bias(first.first):
        if bias is not None and bias.any():
            ends = [(number, _index(graphs[number], found.members[-1])) for number, found in places]
            name = absorbing_norm(graphs, [*ends, *whole], blobs)
            if name is None:
                notes.append("with a bias, which it did not have")
            else:
                notes.append(f"its new bias taken off the mean of '{name}'")
                norm, bias = {name: shifted(blobs[name], bias)}, None
        else:
            bias = None
    layers = tuple(graphs[number].layers[index] for number, index in whole)
    return _Merge(stem, places, layers, weight, bias, group, norm, tuple(notes))


def _index(graph: Graph, layer: Layer) -> int:
    return next(i for i in graph.named(layer.name) if graph.layers[i] is layer)


def _has_bias(layer: Layer) -> bool:
    param = layer.message.sub("convolution_param")
    return param is None or bool(param.get("bias_term", True))


def _is_whole(layer: Layer, found: Unsplit) -> bool:
    """Whether a layer is the convolution X that a split of X folds into."""
    param = layer.message.sub("convolution_param")
    if layer.type != "Convolution" or param is None or len(layer.tops) != 1:
        return False
    try:
        geometry = convolution_geometry(layer)
    except CaffeSplitError:
        return False
    count = len(found.kernels.weight)
    return (
        geometry == found.geometry
        and param.get("num_output", 0) == count
        and _has_bias(layer) == _has_bias(found.first)
    )


def _same(one: Unsplit, other: Unsplit) -> bool:
    """Whether two occurrences of a stem, of two phases or files, are the same convolution."""
    if one is other:
        return True
    if one.geometry != other.geometry or one.kernels.weight.shape != other.kernels.weight.shape:
        return False
    first, second = (np.zeros(1) if each.kernels.bias is None else each.kernels.bias for each in (one, other))
    return np.allclose(one.kernels.weight, other.kernels.weight) and np.allclose(first, second)


def _replaced(blobs: Blobs, merges: Sequence[_Merge]) -> Blobs:
    """The blobs with each X in the place of its first layer, and its other layers gone."""
    starts = {merge.places[0][1].first.name: merge for merge in merges}
    gone = {layer.name for merge in merges for _, found in merge.places for layer in found.members}
    changed = {name: values for merge in merges for name, values in merge.norm.items()}
    replaced: Blobs = {}
    for name, values in blobs.items():
        if name in starts:
            merge = starts[name]
            parameters = [merge.kernels] if merge.bias is None else [merge.kernels, merge.bias]
            replaced[merge.stem] = [np.asarray(each, dtype=np.float32) for each in parameters]
        elif name not in gone:
            replaced[name] = changed.get(name, values)
    return replaced


def _put_back(document: prototxt.Document, merges: Sequence[tuple[_Merge, Unsplit]]) -> None:
    """Put X's text in place of all its parts; what watched a part watches X.

    The text is that of X_split1 with another name, top and number of kernels.
    """
    windows = {name: windows_of(watcher) for name, watcher in watchers(document).items()}
    remove_watchers(document, [layer.name for _, found in merges for layer in found.members])
    watched: dict[Windows, dict[str, tuple[int, ...]]] = {}
    for merge, found in merges:
        message = found.first.message
        message.set("name", found.stem)
        message.set("top", found.top)
        param = message.sub("convolution_param")
        assert param is not None
        param.set("num_output", len(merge.kernels))
        _adapt(message, merge)
        seen = [windows[layer.name] for layer in (found.first, *found.members) if layer.name in windows]
        if seen:
            watched.setdefault(seen[0], {})[found.stem] = merge.kernels.shape
        for layer in found.members:
            if layer is not found.first:
                document.remove(layer.field, keep_blank=False)
    for window, shapes in watched.items():
        add_watchers(document, shapes, window)
    _sort_watchers(document, {stem for shapes in watched.values() for stem in shapes})


def _adapt(message: prototxt.Message, merge: _Merge) -> None:
    """Give X's text the group and the bias that its new parameters have."""
    param = message.sub("convolution_param")
    if param is not None and merge.group == 1 and param.has("group") and merge.group != param.get("group"):
        param.remove("group")
    if merge.bias is not None:
        add_bias(message)


def _sort_watchers(document: prototxt.Document, new: set[str]) -> None:
    """Put new watchers, the last layers, before those of layers further down: the order that `instrument` makes."""
    if not new:
        return
    found = watchers(document)
    place = {layer.name: index for index, layer in reversed(list(enumerate(all_layers(document))))}
    order = sorted(found, key=lambda name: place[found[name].name])
    for name in sorted(new, key=lambda name: place[name], reverse=True):
        order.remove(name)
        after = next((index for index, other in enumerate(order) if place[other] > place[name]), None)
        if after is None:
            order.append(name)
            continue
        document.remove(found[name].field, keep_blank=False)
        document.insert_before(found[order[after]].field, found[name].field)
        order.insert(after, name)
