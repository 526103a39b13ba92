"""A Caffe net on PyTorch: one phase of a prototxt, its parameters as Caffe counts them, forward and the loss.

net = Net(read_net("deploy.prototxt", upgrade=True), "TEST")
net.load(read_weights("some.caffemodel"), "some.caffemodel")
blobs = net.forward({"data": images}, keep=True).blobs
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from caffe_split.engine.layers.base import Layer, Place, Shape
from caffe_split.engine.layers.data import Input, MemoryData, Source
from caffe_split.engine.layers.loss import Labelled
from caffe_split.engine.model.params import Sharing, copy_weights
from caffe_split.engine.model.precision import lower
from caffe_split.engine.model.steps import Step, fused_steps, outputs_of, plain_steps
from caffe_split.engine.parallel.group import ALONE, Group
from caffe_split.engine.spec.batch_rules import EACH, MEAN, SUM, kinds_of
from caffe_split.engine.spec.kinds import KINDS
from caffe_split.engine.spec.support import Note, check_net, layers_of
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.layers import Layer as Text
from caffe_split.net.state import NetState


@dataclass(frozen=True)
class Output:
    """What a forward gives: the blobs (the net's outputs, or all), and the weighted sum of all losses (a scalar)."""

    blobs: dict[str, torch.Tensor]
    loss: torch.Tensor


class Net:
    """One phase of a net. Raises `CaffeSplitError` for what is not handled, all at once, and for what does not fit.

    state: a `NetState`, or a phase alone; it comes on top of what the net's own `state` says. seed: of fillers, dropout
    and data. `fuse` runs BatchNorm and the Scale behind it, and ReLU in place, in one pass each: what a training wants;
    blobs that nothing else reads are then never there. precision: see `caffe_split.engine.model.precision`.
    compiled: what follows the data goes through `torch.compile`, except where all blobs are kept. group: with whom it
    shares its batches. inputs: shapes of Input layers' tops in place of the ones that are written.
    """

    def __init__(
        self,
        document: prototxt.Document,
        state: NetState | str,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        fuse: bool = False,
        precision: str = "fp32",
        compiled: bool = False,
        group: Group = ALONE,
        inputs: Mapping[str, Shape] | None = None,
    ) -> None:
        state = NetState.of(state)
        self.group = group
        self.document, self.phase, self.device = document, state.phase, torch.device(device)
        self.precision = precision
        self.name = str(document.get("name") or "")
        texts = layers_of(document, state)
        self.notes: list[Note] = check_net(document, texts)
        self.generator = torch.Generator().manual_seed(seed)
        place = Place(state.phase, self.generator, seed, self.device, group, inputs or {})
        self.layers: list[Layer] = []
        self.shapes: dict[str, Shape] = {}
        sharing = Sharing()
        self.shared = sharing.shared
        # Loss weights of each layer's tops.
        self._losses: list[dict[int, float]] = []
        self.loss_weights: dict[str, float] = {}
        self._bottoms: list[dict[str, Shape]] = []
        for text in texts:
            self._add(text, place, sharing)
        # How the tops of several processes make up those of the whole batch: see `parts`.
        self.kinds: dict[str, str] = {}
        if group.size > 1:
            self._share_batches(texts)
        self.params = sharing.settle(self.layers, self.device, state.phase == "TRAIN")
        self._check_labels()
        self.outputs = outputs_of(self.layers)
        self.plain_steps = plain_steps(self.layers, self._losses)
        self._steps_now = fused_steps(self.layers, self._losses) if fuse else self.plain_steps
        self._compute = torch.compile(self._follow) if compiled else self._follow
        # On processors convolutions are faster with a pixel's channels side by side: measured 1.4 times on
        # cifar10_quick, 1.05 on ResNet-20. Whatever follows keeps that order.
        convolves = any(text.type == "Convolution" for text in texts)
        self._channels_last = fuse and convolves and self.device.type == "cpu"
        self.drops = any(text.type == "Dropout" for text in texts)
        self.inputs = [top for layer in self.layers if isinstance(layer, Input) for top in layer.text.tops]

    # -- building

    def _add(self, text: Text, place: Place, sharing: Sharing) -> None:
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
        sharing.add(layer)
        weights = [float(value) for value in text.message.get_all("loss_weight")]
        if not weights and KINDS[text.type].is_loss:
            weights = [1.0] + [0.0] * (len(text.tops) - 1)
        self._losses.append({index: weight for index, weight in enumerate(weights) if weight})
        self.loss_weights.update((text.tops[index], weight) for index, weight in self._losses[-1].items())

    def _share_batches(self, texts: Sequence[Text]) -> None:
        """Weigh the losses so that their mean over all processes is the loss of the whole batch."""
        kinds = kinds_of(self.document, texts, self._bottoms)
        for text, tops in zip(texts, kinds):
            self.kinds.update(zip(text.tops, tops))
        self._losses = [
            {top: weight * (self.group.size if tops[top] in (EACH, SUM) else 1) for top, weight in weights.items()}
            for tops, weights in zip(kinds, self._losses)
        ]

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
        self, steps: Sequence[Step], blobs: dict[str, torch.Tensor], losses: list[torch.Tensor], keep: bool
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
        self, step: Step, tops: Sequence[torch.Tensor], blobs: dict[str, torch.Tensor], losses: list[torch.Tensor]
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
        batch. None where all are.
        """
        for layer in self.layers:
            for index, blob in enumerate(layer.blobs):
                if layer.text.type != "TPM" and not bool(torch.isfinite(blob).all()):
                    what = "running statistics" if layer.text.type == "BatchNorm" else "a learnt parameter"
                    return layer.text.where, f"its blob {index} ({what})"
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
        """Copy the weights of layers of the same name, as Caffe does: see `copy_weights`."""
        return copy_weights(self.layers, self.shared, weights, path, self.document.filename)

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
