"""What all layers of the engine have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from caffe_split.engine.parallel.group import ALONE, Group
from caffe_split.engine.spec.setup import is_in_place
from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.records.loss import need_same_records
from caffe_split.layertypes.shape_rules import Found, UnknownShapeError
from caffe_split.layertypes.table import record_for
from caffe_split.net.layers import Layer as Text
from caffe_split.net.options import Options

Shape = tuple[int, ...]
Tops = tuple[torch.Tensor, ...]
# Of Caffe's blobs.
MOST_AXES = 32
MOST_VALUES = 2**31 - 1


@dataclass(frozen=True)
class Place:
    """What the layers of one net share, except their phase.

    Attributes:
        phase: TRAIN or TEST; of a layer that has a `phase` of its own, that.
        generator: the random numbers of the fillers; None where blobs are not filled.
        seed: of the random choices in the data.
        device: where the net runs.
        group: the processes that share its batches.
        inputs: shapes of Input layers' tops that replace the written ones.
    """

    phase: str
    generator: torch.Generator | None
    seed: int
    device: torch.device
    group: Group = ALONE
    inputs: Mapping[str, Shape] = field(default_factory=dict)


class Layer:
    """A layer, which is set up once for the shapes of its bottoms and then run at each iteration.

    A type overrides `setup` if it has parameters or needs to check more than its shape rule does, and `run`. The
    gradients are autograd's.

    Attributes:
        text: the layer in the prototxt.
        place: what it shares with the other layers of its net.
        options: its options, those of the field `options_name`; types without options have no such attribute.
        blobs: its parameters and state, in Caffe's order and shapes.
        buffers: constants, which move to the device of the net.
        fitted: the shapes of the bottoms for which it is set up.
        varies: whether its tops may change their shapes from batch to batch.
        eager: whether it does what `torch.compile` cannot compile.
        draws: whether it draws random numbers from PyTorch's own generator.
        follows_iteration: whether what it computes depends on `iteration`.
        iteration: the number of iterations that the solver has done, for layers that follow it.
    """

    options_name = ""
    # Indices of blobs that the layer computes with on the host, and that so stay there.
    on_host: frozenset[int] = frozenset()
    varies = False
    draws = False
    eager = False
    follows_iteration = False
    iteration = 0

    def __init__(self, text: Text, place: Place) -> None:
        self.text = text
        self.place = place
        self.blobs: list[torch.Tensor] = []
        self.buffers: list[torch.Tensor] = []
        self.fitted: Sequence[Shape] = ()
        if self.options_name:
            self.options = Options.of(text.message, self.options_name)

    @property
    def name(self) -> str:
        """The name in the prototxt."""
        return self.text.name

    @property
    def overwrites(self) -> bool:
        """Whether it stands in place in Caffe, where its top is its first bottom."""
        return is_in_place(self.text)

    @property
    def training(self) -> bool:
        """Whether the layer's phase is TRAIN, also in a net of the phase TEST."""
        return self.place.phase == "TRAIN"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        """Make `blobs` and what else depends on the shapes. Raises `CaffeSplitError` for bottoms that do not fit."""

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """The shapes of the tops: by the shape rule, if it refuses all misfits, else by a run without values."""
        engine = record_for(self.text).engine
        if engine is not None and engine.rule_refuses:
            return [tuple(shape) for shape in self.inferred(bottoms).tops]
        blobs, buffers = self.blobs, self.buffers
        try:
            self.blobs = [blob.detach().to("meta") for blob in blobs]
            self.buffers = [buffer.to("meta") for buffer in buffers]
            tops = self.run(*(torch.empty(shape, device="meta") for shape in bottoms))
        finally:
            self.blobs, self.buffers = blobs, buffers
        return [tuple(top.shape) for top in tops]

    def multiply_adds(self, bottoms: Sequence[Shape]) -> int:
        """The multiply-adds of one run on bottoms of these shapes, of types that are made of them."""
        return self.inferred(bottoms).macs if record_for(self.text).has_kernels else 0

    def follow(self, bottoms: Sequence[Shape]) -> None:
        """Fit the layer to the bottoms of this batch, where they have other shapes than those of the one before."""
        if bottoms != self.fitted:
            try:
                self.refit(bottoms)
            except (RuntimeError, IndexError, ValueError, ArithmeticError) as error:
                raise self.misfit(bottoms, error) from error
            self.fitted = bottoms

    def refit(self, bottoms: Sequence[Shape]) -> None:
        """Set the layer up for bottoms of other shapes; its blobs stay.

        Raises `CaffeSplitError` where they do not fit.
        """
        blobs, buffers = self.blobs, self.buffers
        try:
            # New blobs are made to be compared only: without values, so that it costs nothing.
            with torch.device("meta"):
                self.setup(bottoms)
            self.shapes(bottoms)
            wanted = [tuple(blob.shape) for blob in self.blobs]
        finally:
            self.blobs, self.buffers = blobs, buffers
        for index, (shape, blob) in enumerate(zip(wanted, blobs)):
            if shape != tuple(blob.shape):
                listed = ", ".join(map(str, bottoms))
                raise self.error(
                    f"bottoms of shapes {listed} want a blob {index} of {shape}; that of the first batch is "
                    f"{tuple(blob.shape)}."
                )

    def misfit(self, bottoms: Sequence[Shape], error: Exception) -> CaffeSplitError:
        """The error for bottoms that PyTorch refuses."""
        listed = ", ".join(map(str, bottoms)) or "none"
        return self.error(f"it does not fit bottoms of shapes {listed}: {str(error).splitlines()[0]}")

    def inferred(self, bottoms: Sequence[Shape]) -> Found:
        """The shapes of tops and blobs by the type's shape rule. Raises `CaffeSplitError`."""
        rule = record_for(self.text).shapes
        if isinstance(rule, str):
            raise self.error(f"{rule}.")
        try:
            return rule(self.text, list(bottoms))
        except UnknownShapeError as reason:
            raise self.error(f"{reason}.") from None

    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None] | None:
        """The gradients of the bottoms as Caffe's `Backward_cpu` computes them from memory that may be overwritten.

        None where they are the derivatives of `run` at the bottoms as they are now: for types whose backward pass
        reads bottoms only and leaves the top's gradient whole.

        Args:
            given: the bottoms with which the layer has run.
            now: what their memory holds when the gradient is computed.
            top: what the top's memory holds then.
            gradient: of the top.
            needs: for each bottom whether it gets a gradient; then those of the blobs.
        """
        return None

    def need_axes(self, shape: Shape, least: int, most: int) -> None:
        """Raises `CaffeSplitError` unless a bottom of that shape has `least` to `most` axes."""
        if not least <= len(shape) <= most:
            expected = str(least) if least == most else f"{least} to {most}" if most < MOST_AXES else f"{least} or more"
            raise self.error(f"a bottom of shape {shape} has {len(shape)} axes; a {self.text.type} takes {expected}.")

    def need_same_records(self, bottoms: Sequence[Shape]) -> None:
        """Raises `CaffeSplitError` unless the first two bottoms hold as many records."""
        need_same_records(self.text, bottoms)

    def run(self, *bottoms: torch.Tensor) -> Tops:
        """Compute the tops from the bottoms."""
        raise NotImplementedError

    def error(self, message: str) -> CaffeSplitError:
        """The error `message`, with the layer and its line in front."""
        return CaffeSplitError(f"{self.text.where}: {message}")

    def axis(self, axis: int, dimensions: int) -> int:
        """The axis of a blob with `dimensions` axes, counted from the start; Caffe's may count from the end."""
        if not -dimensions <= axis < dimensions:
            raise self.error(f"axis {axis} of a blob with {dimensions} axes.")
        return axis % dimensions
