"""Nets run on PyTorch to compare two of them, or to measure statistics of their blobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from caffe_split.backends.caffe.forward import BlobDifference, Forwarded, compare_blobs, load_input
from caffe_split.backends.caffe.statistics import measure
from caffe_split.engine.model.net import Net
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.formats.weights.caffemodel import read_weights
from caffe_split.net.state import TEST, TRAIN, NetState
from caffe_split.split.branch_norm import ChannelStatistics


def compare_nets(
    first: tuple[Path, Path],
    second: tuple[Path, Path],
    batches: int = 1,
    state: NetState = TEST,
    seed: int = 0,
    input_file: Path | None = None,
) -> list[BlobDifference]:
    """Forward two (net, weights) pairs on the same input and compare all blobs that both have.

    What each sees is as in `backends.caffe.forward.compare_nets`. Raises `CaffeSplitError`, also for what the engine
    cannot run.
    """
    given = None if input_file is None else load_input(input_file)
    one, other = (_forward(*pair, batches, state, seed, given) for pair in (first, second))
    return compare_blobs(one, other)


def channel_statistics(
    net: Path, weights: Path, blobs: Sequence[str], batches: int, state: NetState = TRAIN
) -> dict[str, ChannelStatistics]:
    """Forward `batches` batches of the TRAIN net's own data; statistics of each blob's channels (axis 1)."""
    made = _open(net, weights, state, 0)
    return {
        name: ChannelStatistics(np.array(mean), np.array(variance))
        for name, (mean, variance) in measure(lambda: _blobs(made), blobs, batches).items()
    }


def _open(
    path: Path,
    weights: Path,
    state: NetState,
    seed: int,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
) -> Net:
    net = Net(read_net(path, upgrade=True), state, seed=seed, inputs=inputs)
    net.load(read_weights(weights), str(weights))
    return net


@torch.no_grad()
def _blobs(net: Net, inputs: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    return {name: blob.numpy().copy() for name, blob in net.forward(inputs, keep=True).blobs.items()}


def _forward(
    path: Path,
    weights: Path,
    batches: int,
    state: NetState,
    seed: int,
    given: np.ndarray | None,
) -> Forwarded:
    net = _open(path, weights, state, seed)
    if given is not None:
        if len(net.inputs) != 1:
            raise CaffeSplitError(f"{path}: it has {len(net.inputs)} inputs; --input serves deploy nets of one.")
        net = _open(path, weights, state, seed, {net.inputs[0]: given.shape})
    # Dropout draws from here; the nets' fillers have drawn different numbers.
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    # What a TPM layer says of the past is no part of the function.
    ignored = {top for layer in net.layers if layer.text.type in ("TPM", "Split") for top in layer.text.tops}
    runs = []
    for _ in range(batches):
        inputs = {
            name: given if given is not None else rng.standard_normal(net.shapes[name]).astype(np.float32)
            for name in net.inputs
        }
        runs.append({name: blob for name, blob in _blobs(net, inputs).items() if name not in ignored})
    return [name for name in net.outputs if name not in ignored], runs
