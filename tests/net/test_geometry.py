"""The window of convolutions and poolings, as it is read from a layer."""

from __future__ import annotations

import re

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.geometry import (
    Geometry,
    Window,
    convolution_geometry,
    convolution_window,
    pooled_sizes,
    pooling_window,
)
from caffe_split.net.layers import Layer, all_layers


def layer(settings: str, kind: str = "Convolution", name: str = "convolution_param") -> Layer:
    return all_layers(prototxt.parse(f'layer {{ name: "x" type: "{kind}" {name} {{ {settings} }} }}', "net"))[0]


def pooling(settings: str) -> Layer:
    return layer(settings, "Pooling", "pooling_param")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("kernel_size: 3", Geometry((3, 3))),
        ("kernel_size: 3 kernel_size: 1 stride: 2 pad: [1, 0]", Geometry((3, 1), (2, 2), (1, 0))),
        (
            "kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 1 pad_w: 2 dilation: 2",
            Geometry((2, 3), (3, 1), (0, 2), (2, 2)),
        ),
        ("kernel_size: 1 group: 4", Geometry((1, 1), group=4)),
    ],
)
def test_a_convolution_is_read_as_caffe_reads_it(settings: str, expected: Geometry) -> None:
    assert convolution_geometry(layer(settings)) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("", "gives no kernel_size, not both of kernel_h and kernel_w, or a stride of 0"),
        ("kernel_h: 3", "gives no kernel_size"),
        ("kernel_size: 3 stride: 0", "or a stride of 0"),
        ("kernel_size: 3 stride_h: 2", "stride_h alone; Caffe takes stride, or stride_h and stride_w"),
        ("kernel_h: 3 kernel_w: 3 stride_w: 2", "stride_w alone"),
        ("kernel_size: [1, 2, 3]", "3 values of kernel_size for 2 spatial axes"),
        ("kernel_size: 3 axis: 2", "convolves over axis 2; only axis 1 is handled"),
        ("kernel_size: 3 group: 0", "group is 0, expected 1 or more"),
    ],
)
def test_what_is_no_convolution_is_refused_with_its_line(settings: str, message: str) -> None:
    with pytest.raises(CaffeSplitError, match=re.escape("layer 'x' (line 1)") + ".*" + re.escape(message)):
        convolution_geometry(layer(settings))


@pytest.mark.parametrize("settings", ["kernel_h: 3", "kernel_size: 3 stride_w: 2", "kernel_size: 3 pad_h: 1"])
def test_a_pooling_takes_height_and_width_together(settings: str) -> None:
    with pytest.raises(CaffeSplitError, match=r"layer 'x' \(line 1\): (kernel_h|stride_w|pad_h) alone; Caffe takes"):
        pooled_sizes(pooling(settings), (9, 8))


def test_a_window_has_any_number_of_axes() -> None:
    window = convolution_window(layer("kernel_size: 3 stride: 2 pad: 1"), 3)
    assert window == Window((3,) * 3, (2,) * 3, (1,) * 3, (1,) * 3)
    assert window.slide((9, 8, 7)) == (5, 4, 4)


@pytest.mark.parametrize("settings", ["kernel_size: 4 stride: 2 pad: 1", "kernel_size: 3 stride: 3", "kernel_size: 1"])
def test_spreading_is_the_way_back_of_sliding(settings: str) -> None:
    window = convolution_window(layer(settings), 2)
    for sizes in ((5, 7), (1, 2)):
        assert window.slide(window.spread(sizes)) == sizes


def test_a_pooling_rounds_up_and_starts_no_window_in_the_padding() -> None:
    assert pooled_sizes(pooling("kernel_size: 3 stride: 2"), (9, 8)) == (4, 4)
    assert pooled_sizes(pooling("kernel_size: 3 stride: 2 round_mode: FLOOR"), (9, 8)) == (4, 3)
    assert pooled_sizes(pooling("kernel_h: 3 kernel_w: 1 stride: 3 pad_h: 1 pad_w: 0"), (3, 3)) == (2, 1)
    whole = pooling("global_pooling: true")
    assert pooled_sizes(whole, (9, 8)) == (1, 1) and pooling_window(whole, (9, 8)).kernel == (9, 8)
    with pytest.raises(CaffeSplitError, match="gives no kernel_size"):
        pooled_sizes(pooling("stride: 2"), (9, 8))
