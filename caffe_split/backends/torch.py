"""Our own engine on PyTorch as a back end."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_split.backends.protocol import (
    Backend,
    Batch,
    Forwarded,
    Forwarding,
    LayerTime,
    NetFiles,
    Running,
    Session,
    Timed,
    Timing,
    TrainingCommand,
    TrainingRequest,
)
from caffe_split.engine import require_torch
from caffe_split.errors import CaffeSplitError
from caffe_split.net.state import NetState

if TYPE_CHECKING:
    import numpy as np
    import torch

    from caffe_split.engine.model.net import Net
    from caffe_split.engine.spec.command import Choices
    from caffe_split.split.branch_norm import ChannelStatistics


class Torch(Backend):
    """Nets and training on PyTorch."""

    name = "torch"
    title = "the torch engine"
    library = "PyTorch"
    module = "torch"
    distribution = "torch"
    how_to_get = "install PyTorch with ./tools/environment --no-caffe --torch, or pip install torch"

    def require(self) -> None:
        """Raises `CaffeSplitError` where PyTorch is not installed, as the engine itself does."""
        require_torch()

    def forward(self, nets: Sequence[NetFiles], how: Forwarding) -> list[Forwarded]:
        """See `Backend.forward`."""
        self.require()
        return [_forward(net, how) for net in nets]

    def open(self, net: NetFiles, how: Running) -> AbstractContextManager[Session]:
        """See `Backend.open`."""
        self.require()
        return contextlib.nullcontext(TorchSession(net, how))

    def time(self, net: Path, how: Timing, say: Callable[[int, float], None]) -> Timed:
        """Layer by layer, as a training on the same device runs them, except that BatchNorm and Scale run apart."""
        self.require()
        from caffe_split.engine.model.net import Net
        from caffe_split.engine.model.timing import time_layers
        from caffe_split.formats.prototxt.nets import read_net

        device = _device(how.device, how.threads)
        made = Net(read_net(net, upgrade=True), how.state, device=device)
        layers, both = time_layers(made, how.iterations, say)
        times = [LayerTime(*each) for each in layers]
        total = sum(each.forward for each in times), sum(each.backward for each in times)
        return Timed(times, *total, both, _not_computed(made))

    def channel_statistics(
        self, net: NetFiles, blobs: Sequence[str], batches: int, state: NetState
    ) -> dict[str, ChannelStatistics]:
        """See `Backend.channel_statistics`."""
        from caffe_split.backends.measure import measure

        self.require()
        made = _open(net, state, 0)
        with _threads(made):
            return measure((_blobs(made) for _ in range(batches)), blobs)

    def mean_gradients(
        self, net: Path, weights: Sequence[Path], layers: Sequence[str], batches: int, state: NetState
    ) -> list[dict[str, np.ndarray]]:
        """See `Backend.mean_gradients`."""
        self.require()
        return [_mean_gradients(NetFiles(net, path), layers, batches, state) for path in weights]

    def require_choices(self, solver: Path, choices: Choices) -> None:
        """See `Backend.require_choices`. PyTorch is loaded only where there is something to ask."""
        if choices.device != "cuda" and choices.precision != "tf32":
            return
        from caffe_split.engine.device import choose_device
        from caffe_split.engine.model.precision import check_precision

        check_precision(choices.precision or "fp32", choose_device(choices.device, str(solver)))

    def training(self, request: TrainingRequest) -> TrainingCommand:
        """`python -m caffe_split.engine`, after a check of all nets of the solver."""
        from caffe_split.engine.spec.command import command_for

        words = command_for(request.solver, request.weights, request.snapshot, request.threads, request.choices)
        environment = dict(os.environ)
        # Threads that wait by spinning hinder each other as soon as the machine has other work: on two cores shared
        # with other programs a training took 14 times as long.
        environment.setdefault("OMP_WAIT_POLICY", "passive")
        return TrainingCommand(words, environment)

    def reason(self, line: str) -> str:
        """The line without the prefix of the engine's log; its line numbers say nothing to a user."""
        return re.sub(r"^(?:[IF]\S+ \S+ +\d+ )?engine\.py:\d+\] ", "", line)


class TorchSession(Session):
    """A net of the engine."""

    def __init__(self, files: NetFiles, how: Running) -> None:
        self._net = _open(files, how.state, 0, how.shapes, device=_device(how.device, how.threads))
        self._net.go_to(how.skip)
        self.inputs, self.outputs, self.shapes = self._net.inputs, self._net.outputs, self._net.shapes
        self.loss_weights = self._net.loss_weights
        self.notes, self.lacks_loss = _not_computed(self._net), self._net.lacks_loss
        self._wanted = list(dict.fromkeys((*self.outputs, *how.blobs)))
        for name in self._wanted:
            if name not in self.shapes:
                raise CaffeSplitError(f"{files.net}: no blob '{name}'; it has {', '.join(self.shapes)}.")

    def forward(self, inputs: Mapping[str, np.ndarray] | None = None) -> Batch:
        """See `Session.forward`."""
        import torch

        with torch.no_grad():
            made = self._net.forward(inputs, keep=True)
        return Batch(float(made.loss), {name: made.blobs[name].float().cpu().numpy() for name in self._wanted})


def _not_computed(net: Net) -> list[str]:
    """A sentence for each layer that is left out."""
    return [note.text for note in net.notes if not note.field]


def _device(name: str, threads: int | None) -> torch.device:
    """The device of that name, after the number of threads is set. Raises `CaffeSplitError` where it is not there."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise CaffeSplitError("--device cuda, but PyTorch sees no CUDA device here; give --device cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.device(name)


def _open(
    files: NetFiles,
    state: NetState,
    seed: int,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Net:
    """The net with its weights; `inputs` are shapes for Input layers, in place of those that are written."""
    from caffe_split.engine.model.net import Net
    from caffe_split.formats.prototxt.nets import read_net
    from caffe_split.formats.weights.caffemodel import read_weights

    net = Net(read_net(files.net, upgrade=True), state, seed=seed, inputs=inputs, device=device)
    net.load(read_weights(files.weights), str(files.weights))
    return net


@contextlib.contextmanager
def _threads(net: Net) -> Iterator[None]:
    """No more threads than pay for the net, as in a training; with more a small net takes ten times as long."""
    import torch

    from caffe_split.engine.device import threads_for

    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads_for(net.multiply_adds, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _blobs(
    net: Net, inputs: Mapping[str, np.ndarray] | None = None, rounding: np.random.Generator | None = None
) -> dict[str, np.ndarray]:
    """All blobs of one forward; with `rounding`, what layers without bottoms give is rounded once."""
    import torch

    from caffe_split.backends.compare import one_rounding

    def rounded(values: torch.Tensor) -> torch.Tensor:
        return values if rounding is None else torch.from_numpy(one_rounding(values.numpy(), rounding))

    with torch.no_grad():
        made = net.forward(inputs, keep=True, sources=rounded).blobs
        return {name: blob.numpy().copy() for name, blob in made.items()}


def _mean_gradients(files: NetFiles, layers: Sequence[str], batches: int, state: NetState) -> dict[str, np.ndarray]:
    import numpy as np
    import torch

    net = _open(files, state, 0)
    torch.manual_seed(0)  # of dropout
    first = {layer.name: layer.blobs[0] for layer in net.layers if layer.name in layers}
    sums = {name: np.zeros(tuple(first[name].shape)) for name in layers}
    with _threads(net):
        for _ in range(batches):
            for param in net.params:
                param.values.grad = None
            loss = net.forward().loss
            if loss.requires_grad:
                loss.backward()
            for name in layers:
                gradient = first[name].grad
                if gradient is not None:
                    sums[name] += gradient.numpy()
    return {name: values / batches for name, values in sums.items()}


def _forward(files: NetFiles, how: Forwarding) -> Forwarded:
    import numpy as np
    import torch

    net = _open(files, how.state, how.seed, how.shapes)
    given: dict[str, np.ndarray] = {}
    if how.input_file is not None:
        from caffe_split.backends.compare import load_inputs

        given = load_inputs(how.input_file, net.inputs, files.net)
        net = _open(files, how.state, how.seed, {name: array.shape for name, array in given.items()})
    # Dropout draws from here; the nets' fillers have drawn different numbers.
    torch.manual_seed(how.seed)
    ignored = {top for layer in net.layers if layer.text.type == "TPM" for top in layer.text.tops}
    # Numbers of its own, so that the inputs are the same with and without rounding.
    rounding = np.random.default_rng([how.seed, 1]) if how.rounded else None
    batches = []
    with _threads(net):
        for inputs in _inputs(net, how, given):
            batches.append({name: blob for name, blob in _blobs(net, inputs, rounding).items() if name not in ignored})
    return Forwarded([name for name in net.outputs if name not in ignored], batches)


def _inputs(net: Net, how: Forwarding, given: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Per batch the values of the net's inputs: those given, else noise."""
    import numpy as np

    rng = np.random.default_rng(how.seed)
    for _ in range(how.batches):
        yield {
            name: given[name] if name in given else rng.standard_normal(net.shapes[name]).astype(np.float32)
            for name in net.inputs
        }
