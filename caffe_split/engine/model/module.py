"""A Caffe net as a PyTorch module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape
from caffe_split.engine.layers.inputs import Input
from caffe_split.engine.layers.python import Python
from caffe_split.engine.model.held import Blobs, Held, needed, outputs_of, read_by
from caffe_split.engine.model.late import Memory
from caffe_split.engine.model.net import Net
from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike
from caffe_split.formats import prototxt
from caffe_split.formats.weights.caffemodel import write_weights
from caffe_split.formats.weights.model import Weights
from caffe_split.layertypes.inputs import is_source, with_inputs
from caffe_split.layertypes.table import record_of
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.state import NetState

# Nets are kept for this many sets of input shapes.
_KEPT = 16


class Module(nn.Module):
    """A Caffe net as a module: `caffe_split.load` makes it.

        module(images)                            # its inputs in order; blob -> tensor for each output
        module(data=images, label=labels)         # or by name
        module(images, blobs=["fc7", "pool5"])    # these blobs instead of the outputs; only what they need is computed

    Inputs are the tops of Input layers, and of data layers, whose batches and transformed images the caller gives. Any
    batch size and image size is taken that the net allows; its layers are set up once for each. A blob that layers in
    place overwrite has the last one's values.

    Parameters are called as the layer, and `weight` or `bias`: `module.conv1.weight`; dots in a layer's name are
    levels. BatchNorm's `mean`, `variance`, `factor` are buffers. A parameter that layers share by its name is the first
    one's. Those with an lr_mult of 0 need no gradient. `train()` computes as Caffe's TRAIN phase, with the layers
    and inputs of that phase, `eval()` as its TEST phase; gradients are the derivatives also where Caffe's, computed
    from blobs that a layer in place has overwritten, are not. TPM layers are left out.

    Attributes:
        unused: names of layers in the weights' file that neither phase of the net has.
    """

    def __init__(
        self,
        document: prototxt.Document,
        weights: Weights | None = None,
        *,
        inputs: Mapping[str, Shape] | None = None,
        state: NetState | str = "TEST",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._file, self._text = document.filename, document.to_bytes()
        self._state, self._inputs = NetState.of(state), dict(inputs or {})
        self._nets: dict[Any, Net] = {}
        self._types: dict[str, str] = {}
        self._net_name = str(document.get("name") or "")
        # Name of a parameter -> (layer, index) of the blob that layers share by it.
        self._owners: dict[str, tuple[str, int]] = {}
        # Why there is no TRAIN phase; '' where there is one.
        self._no_training = ""
        self.unused: list[str] = []
        found: set[str] = set()
        for phase in ("TEST", "TRAIN"):
            try:
                net = self._build(phase, {}, torch.device("cpu"), fill=True, seed=seed)
                if weights is not None:
                    self._take(net, weights, phase)
            except CaffeSplitError as error:
                if phase == "TEST":
                    raise
                self._no_training = str(error)
                break
            found.update(layer.name for layer in net.layers)
            self._register(net)
        if weights is not None:
            self.unused = [name for name in weights if name not in found and len(weights[name])]

    # -- building

    def _build(
        self, phase: str, shapes: Mapping[str, Shape], device: torch.device, *, fill: bool, seed: int = 0
    ) -> Net:
        document = prototxt.parse(self._text, "net", self._file)
        state = self._state.in_phase(phase)
        opened = with_inputs(document, state, {**self._known(document, state), **shapes})
        return Net(opened, state, device=device, fill=fill, seed=seed)

    def _known(self, document: prototxt.Document, state: NetState) -> dict[str, Shape]:
        """The shapes that `load` was given, of blobs that this phase has."""
        if not self._inputs:
            return {}
        tops, every = (
            {top for layer in layers if is_source(layer) for top in layer.tops}
            for layers in (phase_layers(document, state.in_net(document)), all_layers(document))
        )
        return {name: shape for name, shape in self._inputs.items() if name in tops or name not in every}

    def _take(self, net: Net, weights: Weights, phase: str) -> None:
        _, missing = net.load(weights, weights.path)
        lacking = [layer for layer in net.layers if layer.name in missing and layer.blobs and layer.text.type != "TPM"]
        if phase == "TEST" and lacking:
            raise CaffeSplitError(
                f"{weights.path}: no weights of {', '.join(layer.text.where for layer in lacking)}. Is it a snapshot "
                f"of {self._file}?"
            )

    def _register(self, net: Net) -> None:
        """Take over the blobs of a net's layers, except those of layers that are here already."""
        rates = {(param.layer, param.index): param.lr_mult for param in net.params}
        for layer in net.layers:
            if not layer.blobs or layer.text.type == "TPM":
                continue
            self._check_shapes(net, layer)
            for index, name in enumerate(layer.text.param_names()[: len(layer.blobs)]):
                if name:
                    self._owners.setdefault(name, (layer.name, index))
            if layer.name in self._types:
                continue
            self._types[layer.name] = layer.text.type
            holder = self._holder(layer.name, make=True)
            for index, blob in enumerate(layer.blobs):
                if self._owner(layer, index) != (layer.name, index):
                    continue
                name, values = record_of(layer.text.type).blob_name(index), blob.detach()
                rate = rates[layer.name, index]
                if not rate and _keeps_state(net, layer, index):
                    holder.register_buffer(name, values)
                else:
                    holder.register_parameter(name, nn.Parameter(values, requires_grad=rate != 0))

    def _holder(self, layer: str, make: bool = False) -> Blobs:
        """The module of a layer's blobs."""
        place: nn.Module = self
        for part in layer.split("."):
            children = place._modules  # noqa: SLF001 - add_module refuses layers that are called as a method is
            if make and part not in children:
                children[part or "_"] = Blobs()
            child = children[part or "_"]
            assert isinstance(child, Blobs)
            place = child
        assert isinstance(place, Blobs)
        return place

    def _owner(self, layer: Layer, index: int) -> tuple[str, int]:
        names = layer.text.param_names()
        return self._owners.get(names[index] if index < len(names) else "", (layer.name, index))

    def _hold(self, layer: Layer) -> None:
        """Make a layer that is set up compute with the blobs of this module, whatever these will be when it runs."""
        places = []
        for index, blob in enumerate(layer.blobs):
            name, place = self._owner(layer, index)
            places.append((self._holder(name), record_of(self._types[name]).blob_name(place), tuple(blob.shape)))
        # Layers only read their blobs when they run, which this can do as a list does.
        layer.blobs = cast("list[torch.Tensor]", Held(places))

    def _check_shapes(self, net: Net, layer: Layer) -> None:
        """Raises `CaffeSplitError` where a layer's blobs have other shapes than those that are held for it."""
        if layer.name not in self._types:
            return
        for index, blob in enumerate(layer.blobs):
            owner, place = self._owner(layer, index)
            held = self._holder(owner).get_blob(record_of(self._types[owner]).blob_name(place))
            if held.numel() != blob.numel() or (owner == layer.name and held.shape != blob.shape):
                given = ", ".join(f"{name} {tuple(net.shapes[name])}" for name in net.inputs)
                name = record_of(layer.text.type).blob_name(index)
                raise layer.error(
                    f"for {given} its {name} would have the shape {tuple(blob.shape)}; it has {tuple(held.shape)}, so "
                    "that the net takes no inputs of these sizes."
                )

    # -- running

    @property
    def phase(self) -> str:
        """TRAIN or TEST, by the mode."""
        return "TRAIN" if self.training else "TEST"

    @property
    def inputs(self) -> dict[str, Shape]:
        """The inputs of the present phase in order, with the shapes that are written in the net, or were given."""
        net = self._net({}, self._device())
        return {name: net.shapes[name] for name in net.inputs}

    @property
    def outputs(self) -> list[str]:
        """The names of the present phase's outputs: the blobs that no layer reads."""
        return outputs_of(self._net({}, self._device()))

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weights of the present phase's losses by blob: the objective is the sum of their products."""
        return dict(self._net({}, self._device()).loss_weights)

    @override
    def forward(self, /, *arrays: Any, blobs: Sequence[str] | None = None, **named: Any) -> dict[str, torch.Tensor]:
        """Run the net. See the class; arrays may be tensors or NumPy's, of floating point or whole numbers.

        Raises `CaffeSplitError` for inputs that are missing or unknown, whose shapes do not fit, and for unknown blobs.
        """
        device = self._device()
        given = self._given(arrays, named, device)
        net = self._net({name: tuple(int(n) for n in value.shape) for name, value in given.items()}, device)
        wanted = list(blobs) if blobs is not None else outputs_of(net)
        calls = needed(net, wanted)
        values: dict[str, torch.Tensor] = {}
        memory: Memory = {}
        for call in calls:
            layer = call.layer
            if isinstance(layer, Input):
                lacking = [top for top in layer.text.tops if top not in given]
                if set(lacking) & read_by(calls, wanted):
                    raise CaffeSplitError(
                        f"{self._file}: input '{lacking[0]}' is not given; the inputs of its {net.phase} phase are "
                        f"{', '.join(net.inputs)}."
                    )
                values.update((top, given[top]) for top in layer.text.tops if top in given)
                continue
            bottoms = [values[name] for name in call.bottoms]
            for index, cell in call.access.stale.items():
                bottoms[index] = memory[cell].reshape(bottoms[index].shape)
            for index in call.detached:
                bottoms[index] = bottoms[index].detach()
            if net.varies:
                layer.follow([tuple(bottom.shape) for bottom in bottoms])
            tops = layer.run(*bottoms)
            values.update(zip(call.tops, tops))
            memory.update((cell, tops[index]) for index, cell in call.access.writes.items())
        stale = {name: memory[net.stale[name]] for name in wanted if name in net.stale}
        values.update((name, now.reshape(values[name].shape)) for name, now in stale.items())
        return {name: values[name] for name in wanted}

    def _given(self, arrays: Sequence[Any], named: Mapping[str, Any], device: torch.device) -> dict[str, torch.Tensor]:
        """The inputs by name, as tensors of floating point."""
        names = self._net({}, device).inputs
        if len(arrays) > len(names):
            raise CaffeSplitError(
                f"{self._file}: {len(arrays)} inputs are given; its {self.phase} phase has {len(names)}: "
                f"{', '.join(names) or 'none'}."
            )
        both = [name for name in names[: len(arrays)] if name in named]
        strange = [name for name in named if name not in names]
        if both or strange:
            what = f"input '{both[0]}' is given twice" if both else f"it has no input '{strange[0]}'"
            raise CaffeSplitError(f"{self._file}: {what}; its inputs: {', '.join(names) or 'none'}.")
        found = {}
        for name, value in {**dict(zip(names, arrays)), **named}.items():
            tensor = torch.as_tensor(value, device=device) if not isinstance(value, torch.Tensor) else value
            number = tensor.is_floating_point() and not isinstance(value, np.ndarray)
            found[name] = tensor if number else tensor.to(self._dtype())
        return found

    def _net(self, shapes: Mapping[str, Shape], device: torch.device) -> Net:
        """The present phase's net for inputs of these shapes; the others keep theirs, with as many records."""
        if self.training and self._no_training:
            raise CaffeSplitError(f"the TRAIN phase cannot be computed: {self._no_training}")
        key = (self.phase, device, tuple(sorted(shapes.items())))
        return self._nets[key] if key in self._nets else self._new_net(key, shapes, device)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _new_net(self, key: object, shapes: Mapping[str, Shape], device: torch.device) -> Net:
        wanted = dict(shapes)
        if shapes:
            written = {name: self._net({}, device).shapes[name] for name in self._net({}, device).inputs}
            batches = {written[name][:1]: shape[:1] for name, shape in shapes.items() if shape}
            for name, shape in written.items():
                wanted.setdefault(name, (*batches.get(shape[:1], shape[:1]), *shape[1:]))
        net = self._build(self.phase, wanted, device, fill=False)
        for layer in net.layers:
            if layer.text.type != "TPM":
                self._check_shapes(net, layer)
                self._hold(layer)
        if len(self._nets) >= _KEPT:
            self._nets.clear()
        if not torch.compiler.is_compiling():  # torch.export's constants are not for later runs
            self._nets[key] = net
        return net

    def _device(self) -> torch.device:
        first = next(self._tensors(), None)
        return first.device if first is not None else torch.device("cpu")

    def _dtype(self) -> torch.dtype:
        first = next(self._tensors(), None)
        return first.dtype if first is not None else torch.float32

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from self.parameters()
        yield from self.buffers()

    # -- files

    def save_caffemodel(self, path: PathLike) -> None:
        """Write the weights for Caffe: of all layers of both phases, under their names, as float32.

        Layers without weights are named in the file, too, as in Caffe's own, so that no net's file is empty. It is
        binary, or HDF5 where `path` ends in `.h5`; whole or not at all. Raises `CaffeSplitError` as `write_weights`.
        """
        arrays: dict[str, list[np.ndarray]] = {}
        types: dict[str, str] = {}
        for phase in ("TEST", "TRAIN"):
            if phase == "TRAIN" and self._no_training:
                continue
            for layer in self._build(phase, {}, torch.device("cpu"), fill=False).layers:
                if layer.name in arrays or layer.text.type == "TPM":
                    continue
                if layer.blobs:
                    self._hold(layer)
                arrays[layer.name] = [blob.detach().cpu().float().numpy() for blob in layer.blobs]
                types[layer.name] = layer.text.type
        write_weights(path, arrays, self._net_name, types)

    @override
    def __getstate__(self) -> dict[str, Any]:
        """Without the nets that are set up, which are made anew when they are needed: for copies and pickles."""
        return {**self.__dict__, "_nets": {}}


def _keeps_state(net: Net, layer: Layer, index: int) -> bool:
    """Whether a blob of rate 0 is state, a buffer of PyTorch's."""
    if isinstance(layer, Python):
        return index in layer.states
    return bool(layer.inferred([net.shapes[bottom] for bottom in layer.text.bottoms]).state)
