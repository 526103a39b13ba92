"""How many blobs a layer has, as its text says it."""

from __future__ import annotations

from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

# Types with a weight, and with a bias where bias_term says so: the message of bias_term.
_WITH_BIAS = {
    **dict.fromkeys(
        (
            *("Convolution", "Deconvolution", "DepthwiseConvolution", "ConvolutionDepthwise", "Convolution3D"),
            *("NdConvolution", "ConvolutionRistretto", "DeconvolutionRistretto"),
        ),
        "convolution_param",
    ),
    **dict.fromkeys(("InnerProduct", "FcRistretto"), "inner_product_param"),
    "DeformableConvolution": "deformable_convolution_param",
    "Embed": "embed_param",
    "Local": "local_param",
    "Scale": "scale_param",
}
_FIXED = {
    **dict.fromkeys(("PReLU", "Parameter", "CenterLoss", "MarginInnerProduct", "LargeMarginInnerProduct"), 1),
    "APL": 2,
    **dict.fromkeys(("Lstm", "MultiStageMeanfield"), 3),
    **dict.fromkeys(
        (
            *("ReLU", "ELU", "Sigmoid", "TanH", "BNLL", "Swish", "Clip", "Threshold", "Power", "Exp", "Log", "AbsVal"),
            *("Dropout", "LRN", "MVN", "Softmax", "Eltwise", "Concat", "Slice", "Split", "Flatten", "Reshape", "Crop"),
            *("Pooling", "SPP", "Im2col", "Tile", "Reduction", "ArgMax", "Silence", "BatchReindex", "Filter"),
            *("Accuracy", "SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss"),
            *("MultinomialLogisticLoss", "ContrastiveLoss", "ReLU6", "Permute", "ShuffleChannel", "ROIPooling"),
            *("Transpose", "Noise", "SpatialDropout", "GradientScaler", "SeLu", "BReLU", "LabelSpecificAdd"),
            *("SpatialTransformer", "FlowWarp", "Resample", "Downsample", "GroupNorm", "Padding", "Flip", "MIL"),
            *("Tiling", "UnPooling", "BilinearInterpolation", "RPN", "NdPooling", "Pooling3D"),
        ),
        0,
    ),
}


def blob_count(layer: Layer) -> int | None:
    """The number of a layer's blobs; None for types of which this does not say it."""
    if layer.type in _FIXED:
        return _FIXED[layer.type]
    if layer.type == "Bias":
        return int(len(layer.bottoms) == 1)
    message = _WITH_BIAS.get(layer.type)
    if message is None:
        return None
    learns = layer.type != "Scale" or len(layer.bottoms) == 1
    return int(learns) + int(bool(Options.of(layer.message, message).get("bias_term")))
