"""Where Caffe trains a layer that carries a state otherwise than it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from caffe_split.layertypes.records.recurrent import exposed_count
from caffe_split.net.layers import Layer


def recurrent_problems(layers: Sequence[Layer]) -> Iterator[tuple[Layer, str]]:
    """The layers of a TRAIN net of which Caffe would use shared weights in the first time step only.

    Caffe unrolls such a layer into a net of its own, whose steps share their weights before those of the outer net do.
    """
    owned: set[str] = set()
    for layer in layers:
        names = layer.param_names()
        if layer.type in ("LSTM", "RNN"):
            # The weights of the inputs are used once, for all steps.
            first = 3 if len(layer.bottoms) > 2 + exposed_count(layer) else 2
            for name in names[first:]:
                if name and name in owned:
                    yield (
                        layer,
                        f"it shares '{name}' with a layer above: Caffe uses these weights in the first time step only, "
                        "and weights of its own, never trained, in the others; share those of the input alone",
                    )
        owned.update(name for name in names if name)
