"""Do weights fit a net? Where they do not, Caffe warns and starts from random numbers; here it is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.layertypes.shapes import Shape, infer_shapes
from caffe_split.layertypes.table import record_of
from caffe_split.net.geometry import convolution_geometry
from caffe_split.net.layers import Layer, all_layers, phase_layers
from caffe_split.net.shared import provided
from caffe_split.net.state import TRAIN, NetState
from caffe_split.tpm.state import is_state

Blobs = Mapping[str, Sequence[np.ndarray]]

# What the weights of a derived net are called, beside it, the solver state to go on from, and a folded net's weights.
WEIGHTS_NAME = "init.caffemodel"
FOLDED_WEIGHTS_NAME = "folded.caffemodel"
STATE_NAME = "init.solverstate"


def check_weights(
    document: prototxt.Document,
    weights: Blobs,
    path: Path,
    state: NetState = TRAIN,
    *,
    ignore_extra: bool = False,
    inputs: Mapping[str, Shape] | None = None,
) -> None:
    """Raises `CaffeSplitError` where weights and net do not name the same layers, or their shapes differ.

    The layers that run in `state` must all have their blobs, finite ones; weights of layers that
    the document does not have at all are refused, too, unless `ignore_extra`. Shapes are compared as far as they are
    known without the data set; `inputs` gives those of data blobs.
    """
    known = {layer.name for layer in all_layers(document)}
    # A snapshot also lists Caffe's own Split layers, without blobs, and the state of TPM layers, which a deploy net
    # does not have.
    strange = [name for name in weights if name not in known and len(weights[name]) and not is_state(weights[name])]
    if strange and not ignore_extra:
        raise CaffeSplitError(
            f"{path}: it has weights of {', '.join(map(repr, strange))}, which {document.filename} does not have. "
            "Is it a snapshot of this net? --ignore-extra-weights leaves them out."
        )
    layers = phase_layers(document, state)
    shapes, shared = infer_shapes(layers, inputs), provided(layers, weights)
    for layer in layers:
        if layer.type == "TPM":
            continue
        expected = shapes.stored(layer.name)
        if not weights.get(layer.name) and _all_shared(layer, len(expected), shared):
            continue
        if not weights.get(layer.name):
            if expected or layer.type in ("Convolution", "InnerProduct", "Deconvolution"):
                raise CaffeSplitError(f"{path}: no weights of {layer.where}. Is it a snapshot of {document.filename}?")
            continue
        if expected:
            _check_shapes(layer, weights[layer.name], expected, document, path, shared)
        elif layer.type == "Convolution":
            check_convolution(layer, weights[layer.name], path)
        _check_finite(layer, weights[layer.name], path)


def check_start(
    document: prototxt.Document, state: NetState, weights: Blobs, path: Path, *, tests: bool = False
) -> None:
    """Raises `CaffeSplitError` where a training in `state` cannot start from weights.

    As in Caffe, layers are matched by name: those without weights start from their fillers, weights of other layers
    are left out, and shapes that differ stop it. Where no layer matches, Caffe trains from random numbers; here that is
    an error, but not for a net that only `tests`.
    """
    layers = [layer for layer in phase_layers(document, state) if layer.type != "TPM"]
    shapes = infer_shapes(layers)
    matched = [layer for layer in layers if weights.get(layer.name)]
    for layer in matched:
        expected = shapes.stored(layer.name)
        if expected:
            _check_shapes(layer, weights[layer.name], expected, document, path)
        elif layer.type == "Convolution":
            check_convolution(layer, weights[layer.name], path)
    if not matched and not tests:
        theirs, ours = [name for name in weights if len(weights[name])], list(shapes.params)
        raise CaffeSplitError(
            f"{path}: none of its layers ({_some(theirs)}) is in {document.filename} ({_some(ours)}); everything would "
            "start from random numbers. Are these weights of another net?"
        )


def _all_shared(layer: Layer, count: int, shared: set[str]) -> bool:
    """Whether all blobs of a layer (their number is 0 where it is not known) are those that other layers have."""
    names = layer.param_names()
    return len(names) >= max(count, 1) and shared.issuperset(names)


def _some(names: Sequence[str]) -> str:
    return (", ".join(names[:5]) or "none") + (", ..." if len(names) > 5 else "")


def _check_finite(layer: Layer, blobs: Sequence[np.ndarray], path: Path) -> None:
    for blob in blobs:
        if not np.isfinite(blob).all():
            raise CaffeSplitError(
                f"{path}: the weights of {layer.where} are not finite ({np.count_nonzero(~np.isfinite(blob))} of "
                f"{blob.size}). Take an earlier snapshot."
            )


def _check_shapes(
    layer: Layer,
    blobs: Sequence[np.ndarray],
    expected: Sequence[Shape],
    document: prototxt.Document,
    path: Path,
    shared: AbstractSet[str] = frozenset(),
) -> None:
    """Raises `CaffeSplitError` unless blobs have the expected shapes; those of the names in `shared` may be missing."""
    names = layer.param_names()
    without_ones = _without_all_ones if record_of(layer.type).ignores_ones else _without_ones
    for index, shape in enumerate(expected):
        found = tuple(blobs[index].shape) if index < len(blobs) else None
        if index < len(names) and names[index] and (found == (0,) or (found is None and names[index] in shared)):
            continue  # HDF5 leaves out what an earlier layer has under the same name
        if found is None or without_ones(found) != without_ones(shape):
            break
    else:
        if len(blobs) <= len(expected):
            return
    raise CaffeSplitError(
        f"{path}: {layer.where} has blobs {[tuple(blob.shape) for blob in blobs]}, but {document.filename} asks for "
        f"{[tuple(shape) for shape in expected]}. Is it a snapshot of this net?"
    )


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without the ones in front: the oldest files pad every shape to four axes with them."""
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return tuple(sizes)


def _without_all_ones(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def check_convolution(layer: Layer, blobs: Sequence[np.ndarray], path: Path) -> None:
    """Raises `CaffeSplitError` where blobs do not fit a convolution, whatever its number of input channels."""
    if not blobs:
        raise CaffeSplitError(f"{path}: no weights of {layer.where}. Is it a snapshot of this net?")
    _check_finite(layer, blobs, path)
    param = layer.message.sub("convolution_param")
    assert param is not None
    count, bias = int(param.get("num_output", 0)), bool(param.get("bias_term", True))
    kernel = convolution_geometry(layer).kernel
    found = tuple(blobs[0].shape)
    fits = len(found) == 4 and found[0] == count and found[2:] == kernel and len(blobs) == (2 if bias else 1)
    if not fits or (bias and blobs[1].size != count):
        raise CaffeSplitError(
            f"{path}: {layer.where} has blobs {[tuple(blob.shape) for blob in blobs]}, but the net asks for {count} "
            f"kernels of {kernel[0]}x{kernel[1]} {'and a bias' if bias else 'without bias'}."
        )
