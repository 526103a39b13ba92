"""Layers of forks of Caffe against NumPy: values, gradients, what they keep and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs
from tests.engine import fork_references_more as more
from tests.engine.case import Case, layer
from tests.engine.fork_cases import Judged
from tests.engine.fork_cases_more import JUDGED

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.model.net import Net
from caffe_split.engine.spec.support import judge, layers_of
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import caffe_pb2
from caffe_split.formats.weights.caffemodel import read_weights, write_weights
from caffe_split.net.state import NetState


def built(case: Case) -> Net:
    return Net(prototxt.parse(case.prototxt(), kind="net"), case.phase)


def drawn(judged: Judged, net: Net, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Bottoms by name and the layer's blobs, of values that float32 has."""
    given = {name: rng.normal(size=shape).astype(np.float32) * 2 for name, shape in judged.case.inputs.items()}
    given.update({name: np.asarray(array, np.float32) for name, array in (judged.bottoms or {}).items()})
    sizes = [tuple(blob.shape) for blob in net.layers[-1].blobs]
    blobs = [np.asarray(np.abs(rng.normal(size=size)) + 0.5, np.float32) for size in sizes]
    return given, blobs


@pytest.mark.parametrize("name", JUDGED)
def test_values_are_those_of_the_definition(name: str) -> None:
    judged = JUDGED[name]
    net = built(judged.case)
    given, blobs = drawn(judged, net, np.random.default_rng([*name.encode()]))
    with torch.no_grad():
        for blob, array in zip(net.layers[-1].blobs, blobs):
            blob.copy_(torch.from_numpy(array))
    tops = net.forward(given, keep=True).blobs
    wanted = judged.judge(
        {key: array.astype(np.float64) for key, array in given.items()}, [blob.astype(np.float64) for blob in blobs]
    )
    assert len(wanted) == len(judged.case.tops)
    for top, expected in zip(judged.case.tops, wanted):
        ours = tops[top].detach().numpy()
        assert ours.shape == np.shape(expected)
        if not name.startswith(("detections", "proposals", "regions")):
            assert ours.shape == net.shapes[top]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("name", JUDGED)
def test_a_loaded_module_computes_the_same(name: str, tmp_path: Path) -> None:
    judged = JUDGED[name]
    net = built(judged.case)
    given, blobs = drawn(judged, net, np.random.default_rng([*name.encode()]))
    (tmp_path / "net.prototxt").write_text(judged.case.prototxt())
    write_weights(tmp_path / "w.caffemodel", {"l": blobs})
    net.load(read_weights(tmp_path / "w.caffemodel"), "w.caffemodel")
    wanted = net.forward(given, keep=True).blobs
    module = cs.load(tmp_path / "net.prototxt", tmp_path / "w.caffemodel").train(judged.case.phase == "TRAIN")
    found = module.forward(**{key: torch.from_numpy(array) for key, array in given.items()}, blobs=judged.case.tops)
    for top in judged.case.tops:
        np.testing.assert_allclose(found[top].detach().numpy(), wanted[top].detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, judged in JUDGED.items() if judged.back])
def test_gradients_are_those_of_the_values(name: str) -> None:
    """In double precision, against differences."""
    judged = JUDGED[name]
    net = built(judged.case)
    one = net.layers[-1]
    given, blobs = drawn(judged, net, np.random.default_rng([*name.encode(), 1]))
    kept = {"BatchNorm": range(3), "BN": range(2, 4), "CenterLoss": range(1)}.get(one.text.type, ())
    bottoms = [
        torch.tensor(given[key].astype(np.float64), requires_grad=key not in judged.case.constant)
        for key in judged.case.inputs
    ]
    learnt = [torch.tensor(blob.astype(np.float64), requires_grad=k not in kept) for k, blob in enumerate(blobs)]

    def run(*values: torch.Tensor) -> torch.Tensor:
        one.blobs = list(values[len(bottoms) :])
        one.blobs = [blob.clone() if index in kept else blob for index, blob in enumerate(one.blobs)]
        return one.run(*values[: len(bottoms)])[0]

    # Of many values, one combination drawn at random: value by value takes seconds.
    many = sum(value.numel() for value in (*bottoms, *learnt)) > 150
    assert torch.autograd.gradcheck(run, [*bottoms, *learnt], atol=1e-6, fast_mode=many)


# -- what is kept, and what is learnt


def only(
    kind: str, options: str, phase: str = "TRAIN", bottom: str = "x", shape: tuple[int, ...] = (3, 4, 5, 2)
) -> Net:
    return built(Case(layer(kind, bottom, options=options), {"x": shape}, phase=phase))


def test_bn_keeps_running_means() -> None:
    net = only("BN", "bn_param { momentum: 0.8 slope_filler { value: 1 } }")
    x = np.random.default_rng(1).normal(3, 2, size=(3, 4, 5, 2)).astype(np.float32)
    for times in (1, 2):
        net.forward({"x": x})
        for blob, first, value in zip(net.layers[-1].blobs[2:], (0, 1), (x.mean((0, 2, 3)), x.var((0, 2, 3)))):
            wanted = 0.8**times * first + (1 - 0.8**times) * value
            np.testing.assert_allclose(blob.numpy().ravel(), wanted, rtol=1e-5)


def test_batches_of_other_sizes_count_on() -> None:
    """Where shapes vary, a layer is set up anew for each; what it has counted stays."""
    norm = only("BatchNorm", "batch_norm_param { moving_average_fraction: 0.8 scale_bias: true }").layers[-1]
    options = "margin_inner_product_param { num_output: 2 base: 8 gamma: 1 power: 1 lambda_min: 0 }"
    case = Case(layer("MarginInnerProduct", "x t", "y l", options), {"x": (2, 3), "t": (2,)}, ["y", "l"])
    margin = built(case).layers[-1]
    for number in range(4):
        x, labels = torch.randn(3 + number, 4, 5, 2), torch.zeros(3 + number)
        norm.follow([tuple(x.shape)])
        norm.run(x)
        margin.follow([(3 + number, 3), (3 + number,)])
        share = margin.run(x[:, :3, 0, 0], labels)[1]
    assert norm.batches == 4 and float(share) == pytest.approx(8 / 5)  # type: ignore[attr-defined]


def test_batch_norm_with_a_scale_keeps_what_its_fork_keeps() -> None:
    """NVCaffe copies the statistics of two batches and then takes running means; Intel's sums up, as BVLC's does."""
    batches = np.random.default_rng(1).normal(3, 2, size=(3, 3, 4, 5, 2)).astype(np.float32)
    means, variances = batches.mean((1, 3, 4)), batches.var((1, 3, 4))
    kept = {}
    for name, field in (("nvcaffe", "scale_bias: true"), ("intel", "use_weight_bias: true")):
        net = only("BatchNorm", f"batch_norm_param {{ moving_average_fraction: 0.8 {field} }}")
        for batch in batches:
            net.forward({"x": batch})
        kept[name] = [blob.detach().numpy() for blob in net.layers[-1].blobs]
    np.testing.assert_allclose(kept["nvcaffe"][0], 0.8 * means[1] + 0.2 * means[2], rtol=1e-5)
    np.testing.assert_allclose(kept["nvcaffe"][1], 0.8 * variances[1] + 0.2 * variances[2], rtol=1e-5)
    assert kept["nvcaffe"][2] == 0
    np.testing.assert_allclose(kept["intel"][0], 0.64 * means[0] + 0.8 * means[1] + means[2], rtol=1e-5)
    np.testing.assert_allclose(
        kept["intel"][1], (0.64 * variances[0] + 0.8 * variances[1] + variances[2]) * 30 / 29, rtol=1e-5
    )
    np.testing.assert_allclose(kept["intel"][2], 0.64 + 0.8 + 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "rates"),
    [
        ("BN", "bn_param { momentum: 0.9 }", [1, 1, 0, 0]),
        ("BN", "bn_param { frozen: true }", [0, 0, 0, 0]),
        ("BN", "bn_param { bn_mode: LEARN } param { lr_mult: 3 }", [3, 1]),
        ("BatchNorm", "batch_norm_param { scale_bias: true }", [0, 0, 0, 1, 1]),
        ("BatchNorm", "batch_norm_param { scale_bias: true } param { lr_mult: 1 }", [0, 0, 0, 1, 1]),
        ("BatchNorm", "batch_norm_param { filler { value: 1 } }" + " param { lr_mult: 2 }" * 5, [0, 0, 0, 2, 2]),
        ("Normalize", "norm_param { } param { lr_mult: 5 }", [5]),
    ],
)
def test_statistics_are_not_learnt(kind: str, options: str, rates: list[float]) -> None:
    assert [param.lr_mult for param in only(kind, options).params] == rates


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1, 1), (4,)])
def test_weights_of_a_bn_are_read_with_any_axes_of_1(shape: tuple[int, ...], tmp_path: Path) -> None:
    net = only("BN", "bn_param { frozen: true }")
    values = [np.arange(4, dtype=np.float32) + index for index in range(4)]
    write_weights(tmp_path / "w.caffemodel", {"l": [array.reshape(shape) for array in values]})
    net.load(read_weights(tmp_path / "w.caffemodel"), "w.caffemodel")
    for blob, array in zip(net.layers[-1].blobs, values):
        assert blob.numpy().ravel().tolist() == array.tolist()


# What a fork's snapshot has of a layer: the shapes of its blobs, as the fork's code makes them, `c` for the channels.
SNAPSHOTS = {
    "bn_segnet_inference": ["1,c,1,1"] * 2,
    "bn_running_test": ["1,c,1,1"] * 4,
    "bn_frozen": ["1,c,1,1"] * 4,
    "batch_norm_scale_test": ["c", "c", "1", "c", "c"],
    "batch_norm_intel": ["c", "c", "1", "c", "c"],
    "normalize_place": ["c"],
    "normalize_image": [""],
    "depthwise": ["6,1,3,3", "6"],
    "convolution_3d": ["4,2,2,3,3", "4"],
    "centers": ["4,4"],
}


@pytest.mark.parametrize("old", [False, True], ids=["today", "four_axes"])
@pytest.mark.parametrize("name", SNAPSHOTS)
def test_the_snapshot_of_a_fork_is_read_and_written_back(name: str, old: bool, tmp_path: Path) -> None:
    """With today's shapes, and with the four axes of num, channels, height and width, which older forks write."""
    judged, rng = JUDGED[name], np.random.default_rng([*name.encode()])
    net = built(judged.case)
    channels = str(next(iter(judged.case.inputs.values()))[1])
    shapes = [[int(n) for n in text.replace("c", channels).split(",") if n] for text in SNAPSHOTS[name]]
    given, _ = drawn(judged, net, rng)
    values = [(np.abs(rng.normal(size=shape)) + 0.5).astype(np.float32) for shape in shapes]
    stored = caffe_pb2.NetParameter()
    record = stored.layer.add(name="l", type=net.layers[-1].text.type)
    for value in values:
        blob = record.blobs.add(data=value.ravel())
        if old and value.ndim <= 4:
            ones = (1,) * (4 - value.ndim)
            blob.num, blob.channels, blob.height, blob.width = (*ones, *value.shape)
        else:
            blob.shape.dim.extend(value.shape)
    (tmp_path / "w.caffemodel").write_bytes(stored.SerializeToString())
    net.load(read_weights(tmp_path / "w.caffemodel"), "w.caffemodel")
    wanted = judged.judge({k: v.astype(np.float64) for k, v in given.items()}, [v.astype(np.float64) for v in values])
    held = [blob.detach().numpy().copy() for blob in net.layers[-1].blobs]
    tops = net.forward(given, keep=True).blobs
    for top, expected in zip(judged.case.tops, wanted):
        largest = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(tops[top].detach().numpy(), expected, rtol=0, atol=1e-5 * largest)
    write_weights(tmp_path / "again.caffemodel", {"l": held})
    again = caffe_pb2.NetParameter.FromString((tmp_path / "again.caffemodel").read_bytes()).layer[0]
    assert [list(blob.data) for blob in again.blobs] == [value.ravel().tolist() for value in values]
    for blob, shape in zip(again.blobs, shapes):
        # As in Caffe, four axes that begin with 1 are written in the old fields.
        old_shape = [blob.num, blob.channels, blob.height, blob.width]
        assert (old_shape if blob.HasField("num") else list(blob.shape.dim)) == shape


def test_a_snapshot_with_another_forks_number_of_blobs_is_refused(tmp_path: Path) -> None:
    net = only("BN", "bn_param { frozen: true }")
    write_weights(tmp_path / "w.caffemodel", {"l": [np.ones((1, 4, 1, 1), np.float32)] * 2})
    with pytest.raises(CaffeSplitError, match="has 2 blobs of it; it has 4"):
        net.load(read_weights(tmp_path / "w.caffemodel"), "w.caffemodel")


def test_a_third_blob_of_0_means_that_the_statistics_are_means() -> None:
    x = np.random.default_rng(1).normal(3, 2, size=(3, 4, 5, 2)).astype(np.float32)
    tops = []
    for weight in (0.0, 1.0):
        net = only("BatchNorm", "batch_norm_param { scale_bias: true }", "TEST")
        blobs = [np.full(4, 3.0), np.full(4, 4.0), np.full(1, weight), np.full(4, 2.0), np.full(4, -1.0)]
        net.load({"l": [blob.astype(np.float32) for blob in blobs]}, "w")
        tops.append(net.forward({"x": x}).blobs["y"].detach().numpy())
    np.testing.assert_allclose(tops[0], (x - 3) / np.sqrt(4 + 1e-5) * 2 - 1, atol=1e-5)
    np.testing.assert_array_equal(*tops)


def test_a_scale_behind_a_scale_inside_is_fused_rightly() -> None:
    text = layer("BatchNorm", "x", "b", "batch_norm_param { scale_bias: true }").replace('"l"', '"n"')
    text += layer("Scale", "b", options="scale_param { bias_term: true }")
    case = Case(text, {"x": (3, 4, 5, 2)})
    x = np.random.default_rng(1).normal(3, 2, size=(3, 4, 5, 2)).astype(np.float32)
    found = []
    for fuse in (False, True):
        net = Net(prototxt.parse(case.prototxt(), kind="net"), "TRAIN", fuse=fuse)
        rng = np.random.default_rng(2)
        with torch.no_grad():
            for one in net.layers[1:]:
                for blob in one.blobs[3 if one.name == "n" else 0 :]:
                    blob.copy_(torch.from_numpy(rng.normal(size=tuple(blob.shape)).astype(np.float32)))
        assert not fuse or len(net.calls) == 2
        found.append(net.forward({"x": x}).blobs["y"].detach().numpy())
    np.testing.assert_allclose(*found, atol=1e-5)


# -- by the values of bottoms


def test_a_mask_of_a_larger_image_is_refused() -> None:
    net = built(
        Case(layer("Upsample", "x m", options="upsample_param { scale: 2 }"), dict.fromkeys("xm", (1, 1, 2, 2)))
    )
    with pytest.raises(CaffeSplitError, match="names place 16 of an image of 4x4"):
        net.forward({"m": np.full((1, 1, 2, 2), 16)})


def test_a_region_of_another_image_is_refused() -> None:
    text = layer("ROIPooling", "x r", options="roi_pooling_param { pooled_h: 1 pooled_w: 1 }")
    net = built(Case(text, {"x": (2, 1, 4, 4), "r": (1, 5)}))
    with pytest.raises(CaffeSplitError, match="a region of 'r' lies in image 2; there are 2"):
        net.forward({"r": np.array([[2, 0, 0, 1, 1]])})


def test_nothing_found_is_a_row_for_each_image() -> None:
    judged = JUDGED["detections"]
    given, _ = drawn(judged, built(judged.case), np.random.default_rng(1))
    given["conf"] = np.tile([1, 0, 0], 24).reshape(2, 36)
    top = built(judged.case).forward(given).blobs["y"]
    assert top.tolist() == [[[[0, *[-1] * 6], [1, *[-1] * 6]]]]


def test_data_of_forks_are_given_by_the_caller() -> None:
    text = layer("AnnotatedData", "", "x t", "transform_param { resize_param { height: 4 width: 5 } }")
    document = prototxt.parse(text + layer("ReLU", "x").replace('"l"', '"r"'), "net")
    net = Net(document, "TEST", inputs={"t": (1, 1, 7, 8)})
    assert net.shapes["x"] == (1, 3, 4, 5) and net.shapes["t"] == (1, 1, 7, 8)
    x = np.random.default_rng(1).normal(size=(1, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(net.forward({"x": x}).blobs["y"].numpy(), np.maximum(x, 0))


def test_the_arrays_of_an_unknown_data_layer_are_given() -> None:
    text = layer("CasiaWebFace", "", "x t", "casia_web_face_param { source: 'list' }")
    document = prototxt.parse(text + layer("ReLU", "x").replace('"l"', '"r"'), "net")
    net = Net(document, "TEST", inputs={"x": (2, 3), "t": (2,)})
    x = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_array_equal(net.forward({"x": x}).blobs["y"].numpy(), np.maximum(x, 0))
    assert [note.reason for note in net.notes] == ["its arrays are given in Python, so nothing is read"]


def test_centers_move_by_the_mean_of_their_features() -> None:
    """Whatever the loss's weight is: minus the distances' sum over one more than there are."""
    options = "center_loss_param { num_output: 3 center_filler { value: 1 } } loss_weight: 0.01"
    net = built(Case(layer("CenterLoss", "x t", options=options), {"x": (4, 2), "t": (4,)}))
    x, labels = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32), np.array([0, 2, 2, 2])
    centers = net.layers[-1].blobs[0].requires_grad_()
    net.forward({"x": x, "t": labels}).loss.backward()
    wanted = np.array([(1 - x[:1]).sum(0) / 2, [0, 0], (1 - x[1:]).sum(0) / 4])
    np.testing.assert_allclose(centers.grad.numpy(), wanted, rtol=1e-6)


def test_the_published_layer_of_regions_needs_no_class() -> None:
    judged = JUDGED["proposals"]
    given, _ = drawn(judged, built(judged.case), np.random.default_rng(1))
    param = "python_param { module: 'rpn.proposal_layer' layer: 'ProposalLayer' param_str: \"'feat_stride': 16\" }"
    net = built(Case(layer("Python", "s b i", options=param), judged.case.inputs, phase="TEST"))
    wanted, _ = more.proposals(*(given[key].astype(np.float64) for key in "sbi"), 16, 300, 16)
    np.testing.assert_allclose(net.forward(given).blobs["y"].numpy(), wanted, atol=1e-4)
    with pytest.raises(CaffeSplitError, match="for 9 anchors; expected one image, 18 and 36 channels"):
        built(Case(layer("Python", "s b i", options=param), {**judged.case.inputs, "s": (1, 9, 4, 5)}))


def test_detections_are_judged_in_pixels_where_the_sizes_are_given(tmp_path: Path) -> None:
    """A box holds its last row and column: 6.6 of 13.4 pixels are less than a half, 7.6 of 14.4 are more."""
    found = np.array([[0, 1, 0.9, 0.17, 0, 0.67, 0.5]]).reshape(1, 1, 1, 7)
    objects = np.array([[0, 1, 0, 0, 0, 0.5, 0.5, 0]]).reshape(1, 1, 1, 8)
    (tmp_path / "sizes.txt").write_text("a 20 20\n")
    for sizes, right in (("", 0), (f"name_size_file: '{tmp_path}/sizes.txt'", 1)):
        options = f"detection_evaluate_param {{ num_classes: 2 {sizes} }}"
        net = built(Case(layer("DetectionEvaluate", "d t", options=options), {"d": (1, 1, 1, 7), "t": (1, 1, 1, 8)}))
        top = net.forward({"d": found, "t": objects}).blobs["y"].numpy().reshape(2, 5)
        np.testing.assert_allclose(top, [[-1, 1, 1, -1, -1], [0, 1, 0.9, right, 1 - right]], rtol=1e-6)


def test_regions_are_compared_with_their_last_row_and_column() -> None:
    """Regions of 17 columns, 3 apart, share 14 of 20, 0.7; without the last ones it would be 13 of 19, 0.684."""
    options = "base_size: 16 feat_stride: 3 ratio: 1 scale: 1 min_size: 1"
    inputs = {"s": (1, 2, 1, 2), "b": (1, 4, 1, 2), "i": (1, 3)}
    for most, count in ((0.69, 1), (0.71, 2)):
        text = layer("Proposal", "s b i", options=f"proposal_param {{ {options} nms_thresh: {most} }}")
        top = built(Case(text, inputs, phase="TEST")).forward({"i": np.array([[40, 40, 1]])}).blobs["y"]
        assert top.tolist() == [[0, 0, 0, 16, 16], [0, 3, 0, 19, 16]][:count]


def test_fields_that_choose_an_implementation_are_noted() -> None:
    text = "default_forward_type: FLOAT16\n"
    text += 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }\n'
    text += layer("InnerProduct", options="forward_type: FLOAT16 inner_product_param { num_output: 1 }")
    document = prototxt.parse(text, "net")
    problems, notes = judge(document, layers_of(document, NetState("TEST")))
    assert not problems and {note.field for note in notes} == {"default_forward_type", "forward_type"}
