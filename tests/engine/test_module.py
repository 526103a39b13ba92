"""A net as a PyTorch module: it computes what the engine's net does, at other sizes too, and trains and is saved."""

import copy
import io
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import caffe_split
from caffe_split import CaffeSplitError
from caffe_split.engine.model.net import Net
from caffe_split.formats import prototxt
from caffe_split.formats.weights.caffemodel import read_weights

NET = """
name: "small"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN } data_param { source: "no" } }
layer { name: "data" type: "Input" top: "data" include { phase: TEST } input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
layer { name: "stage.conv" type: "Convolution" bottom: "data" top: "c" param { name: "w" } param { name: "b" }
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "norm" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "scale" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
layer { name: "type" type: "Convolution" bottom: "c" top: "d" param { name: "w" } param { name: "b" }
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 } }
layer { name: "relu" type: "ReLU" bottom: "d" top: "d" }
layer { name: "pool" type: "Pooling" bottom: "d" top: "p" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "p" top: "p" }
layer { name: "global" type: "Pooling" bottom: "p" top: "g" pooling_param { pool: AVE global_pooling: true } }
layer { name: "ip" type: "InnerProduct" bottom: "g" top: "scores" param { lr_mult: 0 } param { lr_mult: 1 }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "scores" top: "prob" include { phase: TEST } }
layer { name: "more" type: "InnerProduct" bottom: "g" top: "more" include { phase: TRAIN }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "aux" type: "SoftmaxWithLoss" bottom: "more" bottom: "label" top: "aux" include { phase: TRAIN } loss_weight: 0.3 }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" top: "loss" include { phase: TRAIN } }
"""  # noqa: E501
BARE = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } } }
layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }
"""
SHAPES = {"data": (2, 3, 9, 9)}


@pytest.fixture
def module(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    made = caffe_split.load(tmp_path / "net.prototxt", inputs=SHAPES, seed=5)
    with torch.no_grad():
        made.norm.mean.normal_()
        made.norm.variance.uniform_(1, 2)
        made.norm.factor.fill_(2)
    return made


def arrays_of(module, path: Path) -> dict[str, list[np.ndarray]]:
    module.save_caffemodel(path)
    return dict(read_weights(path))


def test_it_computes_what_the_engines_net_does(module, tmp_path):
    net = Net(prototxt.parse(NET, "net"), "TEST")
    net.load(arrays_of(module, tmp_path / "w.caffemodel"), "w")
    data = np.random.default_rng(0).standard_normal((2, 3, 9, 9), np.float32)
    expected = net.forward({"data": data}, keep=True).blobs
    found = module(data, blobs=[name for name in expected if name != "data"])
    for name, blob in found.items():
        torch.testing.assert_close(blob, expected[name])
    assert set(module(data)) == {"prob"} and module.inputs == SHAPES and module.outputs == ["prob"]


def test_any_batch_and_image_size_that_the_net_allows(module):
    images = torch.randn(5, 3, 12, 7)
    together = module(data=images)["prob"]
    torch.testing.assert_close(together, torch.cat([module(image[None])["prob"] for image in images]))


def test_sizes_that_it_does_not_allow_name_the_layer(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET.replace("pool: AVE global_pooling: true", "kernel_size: 2"))
    module = caffe_split.load(path)
    with pytest.raises(
        CaffeSplitError, match=r"'ip' .*for data \(1, 3, 13, 9\) its weight would .* \(4, 45\); it has \(4, 2"
    ):
        module(torch.zeros(1, 3, 13, 9))


def test_parameters_have_the_layers_names_and_shared_ones_the_first_ones(module):
    assert list(module.state_dict()) == [
        "stage.conv.weight",
        "stage.conv.bias",
        *[f"norm.{name}" for name in ("mean", "variance", "factor")],
        *[f"{layer}.{name}" for layer in ("scale", "ip", "more") for name in ("weight", "bias")],
    ]
    assert [name for name, value in module.named_parameters() if not value.requires_grad] == ["ip.weight"]
    data = torch.randn(1, 3, 9, 9)
    before = module(data)["prob"]
    twin, kept = copy.deepcopy(module), copy.deepcopy(module.state_dict())
    with torch.no_grad():
        module.get_submodule("stage.conv").weight.add_(1)
    assert not torch.equal(module(data)["prob"], before)
    torch.testing.assert_close(twin(data)["prob"], before)
    module.load_state_dict(kept)
    torch.testing.assert_close(module(data)["prob"], before)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    torch.testing.assert_close(torch.load(stream, weights_only=False)(data)["prob"], before)
    assert module.double()(data.double())["prob"].dtype == torch.float64


def test_it_trains_as_the_phase_train_and_caffe_reads_what_it_has_learnt(module, tmp_path):
    data, labels = torch.randn(4, 3, 9, 9), torch.tensor([0, 1, 2, 3])
    module.train()
    assert module.outputs == ["aux", "loss"] and module.loss_weights == {"aux": pytest.approx(0.3), "loss": 1.0}
    rate = torch.optim.SGD(module.parameters(), 0.1)
    losses = []
    torch.manual_seed(1)
    for _ in range(6):
        rate.zero_grad()
        found = module(data, label=labels)
        losses.append(found["loss"])
        sum(found[name] * weight for name, weight in module.loss_weights.items()).backward()
        rate.step()
    assert losses[-1] < losses[0] and module.norm.factor.item() > 2 and module.more.weight.grad is not None
    module.eval()
    arrays_of(module, tmp_path / "w.caffemodel")
    again = caffe_split.load(tmp_path / "net.prototxt", tmp_path / "w.caffemodel", inputs=SHAPES)
    torch.testing.assert_close(again(data)["prob"], module(data)["prob"])
    assert again.unused == []


def test_inputs_that_are_missing_or_unknown_are_named(module):
    module.train()
    data = torch.zeros(3, 3, 9, 9)
    with pytest.raises(CaffeSplitError, match="input 'label' is not given; the inputs of its TRAIN phase are data, l"):
        module(data)
    assert module(data, blobs=["g"])["g"].shape == (3, 3, 1, 1)  # what it needs is there
    for given, named, message in (
        ((data,), {"image": data}, "it has no input 'image'; its inputs: data, label"),
        ((data,), {"data": data}, "input 'data' is given twice"),
        ((data, data, data), {}, "3 inputs are given; its TRAIN phase has 2: data, label"),
    ):
        with pytest.raises(CaffeSplitError, match=message):
            module(*given, **named)
    with pytest.raises(CaffeSplitError, match="it has no blob 'fc7'; its blobs: data, label, c"):
        module(data, blobs=["fc7"])


def test_what_does_not_go_together_is_said(tmp_path, module):
    path = tmp_path / "net.prototxt"
    module.save_caffemodel(tmp_path / "all.caffemodel")
    path.write_text(NET.replace('name: "ip"', 'name: "other"'))
    with pytest.raises(CaffeSplitError, match=r"no weights of layer 'other' \(line 15\)"):
        caffe_split.load(path, tmp_path / "all.caffemodel", inputs=SHAPES)
    with pytest.raises(CaffeSplitError, match="it has no input 'image'; its inputs: data"):
        caffe_split.load(path, inputs={"image": (1, 3, 9, 9)})
    # Without the shape of its data there is no TRAIN phase, and nothing else is lost.
    module = caffe_split.load(path)
    assert module(torch.zeros(1, 3, 9, 9))["prob"].shape == (1, 4)
    module.train()
    with pytest.raises(CaffeSplitError, match=r"cannot be computed: layer 'data' .*the shape of its top 'data' is not"):
        module(torch.zeros(1, 3, 9, 9))
    assert not hasattr(module, "more")


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_takes_it(module, strict):
    data = torch.randn(2, 3, 9, 9)
    expected = module(data)["prob"]
    program = torch.export.export(module, (data,), strict=strict)
    torch.testing.assert_close(program.module()(data)["prob"], expected)
    assert "stage.conv.weight" in program.state_dict


def test_torch_compile_takes_it_whole(module):
    data = torch.randn(2, 3, 9, 9)
    expected = module(data)["prob"]
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(data)["prob"], expected)


def test_the_weights_of_a_net_without_any_are_a_file_with_its_layers(tmp_path):
    (tmp_path / "net.prototxt").write_text(BARE)
    made = caffe_split.load(tmp_path / "net.prototxt")
    made.save_caffemodel(tmp_path / "w.caffemodel")
    weights = read_weights(tmp_path / "w.caffemodel")
    assert list(weights) == ["data", "relu"] and weights.types["relu"] == "ReLU"
    assert caffe_split.load(tmp_path / "net.prototxt", tmp_path / "w.caffemodel").outputs == ["relu"]
