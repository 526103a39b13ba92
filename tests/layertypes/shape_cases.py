"""Nets of each layer type, and what follows for those of forks."""

from __future__ import annotations

from caffe_split.layertypes.shape_rules import same
from caffe_split.layertypes.table import RECORDS
from tests.layertypes import fork_shapes

IMAGE = "4,6,9,8"
# Type -> nets of it: bottoms' shapes, and the layer's own settings. Tops are called a, b, ...
CASES: dict[str, list[tuple[list[str], int, str]]] = {
    "Convolution": [
        ([IMAGE], 1, "convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 }"),
        ([IMAGE], 1, "convolution_param { num_output: 4 kernel_size: 3 bias_term: false }"),
        ([IMAGE], 1, "convolution_param { num_output: 4 kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 1 pad_w: 2 }"),
        ([IMAGE], 1, "convolution_param { num_output: 6 kernel_size: [3, 1] dilation: [2, 1] group: 3 }"),
        (["4,6,9,8,7"], 1, "convolution_param { num_output: 4 kernel_size: 3 stride: 2 }"),
        (["4,6,9"], 1, "convolution_param { num_output: 4 kernel_size: 2 }"),
        (["4,2,6,9,8"], 1, "convolution_param { num_output: 4 kernel_size: 3 axis: 2 }"),
        ([IMAGE, IMAGE], 2, "convolution_param { num_output: 4 kernel_size: 3 }"),
    ],
    "Deconvolution": [
        ([IMAGE], 1, "convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 2 }"),
        ([IMAGE], 1, "convolution_param { num_output: 5 kernel_size: 3 dilation: 2 bias_term: false }"),
    ],
    "Im2col": [([IMAGE], 1, "convolution_param { kernel_size: 3 stride: 2 pad: 1 }")],
    "Pooling": [
        ([IMAGE], 1, "pooling_param { kernel_size: 3 stride: 2 }"),
        ([IMAGE], 1, "pooling_param { kernel_size: 3 stride: 2 pad: 1 pool: AVE round_mode: FLOOR }"),
        (["1,1,3,3"], 1, "pooling_param { kernel_h: 3 kernel_w: 1 stride: 3 pad_h: 1 pad_w: 0 }"),
        ([IMAGE], 2, "pooling_param { kernel_size: 2 stride: 2 }"),
        ([IMAGE], 1, "pooling_param { pool: AVE global_pooling: true }"),
    ],
    "SPP": [
        ([IMAGE], 1, "spp_param { pyramid_height: 3 }"),
        ([IMAGE], 1, "spp_param { pyramid_height: 1 }"),
    ],
    "InnerProduct": [
        ([IMAGE], 1, "inner_product_param { num_output: 5 }"),
        ([IMAGE], 1, "inner_product_param { num_output: 5 axis: 2 transpose: true bias_term: false }"),
        ([IMAGE], 1, "inner_product_param { num_output: 5 axis: -1 }"),
    ],
    "Embed": [(["4,3"], 1, "embed_param { num_output: 5 input_dim: 10 }")],
    "LSTM": [
        (["5,4,3", "5,4"], 1, "recurrent_param { num_output: 7 }"),
        (["5,4,3", "5,4", "4,2"], 1, "recurrent_param { num_output: 7 }"),
        (["5,4,3,2", "5,4", "1,4,7", "1,4,7"], 3, "recurrent_param { num_output: 7 expose_hidden: true }"),
    ],
    "RNN": [
        (["5,4,3", "5,4"], 1, "recurrent_param { num_output: 7 }"),
        (["5,4,3", "5,4", "4,2"], 1, "recurrent_param { num_output: 7 }"),
        (["5,4,3", "5,4", "1,4,7"], 2, "recurrent_param { num_output: 7 expose_hidden: true }"),
    ],
    "LSTMUnit": [(["1,4,7", "1,4,28", "1,4"], 2, "")],
    "BatchNorm": [([IMAGE], 1, "")],
    "Scale": [
        ([IMAGE], 1, "scale_param { bias_term: true }"),
        ([IMAGE], 1, "scale_param { axis: 0 num_axes: -1 }"),
        ([IMAGE], 1, "scale_param { axis: -2 num_axes: 2 }"),
        ([IMAGE], 1, "scale_param { num_axes: 0 }"),
        ([IMAGE, "6,9"], 1, "scale_param { bias_term: true }"),
        ([IMAGE, "6"], 1, ""),
    ],
    "Bias": [([IMAGE], 1, "bias_param { axis: 2 num_axes: 2 }"), ([IMAGE, "6"], 1, "")],
    "MVN": [([IMAGE], 1, ""), (["4,6"], 1, "")],
    "PReLU": [([IMAGE], 1, ""), ([IMAGE], 1, "prelu_param { channel_shared: true }")],
    "Concat": [
        ([IMAGE, "4,2,9,8"], 1, ""),
        ([IMAGE, "1,6,9,8"], 1, "concat_param { axis: 0 }"),
        ([IMAGE, "4,6,9,1"], 1, "concat_param { axis: -1 }"),
    ],
    "Slice": [
        ([IMAGE], 3, ""),
        ([IMAGE], 3, "slice_param { axis: -1 slice_point: 1 slice_point: 6 }"),
        ([IMAGE], 2, "slice_param { slice_dim: 0 }"),
    ],
    "Flatten": [([IMAGE], 1, ""), ([IMAGE], 1, "flatten_param { axis: 0 end_axis: -2 }")],
    "Reshape": [
        ([IMAGE], 1, "reshape_param { shape { dim: 0 dim: -1 } }"),
        ([IMAGE], 1, "reshape_param { shape { dim: 3 dim: 2 } axis: 1 num_axes: 1 }"),
        ([IMAGE], 1, "reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }"),
        ([IMAGE], 1, "reshape_param { shape { dim: -1 } axis: -3 num_axes: 2 }"),
    ],
    "ArgMax": [
        ([IMAGE], 1, ""),
        (["4,6"], 1, "argmax_param { top_k: 2 out_max_val: true }"),
        ([IMAGE], 1, "argmax_param { axis: -1 top_k: 3 }"),
    ],
    "Crop": [
        ([IMAGE, "1,1,5,4"], 1, "crop_param { offset: 1 }"),
        ([IMAGE, "1,2,5,4"], 1, "crop_param { axis: 1 offset: 1 }"),
        ([IMAGE, "1,1,5,4,3"], 1, "crop_param { offset: 1 }"),
    ],
    "BatchReindex": [([IMAGE, "7"], 1, "")],
    "Reduction": [([IMAGE], 1, ""), ([IMAGE], 1, "reduction_param { axis: -2 }")],
    "Tile": [([IMAGE], 1, "tile_param { tiles: 3 }"), ([IMAGE], 1, "tile_param { axis: -1 tiles: 2 }")],
    "Accuracy": [(["4,5", "4"], 1, ""), (["4,5,6", "4,6"], 2, "accuracy_param { axis: 1 }")],
    # This Caffe refuses the second top that it documents: the softmax inside has one top and two loss weights.
    "SoftmaxWithLoss": [(["4,5", "4"], 1, ""), (["4,5,6", "4,6"], 1, "")],
    "InfogainLoss": [(["4,5", "4", "1,1,5,5"], 1, "")],
    "SigmoidCrossEntropyLoss": [([IMAGE, IMAGE], 1, "")],
    "EuclideanLoss": [([IMAGE, IMAGE], 1, "")],
    "HingeLoss": [(["4,5", "4"], 1, "")],
    "MultinomialLogisticLoss": [(["4,5", "4"], 1, "")],
    "ContrastiveLoss": [(["4,5", "4,5", "4"], 1, "")],
    "Eltwise": [([IMAGE, IMAGE], 1, "eltwise_param { operation: MAX }")],
    "Split": [([IMAGE], 2, "")],
    "Silence": [([IMAGE], 0, "")],
    "Parameter": [([], 1, "parameter_param { shape { dim: 3 dim: 2 } }")],
    "DummyData": [
        ([], 2, "dummy_data_param { shape { dim: 3 dim: 2 } }"),
        ([], 2, "dummy_data_param { num: 3 num: 4 channels: 2 channels: 1 height: 5 height: 6 width: 7 width: 8 }"),
    ],
    "Input": [([], 2, "input_param { shape { dim: 3 } shape { dim: 2 dim: 5 } }")],
    "MemoryData": [([], 2, "memory_data_param { batch_size: 3 channels: 2 height: 5 width: 6 }")],
}
# Types of forks, which the built Caffe does not have.
FORKS: dict[str, list[tuple[list[str], int, str]]] = {
    "ReLU6": [([IMAGE], 1, "")],
    "Mish": [([IMAGE], 1, "")],
    "DepthwiseConvolution": [
        ([IMAGE], 1, "convolution_param { num_output: 6 group: 6 kernel_size: 3 stride: 2 pad: 1 }"),
        ([IMAGE], 1, "convolution_param { num_output: 6 kernel_size: 3 pad_l: 0 pad_r: 1 pad_t: 2 pad_b: 1 }"),
    ],
    "ConvolutionDepthwise": [([IMAGE], 1, "convolution_param { num_output: 6 kernel_h: 3 kernel_w: 1 dilation: 2 }")],
    "BN": [
        ([IMAGE], 1, "bn_param { bn_mode: INFERENCE }"),
        ([IMAGE], 1, "bn_param { frozen: true }"),
        ([IMAGE], 1, "param { } param { } param { } param { }"),
    ],
    "Normalize": [
        ([IMAGE], 1, "norm_param { across_spatial: false channel_shared: false }"),
        ([IMAGE], 1, "norm_param { }"),
    ],
    "Upsample": [
        ([IMAGE, IMAGE], 1, "upsample_param { scale: 2 pad_out_w: true }"),
        ([IMAGE, IMAGE], 1, "upsample_param { upsample_h: 17 upsample_w: 20 }"),
        ([IMAGE], 1, "upsample_param { scale: 3 }"),
    ],
    "Unpooling": [([IMAGE, IMAGE], 1, "unpooling_param { unpool_size: 14 }")],
    "Interp": [
        ([IMAGE], 1, "interp_param { zoom_factor: 8 }"),
        ([IMAGE], 1, "interp_param { shrink_factor: 2 pad_beg: -1 }"),
        ([IMAGE], 1, "interp_param { height: 33 width: 65 }"),
        ([IMAGE, "4,1,30,20"], 1, ""),
    ],
    "Permute": [([IMAGE], 1, "permute_param { order: 0 order: 2 order: 3 order: 1 }")],
    "ShuffleChannel": [([IMAGE], 1, "shuffle_channel_param { group: 3 }")],
    "Reverse": [([IMAGE], 1, "reverse_param { axis: 1 }")],
    "Reorg": [
        (["4,8,6,4"], 1, "reorg_param { stride: 2 }"),
        (["4,8,6,4"], 1, "reorg_param { stride: 2 reverse: true }"),
    ],
    "Axpy": [(["4,6,1,1", IMAGE, IMAGE], 1, "")],
    "SmoothL1Loss": [([IMAGE, IMAGE, IMAGE, IMAGE], 1, "")],
    "PriorBox": [
        ([IMAGE, "4,3,90,80"], 1, "prior_box_param { min_size: 30 max_size: 60 aspect_ratio: 2 aspect_ratio: 3 }"),
        ([IMAGE, "4,3,90,80"], 1, "prior_box_param { min_size: 30 min_size: 20 aspect_ratio: 2 flip: false }"),
    ],
    "DetectionOutput": [(["4,40", "4,30", "1,2,40"], 1, "detection_output_param { num_classes: 3 }")],
    "MultiBoxLoss": [(["4,40", "4,30", "1,2,40", "1,1,7,8"], 1, "multibox_loss_param { num_classes: 3 }")],
    "ROIPooling": [([IMAGE, "9,5"], 1, "roi_pooling_param { pooled_h: 7 pooled_w: 6 spatial_scale: 0.0625 }")],
    "PSROIPooling": [
        (["4,18,9,8", "9,5,1,1"], 1, "psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 0.0625 }")
    ],
    "HSwish": [([IMAGE], 1, "")],
    "HSigmoid": [([IMAGE], 1, "")],
    "CReLU": [([IMAGE], 1, ""), ([IMAGE], 1, "crelu_param { concat_axis: -1 }")],
    "PixelShuffle": [(["4,18,5,6"], 1, "pixel_shuffle_param { upscale_factor: 3 }")],
    "NormalizationL2": [(["4,6"], 1, ""), (["4,6,1,1"], 1, "")],
    "Convolution3D": [
        (
            ["2,4,7,9,8"],
            1,
            "convolution_param { num_output: 6 group: 2 kernel_size: 3 kernel_depth: 2 pad: 1 temporal_stride: 2 }",
        )
    ],
    "Pooling3D": [
        (["2,4,7,9,8"], 1, "pooling_param { kernel_size: 2 kernel_depth: 1 stride: 2 temporal_stride: 1 }"),
        (["2,4,7,9,8"], 1, "pooling_param { kernel_size: 2 kernel_depth: 2 stride: 2 temporal_stride: 2 }"),
    ],
    "Correlation": [
        (
            ["4,6,48,64"] * 2,
            1,
            "correlation_param { pad: 20 kernel_size: 1 max_displacement: 20 stride_1: 1 stride_2: 2 }",
        ),
        (["4,6,9,8"] * 2, 1, "correlation_param { pad: 3 kernel_size: 3 max_displacement: 2 stride_1: 2 }"),
    ],
    "L1Loss": [([IMAGE, IMAGE], 1, "")],
    "CenterLoss": [(["4,6", "4"], 1, "center_loss_param { num_output: 10 }")],
    "FocalLoss": [(["4,6", "4"], 1, "focal_loss_param { alpha: 0.25 gamma: 2 }")],
    "WeightedSoftmaxWithLoss": [(["4,6", "4"], 1, "softmax_param { pos_cid: 1 pos_mult: 2 }")],
    "LiftedStructSimilaritySoftmaxLoss": [(["4,6", "4"], 1, "")],
    "SoftmaxWithLossOHEM": [(["4,6", "4"], 3, "")],
    "SmoothL1LossOHEM": [(["9,8,1,1"] * 3, 2, ""), (["9,8"] * 2, 1, "")],
    "BoxAnnotatorOHEM": [(["9,5", "9", "9", "9,8"], 2, "box_annotator_ohem_param { roi_per_img: 4 }")],
    "SegAccuracy": [([IMAGE, "4,1,9,8"], 1, "")],
    "DetectionEvaluate": [
        (["1,1,5,7", "1,1,3,8"], 1, "detection_evaluate_param { num_classes: 21 }"),
    ],
    "Proposal": [(["1,12,9,8", "1,24,9,8", "1,3"], 2, "proposal_param { ratio: 1 ratio: 2 " + "scale: 8 " * 3 + "}")],
    "MatWrite": [([IMAGE], 0, "")],
    "DetectNetTransformation": [
        (
            ["2,3,9,9", "2,1,9,16"],
            2,
            "detectnet_groundtruth_param { stride: 16 image_size_x: 1248 image_size_y: 384 "
            "object_class { src: 1 dst: 0 } object_class { src: 2 dst: 1 } }",
        )
    ],
    "AnnotatedData": [
        ([], 2, "transform_param { resize_param { height: 300 width: 200 } } data_param { batch_size: 8 }")
    ],
    "ImageSegData": [([], 3, "transform_param { crop_size: 321 } image_data_param { batch_size: 5 }")],
    "DenseImageData": [([], 2, "dense_image_data_param { batch_size: 5 new_height: 360 new_width: 480 }")],
}
# What follows for each of them from its published definition: the tops, and all blobs in the order of the weights.
FOUND: dict[str, list[tuple[list[str], list[str]]]] = {
    "ReLU6": [([IMAGE], [])],
    "Mish": [([IMAGE], [])],
    "DepthwiseConvolution": [(["4,6,5,4"], ["6,1,3,3", "6"]), (["4,6,10,7"], ["6,1,3,3", "6"])],
    "ConvolutionDepthwise": [(["4,6,5,8"], ["6,1,3,1", "6"])],
    "BN": [([IMAGE], ["1,6,1,1"] * 2), ([IMAGE], ["1,6,1,1"] * 4), ([IMAGE], ["1,6,1,1"] * 4)],
    "Normalize": [([IMAGE], ["6"]), ([IMAGE], [""])],
    "Upsample": [(["4,6,18,15"], []), (["4,6,17,20"], []), (["4,6,27,24"], [])],
    "Unpooling": [(["4,6,14,14"], [])],
    "Interp": [(["4,6,65,57"], []), (["4,6,4,4"], []), (["4,6,33,65"], []), (["4,6,30,20"], [])],
    "Permute": [(["4,9,8,6"], [])],
    "ShuffleChannel": [([IMAGE], [])],
    "Reverse": [([IMAGE], [])],
    "Reorg": [(["4,32,3,2"], []), (["4,2,12,8"], [])],
    "Axpy": [([IMAGE], [])],
    "SmoothL1Loss": [([""], [])],
    "PriorBox": [(["1,2,1728"], []), (["1,2,1152"], [])],
    "DetectionOutput": [(["1,1,1,7"], [])],
    "MultiBoxLoss": [([""], [])],
    "ROIPooling": [(["9,6,7,6"], [])],
    "PSROIPooling": [(["9,2,3,3"], [])],
    "HSwish": [([IMAGE], [])],
    "HSigmoid": [([IMAGE], [])],
    "CReLU": [(["4,12,9,8"], []), (["4,6,9,16"], [])],
    "PixelShuffle": [(["4,2,15,18"], [])],
    "NormalizationL2": [(["4,6"], []), (["4,6,1,1"], [])],
    "Convolution3D": [(["2,6,3,9,8"], ["6,2,2,3,3", "6"])],
    "Pooling3D": [(["2,4,7,5,4"], []), (["2,4,4,5,4"], [])],
    "Correlation": [(["4,441,48,64"], []), (["4,25,5,4"], [])],
    "L1Loss": [([""], [])],
    "CenterLoss": [([""], ["10,6"])],
    "FocalLoss": [([""], [])],
    "WeightedSoftmaxWithLoss": [([""], [])],
    "LiftedStructSimilaritySoftmaxLoss": [([""], [])],
    "SoftmaxWithLossOHEM": [(["", "4,6", "4"], [])],
    "SmoothL1LossOHEM": [(["", "9,1,1,1"], []), ([""], [])],
    "BoxAnnotatorOHEM": [(["9", "9,8"], [])],
    "SegAccuracy": [(["1,1,1,3"], [])],
    "DetectionEvaluate": [(["1,1,25,5"], [])],
    "Proposal": [(["1,5", "1,1"], [])],
    "MatWrite": [([], [])],
    "DetectNetTransformation": [(["2,3,384,1248", "2,10,24,78"], [])],
    "AnnotatedData": [(["8,3,300,200", "1,1,1,8"], [])],
    "ImageSegData": [(["5,3,321,321", "5,1,321,321", "5,1,1,2"], [])],
    "DenseImageData": [(["5,3,360,480", "5,1,360,480"], [])],
}
FORKS.update(fork_shapes.FORKS)
FOUND.update(fork_shapes.FOUND)
CASES.update(
    {
        name: [([IMAGE], 1, "")]
        for name, record in RECORDS.items()
        if record.shapes is same and name not in CASES and name not in FORKS
    }
)
WITH_RULE = {name for name, record in RECORDS.items() if not isinstance(record.shapes, str)}
# These need files, and have tests of their own.
WITH_FILES = {"Data", "ImageData", "WindowData", "HDF5Data", "HDF5Output", "TPM"}


def net_of(kinds: list[str]) -> str:
    """One net with all the cases of these types; blobs and layers are named by their type and number."""
    text = []
    for kind in kinds:
        for number, (bottoms, tops, settings) in enumerate({**CASES, **FORKS}[kind]):
            name = f"{kind}{number}"
            lines = []
            for index, bottom in enumerate(bottoms):
                dims = " ".join(f"dim: {side}" for side in bottom.split(","))
                text.append(
                    f'layer {{ name: "{name}_in{index}" type: "Input" top: "{name}_in{index}" '
                    f"input_param {{ shape {{ {dims} }} }} }}"
                )
                lines.append(f'bottom: "{name}_in{index}"')
            lines += [f'top: "{name}_{letter}"' for letter in "abc"[:tops]]
            text.append(f'layer {{ name: "{name}" type: "{kind}" {" ".join(lines)} {settings} }}')
    return "\n".join(text) + "\n"
