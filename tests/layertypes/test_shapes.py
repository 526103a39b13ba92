"""Shapes and parameters of every layer type against what the built Caffe makes of them, and what has none."""

from __future__ import annotations

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
from caffe_split.layertypes.shapes import NetShapes, document_inputs, infer_shapes
from caffe_split.layertypes.table import RECORDS
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TEST, TRAIN
from tests.layertypes.shape_cases import CASES, FORKS, FOUND, WITH_FILES, WITH_RULE, net_of
from tests.layertypes.shape_checks import compare


def test_every_type_has_a_case() -> None:
    assert set(CASES) | set(FORKS) | WITH_FILES == WITH_RULE and FOUND.keys() == FORKS.keys()


@pytest.mark.caffe
def test_every_type_of_the_built_caffe_is_known() -> None:
    listing = "import caffe; print('\\n'.join(caffe.layer_type_list()))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, timeout=100, check=True)
    # ImageData and WindowData need OpenCV, without which Caffe is built here.
    without_rule = {name for name in fork_data.NAMES if isinstance(RECORDS[name].shapes, str)}
    assert set(done.stdout.split()) | {"ImageData", "WindowData"} == set(RECORDS) - set(FORKS) - without_rule


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
    ('type: "Concat" bottom: "e" bottom: "v" top: "t"', "bottoms of (2, 3) and (2,) do not join along axis 1"),
    (
        'type: "Eltwise" bottom: "d" bottom: "d" bottom: "e" top: "t"',
        "bottoms of (2, 4, 5, 5) and (2, 3); expected one",
    ),
    (
        CONVOLUTION + '{ num_output: 2 kernel_size: 1 } bottom: "o" top: "a" top: "b"',
        "5, 5) and (2, 4, 5, 6); expected",
    ),
    ('type: "Crop" bottom: "d" bottom: "o" top: "t"', "6 values from 0 on do not lie in an axis of 5"),
    ('type: "Crop" bottom: "d" bottom: "e" top: "t" crop_param { axis: 1 }', "and (2, 3) do not go together"),
    (
        'type: "Scale" bottom: "d" bottom: "e" top: "t"',
        "an array of shape (2, 3) does not fit a bottom of shape (2, 4,",
    ),
    ('type: "Bias" bottom: "d" top: "t" bias_param { axis: 2 num_axes: 3 }', "axis 2 and num_axes 3 go past a bottom"),
    (
        'type: "SoftmaxWithLoss" bottom: "d" bottom: "v" top: "t"',
        "2 labels for scores of shape (2, 4, 5, 5); expected 50",
    ),
    ('type: "Accuracy" bottom: "e" bottom: "e" top: "t"', "6 labels for scores of shape (2, 3); expected 2"),
    ('type: "EuclideanLoss" bottom: "e" bottom: "v" top: "t"', "expected as many values in each record"),
    ('type: "EuclideanLoss" bottom: "e" top: "t"', "needs 2 bottoms; it has 1"),
    ('type: "Slice" bottom: "d" top: "a" top: "b" slice_param { slice_point: 4 }', "not sliced into 2 tops"),
    ('type: "Reshape" bottom: "d" reshape_param { shape { dim: 7 dim: -1 } }', "cannot be given the shape (7, "),
    (RESHAPE + "{ shape { dim: 0 dim: 0 dim: 0 } }", "an axis that its bottom of (2, 3)"),
    ('type: "SoftmaxWithLoss" bottom: "d" top: "t"', "needs 2 bottoms; it has 1"),
    ('type: "InnerProduct" bottom: "d"', "without inner_product_param"),
    ('type: "Slice" bottom: "d"', "it has no top"),
    ('type: "Flatten" bottom: "d" top: "t" flatten_param { axis: 3 end_axis: 1 }', "end_axis 1 lies before axis 3"),
    ('type: "HDF5Output" bottom: "d" bottom: "v" bottom: "s"', "(2, 4, 5, 5), (2,), (); expected as many records"),
    ('type: "PriorBox" bottom: "d" bottom: "d" prior_box_param { aspect_ratio: 0 flip: true }', "aspect_ratio: 0;"),
    ('type: "Correlation" bottom: "d" bottom: "d" correlation_param { stride_1: 0 }', "stride_1 0, stride_2 1;"),
    ('type: "Correlation" bottom: "d" bottom: "d" correlation_param { stride_2: 0 }', "stride_1 1, stride_2 0;"),
    ('type: "Interp" bottom: "d" top: "t" interp_param { shrink_factor: 0 }', "shrink_factor: 0; expected 1"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_what_caffe_would_refuse(text: str, message: str) -> None:
    with pytest.raises(CaffeSplitError, match=re.escape(message)):
        one_layer(text, {"d": (2, 4, 5, 5), "e": (2, 3), "o": (2, 4, 5, 6), "v": (2,), "s": ()})


def test_given_shapes_stand_beside_written_ones() -> None:
    two = (
        'type: "Input" top: "x" top: "y" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } shape { dim: 1 dim: 5 } }'
    )
    assert one_layer(two, {"x": (1, 3, 16, 16)}).blobs == {"x": (1, 3, 16, 16), "y": (1, 5)}
    assert one_layer(two, {"y": (1, 9)}).blobs == {"x": (1, 3, 8, 8), "y": (1, 9)}
    # Of data, all tops have as many records.
    memory = 'type: "MemoryData" top: "x" top: "y" memory_data_param { batch_size: 4 channels: 3 height: 5 width: 6 }'
    assert one_layer(memory, {"x": (7, 3, 9, 9)}).blobs == {"x": (7, 3, 9, 9), "y": (7,)}


@pytest.mark.parametrize(
    "data",
    [
        'type: "Python" python_param { module: "voc" layer: "Voc" }',
        'type: "DenseImageData" dense_image_data_param { new_height: 360 new_width: 480 }',
    ],
)
@pytest.mark.parametrize("labels", [{}, {"label": (1, 1, 6, 6)}])
def test_a_guess_of_labels_that_does_not_fit_refuses_no_net(labels: dict[str, tuple[int, ...]], data: str) -> None:
    """Nets that segment have a label per pixel, and whoever gives the images' shape need not know."""
    text = f"""
    layer {{ name: "data" top: "data" top: "label" {data} }}"""
    text += """
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
            convolution_param { num_output: 2 kernel_size: 3 } }
    layer { name: "split" type: "Split" bottom: "label" top: "l1" top: "l2" }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "conv" bottom: "l1" top: "loss" }
    layer { name: "both" type: "Concat" bottom: "conv" bottom: "l2" top: "both" }
    layer { name: "ip" type: "InnerProduct" bottom: "both" top: "ip" inner_product_param { num_output: 1 } }
    """
    layers = phase_layers(prototxt.parse(text, "net"), TRAIN)
    shapes = infer_shapes(layers, {"data": (1, 3, 8, 8), **labels})
    assert shapes.blobs["conv"] == (1, 2, 6, 6) and shapes.blobs["loss"] == ()
    if labels:
        assert not shapes.unknown and shapes.parameter_count == 56 + 109
    else:
        assert shapes.unknown["both"] == "the shape of its bottom 'l2' is a guess, which does not fit: give it, too"
        assert list(shapes.unknown) == ["both", "ip"] and shapes.least_parameters == 56


def test_shapes_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as stream:
        stream["data"], stream["label"], stream["one"] = np.zeros((9, 3, 4)), np.zeros(9), 1.0
        stream.create_group("group")
    Path("list.txt").write_text("a.h5\n")
    Path("windows.txt").write_text("# 0\nimage.jpg\n3\n480\n640\n")
    two = 'top: "data" top: "label"'
    shapes = one_layer(f'type: "HDF5Data" {two} hdf5_data_param {{ source: "list.txt" batch_size: 5 }}')
    assert shapes.blobs == {"data": (5, 3, 4), "label": (5,)}
    for top in ("c", "group", "one"):
        shapes = one_layer(f'type: "HDF5Data" {two} top: "{top}" hdf5_data_param {{ source: "list.txt" }}')
        assert shapes.unknown == {"x": f"'a.h5' has no data set '{top}' with rows"}
    Path("a.h5").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    shapes = one_layer(f'type: "HDF5Data" {two} hdf5_data_param {{ source: "list.txt" }}')
    assert "'a.h5' cannot be read as HDF5: " in shapes.unknown["x"] and "data" not in shapes.blobs
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
    with pytest.raises(CaffeSplitError, match="1 input, but 0 shapes of them"):
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
