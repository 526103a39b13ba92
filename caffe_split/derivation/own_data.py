"""A net's own training data, which branches and saliencies are measured on."""

from __future__ import annotations

from caffe_split.backends.check_data import check_data
from caffe_split.errors import CaffeSplitError
from caffe_split.net.training import Training

# What a program has to fill: the net itself names no data.
_FILLED = ("Input", "MemoryData")


def need_training_data(training: Training, who: str, more: str = "") -> None:
    """Raises `CaffeSplitError` where the net has no data layer, or its data are not there.

    `who` measures them; `more` is what else can be given than the training net.
    """
    if all(layer.type in _FILLED for layer in training.train_layers() if not layer.bottoms and layer.type != "TPM"):
        raise CaffeSplitError(
            f"{training.net_path}: {who} measures the net's own training data, and this net has no data layer. "
            f"Give the training net or its solver{more}."
        )
    check_data([(training.net, training.state)])
