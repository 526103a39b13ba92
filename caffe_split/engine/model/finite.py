"""Finding where values that are not finite come from."""

from __future__ import annotations

import torch

from caffe_split.engine.model.net import Net


def first_not_finite(net: Net) -> tuple[str, str] | None:
    """The first place where values are not finite: among the blobs of the layers, else in a run of the next batch.

    Returns (the layer as messages name it, which of its blobs or tops); None if all are finite.
    """
    for layer in net.layers:
        for index, blob in enumerate(layer.blobs):
            if layer.text.type != "TPM" and not bool(torch.isfinite(blob).all()):
                what = "running statistics" if layer.text.type == "BatchNorm" else "a learnt parameter"
                return layer.text.where, f"its blob {index} ({what})"
    blobs: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for call in net.plain_calls:
            for name, top in zip(call.tops, call.run(blobs)):
                blobs[name] = top
                if call.layer.text.type != "TPM" and not bool(torch.isfinite(top).all()):
                    return call.layer.text.where, f"its top '{name}'"
    return None
