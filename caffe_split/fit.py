"""Do weights fit a net? Caffe would warn and train on from noise; we refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.net import Layer, all_layers
from caffe_split.proto import prototxt
from caffe_split.tpm.measure import is_state

Blobs = Mapping[str, Sequence[np.ndarray]]

# What the weights of a derived net are called, beside it, and the solver state to go on from.
WEIGHTS_NAME = "init.caffemodel"
STATE_NAME = "init.solverstate"


def check_weights(document: prototxt.Document, weights: Blobs, path: Path) -> None:
    """Raises `CaffeSplitError` where weights and net do not name the same layers, or a convolution's shape differs."""
    layers = {layer.name: layer for layer in all_layers(document)}
    # A snapshot also lists Caffe's own Split layers, without blobs, and the state of TPM layers, which a deploy net
    # does not have.
    strange = [name for name in weights if name not in layers and len(weights[name]) and not is_state(weights[name])]
    if strange:
        raise CaffeSplitError(
            f"{path}: it has weights of {', '.join(map(repr, strange))}, which {document.filename} does not have. "
            "Is it a snapshot of this net?"
        )
    for layer in layers.values():
        if layer.type not in ("Convolution", "InnerProduct", "Deconvolution"):
            continue
        if not weights.get(layer.name):
            raise CaffeSplitError(f"{path}: no weights of {layer.where}. Is it a snapshot of {document.filename}?")
        for blob in weights[layer.name]:
            if not np.isfinite(blob).all():
                raise CaffeSplitError(
                    f"{path}: the weights of {layer.where} are not finite ({np.count_nonzero(~np.isfinite(blob))} of "
                    f"{blob.size}). Take an earlier snapshot."
                )
        if layer.type == "Convolution":
            _check_convolution(layer, weights[layer.name], path)


def _check_convolution(layer: Layer, blobs: Sequence[np.ndarray], path: Path) -> None:
    param = layer.message.sub("convolution_param")
    assert param is not None
    count = int(param.get("num_output", 0))
    sizes = [int(size) for size in param.get_all("kernel_size")]
    found = tuple(blobs[0].shape)
    fits = found[0] == count and (len(sizes) != 1 or len(found) != 4 or found[2:] == (sizes[0], sizes[0]))
    if not fits or len(blobs) != (2 if param.get("bias_term", True) else 1):
        raise CaffeSplitError(
            f"{path}: {layer.where} has blobs {[tuple(blob.shape) for blob in blobs]}, but the net asks for {count} "
            f"kernels of {'x'.join(map(str, sizes * 2 if len(sizes) == 1 else sizes)) or 'its kernel_h x kernel_w'}"
            f"{' and a bias' if param.get('bias_term', True) else ' without bias'}."
        )
