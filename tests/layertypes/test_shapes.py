"""Shapes and parameters of every layer type and of whole nets against what the built Caffe makes of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_split.data.store import write_store
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.layertypes.records import fork_data
from caffe_split.layertypes.shape_rules import same
from caffe_split.layertypes.shapes import NetShapes, document_inputs, infer_shapes
from caffe_split.layertypes.table import RECORDS
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.state import TEST, TRAIN, NetState
from tests.layertypes import fork_shapes
from tests.support import CAFFE, ROOT

SHARE = CAFFE.parents[1] / "share" / "caffe"


def in_caffe(
    path: Path, phase: str, cwd: Path | None = None
) -> tuple[dict[str, tuple[int, ...]], dict[str, list[tuple[int, ...]]]]:
    """Shapes of blobs and of layers' blobs in the built Caffe, without the copies of its Split layers."""
    program = Path(__file__).with_name("net_shapes.py")
    done = subprocess.run(
        [sys.executable, str(program), str(path), phase],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if line.startswith("F")]
    found = json.loads(done.stdout.splitlines()[-1])
    return (
        {
            name: tuple(shape)
            for name, shape in found["blobs"].items()
            if not re.search(r"_split_\d+$|^\(automatic\)$", name)
        },
        {name: [tuple(shape) for shape in shapes] for name, shapes in found["params"].items()},
    )


def ours(path: Path, phase: str, inputs: dict[str, tuple[int, ...]] | None = None) -> NetShapes:
    document = prototxt.read(path)
    return infer_shapes(phase_layers(document, NetState(phase)), {**document_inputs(document), **(inputs or {})})


def compare(path: Path, phase: str, cwd: Path | None = None) -> NetShapes:
    shapes = ours(path, phase)
    assert not shapes.unknown
    blobs, params = in_caffe(path, phase, cwd)
    assert shapes.blobs == blobs
    mine = {name: shapes.params.get(name, []) + shapes.state.get(name, []) for name in (*shapes.params, *shapes.state)}
    assert mine == params
    return shapes


# -- every layer type

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


def test_every_type_has_a_case() -> None:
    assert set(CASES) | set(FORKS) | WITH_FILES == WITH_RULE and FOUND.keys() == FORKS.keys()


@pytest.mark.caffe
def test_every_type_of_the_built_caffe_is_known() -> None:
    listing = "import caffe; print('\\n'.join(caffe.layer_type_list()))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, timeout=100, check=True)
    # ImageData and WindowData need OpenCV, without which Caffe is built here.
    without_rule = {name for name in fork_data.NAMES if isinstance(RECORDS[name].shapes, str)}
    assert set(done.stdout.split()) | {"ImageData", "WindowData"} == set(RECORDS) - set(FORKS) - without_rule


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


@pytest.mark.caffe
def test_every_type_as_caffe_has_it(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(net_of(list(CASES)))
    compare(tmp_path / "net.prototxt", "TRAIN")


@pytest.mark.parametrize("kind", FORKS)
def test_types_of_forks_as_they_are_published(kind: str) -> None:
    shapes = infer_shapes(phase_layers(prototxt.parse(net_of([kind]), "net"), TRAIN))
    assert not shapes.unknown and len(FOUND[kind]) == len(FORKS[kind])
    for number, (tops, blobs) in enumerate(FOUND[kind]):
        name = f"{kind}{number}"
        assert [",".join(map(str, shape)) for shape in shapes.tops[name]] == tops
        params, state = shapes.params.get(name, []), shapes.state.get(name, [])
        ours = state + params if shapes.first_param.get(name) else params + state
        assert [",".join(map(str, shape)) for shape in ours] == blobs


@pytest.mark.parametrize(
    ("settings", "params"),
    [
        ("", 0),
        ("batch_norm_param { scale_bias: true }", 12),
        ("batch_norm_param { scale_filler { value: 1 } }", 12),
        ("batch_norm_param { bias_filler { value: 1 } }", 12),
        ("batch_norm_param { scale_bias: false }", 0),
        ("batch_norm_param { use_weight_bias: true filler { value: 1 } }", 12),
        ("batch_norm_param { use_weight_bias: false }", 0),
    ],
)
def test_a_scale_inside_batch_norm_counts(settings: str, params: int) -> None:
    text = net_of(["BatchNorm"]).replace('type: "BatchNorm"', f'type: "BatchNorm" {settings}')
    shapes = infer_shapes(phase_layers(prototxt.parse(text, "net"), TRAIN))
    assert shapes.parameter_count == params and shapes.state["BatchNorm0"] == [(6,), (6,), (1,)]


# -- whole nets


def nets_in(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.prototxt")) if folder.is_dir() else []
    return [path for path in found if prototxt.read(path).kind == "net"]


CAFFE_NETS = [path for part in ("models", "examples") for path in nets_in(SHARE / part)]


def without_data(path: Path, phase: str, to: Path) -> Path:
    """The net's layers of a phase with Input layers of two images in the place of those that read files."""
    document = prototxt.read(path)
    chosen = {id(layer.field): layer for layer in phase_layers(document, NetState(phase))}
    for field in document.all_fields("layer"):
        layer = chosen.get(id(field))
        if layer is None:
            document.remove(field)
        elif layer.type.endswith("Data") and layer.type != "DummyData":
            text = field.message
            assert text is not None
            crops = re.findall(r"crop_size: *(\d+)", str(text))
            side = int(crops[0]) if crops else 28
            channels = 1 if "mnist" in str(path) else 3
            if "siamese" in str(path):
                channels = 2
            dims = [(2, 4) if "hdf5" in str(path) else (2, channels, side, side), (2,)]
            shapes = [("shape", {"dim": list(dim)}) for dim in dims[: len(layer.tops)]]
            tops = [("top", top) for top in layer.tops]
            given = prototxt.field("layer", [("name", layer.name), ("type", "Input"), *tops, ("input_param", shapes)])
            document.replace(field, [given])
    prototxt.write(document, to / "net.prototxt")
    return to / "net.prototxt"


@pytest.mark.caffe
@pytest.mark.parametrize(
    "path",
    # The many nets of CaffeNet's size take seconds each to be filled; of those AlexNet is tested every time.
    [
        pytest.param(p, marks=pytest.mark.slow) if "fc6" in p.read_text() and "alexnet" not in str(p) else p
        for p in CAFFE_NETS
    ],
    ids=lambda path: str(path.relative_to(SHARE)),
)
def test_nets_of_caffe(path: Path, tmp_path: Path) -> None:
    document = prototxt.read(path)
    names = {state.phase: [layer.name for layer in phase_layers(document, state)] for state in (TRAIN, TEST)}
    if names["TEST"] == names["TRAIN"] or "mnist_autoencoder" in str(path):
        names.pop("TEST")  # The autoencoder's TEST layers read data in stages only, without which it is no net.
    for phase in names:
        if "pycaffe" in str(path):
            unknown = ours(without_data(path, phase, tmp_path), phase).unknown
            assert list(unknown) == ["loss"] and "Python" in unknown["loss"]
            continue
        shapes = compare(without_data(path, phase, tmp_path), phase)
        assert shapes.parameter_count is not None and shapes.mac_count is not None


OUR_NETS = nets_in(ROOT / "prototxt")


@pytest.mark.caffe
@pytest.mark.parametrize("path", OUR_NETS, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_nets_and_their_data_sets(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data layers read the first record of a data set that is there."""
    monkeypatch.chdir(tmp_path)
    net = prototxt.read(path)
    image = np.zeros((1, 8, 8) if "digits" in str(path) else (3, 32, 32), np.uint8)
    for layer in all_layers(net):
        data = layer.message.sub("data_param")
        if data is not None and not Path(data.get("source")).exists():
            write_store(data.get("source"), [(image, 0)] * 2)
    for phase in ("TRAIN", "TEST"):
        shapes = compare(path, phase, tmp_path)
        assert shapes.mac_count


@pytest.mark.caffe
def test_a_watched_net(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(digits)
    shapes = compare(digits / "digits/train_val.prototxt", "TRAIN", digits)
    state = [name for name in shapes.state if name.endswith("_tpm")]
    assert state and not set(state) & set(shapes.params)
    # Watching costs no parameter.
    assert shapes.parameter_count == ours(ROOT / "prototxt/digits/train_val.prototxt", "TRAIN").parameter_count


def test_shared_parameters_count_once() -> None:
    twin = """layer {{ name: "{0}" type: "InnerProduct" bottom: "x" top: "{0}" param {{ name: "w" }}
      inner_product_param {{ num_output: 3 }} }}"""
    document = prototxt.parse(twin.format("a") + twin.format("b"), "net")
    shapes = infer_shapes(phase_layers(document, TRAIN), {"x": (2, 5)})
    assert shapes.params == {name: [(3, 5), (3,)] for name in "ab"}
    assert [shapes.parameters_of(name) for name in "ab"] == [18, 3] and shapes.parameter_count == 21
    assert shapes.mac_count == 30


# -- layers of unknown shape


def one_layer(text: str, inputs: dict[str, tuple[int, ...]] | None = None) -> NetShapes:
    document = prototxt.parse(f'layer {{ name: "x" {text} }}', "net")
    return infer_shapes(phase_layers(document, TRAIN), inputs)


UNKNOWN = [
    ('type: "Python" top: "t"', "only the layer's own code knows them"),
    ('type: "Filter" bottom: "d" top: "t"', "depends on the data"),
    ('type: "Newest" bottom: "d" top: "t"', "not one of Caffe's own"),
    ('type: "ReLU" bottom: "nowhere" top: "t"', "its bottom 'nowhere' is not known"),
    ('type: "Data" top: "t" data_param { source: "no/lmdb" backend: LMDB }', "'no/lmdb' is not there, seen from /"),
    ('type: "Data" top: "t" data_param { source: "level" }', "'level' is not there, seen from /"),
    ('type: "ImageData" top: "t" image_data_param { source: "no" }', "no new_height and new_width"),
    ('type: "WindowData" top: "t" window_data_param { source: "no" }', "'no' is not there, seen from /"),
    ('type: "HDF5Data" top: "t" hdf5_data_param { source: "no" }', "'no' is not there, seen from /"),
    ('type: "Input" top: "t"', "it gives no shape"),
]


@pytest.mark.parametrize(("text", "reason"), UNKNOWN)
def test_an_unknown_shape_has_a_reason(text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "level").mkdir()
    shapes = one_layer(text, {"d": (2, 3)})
    assert reason in shapes.unknown["x"] and "t" not in shapes.blobs
    assert shapes.parameter_count is None and shapes.mac_count is None
    if '" top' in text and "bottom" not in text:
        assert one_layer(text, {"t": (2, 3, 4, 4)}).blobs == {"t": (2, 3, 4, 4)}


CONVOLUTION = 'type: "Convolution" bottom: "d" convolution_param '
RESHAPE = 'type: "Reshape" bottom: "e" reshape_param '
MISTAKES = [
    ('type: "Convolution" bottom: "d"', "is a Convolution without convolution_param"),
    (CONVOLUTION + "{ num_output: 2 kernel_size: 9 }", "not fit into its bottom of 5x5"),
    (CONVOLUTION + "{ num_output: 2 }", "gives no kernel_size"),
    (CONVOLUTION + "{ num_output: 3 kernel_size: 1 group: 2 }", "4 input channels and 3"),
    (CONVOLUTION + "{ num_output: 2 kernel_size: 1 axis: 4 }", "axis 4, but its bottom has 4"),
    (CONVOLUTION + "{ num_output: 2 kernel_size: [1, 1, 1] }", "3 values of kernel_size for 2"),
    (CONVOLUTION + "{ num_output: 2 axis: 2 kernel_h: 3 kernel_w: 3 }", "kernel_h and kernel_w for 1 spatial axes"),
    ('type: "Pooling" bottom: "d"', "a Pooling without pooling_param"),
    ('type: "Pooling" bottom: "d" pooling_param { stride: 2 }', "no kernel_size"),
    ('type: "Concat" bottom: "d" bottom: "e"', "do not join along axis 1"),
    ('type: "Slice" bottom: "d" top: "a" top: "b" slice_param { slice_point: 4 }', "not sliced into 2 tops"),
    ('type: "Reshape" bottom: "d" reshape_param { shape { dim: 7 dim: -1 } }', "cannot be given the shape (7, "),
    (RESHAPE + "{ shape { dim: 0 dim: 0 dim: 0 } }", "an axis that its bottom of (2, 3)"),
    ('type: "SoftmaxWithLoss" bottom: "d" top: "t"', "needs 2 bottom(s); it has 1"),
    ('type: "InnerProduct" bottom: "d"', "without inner_product_param"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_what_caffe_would_refuse(text: str, message: str) -> None:
    with pytest.raises(CaffeSplitError, match=re.escape(message)):
        one_layer(text, {"d": (2, 4, 5, 5), "e": (2, 3)})


def test_shapes_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as stream:
        stream["data"], stream["label"] = np.zeros((9, 3, 4)), np.zeros(9)
    Path("list.txt").write_text("a.h5\n")
    Path("windows.txt").write_text("# 0\nimage.jpg\n3\n480\n640\n")
    two = 'top: "data" top: "label"'
    shapes = one_layer(f'type: "HDF5Data" {two} hdf5_data_param {{ source: "list.txt" batch_size: 5 }}')
    assert shapes.blobs == {"data": (5, 3, 4), "label": (5,)}
    shapes = one_layer(f'type: "HDF5Data" {two} top: "c" hdf5_data_param {{ source: "list.txt" }}')
    assert shapes.unknown == {"x": "'a.h5' has no data set 'c'"}
    shapes = one_layer(
        f'type: "WindowData" {two} transform_param {{ crop_size: 227 }} '
        'window_data_param { source: "windows.txt" batch_size: 8 }'
    )
    assert shapes.blobs == {"data": (8, 3, 227, 227), "label": (8,)}
    shapes = one_layer(
        f'type: "ImageData" {two} image_data_param {{ source: "x" new_height: 40 new_width: 30 is_color: false }}'
    )
    assert shapes.blobs == {"data": (1, 1, 40, 30), "label": (1,)}
    write_store("lmdb", [(np.zeros((3, 9, 7), np.uint8), 1)])
    cropped = f'type: "Data" {two} transform_param {{ crop_size: 5 }} data_param {{ source: "lmdb" batch_size: 6 }}'
    assert one_layer(cropped).blobs == {"data": (6, 3, 5, 5), "label": (6,)}


def test_inputs_of_old_deploy_nets() -> None:
    document = prototxt.parse(
        'input: "a" input_shape { dim: 1 dim: 2 } layer { name: "r" type: "ReLU" bottom: "a" top: "b" }', "net"
    )
    assert document_inputs(document) == {"a": (1, 2)}
    assert infer_shapes(phase_layers(document, TEST), document_inputs(document)).blobs == {"a": (1, 2), "b": (1, 2)}
    old = prototxt.parse('input: "a" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4', "net")
    assert document_inputs(old) == {"a": (1, 2, 3, 4)}
    with pytest.raises(CaffeSplitError, match=r"1 input\(s\), but 0 shape"):
        document_inputs(prototxt.parse('input: "a"', "net"))


SETTINGS = [
    "",
    "axis: 7",
    "axis: -3",
    "num_output: 0",
    "num_output: 3 group: 0",
    "num_output: 2 kernel_size: 2 stride: 0",
    "kernel_size: 2 stride: 0",
    "kernel_size: 9",
    "kernel_h: 2",
    "tiles: 0",
    "slice_point: 9",
    "top_k: 0",
    "shape { }",
    "shape { dim: -1 dim: -1 }",
    "shape { dim: 0 dim: 0 dim: 0 dim: 0 dim: 0 dim: 0 }",
    "num_axes: 9",
    "batch_size: 0",
    "crop_size: 9",
    "end_axis: 9",
    "pyramid_height: 0",
    "expose_hidden: true num_output: 2",
]


@pytest.mark.parametrize("kind", sorted(WITH_RULE))
def test_no_layer_ends_in_a_traceback(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong settings, and bottoms too few or of too few axes, give unknown shapes or are refused."""
    monkeypatch.chdir(tmp_path)
    shapes = [(), (4,), (4, 3), (4, 3, 2), (4, 3, 2, 2), (4, 3, 2, 2, 2)]
    tried, refusals = 0, []
    options = next((name for name in RECORDS[kind].options if name != "transform_param"), "")
    for settings in SETTINGS if options else [""]:
        text = f"{options} {{ {settings} }}" if settings else ""
        for count in range(4):
            for shape in shapes:
                bottoms = "".join(f' bottom: "b{i}"' for i in range(count))
                try:
                    one_layer(f'type: "{kind}"{bottoms} top: "t" {text}', {f"b{i}": shape for i in range(count)})
                except CaffeSplitError as error:
                    refusals.append(str(error))
                tried += 1
    assert tried >= 24
    assert all("'x'" in refusal for refusal in refusals)
