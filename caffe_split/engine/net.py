"""A Caffe net on PyTorch: one phase of a prototxt, its parameters as Caffe counts them, forward and the loss.

    net = Net(read_net("deploy.prototxt", upgrade=True), "TEST")
    net.load(read_weights("some.caffemodel"), "some.caffemodel")
    blobs = net.forward({"data": images}, keep=True).blobs
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from caffe_split.engine.group import ALONE, Group
from caffe_split.engine.layers.base import Layer, Place, Shape
from caffe_split.engine.layers.dense import Scale
from caffe_split.engine.layers.loss import Labelled
from caffe_split.engine.layers.norm import BatchNorm
from caffe_split.engine.layers.pointwise import ReLU
from caffe_split.engine.layers.source import Input, MemoryData, Source
from caffe_split.engine.parts import EACH, MEAN, SUM, kinds_of
from caffe_split.engine.precision import LOW, lower
from caffe_split.engine.support import KINDS, Note, check_net, layers_of
from caffe_split.errors import CaffeSplitError
from caffe_split.net import Layer as Text
from caffe_split.proto import prototxt

# Layers whose way back does without the values of their tops, so that a ReLU may write over them.
_OVERWRITABLE = frozenset({"Convolution", "InnerProduct", "BatchNorm", "Scale", "Eltwise", "Bias", "Concat"})


@dataclass(frozen=True)
class Param:
    """A learnable parameter: the layer and the place it is known by, its values, its multipliers."""

    layer: str
    index: int
    values: torch.Tensor
    lr_mult: float
    decay_mult: float


@dataclass(frozen=True)
class Output:
    """What a forward gives: the blobs (the net's outputs, or all), and the weighted sum of all losses (a scalar)."""

    blobs: dict[str, torch.Tensor]
    loss: torch.Tensor


@dataclass
class _Step:
    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    # A BatchNorm whose Scale follows is run by it.
    norm: BatchNorm | None = None
    detached: tuple[int, ...] = ()
    # Loss weights of tops.
    weights: dict[int, float] = field(default_factory=dict)
    # Whether it takes bottoms of 16 bits as they are.
    low: bool = True
    done: list[str] = field(default_factory=list)

    def given(self, blobs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """What the layer takes of these blobs."""
        given = [blobs[name] for name in self.bottoms]
        for index in self.detached:
            given[index] = given[index].detach()
        if not self.low:
            given = [bottom.float() if bottom.dtype == torch.bfloat16 else bottom for bottom in given]
        return given

    def run(self, blobs: Mapping[str, torch.Tensor]) -> Sequence[torch.Tensor]:
        """The layer's tops."""
        given = self.given(blobs)
        if self.norm is None:
            return self.layer.run(*given)
        scale = self.layer.blobs
        return (self.norm.scaled(given[0], scale[0], scale[1] if len(scale) > 1 else None),)


class Net:
    """One phase of a net. Raises `CaffeSplitError` for what is not handled, all at once, and for what does not fit.

    stages, level: the net's state, on top of what its own `state` says. seed: of fillers, dropout and data. `fuse` runs
    BatchNorm and the Scale behind it, and ReLU in place, in one pass each: what a training wants; blobs that nothing
    else reads are then never there. precision: see `caffe_split.engine.precision`. compiled: what follows the data goes
    through `torch.compile`, except where all blobs are kept. group: with whom it shares its batches. inputs: shapes of
    Input layers' tops in place of the ones that are written.
    """

    def __init__(
        self,
        document: prototxt.Document,
        phase: str,
        *,
        stages: Sequence[str] = (),
        level: int = 0,
        device: torch.device | str = "cpu",
        seed: int = 0,
        fuse: bool = False,
        precision: str = "fp32",
        compiled: bool = False,
        group: Group = ALONE,
        inputs: Mapping[str, Shape] | None = None,
    ) -> None:
        self.group = group
        self.document, self.phase, self.device = document, phase, torch.device(device)
        self.precision = precision
        self.name = str(document.get("name") or "")
        texts = layers_of(document, phase, stages, level)
        self.notes: list[Note] = check_net(document, texts)
        self.generator = torch.Generator().manual_seed(seed)
        place = Place(phase, self.generator, seed, self.device, group, inputs or {})
        self.layers: list[Layer] = []
        self.shapes: dict[str, Shape] = {}
        self.params: list[Param] = []
        # Names of layers and places of blobs that belong to another layer.
        self.shared: set[tuple[str, int]] = set()
        self._owners: dict[str, tuple[Layer, int]] = {}
        # Parameters shared as other shapes: layer and place -> shape.
        self._shaped: dict[tuple[str, int], Shape] = {}
        self._losses: list[tuple[int, int, float]] = []
        self.loss_weights: dict[str, float] = {}
        self._bottoms: list[dict[str, Shape]] = []
        for text in texts:
            self._add(text, place)
        # How the tops of several processes make up those of the whole batch: see `parts`.
        self.kinds: dict[str, str] = {}
        if group.size > 1:
            self._share_batches(texts)
        self._settle()
        self._check_labels()
        self.outputs = self._outputs()
        self.plain_steps = self._steps(False)
        self._steps_now = self._steps(True) if fuse else self.plain_steps
        self._compute = torch.compile(self._follow) if compiled else self._follow
        # On processors convolutions are faster with a pixel's channels side by side: measured 1.4 times on
        # cifar10_quick, 1.05 on ResNet-20. Whatever follows keeps that order.
        convolves = any(text.type == "Convolution" for text in texts)
        self._channels_last = fuse and convolves and self.device.type == "cpu"
        self.drops = any(text.type == "Dropout" for text in texts)
        self.inputs = [top for layer in self.layers if isinstance(layer, Input) for top in layer.text.tops]

    # -- building

    def _add(self, text: Text, place: Place) -> None:
        module = importlib.import_module(f"caffe_split.engine.layers.{KINDS[text.type].module}")
        layer: Layer = getattr(module, text.type)(text, place)
        bottoms = [self.shapes[name] for name in text.bottoms]
        self._bottoms.append(dict(zip(text.bottoms, bottoms)))
        try:
            layer.setup(bottoms)
            shapes = layer.shapes(bottoms)
        except CaffeSplitError as error:
            raise _placed(error, text) from None
        except (RuntimeError, IndexError, ValueError) as error:
            listed = ", ".join(map(str, bottoms)) or "none"
            raise layer.error(f"it does not fit bottoms of shapes {listed}: {str(error).splitlines()[0]}") from error
        for name, shape in zip(text.tops, shapes):
            self.shapes[name] = tuple(shape)
        self.layers.append(layer)
        for index in range(len(layer.blobs)):
            self._share(layer, index)
        weights = [float(value) for value in text.message.get_all("loss_weight")]
        if not weights and KINDS[text.type].is_loss:
            weights = [1.0] + [0.0] * (len(text.tops) - 1)
        for index, weight in enumerate(weights):
            if weight:
                self._losses.append((len(self.layers) - 1, index, weight))
                self.loss_weights[text.tops[index]] = weight

    def _share_batches(self, texts: Sequence[Text]) -> None:
        """Weigh the losses so that their mean over all processes is the loss of the whole batch."""
        kinds = kinds_of(self.document, texts, self._bottoms)
        for text, tops in zip(texts, kinds):
            self.kinds.update(zip(text.tops, tops))
        self._losses = [
            (index, top, weight * (self.group.size if kinds[index][top] in (EACH, SUM) else 1))
            for index, top, weight in self._losses
        ]

    def _share(self, layer: Layer, index: int) -> None:
        """Take the parameter of an earlier layer where both have one name for it."""
        names = layer.text.param_names()
        name = names[index] if index < len(names) else ""
        if not name:
            return
        if name not in self._owners:
            self._owners[name] = (layer, index)
            return
        owner, place = self._owners[name]
        theirs, ours = owner.blobs[place], layer.blobs[index]
        if theirs.shape != ours.shape:
            permissive = layer.text.message.subs("param")[index].get("share_mode", "STRICT") == "PERMISSIVE"
            if not permissive or theirs.numel() != ours.numel():
                way = "Caffe shares as many values only" if permissive else "share_mode: PERMISSIVE shares its values"
                raise layer.error(
                    f"its param '{name}' has shape {tuple(ours.shape)}, that of layer '{owner.name}' "
                    f"{tuple(theirs.shape)}; {way}."
                )
            self._shaped[layer.name, index] = tuple(ours.shape)
        layer.blobs[index] = theirs
        self.shared.add((layer.name, index))

    def _settle(self) -> None:
        """Move everything to the device, and say what is learnt how."""
        moved: dict[int, torch.Tensor] = {}
        for layer in self.layers:
            layer.buffers = [buffer.to(self.device) for buffer in layer.buffers]
            for index, blob in enumerate(layer.blobs):
                if id(blob) not in moved:
                    target = torch.device("cpu") if index in layer.on_host else self.device
                    moved[id(blob)] = blob.to(target)
                    self.params.append(Param(layer.name, index, moved[id(blob)], *self._multipliers(layer, index)))
                    if self.phase == "TRAIN" and self.params[-1].lr_mult:
                        moved[id(blob)].requires_grad_(True)
                layer.blobs[index] = moved[id(blob)]
        for layer in self.layers:
            for index, blob in enumerate(layer.blobs):
                if (layer.name, index) in self._shaped:
                    layer.blobs[index] = blob.view(self._shaped[layer.name, index])

    def _check_labels(self) -> None:
        """Refuse labels that are no class now, where the data say all of them at once."""
        made: dict[str, Layer] = {}
        for layer in self.layers:
            if isinstance(layer, Labelled) and hasattr(layer, "classes"):
                source = made.get(layer.text.bottoms[1])
                labels = source.labels(layer.text.bottoms[1]) if isinstance(source, Source) else None
                if labels is not None:
                    layer.check_all(labels)
            made.update(dict.fromkeys(layer.text.tops, layer))

    def _multipliers(self, layer: Layer, index: int) -> tuple[float, float]:
        """lr_mult and decay_mult of a parameter: its owner's, or where that is silent a sharing layer's."""
        found: dict[str, float] = {}
        for other in self.layers:
            specs = other.text.message.subs("param")
            for place, blob in enumerate(other.blobs[: len(specs)]):
                if blob is not layer.blobs[index]:
                    continue
                for name in ("lr_mult", "decay_mult"):
                    value = specs[place].get(name, None)
                    if value is not None and found.setdefault(name, float(value)) != float(value):
                        raise other.error(
                            f"its {name} of a shared param is {value}; that of layer '{layer.name}' is {found[name]}."
                        )
        if layer.text.type == "BatchNorm" or (layer.text.type == "TPM" and index):
            if found.get("lr_mult", 0.0) != 0:
                raise layer.error(f"blob {index} is state, which is not learnt: write lr_mult: 0, or leave it out.")
            return 0.0, 0.0 if layer.text.type == "TPM" else found.get("decay_mult", 1.0)
        return found.get("lr_mult", 1.0), found.get("decay_mult", 1.0)

    def _outputs(self) -> list[str]:
        """The blobs that no layer reads, sorted: Caffe's outputs."""
        free: set[str] = set()
        for layer in self.layers:
            free.difference_update(layer.text.bottoms)
            free.update(layer.text.tops)
        return sorted(free)

    def _steps(self, fuse: bool) -> list[_Step]:
        steps: list[_Step] = []
        for index, layer in enumerate(self.layers):
            downs = layer.text.message.get_all("propagate_down")
            detached = tuple(place for place, down in enumerate(downs) if not down)
            weights = {top: weight for place, top, weight in self._losses if place == index}
            low = layer.text.type in LOW
            step = _Step(layer, layer.text.bottoms, layer.text.tops, None, detached, weights, low)
            before = steps[-1] if steps else None
            if fuse and before is not None and self._norm_goes_with(before, step, index):
                assert isinstance(before.layer, BatchNorm)
                step = _Step(layer, before.bottoms, step.tops, before.layer, before.detached, weights)
                steps.pop()
            elif fuse and isinstance(layer, ReLU):
                layer.in_place = self._may_overwrite(index)
            steps.append(step)
        last = {name: index for index, step in enumerate(steps) for name in (*step.bottoms, *step.tops)}
        for name, index in last.items():
            if name not in self.outputs:
                steps[index].done.append(name)
        return steps

    def _norm_goes_with(self, before: _Step, step: _Step, index: int) -> bool:
        return (
            isinstance(before.layer, BatchNorm)
            and isinstance(step.layer, Scale)
            and before.norm is None
            and step.bottoms == before.tops
            and not step.detached
            and step.layer.is_per_channel()
            and self._readers(index - 1) == [index]
        )

    def _readers(self, writer: int) -> list[int]:
        """The layers that read the top of layer `writer` as it wrote it."""
        top = self.layers[writer].text.tops[0]
        readers = []
        for index in range(writer + 1, len(self.layers)):
            text = self.layers[index].text
            if top in text.bottoms:
                readers.append(index)
            if top in text.tops:
                return readers
        return [*readers, len(self.layers)] if top in self._outputs() else readers

    def _may_overwrite(self, index: int) -> bool:
        """Whether layer `index` is in place, alone reads its bottom, and who wrote that needs it no more."""
        bottom = self.layers[index].text.bottoms[0]
        if self.layers[index].text.tops != (bottom,):
            return False
        writers = [place for place in range(index) if bottom in self.layers[place].text.tops]
        writer = self.layers[writers[-1]]
        factors = writer.text.type == "Eltwise" and writer.options.get("operation") != "SUM"
        return writer.text.type in _OVERWRITABLE and not factors and self._readers(writers[-1]) == [index]

    # -- running

    def forward(self, inputs: Mapping[str, np.ndarray | torch.Tensor] | None = None, keep: bool = False) -> Output:
        """Run all layers. `inputs` gives the tops of Input layers; `keep` gives all blobs, not only the outputs.

        Of a blob that layers in place write again, the last values are given. Raises `CaffeSplitError` for inputs that
        do not fit, and where data cannot be read.
        """
        self._give(inputs or {})
        steps = self.plain_steps if keep else self._steps_now
        blobs: dict[str, torch.Tensor] = {}
        losses: list[torch.Tensor] = []
        # Data and what counts on the host come first, and stay outside of what is compiled.
        for step in steps:
            if not step.bottoms:
                self.place(step, step.run(blobs), blobs, losses)
        if self._channels_last and not keep:
            for name, blob in blobs.items():
                if blob.dim() == 4:
                    blobs[name] = blob.contiguous(memory_format=torch.channels_last)
        with lower(self.device, self.precision):
            loss = (self._follow if keep else self._compute)(steps, blobs, losses, keep)
        return Output({name: blobs[name] for name in (blobs if keep else self.outputs)}, loss)

    def _follow(
        self, steps: Sequence[_Step], blobs: dict[str, torch.Tensor], losses: list[torch.Tensor], keep: bool
    ) -> torch.Tensor:
        """Run the layers behind the data; `blobs` afterwards holds all, or what is not done with. The loss."""
        for step in steps:
            if step.bottoms:
                self.place(step, step.run(blobs), blobs, losses)
            if not keep:
                for name in step.done:
                    blobs.pop(name, None)
        return torch.stack([loss.to(self.device) for loss in losses]).sum() if losses else torch.zeros(())

    def place(
        self, step: _Step, tops: Sequence[torch.Tensor], blobs: dict[str, torch.Tensor], losses: list[torch.Tensor]
    ) -> None:
        """Put a layer's tops among the blobs, and its losses to the others."""
        for index, (name, top) in enumerate(zip(step.tops, tops)):
            blobs[name] = top
            weight = step.weights.get(index)
            if weight is not None:
                losses.append(top.sum() * weight if top.dim() or weight != 1 else top)

    def _give(self, inputs: Mapping[str, np.ndarray | torch.Tensor]) -> None:
        for name, values in inputs.items():
            layer = next((one for one in self.layers if isinstance(one, Input) and name in one.text.tops), None)
            if layer is None:
                raise CaffeSplitError(f"the net has no input '{name}'; its inputs: {', '.join(self.inputs) or 'none'}.")
            tensor = torch.as_tensor(values, dtype=torch.float32, device=self.device)
            if tuple(tensor.shape) != self.shapes[name]:
                raise CaffeSplitError(
                    f"input '{name}' has shape {tuple(tensor.shape)}; the net is built for {self.shapes[name]}."
                )
            layer.values[layer.text.tops.index(name)] = tensor

    def set_input_arrays(
        self, images: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor, layer: str = ""
    ) -> None:
        """Give a MemoryData layer (by default the net's first) its arrays: (N, C, height, width) and (N,)."""
        found = [one for one in self.layers if isinstance(one, MemoryData) and layer in ("", one.name)]
        if not found:
            raise CaffeSplitError(f"{self.document.filename}: no MemoryData layer{f' {layer!r}' if layer else ''}.")
        found[0].give(images, labels)

    def first_not_finite(self) -> tuple[str, str] | None:
        """(layer as people name it, what of it) where values first are not finite: parameters, else blobs of the next
        batch. None where all are."""
        for layer in self.layers:
            for index, blob in enumerate(layer.blobs):
                if layer.text.type != "TPM" and not bool(torch.isfinite(blob).all()):
                    return layer.text.where, f"its blob {index} (a learnt parameter)"
        blobs: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for step in self.plain_steps:
                for name, top in zip(step.tops, step.run(blobs)):
                    blobs[name] = top
                    if step.layer.text.type != "TPM" and not bool(torch.isfinite(top).all()):
                        return step.layer.text.where, f"its top '{name}'"
        return None

    # -- several processes

    def go_to(self, number: int) -> None:
        """Let the next forward be of batch `number`, counted from 0. Only before the first forward."""
        for layer in self.layers:
            if isinstance(layer, Source):
                layer.go_to(number)

    def whole(self, name: str, part: torch.Tensor) -> torch.Tensor:
        """An output of the whole batch, from this process's part of it (or from the mean of many)."""
        kind = self.kinds.get(name)
        if kind in (MEAN, SUM):
            total = self.group.total(part.float())
            return total / self.group.size if kind == MEAN else total
        return self.group.rows_of_all(part) if kind == EACH else part

    # -- weights

    def load(self, weights: Mapping[str, Sequence[np.ndarray]], path: str) -> tuple[list[str], list[str]]:
        """Copy the weights of layers of the same name, as Caffe does.

        Returns (layers of the file that the net does not have, layers of the net that stay as they were). Raises
        `CaffeSplitError` for another number of blobs, another shape, or a file of another net altogether.
        """
        todo = []
        for layer in self.layers:
            arrays = list(weights.get(layer.name, []))
            if not arrays:
                continue
            while len(arrays) < len(layer.blobs) and (layer.name, len(arrays)) in self.shared:
                arrays.append(np.empty(0, np.float32))
            if len(arrays) != len(layer.blobs):
                raise layer.error(f"{path} has {len(arrays)} blobs of it; it has {len(layer.blobs)}.")
            for index, (array, blob) in enumerate(zip(arrays, layer.blobs)):
                if array.shape == (0,) and (layer.name, index) in self.shared:
                    continue  # HDF5 leaves out what another layer holds, as an empty array or not at all.
                if not _same_shape(array.shape, tuple(blob.shape)):
                    raise layer.error(
                        f"blob {index} has shape {tuple(array.shape)} in {path}, {tuple(blob.shape)} here."
                    )
                todo.append((blob, array))
        if not todo:
            raise CaffeSplitError(
                f"{path}: none of its layers ({', '.join(list(weights)[:5])}, ...) is in {self.document.filename}."
            )
        with torch.no_grad():
            for blob, array in todo:
                blob.copy_(torch.from_numpy(np.array(array, np.float32)).view(blob.shape))
        ours = {layer.name for layer in self.layers}
        missing = [
            layer.name
            for layer in self.layers
            if not all((layer.name, index) in self.shared for index in range(len(layer.blobs)))
            and not len(weights.get(layer.name, []))
        ]
        return [name for name in weights if name not in ours and len(weights[name])], missing

    def arrays(self) -> dict[str, list[np.ndarray]]:
        """The parameters of every layer, for a snapshot; float32, copies on the host."""
        return {
            layer.name: [np.array(blob.detach().cpu().numpy(), order="C") for blob in layer.blobs]
            for layer in self.layers
        }

    def types(self) -> dict[str, str]:
        """The type of every layer."""
        return {layer.name: layer.text.type for layer in self.layers}

    def share_from(self, other: Net) -> None:
        """Use the parameters of the layers of the same name in another net, as Caffe's test nets do."""
        theirs = {layer.name: layer for layer in other.layers}
        for layer in self.layers:
            source = theirs.get(layer.name)
            if source is None or not source.blobs:
                continue
            if [blob.shape for blob in layer.blobs] != [blob.shape for blob in source.blobs]:
                raise layer.error("its parameters have other shapes in the TRAIN phase.")
            layer.blobs = source.blobs


def _placed(error: CaffeSplitError, text: Text) -> CaffeSplitError:
    message = str(error)
    return error if f"'{text.name}'" in message else CaffeSplitError(f"{text.where}: {message}")


def _same_shape(stored: Sequence[int], wanted: Shape) -> bool:
    """Equal, or four axes of 2013-14 of which the first are 1."""
    if tuple(stored) == wanted:
        return True
    return len(stored) == 4 and tuple(stored) == (1,) * (4 - len(wanted)) + wanted
