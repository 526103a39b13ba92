"""What every layer of the engine is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from caffe_split.engine.parallel.group import ALONE, Group
from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.shape_rules import Found, UnknownShapeError
from caffe_split.layertypes.table import record_of
from caffe_split.net.layers import Layer as Text
from caffe_split.net.options import Options

Shape = tuple[int, ...]
Tops = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Place:
    """Where a net is built: its phase, the random numbers of its fillers, a seed for those of its data, with whom."""

    phase: str
    generator: torch.Generator
    seed: int
    device: torch.device
    group: Group = ALONE
    inputs: Mapping[str, Shape] = field(default_factory=dict)


class Layer:
    """A layer that is set up once for the shapes of its bottoms, and then run.

    `blobs` are its learnable parameters in Caffe's order and shapes. `setup` makes them; `run` computes the tops, with
    autograd doing the way back. `buffers` are constants that move to the device with it.
    """

    options_name = ""
    # Blobs that are counted with on the host and so stay there.
    on_host: frozenset[int] = frozenset()

    def __init__(self, text: Text, place: Place) -> None:
        self.text = text
        self.place = place
        self.blobs: list[torch.Tensor] = []
        self.buffers: list[torch.Tensor] = []
        if self.options_name:
            self.options = Options.of(text.message, self.options_name)

    @property
    def name(self) -> str:
        return self.text.name

    @property
    def training(self) -> bool:
        return self.place.phase == "TRAIN"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        """Make blobs and whatever depends on the shapes. Raises `CaffeSplitError` where they do not fit."""

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """The shapes of the tops, as they are told or found by running the layer without values."""
        engine = record_of(self.text.type).engine
        if engine is not None and engine.rule_refuses:
            return [tuple(shape) for shape in self.told(bottoms).tops]
        blobs, buffers = self.blobs, self.buffers
        try:
            self.blobs = [blob.detach().to("meta") for blob in blobs]
            self.buffers = [buffer.to("meta") for buffer in buffers]
            tops = self.run(*(torch.empty(shape, device="meta") for shape in bottoms))
        finally:
            self.blobs, self.buffers = blobs, buffers
        return [tuple(top.shape) for top in tops]

    def told(self, bottoms: Sequence[Shape]) -> Found:
        """The shapes of tops and blobs, as the rest of the program tells them. Raises `CaffeSplitError`."""
        rule = record_of(self.text.type).shapes
        if isinstance(rule, str):
            raise self.error(f"{rule}.")
        try:
            return rule(self.text, list(bottoms))
        except UnknownShapeError as reason:
            raise self.error(f"{reason}.") from None

    def run(self, *bottoms: torch.Tensor) -> Tops:
        """The tops for these bottoms."""
        raise NotImplementedError

    def error(self, message: str) -> CaffeSplitError:
        """An error that names this layer and its line."""
        return CaffeSplitError(f"{self.text.where}: {message}")

    def axis(self, axis: int, dimensions: int) -> int:
        """A Caffe axis, which may count from the end, as one from the start."""
        if not -dimensions <= axis < dimensions:
            raise self.error(f"axis {axis} of a blob with {dimensions} axes.")
        return axis % dimensions
