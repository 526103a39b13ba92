"""A Caffe net on PyTorch: one phase of a prototxt, with its parameters in Caffe's order, run forward to its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from caffe_split.engine.layers.base import Layer, Place, Shape
from caffe_split.engine.layers.data_layer import DataLayer, seeds_of
from caffe_split.engine.layers.given import Given
from caffe_split.engine.layers.inputs import Input, MemoryData
from caffe_split.engine.model.calls import LayerCall, fused_calls, outputs_of, plain_calls, with_done, with_twins
from caffe_split.engine.model.joined import join
from caffe_split.engine.model.late import Memory, as_it_stands
from caffe_split.engine.model.make_layer import check_labels, loss_weights, make_layer
from caffe_split.engine.model.params import Sharing, copy_weights
from caffe_split.engine.model.precision import lower
from caffe_split.engine.model.step import Step
from caffe_split.engine.parallel.group import ALONE, Group
from caffe_split.engine.spec.memory import Trace
from caffe_split.engine.spec.shared_batch import kinds_of
from caffe_split.engine.spec.support import Note, check_net, layers_of, without
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.layertypes.batch_rules import EACH, MEAN, SUM, BatchKind
from caffe_split.layertypes.left_out import is_needed_to_train, left_out
from caffe_split.net.layers import Layer as Text
from caffe_split.net.state import NetState


@dataclass(frozen=True)
class Output:
    """The result of a forward run: blobs by name (the outputs, or all), and the weighted sum of losses (a scalar)."""

    blobs: dict[str, torch.Tensor]
    loss: torch.Tensor


class Net:
    """One phase of a net.

        net = Net(read_net("deploy.prototxt", upgrade=True), "TEST")
        net.load(read_weights("some.caffemodel"), "some.caffemodel")
        blobs = net.forward({"data": images}, keep=True).blobs  # every blob, by name; tensors

    Args:
        document: the net, in today's form.
        state: a `NetState`, or a phase alone; it comes on top of what the net's own `state` field says.
        device: where it runs.
        seed: of fillers and data.
        fill: whether fillers give the blobs their first values; without, these are arbitrary until weights come.
        fuse: run a BatchNorm with the Scale, sum and ReLU after it in one pass, and other ReLUs in place, as a
            training should; then blobs that nothing else reads are never made.
        joins: with `fuse`, run layers that are one convolution together as one; see `model.joined`.
        precision: fp32, tf32 or bf16; see `model.precision`.
        compiled: run the layers after the data through `torch.compile`, except where all blobs are kept, layers in
            place overwrite what other layers read, or shapes vary.
        group: the processes that share its batches.
        inputs: shapes of Input layers' tops that replace the written ones.

    Raises `CaffeSplitError` with all that is not handled at once, and for layers that do not fit.

    Attributes:
        layers: in the order of the net.
        own: the layers with blobs that are not those of another net.
        params: the learnable parameters in Caffe's order.
        shapes: the shape of each blob by name, for this process's rows; that of the first batch where it varies.
        varies: whether shapes may change from batch to batch: images of several sizes in batches of one, a Filter.
        outputs: the names of the blobs that no layer reads, except data that only layers read that are left out.
        inputs: the names of the Input layers' tops.
        loss_weights: the loss weight of each blob that has one.
        notes: the fields that are ignored and the layers that are left out, with the reasons.
        lacks_loss: whether a loss is among the layers that are left out.
        kinds: for several processes, how their parts of each blob make up the whole.
        calls: the calls of layers that run the net.
        multiply_adds: of convolutions, inner products and recurrent layers in one forward run.
        stale: blob -> its memory, where layers in place have overwritten the value that its layer gave it.
        late: a sentence for each layer whose gradient, as in Caffe, is not the derivative; see `spec.memory`.
    """

    def __init__(
        self,
        document: prototxt.Document,
        state: NetState | str,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        fill: bool = True,
        fuse: bool = False,
        joins: bool = True,
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
        gone = left_out(texts)
        self.lacks_loss = any(is_needed_to_train(texts[index]) for index in gone)
        # What data layers give to these alone, as labels, is no output.
        given_up = {bottom for index in gone for bottom in texts[index].bottoms}
        texts = without(texts, gone)
        self.generator = torch.Generator().manual_seed(seed) if fill else None
        place = Place(state.phase, self.generator, seed, self.device, group, inputs or {})
        self.layers: list[Layer] = []
        self.shapes: dict[str, Shape] = {}
        sharing = Sharing()
        self.shared = sharing.shared
        # For each layer, index of a top -> its loss weight.
        self._losses: list[dict[int, float]] = []
        self.loss_weights: dict[str, float] = {}
        self._bottoms: list[dict[str, Shape]] = []
        self.multiply_adds = 0
        for text, own in zip(texts, seeds_of(texts, seed)):
            self._add(text, replace(place, seed=own), sharing)
        # How the tops of several processes make up those of the whole batch.
        self.kinds: dict[str, BatchKind] = {}
        if group.size > 1:
            self._share_batches(texts)
        self.params = sharing.settle(self.layers, self.device, state.phase == "TRAIN")
        self.own = [layer for layer in self.layers if layer.blobs]
        check_labels(self.layers)
        given_up &= {top for text in texts if not text.bottoms for top in text.tops}
        self.outputs = [name for name in outputs_of(self.layers) if name not in given_up]
        self.stale = Trace([layer.text for layer in self.layers]).stale
        self.plain_calls = plain_calls(self.layers, self._losses)
        self.calls = fused_calls(self.layers, self._losses, kernels=not compiled) if fuse else self.plain_calls
        self.late = [call.access.why for call in self.plain_calls if call.access.late]
        self.varies = any(layer.varies for layer in self.layers)
        if fuse and joins and not self.varies:
            self.calls = with_done(join(self.calls, self.shapes, self.outputs), self.outputs)
        for call in (*self.plain_calls, *self.calls):
            call.varies = self.varies
        # What is compiled is one graph of one shape, which cannot look at memory when its gradient is computed.
        plain = all(call.access.is_plain for call in self.calls) and not self.varies
        plain = plain and not any(layer.eager for layer in self.layers)
        self._compute = torch.compile(self._follow) if compiled and plain else self._follow
        # On processors convolutions are faster with the channels of a pixel side by side: 1.4 times as measured on
        # cifar10_quick, 1.05 times on ResNet-20. Later layers keep that order.
        convolves = any(text.type == "Convolution" for text in texts)
        self._channels_last = fuse and convolves and self.device.type == "cpu"
        # Whether `learn` may do without autograd, until it has looked, and what then runs the net.
        self._steps = fuse and not compiled
        self._step: Step | None = None
        self.drops = any(layer.draws for layer in self.layers)
        read = frozenset(bottom for layer in self.layers for bottom in layer.text.bottoms)
        for layer in self.layers:
            if isinstance(layer, Given):
                layer.read = read
        self.inputs = [top for layer in self.layers if isinstance(layer, Input) for top in layer.text.tops]

    # -- building

    def _add(self, text: Text, place: Place, sharing: Sharing) -> None:
        bottoms = [self.shapes[name] for name in text.bottoms]
        self._bottoms.append(dict(zip(text.bottoms, bottoms)))
        layer, shapes = make_layer(text, place, bottoms)
        self.shapes.update(zip(text.tops, shapes))
        twin = next((other for other in self.layers if other.name == text.name and other.blobs and layer.blobs), None)
        if twin is not None:
            raise layer.error(
                f"{twin.text.where} has weights under the same name, and a snapshot could keep those of one layer "
                "only: rename one of them."
            )
        self.layers.append(layer)
        sharing.add(layer)
        self.multiply_adds += layer.multiply_adds(bottoms)
        self._losses.append(loss_weights(text))
        self.loss_weights.update((text.tops[index], weight) for index, weight in self._losses[-1].items())

    def _share_batches(self, texts: Sequence[Text]) -> None:
        """Weight the losses so that their mean over all processes is the loss of the whole batch."""
        kinds = kinds_of(self.document, texts, self._bottoms)
        for text, tops in zip(texts, kinds):
            self.kinds.update(zip(text.tops, tops))
        self._losses = [
            {top: weight * (self.group.size if tops[top] in (EACH, SUM) else 1) for top, weight in weights.items()}
            for tops, weights in zip(kinds, self._losses)
        ]

    # -- running

    def forward(
        self,
        inputs: Mapping[str, np.ndarray | torch.Tensor] | None = None,
        keep: bool = False,
        sources: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Output:
        """Run all layers.

        inputs: arrays for tops of Input layers, by name, of the shapes in `shapes`; the others keep their values. keep:
        return all blobs, not only the outputs; of a blob that a layer in place overwrites, the last values. sources:
        what every blob of a layer without bottoms goes through. Raises `CaffeSplitError` for inputs that do not fit,
        and where data cannot be read.
        """
        self._give(inputs or {})
        calls = self.plain_calls if keep else self.calls
        blobs: dict[str, torch.Tensor] = {}
        losses: list[torch.Tensor] = []
        memory: Memory = {}
        self._start(calls, blobs, losses, memory, sources)
        if self._channels_last and not keep:
            for name, blob in blobs.items():
                if blob.dim() == 4:
                    blobs[name] = blob.contiguous(memory_format=torch.channels_last)
        with lower(self.device, self.precision):
            loss = (self._follow if keep else self._compute)(calls, blobs, losses, memory, keep)
        found = {name: blobs[name] for name in (blobs if keep else self.outputs)}
        stale = {name: cell for name, cell in self.stale.items() if name in found}
        found.update((name, as_it_stands(found[name], memory[cell])) for name, cell in stale.items())
        return Output(found, loss)

    def learn(self) -> Output:
        """Run all layers forward, and backward from the loss: gradients are added to those of the parameters."""
        if self._steps and self._step is None:
            self._steps = Step.fits(self)
            self._step = Step(self) if self._steps else None
            if self._step is None:
                self.calls = with_twins(self.calls, self.outputs)
        if self._step is None:
            output = self.forward()
            if output.loss.requires_grad:
                output.loss.backward()
            return output
        blobs: dict[str, torch.Tensor] = {}
        losses: list[torch.Tensor] = []
        self._start(self.calls, blobs, losses, {}, None)
        self._step.run(blobs, losses)
        return Output({name: blobs[name] for name in self.outputs}, self.total(losses))

    def _start(
        self,
        calls: Sequence[LayerCall],
        blobs: dict[str, torch.Tensor],
        losses: list[torch.Tensor],
        memory: Memory,
        sources: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        """Run the layers without bottoms, which give data or compute on the host (TPM): they come first."""
        for call in calls:
            if not call.bottoms:
                tops = call.run(blobs, memory)
                self.collect(call, tops if sources is None else [sources(top) for top in tops], blobs, losses)

    def _follow(
        self,
        calls: Sequence[LayerCall],
        blobs: dict[str, torch.Tensor],
        losses: list[torch.Tensor],
        memory: Memory,
        keep: bool,
    ) -> torch.Tensor:
        """Run the layers that have bottoms, and return the loss.

        Their tops are put into `blobs`; unless `keep`, blobs that no later call reads are taken out.
        """
        for call in calls:
            if call.bottoms:
                self.collect(call, call.run(blobs, memory), blobs, losses)
            if not keep:
                for name in call.done:
                    blobs.pop(name, None)
        return self.total(losses)

    def collect(
        self, call: LayerCall, tops: Sequence[torch.Tensor], blobs: dict[str, torch.Tensor], losses: list[torch.Tensor]
    ) -> None:
        """Put the tops of a call into `blobs`, and those with a loss weight, times it, into `losses`."""
        for index, (name, top) in enumerate(zip(call.tops, tops)):
            blobs[name] = top
            weight = call.weights.get(index)
            if weight is not None:
                losses.append(top.sum() * weight if top.dim() or weight != 1 else top)

    def total(self, losses: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sum of losses that `collect` has collected, a scalar."""
        if len(losses) == 1:
            return losses[0].to(self.device)
        return torch.stack([loss.to(self.device) for loss in losses]).sum() if losses else torch.zeros(())

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

    def precisions(self) -> str:
        """Which layers compute in bfloat16 and which in float32, for a net of precision bf16."""
        names: dict[bool, list[str]] = {True: [], False: []}
        for call in self.plain_calls:
            if call.bottoms:
                names[call.low].append(call.layer.name)
        low, full = names[True], names[False]
        return f"{len(low)} layers in bfloat16; in float32: {', '.join(full) or 'none'}"

    def set_input_arrays(
        self, images: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor, layer: str = ""
    ) -> None:
        """Give the MemoryData layer named `layer` (by default the first) its arrays, (N, C, height, width) and (N,)."""
        found = [one for one in self.layers if isinstance(one, MemoryData) and layer in ("", one.name)]
        if not found:
            raise CaffeSplitError(f"{self.document.filename}: no MemoryData layer{f' {layer!r}' if layer else ''}.")
        found[0].give(images, labels)

    # -- several processes

    def go_to(self, number: int) -> None:
        """Make the next forward run that of batch `number`, counted from 0. Only before the first one."""
        for layer in self.layers:
            if isinstance(layer, DataLayer):
                layer.go_to(number)

    def whole(self, name: str, part: torch.Tensor) -> torch.Tensor:
        """The output `name` for the whole batch, from `part`, this process's value of it."""
        kind = self.kinds.get(name)
        if kind in (MEAN, SUM):
            total = self.group.total(part.float())
            return total / self.group.size if kind == MEAN else total
        return self.group.rows_of_all(part) if kind == EACH else part

    # -- weights

    def load(self, weights: Mapping[str, Sequence[np.ndarray]], path: str) -> tuple[list[str], list[str]]:
        """Copy weights into the layers of the same names, as Caffe does; `path` is their file. See `copy_weights`."""
        return copy_weights(self.layers, self.shared, weights, path, self.document.filename)

    def load_own(self, weights: Mapping[str, Sequence[np.ndarray]], path: str) -> list[str]:
        """As `load`, into the layers alone that share no blobs of another net. Returns the names of those it loads."""
        loaded = [layer for layer in self.own if len(weights.get(layer.name, ()))]
        if loaded:
            copy_weights(loaded, self.shared, weights, path, self.document.filename)
        return [layer.name for layer in loaded]

    def arrays(self) -> dict[str, list[np.ndarray]]:
        """The blobs of each layer by name, for a snapshot: float32 copies on the host."""
        return {
            layer.name: [np.array(blob.detach().cpu().numpy(), order="C") for blob in layer.blobs]
            for layer in self.layers
        }

    def types(self) -> dict[str, str]:
        """The type of each layer by name."""
        return {layer.name: layer.text.type for layer in self.layers}

    def share_from(self, other: Net) -> None:
        """Use the blobs of the layers of the same names in another net, as Caffe's test nets do.

        Raises `CaffeSplitError` for other shapes.
        """
        theirs = {layer.name: layer for layer in other.layers}
        self.own = []
        for layer in self.layers:
            source = theirs.get(layer.name)
            if source is None or not source.blobs:
                self.own += [layer] if layer.blobs else []
                continue
            if [blob.shape for blob in layer.blobs] != [blob.shape for blob in source.blobs]:
                raise layer.error("its parameters have other shapes in the TRAIN phase.")
            layer.blobs = source.blobs
