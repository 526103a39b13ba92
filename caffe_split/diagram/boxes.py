"""A net as boxes and what flows between them: in-place layers and lone followers stand in their layer's box."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Union

from caffe_split.layertypes.table import record_of
from caffe_split.net.layers import Layer
from caffe_split.split.recognise import Role, all_splits, layer_roles

# What colours a box: its role in a split, or that it is in none, or that it never learns.
Shade = Union[Role, Literal["frozen", "plain"]]


@dataclass(frozen=True)
class Box:
    """One box of the picture: the layers in it by name, the first of which gives it its name.

    `tag` says its role in words ('' for plain); `lines` is what it does and `followers` the types of the layers after
    the first; `inputs` are pairs (index of the box it reads, blob); `kernels` is how many kernels its convolution has,
    0 for other types; `joins` says that it is the sum or the concat of a split.
    """

    name: str
    layers: tuple[str, ...]
    role: Shade
    tag: str
    lines: tuple[str, ...]
    followers: tuple[str, ...]
    inputs: tuple[tuple[int, str], ...]
    kernels: int = 0
    joins: bool = False

    @property
    def is_source(self) -> bool:
        """Whether it reads nothing: data, or a net's input."""
        return not self.inputs


def make_boxes(layers: Sequence[Layer], inputs: Mapping[str, Sequence[int]] | None = None) -> list[Box]:
    """The boxes of a phase's layers, in file order; every layer is in exactly one.

    Blobs that no layer gives have a box before them, without layers; `inputs` has their shapes, as far as known.
    """
    given = {blob: dict(inputs or {}).get(blob, ()) for blob in _free_blobs(layers)}
    readers: dict[str, int] = {}
    for layer in layers:
        for bottom in set(layer.bottoms):
            readers[bottom] = readers.get(bottom, 0) + 1
    groups: list[list[Layer]] = [[] for _ in given]
    sources: list[list[tuple[int, str]]] = [[] for _ in given]
    writer = {blob: number for number, blob in enumerate(given)}
    owner: dict[str, int] = {}
    for layer in layers:
        home = owner.get(_shared_weight(layer)) if layer.type == "TPM" else _home(layer, writer, readers, groups)
        if home is None:
            home = len(groups)
            groups.append([])
            pairs = [(writer[bottom], bottom) for bottom in layer.bottoms if bottom in writer]
            sources.append(list(dict.fromkeys(pairs)))
        groups[home].append(layer)
        if layer.type != "TPM":
            for name in layer.param_names()[:1]:
                owner.setdefault(name, home)
        for top in layer.tops:
            writer[top] = home
    roles = layer_roles(layers)
    joins = {
        layers[index].name for split in all_splits(layers) for index in (split.total, split.concat) if index is not None
    }
    free = [_input_box(blob, shape) for blob, shape in given.items()]
    count = len(free)
    return free + [_box(group, pairs, roles, joins) for group, pairs in zip(groups[count:], sources[count:])]


def _free_blobs(layers: Sequence[Layer]) -> list[str]:
    """The blobs that are read before any layer gives them, in order."""
    made: set[str] = set()
    free: dict[str, None] = {}
    for layer in layers:
        free.update((bottom, None) for bottom in layer.bottoms if bottom not in made)
        made.update(layer.tops)
    return list(free)


def _input_box(blob: str, shape: Sequence[int]) -> Box:
    words = " ".join(["input", "x".join(map(str, shape))]).strip()
    return Box(name=blob, layers=(), role="plain", tag="", lines=(words,), followers=(), inputs=())


def _shared_weight(layer: Layer) -> str:
    return next(iter(layer.param_names()), "")


def _home(
    layer: Layer, writer: dict[str, int], readers: dict[str, int], groups: Sequence[Sequence[Layer]]
) -> int | None:
    """The box that the layer joins, or None for one of its own."""
    if len(layer.bottoms) != 1 or len(layer.tops) != 1 or layer.bottoms[0] not in writer:
        return None
    bottom = layer.bottoms[0]
    home = writer[bottom]
    if not groups[home]:
        return None
    if layer.tops[0] == bottom:
        return home
    lone = record_of(layer.type).joins_box and readers[bottom] == 1
    # What a data layer gives is the picture's beginning, and stays by itself.
    return home if lone and groups[home][0].bottoms else None


def _box(
    group: Sequence[Layer], inputs: Sequence[tuple[int, str]], roles: Mapping[str, Role], joins: Collection[str]
) -> Box:
    head = group[0]
    role: Shade = roles.get(head.name, "plain")
    frozen = _is_frozen(head)
    tag = " ".join(word for word in (role if role != "plain" else "", "frozen" if frozen else "") if word)
    param = head.message.sub("convolution_param")
    return Box(
        name=head.name,
        layers=tuple(layer.name for layer in group),
        role="frozen" if frozen else role,
        tag=tag,
        lines=tuple(record_of(head.type).words(head)),
        followers=tuple(layer.type for layer in group[1:]),
        inputs=tuple(inputs),
        kernels=int(param.get("num_output", 0)) if param else 0,
        joins=head.name in joins,
    )


def _is_frozen(layer: Layer) -> bool:
    specs = layer.message.subs("param")
    return record_of(layer.type).has_kernels and bool(specs) and specs[0].get("lr_mult", 1) == 0
