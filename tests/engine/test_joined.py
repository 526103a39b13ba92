"""Layers that are one convolution together give the blobs and gradients that they give one by one."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_split.split.kinds import KIND_NAMES, KindName
from tests.split.nets import DATA, layer, net, split_again

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.model.joined import JoinedCall
from caffe_split.engine.model.net import Net

FILL = 'weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "gaussian" std: 0.3 }'
PLAIN = "bias_term: false"


def conv(name: str, bottom: str, size: int, more: str = PLAIN, count: int = 6, top: str = "") -> str:
    """A convolution that keeps the image's size unless `more` says otherwise."""
    pad = "" if "pad" in more else f"pad: {size // 2}"
    param = f"convolution_param {{ num_output: {count} kernel_size: {size} {pad} {more} {FILL} }}"
    return layer(name, "Convolution", bottom, param, top)


SCALE = layer("s", "Scale", "d", "scale_param { bias_term: true }")
END = layer("r", "ReLU", "t", top="t") + layer("l", "Reduction", "t", "loss_weight: 1", "loss")


def last(text: str) -> str:
    """The net with the data before `text` and, behind its blob t, a ReLU and a loss."""
    return DATA + text + END


# Name -> the layers from b to t, and how many convolutions run them.
NETS = {
    "1x1 behind 3x3": (conv("a", "b", 3) + conv("t", "a", 1, count=4), 1),
    "3x3 behind 1x1": (conv("a", "b", 1) + conv("t", "a", 3), 1),
    "3x3 behind 1x1 with a bias": (conv("a", "b", 1, "") + conv("t", "a", 3), 2),
    "biases": (conv("a", "b", 3, "") + conv("t", "a", 1, "", count=4), 1),
    "3x3 behind 3x3": (conv("a", "b", 3) + conv("t", "a", 3), 2),
    "a sum": (conv("a", "b", 3, "") + conv("c", "b", 3) + layer("t", "Eltwise", "a c"), 1),
    "a weighted sum": (
        conv("a", "b", 3, "")
        + conv("c", "b", 1, "")
        + layer("t", "Eltwise", "a c", "eltwise_param { coeff: 2 coeff: -1 }"),
        1,
    ),
    "a product": (
        conv("a", "b", 3) + conv("c", "b", 3) + layer("t", "Eltwise", "a c", "eltwise_param { operation: PROD }"),
        2,
    ),
    "a concat, mixed": (conv("a", "b", 3, "") + conv("c", "b", 3) + layer("d", "Concat", "a c") + conv("t", "d", 1), 1),
    "a concat by height": (
        conv("a", "b", 3)
        + conv("c", "b", 3)
        + layer("d", "Concat", "a c", "concat_param { axis: 2 }")
        + conv("t", "d", 1),
        3,
    ),
    "windows of three sizes": (
        conv("a", "b", 5) + conv("c", "b", 3) + conv("e", "b", 1) + layer("t", "Eltwise", "a c e"),
        1,
    ),
    "of one stride": (
        conv("a", "b", 3, "stride: 2 bias_term: false")
        + conv("c", "b", 1, "stride: 2 bias_term: false")
        + layer("t", "Eltwise", "a c"),
        1,
    ),
    "even kernels": (
        conv("a", "b", 2, "stride: 2 pad: 0 bias_term: false")
        + conv("c", "b", 1, "stride: 2 bias_term: false")
        + layer("t", "Eltwise", "a c"),
        1,
    ),
    "wider at the end": (
        conv("a", "b", 4, "stride: 2 pad: 1 bias_term: false")
        + conv("c", "b", 1, "stride: 2 bias_term: false")
        + layer("t", "Eltwise", "a c"),
        1,
    ),
    "of two bottoms": (conv("a", "b", 1) + conv("c", "a", 3) + conv("e", "a", 3) + layer("t", "Eltwise", "c e"), 2),
    "read twice": (conv("a", "b", 3) + conv("c", "a", 1) + conv("e", "a", 1) + layer("t", "Eltwise", "c e"), 2),
    "an activation between": (conv("a", "b", 3) + layer("q", "ReLU", "a", top="a") + conv("t", "a", 1), 2),
    "a scale between": (conv("d", "b", 3) + SCALE + conv("t", "s", 1), 2),
    "an output of the net": (
        conv("a", "b", 3) + layer("p", "Power", "a", "power_param { scale: 2 }") + conv("t", "a", 1),
        2,
    ),
    "groups": (
        conv("a", "b", 3, "group: 2 bias_term: false", count=4) + conv("t", "a", 1, "group: 2", count=4),
        2,
    ),
    "groups beside all": (
        conv("a", "b", 3, "group: 2 bias_term: false") + conv("c", "b", 3, "") + layer("t", "Eltwise", "a c"),
        1,
    ),
    "dilation": (conv("a", "b", 3, "dilation: 2 pad: 2 bias_term: false") + conv("t", "a", 1), 2),
    "dearer together": (conv("a", "b", 3, count=1) + conv("t", "a", 1, count=16), 2),
    "behind an activation in place": (
        conv("z", "b", 1) + layer("q", "ReLU", "z", top="z") + conv("a", "z", 3) + conv("t", "a", 1, count=4),
        2,
    ),
    "one that is frozen": (
        conv("a", "b", 3)
        + conv("c", "b", 1).replace("convolution_param", "param { lr_mult: 0 } convolution_param")
        + layer("t", "Eltwise", "a c"),
        1,
    ),
}


def check(text: str, convolutions: int | None, batch: int = 4) -> None:
    """Loss and gradients of the joined net and of the plain one; how many convolutions run."""
    document = net(text.replace("dim: 1 dim: 4 dim: 8", f"dim: {batch} dim: 4 dim: 8"))
    image = np.random.default_rng(1).standard_normal((batch, 4, 8, 8)).astype(np.float32)
    found = []
    for fuse in (False, True):
        runs = Net(document, "TRAIN", seed=3, fuse=fuse)
        loss = runs.forward({"b": image}).loss
        loss.backward()
        gradients = {
            (one.name, index): blob.grad
            for one in runs.layers
            for index, blob in enumerate(one.blobs)
            if blob.requires_grad
        }
        found.append((loss.item(), gradients))
    if convolutions is not None:
        left = sum(isinstance(call, JoinedCall) or call.layer.text.type == "Convolution" for call in runs.calls)
        assert left == convolutions
    (plain, theirs), (joined, ours) = found
    assert joined == pytest.approx(plain, rel=1e-5) and set(ours) == set(theirs)
    for name, gradient in theirs.items():
        if gradient is None:
            assert ours[name] is None
        else:
            torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


@pytest.mark.parametrize("name", NETS)
def test_a_net_gives_the_same_joined(name: str) -> None:
    layers, convolutions = NETS[name]
    check(last(layers), convolutions)


RANDOM = """dummy_data_param { shape { dim: 4 dim: 4 dim: 8 dim: 8 } data_filler { type: "gaussian" } }"""


@pytest.mark.parametrize("name", NETS)
def test_a_step_gives_every_layer_its_gradient(name: str) -> None:
    """Steps of small nets compute without a graph, except for the kernels that are made of others."""
    document = net(layer("b", "DummyData", "", RANDOM) + NETS[name][0] + END)
    found = []
    for fuse in (False, True):
        runs = Net(document, "TRAIN", seed=3, fuse=fuse)
        runs.learn()
        found.append([(param.layer, param.index, param.values.grad) for param in runs.params])
    for (layer_name, index, plain), (_, _, joined) in zip(*found):
        assert (plain is None) == (joined is None), (layer_name, index)
        if plain is not None:
            torch.testing.assert_close(joined, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("whole", [False, True], ids=["divided", "whole"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_split_is_one_convolution_again(kind: KindName, stride: int, whole: bool) -> None:
    more = f"stride: {stride} pad: 1"
    document = net(last(conv("x", "b", 3, more, count=16, top="t")))
    split_again(document, "x", whole=whole, kind=kind)
    text = document.to_bytes().decode()
    check(text, 1)
    if not whole:
        # Another round, of a half.
        again = net(text)
        split_again(again, "x_split2", kind=kind)
        check(again.to_bytes().decode(), 1)


def test_with_blobs_kept_every_layer_runs() -> None:
    runs = Net(net(last(NETS["a concat, mixed"][0])), "TRAIN", seed=3, fuse=True)
    assert {"a", "c", "d", "t"} <= set(runs.forward(keep=True).blobs)
