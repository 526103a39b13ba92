"""What a layer does, in a few words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from caffe_split.errors import CaffeSplitError
from caffe_split.net.layers import Layer, convolution_geometry


def describe(layer: Layer) -> list[str]:
    """Lines such as `conv 3x3 to 32`, `stride 2, pad 1`; the type alone where there is no more to say."""
    return _WORDS.get(layer.type, lambda layer: [layer.type])(layer)


def _size(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _side(sides: Sequence[int]) -> str:
    return str(sides[0]) if len(set(sides)) == 1 else _size(sides)


def _convolution(layer: Layer) -> list[str]:
    word = "conv" if layer.type == "Convolution" else "deconv"
    param = layer.message.sub("convolution_param")
    count = param.get("num_output", 0) if param else "?"
    try:
        geometry = convolution_geometry(layer)
    except CaffeSplitError:
        return [f"{word} to {count}"]
    more = []
    for name, sides, usual in (
        ("stride", geometry.stride, (1, 1)),
        ("pad", geometry.pad, (0, 0)),
        ("dilation", geometry.dilation, (1, 1)),
    ):
        if sides != usual:
            more.append(f"{name} {_side(sides)}")
    if geometry.group != 1:
        more.append(f"group {geometry.group}")
    first = f"{word} {_size(geometry.kernel)} to {count}"
    return [first, ", ".join(more)] if more else [first]


def _inner_product(layer: Layer) -> list[str]:
    param = layer.message.sub("inner_product_param")
    return [f"inner product to {param.get('num_output', 0) if param else '?'}"]


def _pooling(layer: Layer) -> list[str]:
    param = layer.message.sub("pooling_param")
    if param is None:
        return ["pool"]
    word = {"MAX": "max", "AVE": "average", "STOCHASTIC": "stochastic"}.get(str(param.get("pool", "MAX")), "")
    if param.get("global_pooling", False):
        return [f"global {word} pool"]
    sides = {
        key: [int(param.get(f"{key}_{axis}", 0) or param.get(both, usual)) for axis in "hw"]
        for key, both, usual in (("kernel", "kernel_size", 0), ("stride", "stride", 1), ("pad", "pad", 0))
    }
    words = [f"{word} pool {_size(sides['kernel'])}", f"stride {_side(sides['stride'])}"]
    return [", ".join(words + ([f"pad {_side(sides['pad'])}"] if any(sides["pad"]) else []))]


def _eltwise(layer: Layer) -> list[str]:
    param = layer.message.sub("eltwise_param")
    operation = str(param.get("operation", "SUM")) if param else "SUM"
    return [{"SUM": "sum", "PROD": "product", "MAX": "maximum"}.get(operation, operation)]


def _data(layer: Layer) -> list[str]:
    param = next((layer.message.sub(key) for key in _SOURCES if layer.message.has(key)), None)
    source = PurePosixPath(str(param.get("source", ""))).name if param else ""
    batch = param.get("batch_size", 0) if param else 0
    lines = [f"{layer.type}: {source}" if source else layer.type]
    if batch:
        lines.append(f"batch {batch}")
    return lines + _tops(layer)


_SOURCES = ("data_param", "image_data_param", "hdf5_data_param", "memory_data_param", "window_data_param")


def _input(layer: Layer) -> list[str]:
    param = layer.message.sub("input_param" if layer.type == "Input" else "dummy_data_param")
    shapes = [_size([int(d) for d in shape.get_all("dim")]) for shape in param.subs("shape")] if param else []
    return [" ".join([layer.type, *shapes[:1]]), *_tops(layer)]


def _tops(layer: Layer) -> list[str]:
    return [f"gives {', '.join(layer.tops)}"] if len(layer.tops) > 1 else []


_WORDS: dict[str, Callable[[Layer], list[str]]] = {
    "Convolution": _convolution,
    "Deconvolution": _convolution,
    "InnerProduct": _inner_product,
    "Pooling": _pooling,
    "Eltwise": _eltwise,
    "Concat": lambda layer: ["concat"],
    "Input": _input,
    "DummyData": _input,
    **dict.fromkeys(["Data", "ImageData", "HDF5Data", "MemoryData", "WindowData"], _data),
}
