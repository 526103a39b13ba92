"""Whole nets as models: names, what is left out, what is refused, the files, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import caffe_split as cs
from caffe_split import CaffeSplitError, CheckOptions, ExportOptions
from caffe_split.data.store import write_store
from caffe_split.engine.model.net import Net
from caffe_split.exporting import check
from caffe_split.formats import prototxt
from caffe_split.formats.onnx import write
from caffe_split.net.state import NetState
from tests.exporting.judge import run_model
from tests.support import caffe_split

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'
HEAD = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "msra" } bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
"""
TAIL = """
layer { name: "drop" type: "Dropout" bottom: "pool" top: "dropped" }
layer { name: "ip" type: "InnerProduct" bottom: "dropped" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
PROB = 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }\n'
NET = INPUT + HEAD + TAIL + PROB


def weights_of(text: str, path: Path, **inputs: tuple[int, ...]) -> Path:
    """Weights by the net's fillers, with statistics of BatchNorm that are some."""
    (path.parent / "filled.prototxt").write_text(text)
    module = cs.load(path.parent / "filled.prototxt", inputs=inputs, seed=3)
    for name, blob in module.named_buffers():
        blob.fill_(2) if name.endswith("factor") else blob.uniform_(0.5, 1.5)
    module.save_caffemodel(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path / "net.prototxt", weights_of(NET, tmp_path / "w.caffemodel")


def plan_of(files: tuple[Path, Path], text: str = "", **options: object) -> cs.ExportPlan:
    if text:
        files[0].write_text(text)
    return cs.export(*files, out=files[0].with_suffix(".onnx"), options=ExportOptions(**options))  # type: ignore[arg-type]


def test_names_are_those_of_blobs_layers_and_parameters(files: tuple[Path, Path]) -> None:
    graph = plan_of(files, blobs=("conv", "dropped")).model.graph
    assert [(node.op, node.name, node.outputs) for node in graph.nodes] == [
        ("Conv", "conv", ["conv/conv"]),
        ("BatchNormalization", "bn", ["conv/scale"]),
        ("Relu", "relu", ["conv"]),
        ("AveragePool", "pool", ["pool"]),
        ("Flatten", "ip/Flatten", ["ip/Flatten"]),
        ("Gemm", "ip", ["ip"]),
        ("Softmax", "prob", ["prob"]),
        ("Identity", "dropped", ["dropped"]),
    ]
    assert set(graph.constants) == {
        *(f"{layer}.{blob}" for layer in ("scale", "ip") for blob in ("weight", "bias")),
        *("conv.weight", "bn.mean", "bn.variance"),
    }
    assert [(each.name, each.axes) for each in graph.inputs] == [("data", [1, 3, 8, 8])]
    assert [(each.name, each.axes) for each in graph.outputs] == [
        ("prob", [1, 5]),
        ("conv", [1, 4, 8, 8]),
        ("dropped", [1, 4, 4, 4]),
    ]


def test_a_norm_that_others_read_too_keeps_its_own_operator(files: tuple[Path, Path]) -> None:
    text = NET.replace('bottom: "conv" top: "conv" scale', 'bottom: "conv" top: "s" scale')
    text = text.replace(
        'type: "ReLU" bottom: "conv" top: "conv"', 'type: "Eltwise" bottom: "conv" bottom: "s" top: "r"'
    )
    text = text.replace('type: "Pooling" bottom: "conv"', 'type: "Pooling" bottom: "r"')
    plan = plan_of(files, text)
    assert [node.op for node in plan.model.graph.nodes][:5] == ["Conv", "BatchNormalization", "Mul", "Add", "Add"]
    assert "largest relative difference" in plan.write(check=CheckOptions(engine="torch"))[0]


def test_a_statistic_without_weight_is_zero_as_in_caffe(files: tuple[Path, Path]) -> None:
    blobs = dict(cs.read_weights(files[1]))
    cs.write_weights(files[1], {**blobs, "bn": [*blobs["bn"][:2], np.zeros(1)]})
    plan = plan_of(files)
    assert not plan.model.graph.constants["bn.mean"].any() and not plan.model.graph.constants["bn.variance"].any()
    plan.write(check=CheckOptions(engine="torch"))


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("ending", [".caffemodel", ".caffemodel.h5"])
def test_of_shared_parameters_the_values_that_caffe_loads_are_written(tmp_path: Path, order: str, ending: str) -> None:
    """Those of the file's last layer, whatever the net's order; an HDF5 file has them once, in the owner's place."""
    text = INPUT + "".join(
        f"""layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "{name}" param {{ name: "w" }}
        convolution_param {{ num_output: 3 kernel_size: 1 bias_term: false }} }}"""
        for name in "ab"
    )
    net, file = tmp_path / "net.prototxt", tmp_path / f"w{ending}"
    net.write_text(text)
    values = {"a": np.eye(3, dtype=np.float32), "b": 2 * np.eye(3, dtype=np.float32)}
    arrays = {name: [values[name].reshape(3, 3, 1, 1)] for name in order}
    if ending.endswith(".h5"):
        arrays = {"a": arrays["a"], "b": []}
    cs.write_weights(file, arrays)
    plan = cs.export(net, file, out=tmp_path / "net.onnx")
    last = values["a" if ending.endswith(".h5") else order[-1]].reshape(3, 3, 1, 1)
    np.testing.assert_equal(dict(plan.model.graph.constants), {"a.weight": last})
    np.testing.assert_equal(dict(plan.arrays), {"a.weight": last})
    plan.write(check=CheckOptions(engine="torch"))


def test_a_net_to_train_gives_its_scores(tmp_path: Path) -> None:
    """Its data layer is an input, which may go through its transform; losses and labels are left out."""
    write_store(tmp_path / "store", [(np.zeros((3, 9, 9), np.uint8), 1)])
    data = f"""layer {{ name: "data" type: "Data" top: "data" top: "label"
      transform_param {{ scale: 0.5 crop_size: 8 mean_value: 1 mean_value: 2 mean_value: 3 }}
      data_param {{ source: "{tmp_path}/store" batch_size: 2 backend: LMDB }} }}\n"""
    loss = """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
    layer { name: "twice" type: "Power" bottom: "loss" top: "twice" }
    layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" include { phase: TEST } }
    layer { name: "aux" type: "InnerProduct" bottom: "pool" top: "aux" include { phase: TRAIN }
      inner_product_param { num_output: 2 } }\n"""
    (tmp_path / "net.prototxt").write_text(data + HEAD + TAIL + loss)
    train = tmp_path / "train_val.prototxt"
    train.write_text(data + HEAD + TAIL + loss)
    files = tmp_path / "net.prototxt", weights_of(data + HEAD + TAIL, tmp_path / "w.caffemodel")
    plain, whole = plan_of(files), plan_of(files, with_transform=True)
    assert [each.name for each in plain.model.graph.inputs] == ["data"]
    assert [each.name for each in plain.model.graph.outputs] == ["ip"]
    assert [note.split(":")[0] for note in plain.notes] == [
        "layer 'data' (line 1)",
        "layer 'loss' (line 15) is left out",
        "layer 'twice' (line 16) is left out",
        "layer 'acc' (line 17) is left out",
    ]
    assert [node.op for node in whole.model.graph.nodes][:3] == ["Sub", "Mul", "Conv"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.float32)
    mean = np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1)
    expected = run_model(plain.model, {"data": (pixels - mean) * np.float32(0.5)})["ip"]
    np.testing.assert_allclose(run_model(whole.model, {"data": pixels})["ip"], expected, rtol=1e-5, atol=1e-5)
    whole.write(check=CheckOptions(engine="torch"))
    other = INPUT.replace('"data" type', '"images" type').replace('top: "data"', 'top: "image"')
    deploy = plan_of(
        files, other + (HEAD + TAIL + PROB).replace('bottom: "data"', 'bottom: "image"'), transform_of=train
    )
    assert [node.op for node in deploy.model.graph.nodes][:3] == ["Sub", "Mul", "Conv"]
    given, scores = run_model(deploy.model, {"image": pixels[:1]})["prob"], np.exp(expected[:1] - expected[:1].max())
    np.testing.assert_allclose(given, scores / scores.sum(), rtol=1e-4, atol=1e-6)
    assert "input 'image' takes pixels: the model has the mean (1 2 3) and the scale 0.5" in deploy.notes
    with pytest.raises(CaffeSplitError, match="--with-transform: no data layer of it has a transform_param"):
        plan_of(files, NET, with_transform=True)
    with pytest.raises(CaffeSplitError, match=r"net.prototxt: --transform-of: no data layer of its TEST phase"):
        plan_of(files, NET, transform_of=files[0])
    train.write_text(data.replace("mean_value: 1 ", "") + HEAD + TAIL + loss)
    with pytest.raises(
        CaffeSplitError, match=r"train_val.prototxt: layer 'data' \(line 1\): 2 values of mean_value for 3"
    ):
        plan_of(files, other + (HEAD + TAIL + PROB).replace('bottom: "data"', 'bottom: "image"'), transform_of=train)
    both = data + data.replace('"data"', '"more"').replace('"label"', '"none"')
    train.write_text(both + HEAD + TAIL + loss)
    with pytest.raises(
        CaffeSplitError,
        match=r"its data layers give data, more, and .*net.prototxt has the inputs of images image; give",
    ):
        plan_of(files, other + (HEAD + TAIL + PROB).replace('bottom: "data"', 'bottom: "image"'), transform_of=train)


def test_what_cannot_be_expressed_is_listed_at_once_and_nothing_is_written(files: tuple[Path, Path]) -> None:
    text = (
        INPUT
        + HEAD
        + (
            'layer { name: "user" type: "Python" bottom: "conv" top: "p" python_param { module: "m" layer: "L" } }\n'
            'layer { name: "own" type: "MyOwn" bottom: "conv" top: "own" }\n'
            'layer { name: "filter" type: "Filter" bottom: "conv" bottom: "data" top: "f" }\n'
        )
    )
    with pytest.raises(CaffeSplitError) as raised:
        plan_of(files, text)
    assert [line.split(":", 1)[1] for line in str(raised.value).splitlines()[1:]] == [
        "9: layer 'user': what it computes is a program",
        "10: layer 'own': shapes of MyOwn layers are not known here: the type is not one of Caffe's own",
        "11: layer 'filter': how much it lets through depends on the data",
    ]
    assert sorted(path.name for path in files[0].parent.iterdir() if path.suffix == ".onnx") == []


def test_what_the_engine_refuses_of_a_layers_form_is_listed(files: tuple[Path, Path]) -> None:
    text = TAIL.replace('top: "ip"', "")
    text += 'layer { name: "scaled" type: "Scale" bottom: "conv" }\n'
    text += 'layer { name: "one" type: "Eltwise" bottom: "conv" top: "conv" }\n'
    text += 'layer { name: "two" type: "Eltwise" bottom: "conv" bottom: "pool" top: "a" top: "b" }\n'
    with pytest.raises(CaffeSplitError) as raised:
        plan_of(files, INPUT + HEAD + text)
    assert [line.split(":", 1)[1] for line in str(raised.value).splitlines()[1:]] == [
        "11: layer 'ip': a InnerProduct with 0 tops is not handled; expected 1",
        "13: layer 'scaled': a Scale with 0 tops is not handled; expected 1",
        "14: layer 'one': Eltwise of one bottom in place is not handled: give its top another name than 'conv'",
        "15: layer 'two': a Eltwise with 2 tops is not handled; expected 1",
    ]


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        ('type: "Lstm" bottom: "data" top: "y"', "num_output is missing or 0"),
        ('type: "Upsample" bottom: "data" top: "y" upsample_param { scale: 0 }', "a scale of 0; expected 1 or more"),
        ('type: "Flip" bottom: "data" top: "y" flip_param { flip_height: true }', "flip_width is missing"),
        ('type: "GradientScaler" bottom: "data" top: "y" top: "z"', "1 bottoms and 2 tops; expected a top per bottom"),
        ('type: "Embed" bottom: "data" top: "y" embed_param { num_output: 3 }', "input_dim is missing"),
        ('type: "ArgMax" bottom: "data" top: "y" argmax_param { top_k: 9 axis: 2 }', "top_k is 9, and there are 8"),
        (
            'type: "Flatten" bottom: "data" top: "y" } layer { name: "n" type: "LRN" bottom: "y" top: "z" '
            "lrn_param { norm_region: WITHIN_CHANNEL }",
            "its bottom of (1, 192) is no image",
        ),
        ('type: "Silence" bottom: "data"', "it has no output: layers read all its blobs"),
    ],
)
def test_what_the_engine_refuses_of_options_is_no_fault_of_the_export(
    files: tuple[Path, Path], layer: str, why: str
) -> None:
    cs.write_weights(files[1], {"l": [np.zeros((0, 3)), np.zeros(3)] if "Embed" in layer else []})
    with pytest.raises(CaffeSplitError) as raised:
        plan_of(files, f'{INPUT}layer {{ name: "l" {layer} }}')
    assert str(raised.value).startswith(f"{files[0]}: it ") and why in str(raised.value)


def test_values_of_no_size_are_checked(files: tuple[Path, Path]) -> None:
    shape = "parameter_param { shape { dim: 3 dim: 0 } }"
    cs.write_weights(files[1], {"empty": [np.zeros((3, 0))]})
    plan = plan_of(files, f'{INPUT}layer {{ name: "empty" type: "Parameter" top: "empty" {shape} }}')
    assert plan.write(check=CheckOptions(engine="torch", count=1))[0].startswith("same as ")


SPLIT = 'layer { name: "halve" type: "Split" bottom: "pool" top: "a" top: "b" }\n'


def test_a_top_of_a_split_is_an_output(files: tuple[Path, Path], backend: str) -> None:
    plan = plan_of(files, INPUT + HEAD + SPLIT)
    (said,) = plan.write(check=CheckOptions(engine=backend, count=1))
    assert said.startswith("same as ") and [output.name for output in plan.model.graph.outputs] == ["a", "b"]


def test_memory_that_a_layer_in_place_overwrites_for_others_is_refused(files: tuple[Path, Path]) -> None:
    relu = 'layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }\n'
    text = INPUT + HEAD + SPLIT + relu
    with pytest.raises(CaffeSplitError, match="'relu': in place it writes over the memory of 'b', which it reads, too"):
        plan_of(files, text.replace(relu, relu.replace('"ReLU" bottom: "a"', '"Eltwise" bottom: "a" bottom: "b"')))
    for more, why in (
        ("", "is read as an output"),
        ('layer { name: "max" type: "Power" bottom: "b" top: "c" }\n', "layer 'max' (line 11) reads"),
    ):
        with pytest.raises(CaffeSplitError) as raised:
            plan_of(files, text + more)
        assert f":10: layer 'relu': in place it writes over the memory of 'b', which {why}: give" in str(raised.value)


def test_an_input_whose_shape_is_not_known_is_said(files: tuple[Path, Path]) -> None:
    with pytest.raises(
        CaffeSplitError, match=r"layer 'data' \(line 1\): the shapes of its tops are not known: what its"
    ):
        plan_of(files, NET.replace("input_param", 'phase: "TEST" input_param', 1))


@pytest.mark.parametrize("own", [True, False])
def test_what_a_layer_draws_in_training_is_refused(files: tuple[Path, Path], own: bool) -> None:
    """By the phase of the net, or by the layer's own."""
    phase, text = "phase: TRAIN" if own else "", INPUT + HEAD
    for name, kind, more in [
        ("drop", "Dropout", ""),
        ("noise", "Noise", "noise_param { gaussian_std: 1 }"),
        ("some", "Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }"),
        ("scaled", "GradientScaler", "gradient_scaler_param { max_iter: 9 }"),
    ]:
        text += f'layer {{ name: "{name}" type: "{kind}" bottom: "conv" top: "{name}" {phase} {more} }}\n'
    with pytest.raises(CaffeSplitError) as raised:
        plan_of(files, text, **({} if own else {"state": NetState("TRAIN")}))
    why = "it computes as in training, " + ("by its own phase: TRAIN" if own else "in the TRAIN phase")
    assert [line.split(":", 1)[1].split(";")[0] for line in str(raised.value).splitlines()[1:]] == [
        f"{line}: layer '{name}': {why}" for line, name in ((9, "drop"), (10, "noise"), (11, "some"))
    ]


def test_layers_that_share_a_factor_in_two_shapes_have_it_in_both(files: tuple[Path, Path]) -> None:
    """A Scale behind a BatchNorm is part of its operator, which wants the factor flat."""
    shared = 'param { name: "f" } param { name: "b" } scale_param { bias_term: true } }\n'
    text = (
        f'layer {{ name: "one" type: "Scale" bottom: "data" top: "one" {shared}'
        'layer { name: "bn" type: "BatchNorm" bottom: "one" top: "bn" }\n'
        f'layer {{ name: "two" type: "Scale" bottom: "bn" top: "two" {shared}'
    )
    weights_of(INPUT + text, files[1])
    plan = plan_of(files, INPUT + text)
    assert [node.op for node in plan.model.graph.nodes] == ["Mul", "Add", "BatchNormalization"]
    plan.write(check=CheckOptions(engine="torch"))


def test_bottoms_that_no_layer_gives_are_listed_by_layer_and_state(files: tuple[Path, Path]) -> None:
    text = (
        INPUT.replace('top: "data"', 'top: "data" include { stage: "deploy" }') + HEAD + TAIL.replace('"pool"', '"pol"')
    )
    with pytest.raises(CaffeSplitError) as raised:
        plan_of(files, text)
    assert [line.split(":", 1)[1] for line in str(raised.value).splitlines()[1:3]] == [
        "3: layer 'conv': bottom 'data' is no top of a layer above it in this phase; layer 'data' of line 1 gives it "
        "with stage deploy",
        "10: layer 'drop': bottom 'pol' is no top of a layer above it in this phase",
    ]
    # Labels that only losses read, which are left out, need not be there.
    loss = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'
    assert [each.name for each in plan_of(files, INPUT + HEAD + TAIL + loss).model.graph.outputs] == ["ip"]


@pytest.mark.parametrize("half", [False, True])
def test_an_input_that_a_layer_changes_in_place_is_an_output_of_another_name(
    files: tuple[Path, Path], half: bool
) -> None:
    relu = 'layer { name: "relu" type: "ReLU" bottom: "data" top: "data" }\n'
    drop = 'layer { name: "drop" type: "Dropout" bottom: "data" top: "data" }\n'
    plan = plan_of(files, INPUT + relu + drop, half=half)
    assert [each.name for each in plan.model.graph.outputs] == ["data/out"]
    assert "the last value of 'data' is the output 'data/out', since an input is called 'data'" in plan.notes
    (said,) = plan.write(check=CheckOptions(engine="torch"))
    assert "(output 'data/out')" in said
    # One that no layer changes is an output as it is.
    plan = plan_of(files, INPUT + drop, half=half)
    assert [each.name for each in plan.model.graph.outputs] == ["data"]
    plan.write(force=True, check=CheckOptions(engine="torch"))


@pytest.mark.parametrize("dynamic", [(), ("batch",)])
def test_an_input_may_be_an_output_in_half_precision(files: tuple[Path, Path], dynamic: tuple[str, ...]) -> None:
    plan = plan_of(files, half=True, blobs=("data",), dynamic=dynamic)
    assert [each.name for each in plan.model.graph.outputs] == ["prob", "data"]
    plan.write(check=CheckOptions(engine="torch"))


def test_bottoms_that_fit_for_one_batch_only_are_said(files: tuple[Path, Path]) -> None:
    constant = (
        'layer { name: "k" type: "DummyData" top: "k" dummy_data_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'
    )
    both = 'layer { name: "e" type: "Eltwise" bottom: "data" bottom: "k" top: "e" }\n'
    assert plan_of(files, INPUT + constant + both).model.graph.nodes
    with pytest.raises(CaffeSplitError, match=r"prototxt:3: layer 'e': it does not take another batch: bottoms of \(4"):
        plan_of(files, INPUT + constant + both, dynamic=("batch",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 12}, "opset 12 is not written; 13 to "),
        ({"opset": 99}, "opset 99 is not written; 13 to "),
        ({"dynamic": ("depth",)}, "'depth' cannot vary; expected some of batch, height, width"),
        ({"dynamic": ("batch", "width")}, r"prototxt:11: layer 'ip': it has 320 weights for the net's own width, and"),
        ({"blobs": ("fc7",)}, "it has no blob 'fc7'; its blobs: data, conv, pool"),
        ({"inputs": {"image": (1, 3, 8, 8)}}, "it has no input 'image'; its inputs: data"),
        ({"inputs": {"data": (1, 4, 8, 8)}}, r"layer 'conv' \(line 3\) has blobs .*\(4, 3, 3, 3\)"),
        ({"inputs": {"data": (1, 3, 8, 12)}}, r"layer 'ip' \(line 11\) has blobs"),
    ],
)
def test_options_that_do_not_fit_are_refused(files: tuple[Path, Path], options: dict, message: str) -> None:
    with pytest.raises(CaffeSplitError, match=message):
        plan_of(files, **options)


def test_sizes_that_vary_are_named(files: tuple[Path, Path]) -> None:
    plan = plan_of(files, INPUT + HEAD, dynamic=("batch", "height", "width"))
    graph = plan.model.graph
    assert [each.axes for each in graph.inputs] == [["batch", 3, "height", "width"]]
    assert [each.axes for each in graph.outputs] == [["batch", 4, None, None]]
    assert len(plan.write(check=CheckOptions(engine="torch"))) == 4  # its own sizes, and each of them another once


def test_a_size_that_no_input_has_is_noted(files: tuple[Path, Path]) -> None:
    flat = INPUT.replace("dim: 3 dim: 8 dim: 8", "dim: 20") + (
        'layer { name: "square" type: "Power" bottom: "data" top: "square" power_param { power: 2 } }\n'
    )
    plan = plan_of(files, flat, dynamic=("batch", "width"))
    assert [each.axes for each in plan.model.graph.inputs] == [["batch", 20]]
    assert plan.notes == ("no input has a width that could vary",)
    assert len(plan.write(check=CheckOptions(engine="torch"))) == 2  # not the same sizes twice
    assert "no input has" not in str(plan_of(files, INPUT + HEAD, dynamic=("batch", "width")))


SSD = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 16 dim: 16 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 stride: 4 weight_filler { type: "xavier" } } }
layer { name: "loc" type: "Convolution" bottom: "conv" top: "loc"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "loc_perm" type: "Permute" bottom: "loc" top: "loc_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "loc_flat" type: "Flatten" bottom: "loc_perm" top: "loc_flat" }
layer { name: "conf" type: "Convolution" bottom: "conv" top: "conf"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "conf_perm" type: "Permute" bottom: "conf" top: "conf_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "rows" type: "Reshape" bottom: "conf_perm" top: "rows" reshape_param { shape { dim: 0 dim: -1 dim: 3 } } }
layer { name: "soft" type: "Softmax" bottom: "rows" top: "soft" softmax_param { axis: 2 } }
layer { name: "conf_flat" type: "Flatten" bottom: "soft" top: "conf_flat" }
layer { name: "prior" type: "PriorBox" bottom: "conv" bottom: "data" top: "prior" prior_box_param { min_size: 4
  aspect_ratio: 2 flip: false clip: false variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 } }
layer { name: "det" type: "DetectionOutput" bottom: "loc_flat" bottom: "conf_flat" bottom: "prior" top: "det"
  detection_output_param { num_classes: 3 share_location: true background_label_id: 0 nms_param { nms_threshold: 0.45
  top_k: 100 } code_type: CENTER_SIZE keep_top_k: 20 confidence_threshold: 0.01 } }
"""


def test_detections_in_half_precision(tmp_path: Path) -> None:
    """Boxes are compared in float32, which alone ONNX's operation takes; and no name is given twice."""
    (tmp_path / "net.prototxt").write_text(SSD)
    files = tmp_path / "net.prototxt", weights_of(SSD, tmp_path / "w.caffemodel")
    image = {"data": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    half, single = (run_model(plan_of(files, half=half).model, image)["det"] for half in (True, False))
    assert half.dtype == np.float32 and half.shape == single.shape and half.shape[2] > 3
    assert half[0, 0, :, 2] == pytest.approx(single[0, 0, :, 2], abs=1e-2)


def test_regions_are_drawn_such_as_their_layer_takes_them(tmp_path: Path) -> None:
    text = """
layer { name: "data" type: "Input" top: "data" top: "rois"
  input_param { shape { dim: 1 dim: 3 dim: 32 dim: 48 } shape { dim: 5 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "n" type: "ROIPooling" bottom: "conv" bottom: "rois" top: "n"
  roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.5 } }
layer { name: "ip" type: "InnerProduct" bottom: "n" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
    (tmp_path / "net.prototxt").write_text(text)
    files = tmp_path / "net.prototxt", weights_of(text, tmp_path / "w.caffemodel")
    plan = plan_of(files)
    assert "same as the torch engine for data 1x3x32x48, rois 5x5" in plan.write(check=CheckOptions(engine="torch"))[0]
    training, derived = cs.open_training(files[0]), tmp_path / "derived"
    options = cs.DeriveOptions(partition="random:0")
    cs.derive(training, weights=files[1], layers=["conv"], options=options, out=derived).write()
    engine = cs.VerifyOptions(engine="torch")
    found = cs.verify(files[0], derived / "net.prototxt", options=engine)
    rois = next(row for row in found.rows if row.blob == "rois")
    assert found.passed and 8 < rois.scale < 48, found.verdict()
    fold = cs.fold(derived / "net.prototxt", derived / "init.caffemodel", out=tmp_path / "folded")
    assert all(each.passed for each in fold.write(check=engine))


def test_half_precision_takes_and_gives_floats(files: tuple[Path, Path]) -> None:
    plan = plan_of(files, half=True)
    assert {array.dtype.name for array in plan.model.graph.constants.values()} == {"float16"}
    assert "tolerance 0.01" in plan.write(check=CheckOptions(engine="torch"), with_safetensors=True)[0]
    assert {each.dtype.name for each in (*plan.model.graph.inputs, *plan.model.graph.outputs)} == {"float32"}
    blobs = dict(cs.read_weights(files[1]))
    cs.write_weights(files[1], {**blobs, "ip": [blobs["ip"][0] * 0 + 1e6, blobs["ip"][1]]})
    with pytest.raises(CaffeSplitError, match=r"constant 'ip.weight' holds 1e\+06; the largest value of half"):
        plan_of(files, half=True)


def test_weights_of_more_than_a_message_holds_lie_beside_the_model(files: tuple[Path, Path]) -> None:
    plan = plan_of(files)
    plan.write(check=CheckOptions(engine="torch"), most_bytes=(1 << 24) + 100)
    out = files[0].with_suffix(".onnx")
    assert Path(f"{out}.data").stat().st_size > write.size_of(plan.model) > out.stat().st_size - 3000
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    data = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(
        session.run(["prob"], {"data": data})[0], run_model(plan.model, {"data": data})["prob"]
    )


def test_the_model_and_its_safetensors_have_two_names(files: tuple[Path, Path]) -> None:
    out = files[0].with_suffix(".safetensors")
    with pytest.raises(CaffeSplitError, match=r"net\.safetensors: the model and its safetensors would have one name"):
        cs.export(*files, out=out).write(with_safetensors=True)
    assert not out.exists()


def test_the_safetensors_are_a_modules_state(files: tuple[Path, Path]) -> None:
    plan_of(files).write(with_safetensors=True)
    data = files[0].with_suffix(".safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__")["net"] == "net.prototxt"
    state = cs.load(*files).state_dict()
    assert header.keys() == state.keys()
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        found = np.frombuffer(data[8 + length + start : 8 + length + end], np.float32).reshape(entry["shape"])
        np.testing.assert_array_equal(found, state[name].numpy())


def test_a_model_that_does_not_pass_the_check_is_not_written(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(files)
    plan.model.graph.constants["ip.bias"] = plan.model.graph.constants["ip.bias"] + np.arange(5, dtype=np.float32)
    with pytest.raises(
        CaffeSplitError, match=r"does not compute what .* output 'prob' differs by .* Nothing was written"
    ):
        plan.write(check=CheckOptions(engine="torch"))
    assert not plan.out.exists()
    plan.write()
    before = plan.out.read_bytes()
    with pytest.raises(CaffeSplitError, match="exists; nothing is overwritten unasked"):
        plan.write()
    with pytest.raises(CaffeSplitError, match="does not compute what"):
        plan.write(force=True, check=CheckOptions(engine="torch"))
    assert plan.out.read_bytes() == before
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CaffeSplitError, match=r"pip install onnxruntime, or --check 0"):
        plan.write(force=True, check=CheckOptions(engine="torch"))


def test_a_folded_net_has_the_baselines_graph(tmp_path: Path) -> None:
    """Node by node and name by name; and BatchNorm goes into the convolutions where asked."""
    net = Path("prototxt/resnet20_cifar10/deploy.prototxt").resolve()
    weights = weights_of(net.read_text(), tmp_path / "w.caffemodel")
    training = cs.open_training(net)
    cs.derive(
        training,
        weights=weights,
        layers=LAYERS,
        options=cs.DeriveOptions(kind="skip", partition="random:1"),
        out=tmp_path / "d",
    ).write()
    cs.fold(tmp_path / "d/deploy.prototxt", tmp_path / "d/init.caffemodel", out=tmp_path / "f").write()
    files = [(net, weights), (tmp_path / "f/deploy.prototxt", tmp_path / "f/folded.caffemodel")]
    graphs = [cs.export(*each, out=tmp_path / "n.onnx").model.graph for each in files]
    assert graphs[0].nodes == graphs[1].nodes and graphs[0].inputs == graphs[1].inputs
    assert [(name, array.shape) for name, array in graphs[0].constants.items()] == [
        (name, array.shape) for name, array in graphs[1].constants.items()
    ]
    small = cs.export(*files[1], out=tmp_path / "n.onnx", options=ExportOptions(fold_batch_norm=True))
    kinds = {node.op for node in small.model.graph.nodes}
    assert "BatchNormalization" not in kinds and "Conv" in kinds
    small.write(check=CheckOptions(engine="torch"))


def test_the_command_prints_writes_and_checks(files: tuple[Path, Path]) -> None:
    folder = files[0].parent
    done = caffe_split("export", "net.prototxt", "w.caffemodel", "--engine", "torch", "--dynamic", "batch", cwd=folder)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("net.prototxt -> net.onnx: 7 operators of version 17") and lines[-1] == "wrote net.onnx"
    assert lines[1:3] == ["  input data: batchx3x8x8", "  output prob: batchx5"]
    assert all(line.startswith("same as the torch engine for data") for line in lines[3:5])
    model = onnx.load(folder / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    metadata = {each.key: each.value for each in model.metadata_props}
    assert metadata["weights"] == "w.caffemodel" and len(metadata["net_sha256"]) == 64 and metadata["opset"] == "17"
    assert (model.producer_name, model.producer_version) == ("caffe-split", cs.__version__)
    found = caffe_split("export", "net.prototxt", "w.caffemodel", "--dry-run", "--json", "--out", "x.onnx", cwd=folder)
    assert json.loads(found.stdout)["outputs"] == {"prob": [1, 5]} and not (folder / "x.onnx").exists()
    caffe_split("export", "net.prototxt", "w.caffemodel", cwd=folder, status=1)  # the file is there
    words = ("export", "net.prototxt", "w.caffemodel", "--force", "--out", "net.prototxt")
    assert "the name must end in .onnx" in caffe_split(*words, cwd=folder, status=1).stderr
    caffe_split("export", "net.prototxt", "w.caffemodel", "--input", "data=3", "--out", "y.onnx", cwd=folder, status=1)
    caffe_split("export", "net.prototxt", "w.caffemodel", "--input", "data", cwd=folder, status=2)


@pytest.mark.parametrize(("dynamic", "height"), [((), 8), (("height",), 11), (("height", "width"), 11)])
def test_in_place_layers_compute_what_caffes_do(dynamic: tuple[str, ...], height: int, tmp_path: Path) -> None:
    """Also those whose result is another one in place: LRN across channels, and Eltwise."""
    text = INPUT + (
        'layer { name: "p" type: "Power" bottom: "data" top: "data" power_param { shift: 0.5 } }\n'
        'layer { name: "e" type: "Exp" bottom: "data" top: "x" }\n'
        'layer { name: "s" type: "Power" bottom: "x" top: "y" }\n'
        'layer { name: "t" type: "Power" bottom: "x" top: "z" }\n'
        'layer { name: "l" type: "LRN" bottom: "y" top: "y" lrn_param { local_size: 3 alpha: 0.5 } }\n'
        'layer { name: "m" type: "Eltwise" bottom: "z" bottom: "y" top: "z" eltwise_param { coeff: 2 coeff: -3 } }\n'
        'layer { name: "d" type: "Dropout" bottom: "z" top: "z" }\n'
    )
    (tmp_path / "net.prototxt").write_text(text)
    cs.write_weights(tmp_path / "w.caffemodel", {"none": [np.zeros(1)]})
    model = plan_of((tmp_path / "net.prototxt", tmp_path / "w.caffemodel"), blobs=("y",), dynamic=dynamic).model
    data = np.random.default_rng(0).standard_normal((1, 3, height, 8)).astype(np.float32)
    net = Net(prototxt.parse(text, "net"), "TEST", inputs={"data": data.shape})
    expected = net.forward({"data": data}, keep=True).blobs
    found = run_model(model, {"data": data})
    assert set(found) == {"z", "y"}
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name].numpy(), rtol=1e-5, atol=1e-6)


def test_stochastic_pooling_gives_the_mean_of_its_draws(files: tuple[Path, Path]) -> None:
    plan = plan_of(files, NET.replace("pool: AVE", "pool: STOCHASTIC"))
    checked = plan.write(check=CheckOptions(count=3, engine="torch"))
    assert len(checked) == 3 and all(said.startswith("same as the torch engine") for said in checked), checked


LAYERS = ["conv1", "res1a_conv1", "res1b_conv2"]
RECURRENT = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 2 dim: 3 dim: 2 } } }
layer { name: "cont" type: "Input" top: "cont" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "still" type: "Input" top: "still" input_param { shape { dim: 2 dim: 5 } } }
layer { name: "h0" type: "Input" top: "h0" top: "c0" input_param { shape { dim: 1 dim: 2 dim: 3 } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "a"
  recurrent_param { num_output: 3 weight_filler { type: "uniform" min: -1 max: 1 } bias_filler { value: 0.1 } } }
layer { name: "exposed" type: "LSTM" bottom: "a" bottom: "cont" bottom: "still" bottom: "h0" bottom: "c0" top: "b" top: "h" top: "c"
  recurrent_param { num_output: 3 expose_hidden: true weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "rnn" type: "RNN" bottom: "b" bottom: "cont" bottom: "still" top: "r"
  recurrent_param { num_output: 2 weight_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "image" type: "Input" top: "image" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 9 } } }
layer { name: "which" type: "Input" top: "which" input_param { shape { dim: 5 } } }
layer { name: "spp" type: "SPP" bottom: "image" top: "spp" spp_param { pyramid_height: 3 } }
layer { name: "ave" type: "SPP" bottom: "image" top: "ave" spp_param { pyramid_height: 2 pool: AVE } }
layer { name: "im2col" type: "Im2col" bottom: "image" top: "im2col" convolution_param { kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "reindex" type: "BatchReindex" bottom: "image" bottom: "which" top: "reindex" }
layer { name: "mask" type: "Pooling" bottom: "image" top: "most" top: "mask" pooling_param { kernel_size: 3 stride: 2 } }
"""  # noqa: E501


@pytest.mark.caffe
def test_types_that_only_caffe_runs_are_as_caffe_computes_them(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(RECURRENT)
    rng = np.random.default_rng(0)
    shapes = {
        "lstm": [(12, 6), (12,), (12, 3)],
        "exposed": [(12, 3), (12,), (12, 5), (12, 3)],
        "rnn": [(2, 3), (2,), (2, 5), (2, 2), (2, 2), (2,)],
    }
    blobs = {name: [rng.uniform(-1, 1, shape) for shape in each] for name, each in shapes.items()}
    cs.write_weights(tmp_path / "w.caffemodel", blobs)
    plan = plan_of((tmp_path / "net.prototxt", tmp_path / "w.caffemodel"))
    assert {each.name for each in plan.model.graph.outputs} >= {
        "h",
        "c",
        "r",
        "spp",
        "ave",
        "im2col",
        "reindex",
        "mask",
    }
    assert plan.write(check=CheckOptions(engine="caffe"))[0].startswith("same as Caffe for")


@pytest.mark.caffe
@pytest.mark.parametrize(
    ("layer", "lacking"),
    [
        ('type: "ReLU6"', "type ReLU6"),
        ('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 ceil_mode: false }', "pooling_param.ceil_mode"),
        ('type: "TanH"', ""),
    ],
)
def test_layers_that_caffe_does_not_have_are_checked_in_the_engine(
    files: tuple[Path, Path], layer: str, lacking: str
) -> None:
    plan = plan_of(files, INPUT + HEAD + f'layer {{ name: "l" bottom: "pool" top: "l" {layer} }}\n')
    *said, found = plan.write(check=CheckOptions())
    judge = "the torch engine" if lacking else "Caffe"
    assert said == ([f"checked in the torch engine: Caffe does not have {lacking}"] if lacking else [])
    assert found.startswith(f"same as {judge} for data 1x3x8x8")
