"""A loss that is no longer finite: the error, and where such values first appear."""

from __future__ import annotations

import torch

from caffe_split.engine.log import number
from caffe_split.engine.model.late import Memory
from caffe_split.engine.model.net import Net
from caffe_split.errors import CaffeSplitError


class DivergedError(CaffeSplitError):
    """The loss is no longer finite."""


def diverged(net: Net, iteration: int, loss: float, last_good: str) -> DivergedError:
    """The error for a loss that is not finite. All processes of the net's group have to call this together.

    last_good: words on the last good snapshot.
    """
    with net.group.quiet():
        own = first_not_finite(net)
    found = next(filter(None, net.group.values_of_all(own)), None)
    where = f"first not finite: {found[0]}, {found[1]}" if found else "the blobs of the next batch are finite"
    return DivergedError(f"Iteration {iteration}: the loss is {number(loss)}; {where}; {last_good}.")


def first_not_finite(net: Net) -> tuple[str, str] | None:
    """The first place where values are not finite: among the blobs of the layers, else in a run of the next batch.

    Returns (the layer as messages name it, which of its blobs or tops); None if all are finite.
    """
    for layer in net.layers:
        for index, blob in enumerate(layer.blobs):
            if layer.text.type != "TPM" and not bool(torch.isfinite(blob).all()):
                kept = {"BatchNorm": range(3), "BN": range(2, 4)}.get(layer.text.type, ())
                what = "running statistics" if index in kept else "a learnt parameter"
                return layer.text.where, f"its blob {index} ({what})"
    blobs: dict[str, torch.Tensor] = {}
    memory: Memory = {}
    with torch.no_grad():
        for call in net.plain_calls:
            for name, top in zip(call.tops, call.run(blobs, memory)):
                blobs[name] = top
                if call.layer.text.type != "TPM" and not bool(torch.isfinite(top).all()):
                    return call.layer.text.where, f"its top '{name}'"
    return None
