"""What a module holds of a net: the blobs of its layers, by name; and which layers some blobs need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from typing_extensions import override

from caffe_split.engine.layers.base import Shape
from caffe_split.engine.model.calls import LayerCall
from caffe_split.engine.model.net import Net
from caffe_split.errors import CaffeSplitError


class Blobs(nn.Module):
    """The blobs of a layer, and the layers whose names go on after a dot."""

    @override
    def extra_repr(self) -> str:
        """The names and shapes of the blobs."""
        blobs = {**self._parameters, **self._buffers}
        return ", ".join(f"{name} {tuple(blob.shape)}" for name, blob in blobs.items() if blob is not None)

    def get_blob(self, name: str) -> torch.Tensor:
        """A parameter or buffer by its name."""
        found = self._parameters.get(name)
        blob = found if found is not None else self._buffers[name]
        assert blob is not None
        return blob


class Held:
    """The blobs of a layer as a module holds them now, to be read like a list: (holder, name there, shape) of each."""

    def __init__(self, places: Sequence[tuple[Blobs, str, Shape]]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> torch.Tensor:
        holder, name, shape = self.places[index]
        blob = holder.get_blob(name)
        return blob if blob.shape == shape else blob.view(shape)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self.places)))


def outputs_of(net: Net) -> list[str]:
    """The net's outputs, without the tops of TPM layers."""
    watched = {top for layer in net.layers if layer.text.type == "TPM" for top in layer.text.tops}
    return [name for name in net.outputs if name not in watched]


def needed(net: Net, wanted: Sequence[str]) -> list[LayerCall]:
    """The calls of layers that the wanted blobs need, in order. Raises `CaffeSplitError` for an unknown blob."""
    strange = [name for name in wanted if name not in net.shapes]
    if strange:
        known = ", ".join(net.shapes)
        raise CaffeSplitError(f"{net.document.filename}: it has no blob '{strange[0]}'; its blobs: {known}.")
    lacking, calls = set(wanted), []
    # Memory of which the value is needed that the last layer in place has left.
    cells = {net.stale[name] for name in wanted if name in net.stale}
    for call in reversed(net.plain_calls):
        if lacking.intersection(call.tops) or cells.intersection(call.access.writes.values()):
            lacking.difference_update(call.tops)
            cells.difference_update(call.access.writes.values())
            lacking.update(call.bottoms)
            cells.update(call.access.stale.values())
            calls.append(call)
    return calls[::-1]


def read_by(calls: Sequence[LayerCall], wanted: Sequence[str]) -> set[str]:
    """The blobs that these calls read, or that are wanted themselves."""
    return {bottom for call in calls for bottom in call.bottoms} | set(wanted)
