"""Where Caffe stops because a gradient would have to pass a layer that has none.

What needs a gradient is found as in `Net::Init`: forward, from the layers that learn; backward, from the losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.blob_counts import blob_count
from caffe_split.layertypes.records.recurrent import exposed_count
from caffe_split.layertypes.table import record_for
from caffe_split.net.layers import Layer
from caffe_split.net.norm_forks import scale_inside
from caffe_split.net.options import Options

_WITHOUT = ("ArgMax", "Threshold", "DetectionOutput")
_INDICES = {"Embed": (0,), "BatchReindex": (1,), "LSTM": (1,), "RNN": (1,), "LSTMUnit": (2,)}
# The most blobs that a ConvLSTM has.
_CONV_LSTM = 15


def backward_problems(layers: Sequence[Layer]) -> Iterator[tuple[Layer, str]]:
    """The layers of a TRAIN net at whose gradient Caffe would stop in the first iteration."""
    for layer, bottoms in zip(layers, needed(layers)):
        if bottoms is None:
            continue
        if layer.type in _WITHOUT:
            yield (
                layer,
                f"{layer.type} has no gradient, and a loss after it needs one: Caffe stops in the first iteration",
            )
        elif any(bottoms[index] for index in _no_gradient(layer)):
            name = next(layer.bottoms[index] for index in _no_gradient(layer) if bottoms[index])
            yield layer, f"no gradient goes to its bottom '{name}', which is learnt: Caffe stops"
        elif (
            record_for(layer).is_loss
            and layer.type not in ("EuclideanLoss", "ContrastiveLoss", "SmoothL1Loss")
            and any(bottoms[1:])
        ):
            label = layer.bottoms[1 + bottoms[1:].index(True)]
            yield (
                layer,
                f"no gradient goes to labels, and '{label}' is learnt: write propagate_down: false, or Caffe stops",
            )


def with_gradient(layers: Sequence[Layer]) -> set[str]:
    """Names of the layers of a TRAIN net through which the gradient of a loss goes.

    Raises `CaffeSplitError` for a net that Caffe does not set up: a bottom that no layer writes, propagate_down for
    other than all bottoms.
    """
    written: set[str] = set()
    for layer in layers:
        unknown = [name for name in layer.bottoms if name not in written]
        if unknown:
            raise CaffeSplitError(f"{layer.where}: no layer before it writes its bottom '{unknown[0]}'.")
        count = len(layer.message.get_all("propagate_down"))
        if count not in (0, len(layer.bottoms)):
            raise CaffeSplitError(f"{layer.where}: {count} propagate_down for {len(layer.bottoms)} bottoms.")
        written.update(layer.tops)
    return {layer.name for layer, bottoms in zip(layers, needed(layers)) if bottoms is not None}


def _no_gradient(layer: Layer) -> tuple[int, ...]:
    """The bottoms, by index, at whose gradient Caffe stops: what a layer takes as numbers of rows or as marks."""
    if layer.type == "Filter":
        return (len(layer.bottoms) - 1,)
    return _INDICES.get(layer.type, ())


def needed(layers: Sequence[Layer]) -> list[list[bool] | None]:
    """For each layer, which of its bottoms get a gradient in Caffe; None for layers without a backward pass."""
    made: dict[str, tuple[int, int]] = {}
    readers: dict[tuple[int, int], list[tuple[int, int]]] = {}
    needs: dict[tuple[int, int], bool] = {}
    bottoms: list[list[bool]] = []
    own: list[bool] = []
    for index, layer in enumerate(layers):
        sources = [made[name] for name in layer.bottoms]
        for place, source in enumerate(sources):
            readers[source].append((index, place))
        downs = layer.message.get_all("propagate_down")
        bottoms.append([bool(down) for down in downs] if downs else [needs[source] for source in sources])
        own.append(_learns(layer) or any(needs[source] for source in sources))
        for place, name in enumerate(layer.tops):
            made[name] = index, place
            readers[index, place] = []
            needs[index, place] = own[-1]
    counts = [False] * len(layers)
    for index in reversed(range(len(layers))):
        layer = layers[index]
        weights = [float(weight) for weight in layer.message.get_all("loss_weight")]
        is_loss = any(weights) if weights else record_for(layer).is_loss
        reading = [readers[index, place] for place in range(len(layer.tops))]
        counts[index] = is_loss or any(counts[other] for found in reading for other, _ in found)
        dropped = bool(reading) and all(found and not any(bottoms[i][k] for i, k in found) for found in reading)
        if not counts[index] or (own[index] and dropped):
            own[index] = False
            bottoms[index] = [False] * len(layer.bottoms)
    return [found if need else None for need, found in zip(own, bottoms)]


def _learns(layer: Layer) -> bool:
    """Whether Caffe gives a blob of the layer a gradient: BatchNorm's too, unless all three have a param."""
    specs = layer.message.subs("param")
    count = blob_count(layer) or 0
    if layer.type == "Normalize":
        count = int(layer.message.has("norm_param"))
    if layer.type == "BN":
        count = 0 if Options.of(layer.message, "bn_param").get("frozen") else 2
    if layer.type == "ConvLSTM":
        count = _CONV_LSTM
    if layer.type == "BatchNorm" and scale_inside(layer):
        return any(index >= len(specs) or float(specs[index].get("lr_mult", 1.0)) != 0 for index in (3, 4))
    count = 3 if layer.type == "BatchNorm" else count
    if layer.type in ("LSTM", "RNN"):
        is_static = len(layer.bottoms) > 2 + exposed_count(layer)
        count = (3 if layer.type == "LSTM" else 5) + is_static
    if layer.type == "BatchNorm" and len(specs) == 3:
        return False
    return any(index >= len(specs) or float(specs[index].get("lr_mult", 1.0)) != 0 for index in range(count))
