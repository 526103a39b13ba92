"""Further types of forks: nets of them, and the shapes that follow from their published definitions."""

from __future__ import annotations

IMAGE = "4,6,9,8"
_CONV = "lstm_conv_param { num_output: 3 kernel_size: 3 pad: 1 }"
# Type -> nets of it, as in `shape_cases`: bottoms' shapes, the number of tops, and the layer's own settings.
FORKS: dict[str, list[tuple[list[str], int, str]]] = {
    "MultiStageMeanfield": [
        (
            ["2,6,9,8", "2,6,9,8", "2,3,9,8"],
            1,
            "multi_stage_meanfield_param { num_iterations: 2 theta_alpha: 160 theta_beta: 3 theta_gamma: 3 }",
        )
    ],
    "Tiling": [(["4,18,5,6"], 1, "tiling_param { tile_dim: 3 }")],
    "UnPooling": [
        ([IMAGE, IMAGE], 1, "unpooling_param { unpool_h: 18 unpool_w: 17 }"),
        ([IMAGE, IMAGE], 1, "unpooling_param { unpool_size: 14 }"),
    ],
    "BReLU": [([IMAGE], 1, "brelu_param { minval: 0 maxval: 1 }")],
    "Padding": [
        ([IMAGE], 1, "padding_param { pad_beg: 1 pad_end: 2 }"),
        ([IMAGE], 1, "padding_param { pad_beg: -3 }"),
    ],
    "Flip": [([IMAGE], 1, "flip_param { flip_width: true flip_height: false }")],
    "GroupNorm": [([IMAGE], 1, "group_norm_param { group_num: 2 }")],
    "BilinearInterpolation": [([IMAGE, "4,1,30,20"], 1, "")],
    "MIL": [(["12,20"], 1, "mil_param { context_per_roi: 4 }"), (["12,20,1,1"], 1, "mil_param { context_per_roi: 3 }")],
    "RPN": [(["1,12,9,8", "1,24,9,8", "1,3"], 2, "rpn_param { ratio: 1 ratio: 2 " + "scale: 8 " * 3 + "}")],
    "NdConvolution": [
        (
            ["2,4,7,9,8"],
            1,
            "convolution_param { num_output: 6 group: 2 kernel_shape { dim: 2 dim: 3 dim: 1 } "
            "pad_shape { dim: 0 dim: 1 dim: 0 } stride_shape { dim: 2 dim: 1 dim: 3 } }",
        ),
        (["2,4,7"], 1, "convolution_param { num_output: 6 bias_term: false kernel_shape { dim: 3 } }"),
    ],
    "NdPooling": [
        (
            ["2,4,7,9,8"],
            1,
            "pooling_param { kernel_shape { dim: 2 dim: 3 dim: 1 } stride_shape { dim: 2 dim: 2 dim: 3 } }",
        ),
        (["2,4,7,9"], 1, "pooling_param { kernel_shape { dim: 7 dim: 1 } }"),
        (["2,4,7,9"], 1, "pooling_param { global_pooling: true kernel_shape { dim: 1 dim: 1 } }"),
    ],
    "ConvolutionRistretto": [([IMAGE], 1, "convolution_param { num_output: 4 kernel_size: 3 } quantization_param { }")],
    "DeconvolutionRistretto": [([IMAGE], 1, "convolution_param { num_output: 4 kernel_size: 2 stride: 2 }")],
    "FcRistretto": [([IMAGE], 1, "inner_product_param { num_output: 5 }")],
    "Transpose": [([IMAGE], 1, "transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 }")],
    "Lstm": [(["5,4,3,2"], 1, "lstm_param { num_output: 7 }"), (["5,4,3", "20"], 1, "lstm_param { num_output: 7 }")],
    "ConvLSTM": [
        (["5,2,4,9,8", "5,2"], 1, _CONV),
        (["5,2,4,9,8", "5,2", "1,2,3,9,8", "1,2,3,9,8"], 3, f"{_CONV} recurrent_param {{ expose_hidden: true }}"),
        (
            ["5,2,4,9,8", "5,2"],
            1,
            "lstm_conv_param { num_output: 3 kernel_size: 1 type: 'hidden' bias_term: false } "
            "lstm_conv_param { num_output: 3 kernel_size: 5 pad: 2 type: 'input' } "
            "lstm_debug_param { disable_hadamard: true }",
        ),
    ],
    "Noise": [([IMAGE], 1, "noise_param { gaussian_std: 1 }")],
    "GradientScaler": [([IMAGE], 1, ""), ([IMAGE, "4,6"], 2, "")],
    "SpatialDropout": [([IMAGE], 1, "")],
    "SeLu": [([IMAGE], 1, "")],
    "APL": [([IMAGE], 1, "apl_param { sums: 2 }")],
    "Local": [
        ([IMAGE], 1, "local_param { num_output: 5 kernel_size: 3 }"),
        ([IMAGE], 1, "local_param { num_output: 5 kernel_size: 3 stride: 2 pad: 1 bias_term: false }"),
    ],
    "DeformableConvolution": [
        ([IMAGE, "4,18,9,8"], 1, "deformable_convolution_param { num_output: 5 kernel_size: 3 pad: 1 }"),
        (
            [IMAGE, "4,36,9,8"],
            1,
            "deformable_convolution_param { num_output: 4 kernel_size: 3 pad: 2 dilation: 2 group: 2 "
            "deformable_group: 2 bias_term: false }",
        ),
    ],
    "MarginInnerProduct": [(["4,6,1,1", "4"], 2, "margin_inner_product_param { num_output: 10 type: QUADRUPLE }")],
    "LargeMarginInnerProduct": [(["4,6", "4"], 2, "largemargin_inner_product_param { num_output: 10 }")],
    "LabelSpecificAdd": [(["4,6", "4"], 1, "label_specific_add_param { bias: -0.35 }")],
    "SpatialTransformer": [
        ([IMAGE, "4,6"], 1, ""),
        ([IMAGE, "4,2"], 1, "st_param { theta_1_1: 1 theta_1_2: 0 theta_2_1: 0 theta_2_2: 1 output_H: 5 output_W: 4 }"),
    ],
    "FlowWarp": [([IMAGE, "4,2,9,8"], 1, "")],
    "Resample": [([IMAGE], 1, "resample_param { width: 16 height: 18 }"), ([IMAGE, "1,1,3,2"], 1, "")],
    "Downsample": [([IMAGE], 1, "downsample_param { top_width: 4 top_height: 5 }"), ([IMAGE, "1,1,3,2"], 1, "")],
}
# What follows for each of them: the tops, and all blobs in the order of the weights.
FOUND: dict[str, list[tuple[list[str], list[str]]]] = {
    "MultiStageMeanfield": [(["2,6,9,8"], ["1,1,6,6"] * 3)],
    "Tiling": [(["4,2,15,18"], [])],
    "UnPooling": [(["4,6,18,17"], []), (["4,6,14,14"], [])],
    "BReLU": [([IMAGE], [])],
    "Padding": [(["4,6,12,11"], []), (["4,6,6,5"], [])],
    "Flip": [([IMAGE], [])],
    "GroupNorm": [([IMAGE], [])],
    "BilinearInterpolation": [(["4,6,30,20"], [])],
    "MIL": [(["3,20,1,1"], []), (["4,20,1,1"], [])],
    "RPN": [(["1,5,1,1", "1,1,1,1"], [])],
    "NdConvolution": [(["2,6,3,9,3"], ["6,2,2,3,1", "6"]), (["2,6,5"], ["6,4,3"])],
    "NdPooling": [(["2,4,3,4,3"], []), (["2,4,9"], []), (["2,4"], [])],
    "ConvolutionRistretto": [(["4,4,7,6"], ["4,6,3,3", "4"])],
    "DeconvolutionRistretto": [(["4,4,18,16"], ["6,4,2,2", "4"])],
    "FcRistretto": [(["4,5"], ["5,432", "5"])],
    "Transpose": [(["8,9,4,6"], [])],
    "Lstm": [(["5,4,7"], ["28,6", "28,7", "28"]), (["5,4,7"], ["28,3", "28,7", "28"])],
    "ConvLSTM": [
        (["5,2,3,9,8"], ["3,4,3,3"] * 4 + ["3,3,3,3", "3"] * 4 + ["9,8"] * 3),
        (["5,2,3,9,8", "1,2,3,9,8", "1,2,3,9,8"], ["3,4,3,3"] * 4 + ["3,3,3,3", "3"] * 4 + ["9,8"] * 3),
        (["5,2,3,9,8"], ["3,4,5,5"] * 4 + ["3,3,1,1"] * 4),
    ],
    "Noise": [([IMAGE], [])],
    "GradientScaler": [([IMAGE], []), ([IMAGE, "4,6"], [])],
    "SpatialDropout": [([IMAGE], [])],
    "SeLu": [([IMAGE], [])],
    "APL": [([IMAGE], ["1,1,2,432"] * 2)],
    "Local": [(["4,5,7,6"], ["5,1,54,42", "1,1,5,42"]), (["4,5,5,4"], ["5,1,54,20"])],
    "DeformableConvolution": [(["4,5,9,8"], ["5,6,3,3", "5"]), (["4,4,9,8"], ["4,3,3,3"])],
    "MarginInnerProduct": [(["4,10", "1"], ["10,6"])],
    "LargeMarginInnerProduct": [(["4,10", "1"], ["10,6"])],
    "LabelSpecificAdd": [(["4,6"], [])],
    "SpatialTransformer": [([IMAGE], []), (["4,6,5,4"], [])],
    "FlowWarp": [([IMAGE], [])],
    "Resample": [(["4,6,18,16"], []), (["4,6,3,2"], [])],
    "Downsample": [(["4,6,5,4"], []), (["4,6,3,2"], [])],
}
