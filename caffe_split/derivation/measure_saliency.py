"""The saliency of a training's convolutions at a snapshot, by forward and backward passes over its own data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from caffe_split.backends.check_weights import check_weights
from caffe_split.backends.choose import choose_backend
from caffe_split.backends.protocol import Backend
from caffe_split.derivation.options import CALIBRATE
from caffe_split.derivation.own_data import need_training_data
from caffe_split.engine.spec.backward import backward_problems, with_gradient
from caffe_split.errors import CaffeSplitError, WrongUseError, expect, expect_count
from caffe_split.files import PathLike, scratch
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.net.training import Training
from caffe_split.split.saliency import Saliency
from caffe_split.tpm.collect import layers_to_measure
from caffe_split.tpm.layers import remove_watchers


def measure_saliency(
    training: Training,
    iteration: int | None = None,
    *,
    weights: PathLike | None = None,
    layers: Sequence[str] | None = None,
    batches: int = CALIBRATE,
    engine: str | None = None,
    ignore_extra_weights: bool = False,
) -> list[Saliency]:
    """How much the loss depends on the kernels of a snapshot: one `Saliency` per layer, in the net's order.

    The gradient of the loss is the mean over batches of the net's training data, read from the first record on, in the
    TRAIN phase. Layers that do not learn (lr_mult 0) and those that no gradient reaches are left out.

    Args:
        training: The net and its solver, as `open_training` gives them.
        iteration: The snapshot; or else give `weights`, a caffemodel.
        weights: These weights, in place of a snapshot.
        layers: Names of the layers; None: all convolutions except helpers of splits.
        batches: How many batches.
        engine: The name of the back end that runs the net; None: the first that is installed.
        ignore_extra_weights: Leave out weights of layers that the net does not have.

    Raises `CaffeSplitError` where the net has no data or no loss, where weights do not fit it, and where a gradient is
    not finite.

    >>> import numpy as np, os, tempfile
    >>> import caffe_split as cs
    >>> folder = tempfile.mkdtemp()
    >>> net, weights = os.path.join(folder, "net.prototxt"), os.path.join(folder, "w.caffemodel")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 1 dim: 1 dim: 1 dim: 2 }
    ...         data_filler { value: 3 } } }
    ... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    ...         convolution_param { num_output: 1 kernel_size: 1 bias_term: false } }
    ... layer { name: "loss" type: "Reduction" bottom: "conv" top: "loss" loss_weight: 1 }''')
    >>> cs.write_weights(weights, {"conv": [np.full((1, 1, 1, 1), -2.0)]})
    >>> (found,) = cs.measure_saliency(cs.open_training(net), weights=weights, batches=1)
    >>> found.whole  # the loss is 3 w + 3 w
    {'grad-norm': 6.0, 'snip': 12.0, 'synflow': -12.0}
    """
    expect(training, Training, "a Training: open it by caffe_split.open_training(...)")
    training.need_one_solver()
    if (iteration is None) == (weights is None):
        raise WrongUseError("give either an iteration, that of a snapshot, or weights.")
    expect_count(batches, "calibrate")
    backend = choose_backend(engine)
    names = expect_gradient(training, layers)
    path = training.snapshot(iteration or 0) if weights is None else Path(weights)
    blobs = caffemodel.read_weights(path)
    check_weights(training.net, blobs, path, training.state, ignore_extra=ignore_extra_weights)
    (found,) = mean_gradients(training, [path], names, batches, backend)
    for name, gradient in found.items():
        if not np.isfinite(gradient).all():
            raise CaffeSplitError(
                f"{path}: the gradient of '{name}' over {batches} batches is not finite; take an earlier snapshot."
            )
    if not any(gradient.any() for gradient in found.values()):
        raise CaffeSplitError(
            f"{path}: the gradient of the loss over {batches} batches is 0 in all of {', '.join(names)}: it says "
            "nothing about them."
        )
    return [Saliency.of(name, found[name], blobs[name][0]) for name in names]


def mean_gradients(
    training: Training, weights: Sequence[Path], names: Sequence[str], batches: int, backend: Backend
) -> list[dict[str, np.ndarray]]:
    """See `Backend.mean_gradients`: of the training's net without TPM layers, in the state that it is trained in."""
    with scratch() as folder:
        net = training.net.copy()
        remove_watchers(net)
        path = folder / "net.prototxt"
        prototxt.write(net, path)
        return backend.mean_gradients(path, weights, names, batches, training.state)


def synflow_note(found: Sequence[Saliency]) -> str:
    """A warning where the synflow of layers is rounding; empty where it is not."""
    names = [each.layer for each in found if each.cancels]
    if not names:
        return ""
    return (
        f"synflow is 0 to rounding in {', '.join(names)}, as in front of a BatchNorm: its order means nothing there; "
        "grad-norm and snip do not have this"
    )


def expect_gradient(training: Training, layers: Sequence[str] | None = None) -> list[str]:
    """Names of those layers (None: all convolutions except helpers) that learn by the gradient of a loss.

    Raises `CaffeSplitError` where there is none, and where the net has no training data: all that can be known before
    the net is run.
    """
    need_training_data(training, "a saliency")
    names = layers_to_measure(training, layers)
    texts = training.train_layers()
    try:
        reached = with_gradient(texts)
    except CaffeSplitError as error:
        raise CaffeSplitError(f"{training.net_path}: {error}") from None
    for layer, problem in backward_problems(texts):
        raise CaffeSplitError(f"{training.net_path}: {layer.where}: {problem}.")
    found = [
        layer.name
        for layer in texts
        if layer.name in names and layer.name in reached and _learns(layer.message.subs("param"))
    ]
    if not found:
        raise CaffeSplitError(
            f"{training.net_path}: no gradient of a loss reaches {', '.join(names) or 'a convolution'} in the "
            f"{training.state.phase} phase, so nothing can be chosen by it. Give the net with its loss layer."
        )
    return found


def _learns(specs: Sequence[prototxt.Message]) -> bool:
    return not specs or specs[0].get("lr_mult", 1) != 0
