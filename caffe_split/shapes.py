"""Blob shapes of a net without running it, and from them parameters and multiply-adds.

One small function a layer type, in a table. A type that is not in it is 'unknown': its tops have no shape, and
what depends on them has no multiply-adds; it is listed, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.net import Layer, convolution_geometry

Shape = tuple[int, ...]


@dataclass
class NetShapes:
    """What is known of a net: `blobs` name -> shape; `params` layer -> shapes of its learnable parameters;
    `macs` layer -> multiply-adds for one image; `unknown` the layers whose shapes could not be told, and why."""

    blobs: dict[str, Shape] = field(default_factory=dict)
    params: dict[str, list[Shape]] = field(default_factory=dict)
    macs: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)

    @property
    def parameter_count(self) -> int | None:
        """Learnable parameters and frozen ones (lr_mult 0), BatchNorm statistics and TPM state apart.

        None where the shapes of some layer with parameters are not known.
        """
        if self.unknown:
            return None
        return sum(math.prod(shape) for shapes in self.params.values() for shape in shapes)

    @property
    def mac_count(self) -> int | None:
        """Multiply-adds of convolutions and inner products for one image; None where not all are known."""
        return None if self.unknown else sum(self.macs.values())


class _Unknown(Exception):
    """A shape that cannot be told, with the reason."""


def infer_shapes(layers: Sequence[Layer], inputs: Mapping[str, Shape] | None = None) -> NetShapes:
    """Shapes of all blobs of `layers` (of one phase, in order).

    `inputs` gives shapes of data tops that cannot be read off their source, blob -> (N, C, H, W).
    """
    net = NetShapes()
    for layer in layers:
        try:
            _infer(net, layer, inputs or {})
        except _Unknown as reason:
            net.unknown[layer.name] = str(reason)
    return net


def _infer(net: NetShapes, layer: Layer, inputs: Mapping[str, Shape]) -> None:
    if layer.tops and all(top in inputs for top in layer.tops[:1]) and not layer.bottoms:
        tops = [inputs.get(top, inputs[layer.tops[0]][:1]) for top in layer.tops]
    else:
        rule = _RULES.get(layer.type)
        if rule is None:
            raise _Unknown(f"shapes of {layer.type} layers are not known here")
        lacking = [bottom for bottom in layer.bottoms if bottom not in net.blobs]
        if lacking:
            raise _Unknown(f"the shape of its bottom '{lacking[0]}' is not known")
        tops = rule(net, layer, [net.blobs[bottom] for bottom in layer.bottoms])
    net.blobs.update(zip(layer.tops, tops))


Rule = Callable[[NetShapes, Layer, "list[Shape]"], "list[Shape]"]


def _same(net: NetShapes, layer: Layer, bottoms: list[Shape]) -> list[Shape]:
    return [bottoms[0]] * len(layer.tops)


def _scalar(net: NetShapes, layer: Layer, bottoms: list[Shape]) -> list[Shape]:
    return [()] * len(layer.tops)


def _convolution(net: NetShapes, layer: Layer, bottoms: list[Shape]) -> list[Shape]:
    geometry = convolution_geometry(layer)
    param = layer.message.sub("convolution_param")
    assert param is not None
    count, shape = int(param.get("num_output", 0)), bottoms[0]
    if len(shape) != 4:
        raise _Unknown(f"its bottom has shape {shape}; only (N, C, H, W) is handled")
    if shape[1] % geometry.group or count % geometry.group:
        raise CaffeSplitError(
            f"{layer.where}: {shape[1]} input channels and {count} kernels do not divide into {geometry.group} groups."
        )
    weight = (count, shape[1] // geometry.group, *geometry.kernel)
    size = geometry.output_size((shape[2], shape[3]))
    if min(size) < 1:
        raise CaffeSplitError(f"{layer.where}: its kernel does not fit into its bottom of {shape[2]}x{shape[3]}.")
    net.params[layer.name] = [weight] + ([(count,)] if param.get("bias_term", True) else [])
    net.macs[layer.name] = math.prod(weight) * size[0] * size[1]
    return [(shape[0], count, *size)] * len(layer.tops)


def _inner_product(net: NetShapes, layer: Layer, bottoms: list[Shape]) -> list[Shape]:
    param = layer.message.sub("inner_product_param")
    if param is None:
        raise CaffeSplitError(f"{layer.where} is an InnerProduct without inner_product_param.")
    axis = int(param.get("axis", 1)) % len(bottoms[0])
    inputs, count = math.prod(bottoms[0][axis:]), int(param.get("num_output", 0))
    weight = (inputs, count) if param.get("transpose", False) else (count, inputs)
    net.params[layer.name] = [weight] + ([(count,)] if param.get("bias_term", True) else [])
    net.macs[layer.name] = inputs * count * math.prod(bottoms[0][1:axis])
    return [(*bottoms[0][:axis], count)]


def _pooling(net: NetShapes, layer: Layer, bottoms: list[Shape]) -> list[Shape]:
    param, (batch, channels, *size) = layer.message.sub("pooling_param"), bottoms[0]
    if param is None:
        raise CaffeSplitError(f"{layer.where} is a Pooling without pooling_param.")
    if param.get("global_pooling", False):
        return [(batch, channels, 1, 1)] * len(layer.tops)
    sides = []
    for n, axis in zip(size, "hw"):
        kernel = int(param.get(f"kernel_{axis}", 0) or param.get("kernel_size", 0))
        stride = int(param.get(f"stride_{axis}", 0) or param.get("stride", 1))
        pad = int(param.get(f"pad_{axis}", 0) or param.get("pad", 0))
        ceil = param.get("round_mode", "CEIL") == "CEIL"
        out = (n + 2 * pad - kernel + (stride - 1 if ceil else 0)) // stride + 1
        # Caffe drops a last window that would start in the padding.
        if pad and (out - 1) * stride >= n + pad:
            out -= 1
        sides.append(out)
    return [(batch, channels, *sides)] * len(layer.tops)


def _scale(net: NetShapes, layer: Layer, bottoms: list[Shape]) -> list[Shape]:
    if len(bottoms) == 1:
        param = layer.message.sub("scale_param" if layer.type == "Scale" else "bias_param")
        axis = int(param.get("axis", 1)) if param else 1
        axes = int(param.get("num_axes", 1)) if param else 1
        shape = bottoms[0][axis:] if axes == -1 else bottoms[0][axis : axis + axes]
        bias = layer.type == "Scale" and param is not None and param.get("bias_term", False)
        net.params[layer.name] = [shape] * (2 if bias else 1)
    return [bottoms[0]]


def _prelu(net: NetShapes, layer: Layer, bottoms: list[Shape]) -> list[Shape]:
    param = layer.message.sub("prelu_param")
    net.params[layer.name] = [() if param and param.get("channel_shared", False) else bottoms[0][1:2]]
    return [bottoms[0]]


def _concat(net: NetShapes, layer: Layer, bottoms: list[Shape]) -> list[Shape]:
    param = layer.message.sub("concat_param")
    axis = int(param.get("axis", 1)) if param else 1
    shape = list(bottoms[0])
    shape[axis] = sum(bottom[axis] for bottom in bottoms)
    return [tuple(shape)]


def _flatten(net: NetShapes, layer: Layer, bottoms: list[Shape]) -> list[Shape]:
    param = layer.message.sub("flatten_param")
    rank = len(bottoms[0])
    first = (int(param.get("axis", 1)) if param else 1) % rank
    last = (int(param.get("end_axis", -1)) if param else -1) % rank
    return [(*bottoms[0][:first], math.prod(bottoms[0][first : last + 1]), *bottoms[0][last + 1 :])]


def _input(net: NetShapes, layer: Layer, bottoms: list[Shape]) -> list[Shape]:
    param = layer.message.sub("dummy_data_param" if layer.type == "DummyData" else "input_param")
    shapes = [tuple(int(d) for d in shape.get_all("dim")) for shape in param.subs("shape")] if param else []
    if not shapes:
        raise _Unknown("it gives no shape")
    return [shapes[min(i, len(shapes) - 1)] for i in range(len(layer.tops))]


def _data(net: NetShapes, layer: Layer, bottoms: list[Shape]) -> list[Shape]:
    from caffe_split.data import store  # Only nets with a Data layer need lmdb.

    param, transform = layer.message.sub("data_param"), layer.message.sub("transform_param")
    source = Path(str(param.get("source", ""))) if param else Path()
    if param is None or not store.is_store(source):
        raise _Unknown(f"its data set '{source}' is not there, seen from {Path.cwd()}")
    channels, height, width = store.first_shape(source)
    crop = int(transform.get("crop_size", 0)) if transform else 0
    if crop:
        height = width = crop
    batch = int(param.get("batch_size", 1))
    return [(batch, channels, height, width), (batch,)][: len(layer.tops)]


_RULES: dict[str, Rule] = {
    "Input": _input,
    "DummyData": _input,
    "Data": _data,
    "Convolution": _convolution,
    "InnerProduct": _inner_product,
    "Pooling": _pooling,
    "Scale": _scale,
    "Bias": _scale,
    "PReLU": _prelu,
    "Concat": _concat,
    "Flatten": _flatten,
    **dict.fromkeys(
        [
            "ReLU",
            "ELU",
            "Sigmoid",
            "TanH",
            "AbsVal",
            "Power",
            "Exp",
            "Log",
            "BNLL",
            "Threshold",
            "BatchNorm",
            "LRN",
            "MVN",
            "Dropout",
            "Eltwise",
            "Softmax",
            "Split",
            "Silence",
        ],
        _same,
    ),
    **dict.fromkeys(
        [
            "SoftmaxWithLoss",
            "SigmoidCrossEntropyLoss",
            "EuclideanLoss",
            "HingeLoss",
            "InfogainLoss",
            "ContrastiveLoss",
            "MultinomialLogisticLoss",
            "Accuracy",
            "TPM",
        ],
        _scalar,
    ),
}
