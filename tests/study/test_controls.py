"""The unsplit net of equal parameters has them, within a kernel, and is still a net."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TRAIN
from caffe_split.study.controls import widened
from tests.support import ROOT


def count(document: prototxt.Document) -> int:
    found = infer_shapes(phase_layers(document, TRAIN)).parameter_count
    assert found is not None
    return found


def with_shapes(path: Path) -> prototxt.Document:
    """The net, on Input in the place of its data set."""
    text = (path.parent / "deploy.prototxt").read_text()
    (document,) = [prototxt.parse(text, filename=str(path))]
    return document


@pytest.mark.parametrize("name", ["cifar10_quick", "digits"])
@pytest.mark.parametrize("more", [0, 1, 700, 20_000])
def test_parameters_reach_the_target_within_a_kernel(name: str, more: int) -> None:
    net = with_shapes(ROOT / "prototxt" / name / "train_val.prototxt")
    layers = ["conv1", "conv2"] if name == "cifar10_quick" else ["res1_conv1", "res2_conv1"]
    target = count(net) + more
    wide, raised = widened(net, layers, target)
    assert set(raised) == set(layers)
    assert count(wide) >= target
    # All have grown in one proportion, as far as whole kernels go.
    growth = [after / before for before, after in raised.values()]
    assert max(growth) - min(growth) <= 1 / min(before for before, _ in raised.values())
    if more:
        # The layer raised last is the one that stood highest before; with a kernel less there it is too few.
        grown = [layer for layer in layers if raised[layer][1] > raised[layer][0]]
        last = max(grown, key=lambda layer: ((raised[layer][1] - 1) / raised[layer][0], raised[layer][0]))
        less = wide.copy()
        for each in phase_layers(less, TRAIN):
            if each.name == last:
                param = each.message.sub("convolution_param")
                assert param is not None
                param.set("num_output", raised[last][1] - 1)
        assert count(less) < target
    else:
        assert wide.to_bytes() == net.to_bytes()


def test_convolutions_whose_outputs_are_added_are_raised_together() -> None:
    net = with_shapes(ROOT / "prototxt/digits/train_val.prototxt")
    wide, raised = widened(net, ["res2_conv2"], count(net) + 1)
    assert raised == {"res2_conv2": [32, 33], "res2_proj": [32, 33]}
    assert infer_shapes(phase_layers(wide, TRAIN)).unknown == {}


def test_grouped_convolutions_are_refused() -> None:
    net = read_net(ROOT / "prototxt/cifar10_quick/deploy.prototxt")
    for layer in phase_layers(net, TRAIN):
        if layer.name == "conv2":
            param = layer.message.sub("convolution_param")
            assert param is not None
            param.add("group", 2)
    with pytest.raises(CaffeSplitError, match="none of conv2 can be given more kernels"):
        widened(net, ["conv2"], 10**6)


def test_kernels_are_added_as_the_groups_of_what_reads_them_allow() -> None:
    """As in CaffeNet, also through a pooling and a Concat; one group for each kernel allows no more of them."""

    def net(group: int, kernels: int) -> prototxt.Document:
        text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 6 dim: 6 } } }\n'
        for name in ("a", "b"):
            text += f'layer {{ name: "{name}" type: "Convolution" bottom: "x" top: "{name}" '
            text += "convolution_param { num_output: 8 kernel_size: 1 } }\n"
        text += 'layer { name: "p" type: "Pooling" bottom: "a" top: "p" pooling_param { kernel_size: 2 } }\n'
        text += 'layer { name: "q" type: "Pooling" bottom: "b" top: "q" pooling_param { kernel_size: 2 } }\n'
        text += 'layer { name: "j" type: "Concat" bottom: "p" bottom: "q" top: "j" }\n'
        text += 'layer { name: "g" type: "Convolution" bottom: "j" top: "g" '
        text += f"convolution_param {{ num_output: {kernels} kernel_size: 1 group: {group} }} }}\n"
        return prototxt.parse(text, "net")

    for group, raised in ((1, [8, 9]), (4, [8, 12])):
        wide, found = widened(net(group, 12), ["a"], count(net(group, 12)) + 1)
        assert found == {"a": raised} and infer_shapes(phase_layers(wide, TRAIN)).unknown == {}
    with pytest.raises(CaffeSplitError, match=r"none of a can be given more kernels \(groups\)"):
        widened(net(16, 16), ["a"], 10**4)


def test_only_the_first_bottom_of_a_layer_between_pixels_has_its_channels() -> None:
    """A flow's convolution is not widened with the image's; one that is added to the warped image is."""
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 6 dim: 6 } } }\n'
    for name, kernels in (("image", 4), ("flow", 2), ("other", 4)):
        text += f'layer {{ name: "{name}" type: "Convolution" bottom: "x" top: "{name}" '
        text += f"convolution_param {{ num_output: {kernels} kernel_size: 1 }} }}\n"
    text += 'layer { name: "w" type: "FlowWarp" bottom: "image" bottom: "flow" top: "w" }\n'
    text += 'layer { name: "s" type: "Eltwise" bottom: "w" bottom: "other" top: "s" }\n'
    net = prototxt.parse(text, "net")
    _, raised = widened(net, ["image"], count(net) + 20)
    assert raised.keys() == {"image", "other"} and raised["image"] == raised["other"]
