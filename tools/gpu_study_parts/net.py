"""A net of the study as a short list of operations, with every split written as one kernel that is put together.

Where no activation stands between them, split1, split2, the added paths, concat and reorder are one linear map of their
bottom. In training they are not run over images: their kernels are multiplied out to the one kernel of that map (a few
small matrices), the images pass through it once, and its gradient goes back to every part by the chain rule. This is
the same function with the same gradients, at the cost of the baseline. Kernels lie as matrices, a row a kernel, in the
order height, width, input channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.geometry import Geometry, convolution_geometry
from caffe_split.net.layers import Layer, phase_layers
from caffe_split.net.state import TRAIN

Weights = Mapping[str, Sequence[np.ndarray]]


@dataclass(frozen=True)
class Leaf:
    """A convolution of the bottom. A frozen one, of this pad, is written into the kernel that it is added to."""

    layer: str
    frozen: bool = False
    pad: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Mixed:
    """A 1x1 convolution `layer` of what `inner` gives."""

    layer: str
    inner: Kernel


@dataclass(frozen=True)
class Added:
    parts: tuple[Kernel, ...]


@dataclass(frozen=True)
class Stacked:
    parts: tuple[Kernel, ...]


Kernel = "Leaf | Mixed | Added | Stacked"


@dataclass(frozen=True)
class Site:
    """A place where images pass through a kernel: (outputs, inputs, height, width), its stride, its pad."""

    top: str
    shape: tuple[int, int, int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    kernel: Kernel

    @property
    def columns(self) -> int:
        return self.shape[1] * self.shape[2] * self.shape[3]


@dataclass(frozen=True)
class Param:
    """A learnt blob of a layer: its shape in the caffemodel and its multipliers."""

    layer: str
    index: int
    shape: tuple[int, ...]
    lr_mult: float
    decay_mult: float


@dataclass
class Program:
    """ops: what is done to images, in order; see `program_of`. params: all blobs that are learnt. norms: BatchNorm
    layer, Scale layer, channels. watched: the convolutions that TPM looks at. frozen: layers of weights that stay."""

    ops: list[tuple] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    norms: list[tuple[str, str, int]] = field(default_factory=list)
    params: dict[tuple[str, int], Param] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    fc: str = ""
    eps: float = 1e-5
    fraction: float = 0.999

    @property
    def watched(self) -> list[str]:
        helpers = {mixed for site in self.sites for mixed in mixers(site.kernel)}
        return [layer for layer, index in self.params if layer in self.kernels and index == 0 and layer not in helpers]

    @property
    def kernels(self) -> set[str]:
        """Names of the convolutions whose weights are learnt."""
        return {name for site in self.sites for name in (*mixers(site.kernel), *leaves(site.kernel))}


def leaves(kernel: Kernel) -> list[str]:
    """The learnt convolutions of the bottom, in the order in which their kernels are laid side by side."""
    if isinstance(kernel, Leaf):
        return [] if kernel.frozen else [kernel.layer]
    return [name for part in _inner(kernel) for name in leaves(part)]


def mixers(kernel: Kernel) -> list[str]:
    """The learnt 1x1 convolutions behind them."""
    own = [kernel.layer] if isinstance(kernel, Mixed) else []
    return own + ([] if isinstance(kernel, Leaf) else [name for part in _inner(kernel) for name in mixers(part)])


def _inner(kernel: Kernel) -> tuple[Kernel, ...]:
    return (kernel.inner,) if isinstance(kernel, Mixed) else kernel.parts


@dataclass(frozen=True)
class _Linear:
    """A blob that is a linear map of `bottom`, not yet run."""

    bottom: str
    geometry: Geometry
    inputs: int
    outputs: int
    kernel: Kernel


def program_of(document: prototxt.Document, shapes: Mapping[str, Sequence[Sequence[int]]]) -> Program:
    """The TRAIN net as operations. `shapes` are those of every layer's blobs in the caffemodel.

    Operations: ("conv", top, bottom, site), ("norm", top, bottom, norm, relu, other bottom or None), ("relu", top,
    bottom), ("add", top, bottoms), ("half", top, bottom), ("zero", top, bottom), ("concat", top, bottoms), ("mean",
    top, bottom), ("fc", top, bottom), ("loss", top, bottom). Raises `CaffeSplitError` for layers of other kinds.
    """
    build = _Builder(shapes)
    for layer in phase_layers(document, TRAIN):
        build.add(layer)
    build.program.ops = _fused(build.program.ops)
    return build.program


class _Builder:
    def __init__(self, shapes: Mapping[str, Sequence[Sequence[int]]]) -> None:
        self.shapes = shapes
        self.program = Program()
        self.linear: dict[str, _Linear] = {}
        self.sizes: dict[str, int] = {}

    def add(self, layer: Layer) -> None:
        kind = self.KINDS.get(layer.type)
        if kind is None:
            raise CaffeSplitError(f"{layer.where}: tools/gpu_study runs no {layer.type} layers.")
        kind(self, layer)

    def _data(self, layer: Layer) -> None:
        self.sizes[layer.tops[0]] = 3

    def _learnt(self, layer: Layer) -> bool:
        """Note the layer's blobs; whether they are learnt."""
        specs = layer.message.subs("param")
        rates = []
        for index, shape in enumerate(self.shapes[layer.name]):
            spec = specs[index] if index < len(specs) else None
            rate = float(spec.get("lr_mult", 1)) if spec is not None else 1.0
            decay = float(spec.get("decay_mult", 1)) if spec is not None else 1.0
            rates.append(rate)
            if rate:
                self.program.params[layer.name, index] = Param(layer.name, index, tuple(shape), rate, decay)
        if any(rates) and not all(rates):
            raise CaffeSplitError(f"{layer.where}: some of its blobs are frozen and some are not.")
        if not all(rates):
            self.program.frozen.append(layer.name)
        return all(rates)

    def _convolution(self, layer: Layer) -> None:
        geometry, (bottom,) = convolution_geometry(layer), layer.bottoms
        shape = self.shapes[layer.name][0]
        if len(self.shapes[layer.name]) > 1 or geometry.group > 1 or geometry.dilation != (1, 1):
            raise CaffeSplitError(f"{layer.where}: tools/gpu_study runs no bias, group or dilation of a convolution.")
        learnt = self._learnt(layer)
        before = self.linear.get(bottom)
        if before is not None:
            if geometry.kernel != (1, 1) or geometry.stride != (1, 1) or geometry.pad != (0, 0) or not learnt:
                raise CaffeSplitError(f"{layer.where}: behind a convolution only a learnt 1x1 convolution is run.")
            made = _Linear(before.bottom, before.geometry, before.inputs, shape[0], Mixed(layer.name, before.kernel))
        else:
            made = _Linear(bottom, geometry, shape[1], shape[0], Leaf(layer.name, not learnt, geometry.pad))
        self.linear[layer.tops[0]] = made

    def _use(self, *bottoms: str) -> None:
        """Run what has been put together for these blobs."""
        for name in bottoms:
            made = self.linear.pop(name, None)
            if made is not None:
                if isinstance(made.kernel, Leaf) and made.kernel.frozen:
                    raise CaffeSplitError(f"blob '{name}': tools/gpu_study runs no frozen convolution by itself.")
                shape = (made.outputs, made.inputs, *made.geometry.kernel)
                site = Site(name, shape, made.geometry.stride, made.geometry.pad, made.kernel)
                self.program.ops.append(("conv", name, made.bottom, len(self.program.sites)))
                self.program.sites.append(site)
                self.sizes[name] = made.outputs

    def _op(self, kind: str, layer: Layer, *more: object) -> None:
        self._use(*layer.bottoms)
        bottoms = layer.bottoms[0] if kind not in ("add", "concat") else layer.bottoms
        self.program.ops.append((kind, layer.tops[0], bottoms, *more))
        self.sizes.setdefault(layer.tops[0], self.sizes[layer.bottoms[0]])

    def _eltwise(self, layer: Layer) -> None:
        param = layer.message.sub("eltwise_param")
        if param is not None and (param.get("operation", "SUM") != "SUM" or param.get_all("coeff")):
            raise CaffeSplitError(f"{layer.where}: tools/gpu_study runs plain sums alone.")
        parts = [self.linear.get(name) for name in layer.bottoms]
        if all(part is not None for part in parts):
            self._join(layer, parts, Added)
        else:
            self._op("add", layer)

    def _concat(self, layer: Layer) -> None:
        parts = [self.linear.get(name) for name in layer.bottoms]
        if all(part is not None for part in parts):
            self._join(layer, parts, Stacked)
        else:
            self._op("concat", layer)
            self.sizes[layer.tops[0]] = sum(self.sizes[name] for name in layer.bottoms)

    def _join(self, layer: Layer, parts: Sequence[_Linear], kind: type) -> None:
        largest = max(parts, key=lambda part: part.geometry.kernel)
        for part in parts:
            inside = all(p <= q for p, q in zip(part.geometry.pad, largest.geometry.pad))
            same = part.geometry == largest.geometry
            frozen = isinstance(part.kernel, Leaf) and part.kernel.frozen
            if (
                part.bottom != largest.bottom
                or part.geometry.stride != largest.geometry.stride
                or not (same or (frozen and inside))
            ):
                raise CaffeSplitError(f"{layer.where}: its bottoms are no convolutions of one blob and geometry.")
        # What is learnt comes first, so that its gradient has a place.
        kernels = tuple(part.kernel for part in parts)
        outputs = sum(part.outputs for part in parts) if kind is Stacked else parts[0].outputs
        if kind is Added:
            kernels = tuple(sorted(kernels, key=lambda one: (not isinstance(one, Leaf), getattr(one, "frozen", False))))
        for name in layer.bottoms:
            del self.linear[name]
        made = _Linear(largest.bottom, largest.geometry, largest.inputs, outputs, kind(kernels))
        self.linear[layer.tops[0]] = made

    def _batch_norm(self, layer: Layer) -> None:
        param = layer.message.sub("batch_norm_param")
        if param is not None:
            self.program.eps = float(param.get("eps", 1e-5))
            self.program.fraction = float(param.get("moving_average_fraction", 0.999))
        self._use(*layer.bottoms)
        self.program.norms.append((layer.name, "", self.sizes[layer.bottoms[0]]))
        self._op("norm", layer, len(self.program.norms) - 1, False, None)

    def _scale(self, layer: Layer) -> None:
        last = self.program.ops[-1]
        if last[0] != "norm" or last[1] != layer.bottoms[0] or len(self.shapes[layer.name]) != 2:
            raise CaffeSplitError(f"{layer.where}: a Scale is run right behind its BatchNorm, with a bias.")
        self._learnt(layer)
        norm, _, channels = self.program.norms[-1]
        self.program.norms[-1] = (norm, layer.name, channels)

    def _relu(self, layer: Layer) -> None:
        self._op("relu", layer)

    def _pooling(self, layer: Layer) -> None:
        param = layer.message.sub("pooling_param")
        if param is None or param.get("pool", "MAX") != "AVE":
            raise CaffeSplitError(f"{layer.where}: tools/gpu_study runs averages alone.")
        if param.get("global_pooling", False):
            self._op("mean", layer)
        elif int(param.get("kernel_size", 0)) == 1 and int(param.get("stride", 1)) == 2:
            self._op("half", layer)
        else:
            raise CaffeSplitError(f"{layer.where}: tools/gpu_study runs global pooling, or every second pixel.")

    def _power(self, layer: Layer) -> None:
        param = layer.message.sub("power_param")
        if param is None or param.get("scale", 1) != 0 or param.get("shift", 0) != 0:
            raise CaffeSplitError(f"{layer.where}: tools/gpu_study runs a Power layer of scale 0 alone.")
        self._op("zero", layer)

    def _inner_product(self, layer: Layer) -> None:
        self._learnt(layer)
        self.program.fc = layer.name
        self._op("fc", layer)

    def _softmax_with_loss(self, layer: Layer) -> None:
        self._op("loss", layer)

    KINDS: ClassVar[Mapping[str, Callable[[_Builder, Layer], None]]] = {
        "Data": _data,
        "Input": _data,
        "Convolution": _convolution,
        "Eltwise": _eltwise,
        "Concat": _concat,
        "BatchNorm": _batch_norm,
        "Scale": _scale,
        "ReLU": _relu,
        "Pooling": _pooling,
        "Power": _power,
        "InnerProduct": _inner_product,
        "SoftmaxWithLoss": _softmax_with_loss,
    }


def _fused(ops: list[tuple]) -> list[tuple]:
    """A ReLU, or a sum with a ReLU behind it, is done with the BatchNorm before it."""
    fused: list[tuple] = []
    for op in ops:
        last = fused[-1] if fused else None
        if op[0] == "relu" and last and last[0] == "norm" and op[2] == last[1] and not last[4]:
            fused[-1] = (*last[:1], op[1], *last[2:4], True, last[5])
        elif op[0] == "add" and last and last[0] == "norm" and last[1] in op[2] and not last[4] and len(op[2]) == 2:
            other = op[2][1 - op[2].index(last[1])]
            fused[-1] = ("norm", op[1], *last[2:4], False, other)
        else:
            fused.append(op)
    return fused
