"""Every layer type of Caffe: the rule for its shapes, or why there is none."""

from __future__ import annotations

from caffe_split.layertypes import data_layers, plain, sliding
from caffe_split.layertypes.rule import Rule

RULES: dict[str, Rule] = {
    "Input": data_layers.give_input,
    "DummyData": data_layers.give_input,
    "Parameter": data_layers.parameter,
    "Data": data_layers.data,
    "MemoryData": data_layers.memory_data,
    "ImageData": data_layers.image_data,
    "WindowData": data_layers.window_data,
    "HDF5Data": data_layers.hdf5_data,
    "Convolution": sliding.convolution,
    "Deconvolution": sliding.convolution,
    "Im2col": sliding.im2col,
    "Pooling": sliding.pooling,
    "SPP": sliding.spatial_pyramid,
    "InnerProduct": plain.inner_product,
    "Embed": plain.embed,
    "LSTM": plain.recurrent,
    "RNN": plain.recurrent,
    "BatchNorm": plain.batch_norm,
    "Scale": plain.scale,
    "Bias": plain.scale,
    "PReLU": plain.prelu,
    "Concat": plain.concat,
    "Slice": plain.slices,
    "Flatten": plain.flatten,
    "Reshape": plain.reshape,
    "ArgMax": plain.arg_max,
    "Crop": plain.crop,
    "BatchReindex": plain.batch_reindex,
    "Reduction": plain.reduction,
    "Tile": plain.tile,
    "Accuracy": plain.accuracy,
    "SoftmaxWithLoss": plain.loss_and_probabilities,
    "InfogainLoss": plain.loss_and_probabilities,
    "TPM": plain.tpm,
    **dict.fromkeys(
        [
            "ReLU",
            "ELU",
            "Sigmoid",
            "TanH",
            "AbsVal",
            "Power",
            "Exp",
            "Log",
            "BNLL",
            "Threshold",
            "Clip",
            "Swish",
            "LRN",
            "MVN",
            "Dropout",
            "Eltwise",
            "Softmax",
            "Split",
            "LSTMUnit",
        ],
        plain.same,
    ),
    **dict.fromkeys(
        ["SigmoidCrossEntropyLoss", "EuclideanLoss", "HingeLoss", "ContrastiveLoss", "MultinomialLogisticLoss"],
        plain.scalar,
    ),
    **dict.fromkeys(["Silence", "HDF5Output"], plain.nothing),
}

# Types for which there can be no rule, and why.
NO_RULE = {
    "Python": "its own code tells the shapes",
    "Filter": "how much it lets through depends on the data",
}
