"""The plan of each layer that is split: which of its kernels are fast and slow, and the layers in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caffe_split.backends.check_weights import Blobs
from caffe_split.derivation.documents import Size
from caffe_split.derivation.known_scores import KnownScores
from caffe_split.derivation.options import DeriveOptions
from caffe_split.derivation.plan import LayerPlan
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.model import Weights
from caffe_split.net.geometry import convolution_geometry
from caffe_split.net.layers import Layer
from caffe_split.split import naming
from caffe_split.split.algebra import Kernels
from caffe_split.split.layer import split_convolution
from caffe_split.split.partition import Partition, PartitionRule, divide, parse_rule
from caffe_split.split.parts import Part
from caffe_split.split.saliency import Saliency
from caffe_split.tpm.scores import LayerScores


def plan_layers(
    layers: Sequence[Layer],
    weights: Blobs,
    known: KnownScores,
    options: DeriveOptions,
    *,
    momentum: float,
    sizes: Mapping[str, tuple[Size | None, ...]],
) -> list[LayerPlan]:
    """The plan of each of `layers`, whose blobs are in `weights`.

    `known` may be empty where the partition needs nothing; `momentum` is the solver's; `sizes` gives the (height,
    width) of a layer's bottom in each net that is changed, for skips that average. Raises `CaffeSplitError` for a
    layer that cannot be split so.
    """
    rule, by_name = parse_rule(options.partition), {score.layer: score for score in known.scores}
    salient = {each.layer: each for each in known.saliency}
    plans = []
    for layer in layers:
        partition, kernels = _divided(layer, weights[layer.name], _values(layer, rule, by_name, salient), rule)
        bottom, top = layer.bottoms[0], layer.tops[0]
        geometry = convolution_geometry(layer)
        parts = split_convolution(
            layer.name,
            bottom,
            top,
            geometry,
            kernels,
            partition,
            options=options,
            input_sizes=sizes.get(layer.name, ()),
        )
        note = _rounding_note(layer.name, parts, kernels, partition) if options.init == "exact" else ""
        if isinstance(weights, Weights):
            weights.release(layer.name)  # its parts have values of their own
        found = by_name.get(layer.name), salient.get(layer.name)
        plans.append(LayerPlan(layer.name, partition, tuple(parts), *found, momentum=momentum, note=note))
    return plans


def _values(
    layer: Layer, rule: PartitionRule, scores: Mapping[str, LayerScores], saliency: Mapping[str, Saliency]
) -> np.ndarray | None:
    """What the rule divides a layer's kernels by; None where it looks at none. Raises `CaffeSplitError` without it."""
    if rule.saliency:
        if layer.name not in saliency:
            raise CaffeSplitError(f"{layer.where}: partition {rule.text}: no gradient of a loss reaches it.")
        values = saliency[layer.name].kernels[rule.saliency]
        if not np.ptp(values):
            raise CaffeSplitError(
                f"{layer.where}: all its kernels have the same {rule.saliency}, {values[0]:g}: it does not say which "
                "are fast. Take more batches (--calibrate), or divide them by chance: --partition random:SEED."
            )
        return values
    if not rule.needs_scores:
        return None
    if layer.name not in scores:
        raise CaffeSplitError(
            f"{layer.where}: partition {rule.text} needs its TPM, and it was not watched. Watch it with "
            "`caffe-split instrument` and train, keep a series of snapshots over the window, or use score:NAME or "
            "random:SEED."
        )
    return scores[layer.name].tpm


def _divided(
    layer: Layer, blobs: Sequence[np.ndarray], values: np.ndarray | None, rule: PartitionRule
) -> tuple[Partition, Kernels]:
    """Which kernels of a layer are fast and slow, and the kernels."""
    weight = np.asarray(blobs[0], dtype=np.float64)
    values = np.zeros(len(weight)) if values is None else values
    try:
        partition = divide(rule, values, convolution_geometry(layer).group, salt=layer.name)
    except CaffeSplitError as error:
        raise CaffeSplitError(f"{layer.where}: {error}") from error
    return partition, Kernels(weight, np.asarray(blobs[1], dtype=np.float64).reshape(-1) if len(blobs) > 1 else None)


def _rounding_note(name: str, parts: Sequence[Part], kernels: Kernels, partition: Partition) -> str:
    """A warning where what is added is so much larger than a kernel that taking it off costs that kernel's digits.

    split2 then stores (kernel - added), rounded to float32: the error, relative to the kernel, is the rounding unit
    times their ratio.
    """
    slow = next(part for part in parts if part.name == naming.slow_half(name))
    before = kernels.rows(partition.slow).sizes
    stored = np.linalg.norm(np.asarray(slow.blobs[0]).reshape(len(before), -1), axis=1)
    largest = float(np.max(stored[before > 0] / before[before > 0], initial=0.0))
    error = largest * 2.0**-24
    if error < 1e-5:
        return ""
    return f"what is added is up to {largest:.1e} times a kernel's size: the start is exact to about {error:.0e} there"
