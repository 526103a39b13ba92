"""How each layer type is expressed in ONNX's operators, or why it is not."""

from __future__ import annotations

from collections.abc import Mapping

from caffe_split.exporting import conv, detection, forks, more_forks, norm, pointwise, pooling, recurrent, shape
from caffe_split.exporting.site import Exporter
from caffe_split.layertypes.left_out import KNOWN_MEASURES

EXPORTERS: Mapping[str, Exporter] = {
    name: exporter
    for family in (conv, pooling, norm, pointwise, shape, recurrent, forks, more_forks, detection)
    for name, exporter in family.EXPORTERS.items()
}

# Types that have no exporter, and why. Losses, measures and TPM are left out of a model, and data layers are inputs.
CANNOT: Mapping[str, str] = {
    "PSROIPooling": "ONNX has no operator for means of parts with channels of their own",
    "Filter": "how much it lets through depends on the data",
    "Python": "what it computes is a program",
    "Proposal": "its regions are compared one after the other",
    "MIL": "its rows are regions of several images",
    "MultiStageMeanfield": "its filters depend on the image",
    "RPN": "its regions are compared one after the other",
    **dict.fromkeys(
        ("ConvolutionRistretto", "DeconvolutionRistretto", "FcRistretto"), "its numbers of few bits are not written yet"
    ),
    **dict.fromkeys(("MarginInnerProduct", "LargeMarginInnerProduct"), "it needs the labels of what it judges"),
    **dict.fromkeys(
        (
            *("Correlation", "DeformableConvolution", "ConvLSTM"),
            *("FlowWarp", "Resample", "Downsample"),
        ),
        "it is not written yet",
    ),
}

_NOT_IN_A_MODEL = (*KNOWN_MEASURES, "BoxAnnotatorOHEM", "TPM", "HDF5Output", "MatWrite")


def left_out(layer_type: str) -> bool:
    """Whether a layer is of use in training and tests alone, so that a model does without it."""
    from caffe_split.layertypes.table import record_of

    return record_of(layer_type).is_loss or layer_type in _NOT_IN_A_MODEL
