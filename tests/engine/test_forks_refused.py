"""Layers of forks of Caffe: what the check of their text refuses, and which bottoms."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.engine.case import Case, layer

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.model.net import Net
from caffe_split.engine.spec.support import judge, layers_of
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.state import NetState


@pytest.mark.parametrize(
    ("kind", "bottoms", "options", "said"),
    [
        ("BN", "x", "", "a BN is SegNet's, with two blobs"),
        ("BN", "x", "bn_param { bn_mode: LEARN frozen: true }", "a BN is SegNet's, with two blobs"),
        ("BN", "x", "bn_param { momentun: 0.9 }", "BNParameter has no field 'momentun'; did you mean 'momentum'?"),
        ("BN", "x", "bn_param { eps: 'x' }", "expected a decimal number"),
        ("BatchNorm", "x", "batch_norm_param { scale_bias: true filler { } }", "fields of NVCaffe"),
        ("BatchNorm", "x", "batch_norm_param { use_weight_bias: true bias_term: false }", "a factor without a shift"),
        ("Normalize", "x", "param { lr_mult: 1 }", "param without norm_param: it may be SSD's"),
        (
            "Pooling",
            "x",
            "pooling_param { kernel_size: 2 ceil_mode: true round_mode: FLOOR }",
            "ceil_mode and round_mode",
        ),
        ("Upsample", "x", "upsample_param { scale_h: 2 scale_w: 2 }", "scale_h, scale_w with one bottom"),
        ("Upsample", "x", "", "no scale with one bottom"),
        ("Upsample", "x x", "upsample_param { scale: 1 }", "a scale of 1; expected 2 or more"),
        ("Upsample", "x x", "upsample_param { upsample_h: 9 }", "upsample_h and upsample_w go together"),
        ("Upsample", "x x", "upsample_param { scale: 3 pad_out_h: true }", "pad_out_h with a scale of 3"),
        ("Unpooling", "x x", "unpooling_param { unpool: TILE unpool_size: 9 }", "unpool: TILE is not handled"),
        ("Interp", "x", "", "its size is given by nothing"),
        (
            "Interp",
            "x",
            "interp_param { zoom_factor: 2 height: 3 width: 3 }",
            "its size is given by zoom_factor, height",
        ),
        ("Interp", "x", "interp_param { zoom_factor: 2 pad_beg: 1 }", "pad_beg: 1; DeepLab's Interp crops"),
        ("PriorBox", "x x", "prior_box_param { }", "min_size is missing"),
        ("PriorBox", "x x", "prior_box_param { min_size: 9 max_size: 9 }", "max_size: expected one above each"),
        ("PriorBox", "x x", "prior_box_param { min_size: 9 step_h: 9 }", "step_h alone"),
        ("MultiBoxLoss", "x x x x", "multibox_loss_param { }", "num_classes is missing"),
        (
            "MultiBoxLoss",
            "x x x x",
            "multibox_loss_param { num_classes: 2 conf_loss_type: LOGISTIC background_label_id: 2 }",
            "background_label_id that is no class",
        ),
        ("MultiBoxLoss", "x x x x", "multibox_loss_param { num_classes: 2 bp_inside: true }", "bp_inside: true is not"),
        (
            "MultiBoxLoss",
            "x x x x",
            "multibox_loss_param { num_classes: 2 mining_type: HARD_EXAMPLE }",
            "mining_type: HARD_EXAMPLE is not handled",
        ),
        ("ROIPooling", "x x", "roi_pooling_param { }", "pooled_h or pooled_w is missing"),
        ("WarpCTC", "x x", "", "type WarpCTC is not handled"),
        ("FocalLoss", "x x", "", "focal_loss_param without alpha and gamma"),
        ("FocalLoss", "x x", "focal_loss_param { alpha: 1 gamma: 2 type: LINEAR }", "type LINEAR is not handled"),
        ("CenterLoss", "x x", "center_loss_param { }", "num_output is missing or 0"),
        ("L1Loss", "x x", "l1_loss_param { plateau: 1 }", "plateau is not handled"),
        ("SegAccuracy", "x x", "seg_accuracy_param { reset: false }", "reset: false"),
        ("BoxAnnotatorOHEM", "x x x x", "", "with 1 tops is not handled; expected 2"),
        ("DetectionEvaluate", "x x", "", "num_classes is missing"),
        ("Proposal", "x x x", "proposal_param { scale: 8 }", "no ratio or no scale"),
        ("Correlation", "x x", "correlation_param { kernel_size: 2 max_displacement: 1 }", "kernel_size is even"),
        ("Convolution3D", "x", "convolution_param { num_output: 1 kernel_size: 3 }", "kernel_depth is missing"),
        ("Pooling3D", "x", "pooling_param { pool: AVE kernel_size: 2 kernel_depth: 2 }", "pool: AVE is not handled"),
        ("PixelShuffle", "x", "", "upscale_factor is missing"),
        ("Convolution", "x", "convolution_param { num_output: 1 kernel_size: 1 pad_type: 1 }", "no field 'pad_type'"),
        ("Noise", "x", "noise_param { gaussian_std: 1 uniform_range: 1 }", "expected one of gaussian_std and uniform"),
        ("UnPooling", "x x", "unpooling_param { unpool_h: 9 }", "unpool_size, or unpool_h and unpool_w, is missing"),
        ("Unpooling", "x x", "unpooling_param { unpool_h: 9 unpool_w: 9 unpool_size: 9 }", "one of the two forms"),
        ("MultiStageMeanfield", "x x x", "", "theta_alpha is missing or 0"),
        ("Tiling", "x", "", "tiling_param: tile_dim is missing"),
        ("BReLU", "x", "brelu_param { minval: 0 }", "maxval is missing"),
        ("Padding", "x", "padding_param { pad_beg: 1 pad_end: -1 }", "one pads and one cuts"),
        ("Flip", "x", "flip_param { flip_width: true }", "flip_height is missing"),
        ("MIL", "x", "", "without context_per_roi it may be another fork's"),
        ("RPN", "x x x", "rpn_param { scale: 8 }", "no ratio or no scale"),
        ("NdPooling", "x", "pooling_param { pool: STOCHASTIC }", "pool: STOCHASTIC is not handled"),
        (
            "FcRistretto",
            "x",
            "quantization_param { precision: MINIFLOAT }",
            "MINIFLOAT is not handled; DYNAMIC_FIXED",
        ),
        ("Lstm", "x", "lstm_param { num_output: 1 }" + " param { }" * 4, "4 param for 3 blobs"),
        ("Flip", "x", "flip_param { flip_width: true flip_height: true } param { }", "1 param for 0 blobs"),
        ("Noise", "x", "", "expected one of gaussian_std and uniform_range"),
        ("GradientScaler", "x x", "", "2 bottoms and 1 tops; expected a top per bottom"),
        ("GradientScaler", "x", "gradient_scaler_param { scale_factor: 2 }", "has no field 'scale_factor'"),
        ("SpatialDropout", "x", "spatial_dropout_param { dropout_ratio: 1 }", "dropout_ratio: 1; expected"),
        ("SpatialDropout", "x", "spatial_dropout_param { } dropout_param { dropout_ratio: 0.1 }", "forks read one of"),
        ("APL", "x", "apl_param { sums: 0 }", "sums: 0; expected 1 or more"),
        ("Lstm", "x", "", "num_output is missing"),
        ("SmoothL1Loss", "x x", "smooth_l1_loss_param { sigma: 0 }", "sigma: 0; expected another number"),
        ("SmoothL1LossOHEM", "x x", "smooth_l1_loss_param { sigma: 0 }", "sigma: 0; expected another number"),
        ("ConvLSTM", "x x x", "lstm_conv_param { num_output: 1 kernel_size: 1 }", "3 bottoms; expected 2"),
        ("ConvLSTM", "x x", "lstm_debug_param { ignore_x: true }", "ignore_x is not handled"),
        ("MarginInnerProduct", "x x", "margin_inner_product_param { }", "num_output is missing"),
        ("SpatialTransformer", "x x", "st_param { sampler_type: 'cubic' }", "sampler_type: cubic is not handled"),
        ("Resample", "x", "resample_param { type: AREA height: 1 width: 1 }", "type: AREA; FlowNet's Resample"),
    ],
)
def test_the_check_refuses_by_name(kind: str, bottoms: str, options: str, said: str) -> None:
    document = prototxt.parse(Case(layer(kind, bottoms, options=options), {"x": (2, 4, 6, 6)}).prototxt(), "net")
    problems, _ = judge(document, layers_of(document, NetState("TRAIN")))
    assert problems and said in problems[0].text and problems[0].line == 3


@pytest.mark.parametrize(
    ("kind", "bottoms", "options", "said"),
    [
        ("DepthwiseConvolution", "x", "convolution_param { num_output: 8 kernel_size: 1 }", "num_output 8 and group 4"),
        ("DepthwiseConvolution", "x", "convolution_param { num_output: 4 kernel_size: 1 axis: 2 }", "axis 2"),
        ("ConvolutionDepthwise", "x", "convolution_param { num_output: 4 kernel_size: 1 group: 2 }", "group 2 for 4"),
        ("Convolution", "x", "convolution_param { num_output: 4 kernel_size: 1 hole: 2 dilation: 2 }", "write one"),
        (
            "Convolution",
            "x",
            "convolution_param { num_output: 4 kernel_size: 1 pad: 1 pad_l: 2 }",
            "without another pad",
        ),
        ("Deconvolution", "x", "convolution_param { num_output: 4 kernel_size: 1 pad_l: 2 }", "no field 'pad_l'"),
        ("ShuffleChannel", "x", "shuffle_channel_param { group: 3 }", "4 channels do not divide into 3 groups"),
        ("Reorg", "x", "reorg_param { stride: 4 }", "stride 4 does not divide"),
        ("Permute", "x", "permute_param { order: 4 }", "order [4] is none of the 4 axes"),
        ("Reverse", "x", "reverse_param { axis: 4 }", "axis 4"),
        ("Axpy", "x x x", "", "expected (N, C), and two alike"),
        ("Interp", "x", "interp_param { zoom_factor: 2 pad_beg: -6 }", "nothing of its bottom"),
        ("PSROIPooling", "x x", "psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 1 }", "18 channels"),
        ("DetectionOutput", "x x x", "detection_output_param { num_classes: 2 }", "values per image"),
        ("MultiBoxLoss", "x x x x", "multibox_loss_param { num_classes: 2 }", "values per image"),
        ("VideoData", "", "", 'inputs={"y"'),
        ("CasiaWebFace", "", "casia_web_face_param { source: 'list' }", 'inputs={"y"'),
        ("CenterLoss", "x x", "center_loss_param { num_output: 3 }", "expected 2"),
        ("Proposal", "x x x", "proposal_param { scale: 8 ratio: 1 }", "expected 2 and 4 channels"),
        (
            "Convolution3D",
            "x",
            "convolution_param { num_output: 1 kernel_size: 1 kernel_depth: 1 }",
            "takes (N, C, time",
        ),
        ("Correlation", "x x", "correlation_param { kernel_size: 1 max_displacement: 3 }", "is too small for its max"),
        ("PixelShuffle", "x", "pixel_shuffle_param { upscale_factor: 3 }", "do not divide into squares of 3"),
        ("NormalizationL2", "x", "", "records (N, C) only"),
        ("Tiling", "x", "tiling_param { tile_dim: 3 }", "do not divide into squares of 3 (tile_dim)"),
        ("Padding", "x", "padding_param { pad_end: -6 }", "nothing of its bottom of 6x6 is left"),
        ("GroupNorm", "x", "", "4 channels do not divide into 32 groups"),
        ("MIL", "x", "mil_param { context_per_roi: 1 }", "expected (rows, classes)"),
        ("RPN", "x x x", "rpn_param { scale: 8 ratio: 1 }", "expected 2 and 4 channels"),
        (
            "NdConvolution",
            "x",
            "convolution_param { num_output: 1 kernel_shape { dim: 1 } }",
            "kernel_shape has 1 numbers for 2 axes",
        ),
        ("NdPooling", "x", "pooling_param { kernel_shape { dim: 7 dim: 7 } }", "does not fit into its bottom of 6x6"),
        ("Normalize", "x", "", "without norm_param; SSD's Normalize divides an image"),
        ("Transpose", "x", "transpose_param { dim: 1 dim: 0 }", "dim [1, 0] is not each of the 4 axes"),
        ("Lstm", "x x", "lstm_param { num_output: 1 }", "expected 8 values"),
        ("BN", "x", "bn_param { eps: -1 }", "eps: -1.0; expected 0 or more"),
        ("BatchNorm", "x", "batch_norm_param { eps: -1 }", "eps: -1.0; expected 0 or more"),
        ("SegAccuracy", "x x", "", "labels of (2, 4, 6, 6) for scores of (2, 4, 6, 6); expected one per pixel"),
        ("ConvLSTM", "x x", "lstm_conv_param { num_output: 1 kernel_size: 1 }", "expected (time, streams, channels"),
        ("Local", "x", "local_param { num_output: 1 kernel_size: 7 }", "does not fit into its bottom of 6x6"),
        (
            "DeformableConvolution",
            "x x",
            "deformable_convolution_param { num_output: 1 kernel_size: 1 }",
            "second bottom has shape (2, 4, 6, 6); expected (2, 2, 6, 6)",
        ),
        (
            "LargeMarginInnerProduct",
            "x x",
            "largemargin_inner_product_param { num_output: 1 }",
            "a label for each of 2",
        ),
        ("LabelSpecificAdd", "x x", "label_specific_add_param { bias: 1 }", "expected a label per record"),
        ("SpatialTransformer", "x x", "", "expected 6 numbers for each of 2 images"),
        ("FlowWarp", "x x", "", "expected (N, 2, H, W)"),
        ("Resample", "x", "", "height and width are 0 and 0"),
        ("Downsample", "x", "downsample_param { top_height: 1 top_width: 3 }", "a side of 6 becomes 1"),
    ],
)
def test_bottoms_that_do_not_fit_are_refused(kind: str, bottoms: str, options: str, said: str) -> None:
    text = Case(layer(kind, bottoms, options=options), {"x": (2, 4, 6, 6)}).prototxt()
    with pytest.raises(CaffeSplitError) as error:
        Net(prototxt.parse(text, kind="net"), "TRAIN")
    assert said in str(error.value) and re.search(r"layer 'l' \(line 3\)|:3: layer 'l'", str(error.value))


@pytest.mark.parametrize(
    ("kind", "bottoms", "options"),
    [
        ("LSTM", "x m", "recurrent_param { num_output: 2 }"),
        ("RNN", "x m", "recurrent_param { num_output: 2 }"),
        ("Lstm", "x", "lstm_param { num_output: 2 }"),
        ("ConvLSTM", "x m", "lstm_conv_param { num_output: 2 kernel_size: 1 }"),
    ],
)
@pytest.mark.parametrize("sizes", [(0, 2), (3, 0)])
def test_a_sequence_has_a_step_and_a_stream(kind: str, bottoms: str, options: str, sizes: tuple[int, int]) -> None:
    text = Case(layer(kind, bottoms, options=options), {"x": (*sizes, 4, 5, 6), "m": sizes}).prototxt()
    with pytest.raises(CaffeSplitError, match="expected a time step and a stream, or more"):
        Net(prototxt.parse(text, kind="net"), "TRAIN")


def test_a_label_without_a_chance_loses_as_much_as_in_softmax_with_loss() -> None:
    text = 'layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 2 dim: 3 } } }\n'
    text += 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 2 } } }\n'
    scores = np.array([[500.0, 0, 0], [0, 1, 2]])
    losses = []
    for kind, tops in (("SoftmaxWithLoss", "l"), ("SoftmaxWithLossOHEM", "l p e")):
        net = Net(prototxt.parse(text + layer(kind, "s y", tops), "net"), "TRAIN")
        losses.append(float(net.forward({"s": scores, "y": np.array([1, 2])}).blobs["l"]))
    assert losses[1] == pytest.approx(losses[0]) and losses[0] < 50
