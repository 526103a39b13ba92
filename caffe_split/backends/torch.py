"""Our own engine on PyTorch as a back end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from caffe_split.backends.protocol import Backend, Forwarded, Forwarding, NetFiles, TrainingCommand, TrainingRequest
from caffe_split.engine import require_torch
from caffe_split.net.state import NetState

if TYPE_CHECKING:
    import numpy as np

    from caffe_split.engine.model.net import Net
    from caffe_split.split.branch_norm import ChannelStatistics


class Torch(Backend):
    """Nets and training on PyTorch."""

    name = "torch"
    title = "the torch engine"
    library = "PyTorch"
    module = "torch"
    distribution = "torch"
    how_to_get = "install PyTorch with ./tools/environment --no-caffe --torch, or pip install 'caffe-split[torch]'"

    def require(self) -> None:
        """Raises `CaffeSplitError` where PyTorch is not installed, as the engine itself does."""
        require_torch()

    def forward(self, nets: Sequence[NetFiles], how: Forwarding) -> list[Forwarded]:
        """See `Backend.forward`."""
        self.require()
        return [_forward(net, how) for net in nets]

    def channel_statistics(
        self, net: NetFiles, blobs: Sequence[str], batches: int, state: NetState
    ) -> dict[str, ChannelStatistics]:
        """See `Backend.channel_statistics`."""
        from caffe_split.backends.measure import measure

        self.require()
        made = _open(net, state, 0)
        return measure((_blobs(made) for _ in range(batches)), blobs)

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


def _open(files: NetFiles, state: NetState, seed: int, inputs: Mapping[str, tuple[int, ...]] | None = None) -> Net:
    """The net with its weights; `inputs` are shapes for Input layers, in place of those that are written."""
    from caffe_split.engine.model.net import Net
    from caffe_split.formats.prototxt.nets import read_net
    from caffe_split.formats.weights.caffemodel import read_weights

    net = Net(read_net(files.net, upgrade=True), state, seed=seed, inputs=inputs)
    net.load(read_weights(files.weights), str(files.weights))
    return net


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
    ignored = {top for layer in net.layers if layer.text.type in ("TPM", "Split") for top in layer.text.tops}
    # Numbers of its own, so that the inputs are the same with and without rounding.
    rounding = np.random.default_rng([how.seed, 1]) if how.rounded else None
    batches = []
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
