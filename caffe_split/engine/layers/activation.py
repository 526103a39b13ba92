"""Functions of single values that forks of Caffe added, x below."""

from __future__ import annotations

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Tops


class ReLU6(Layer):
    """x limited to 0 and 6."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.relu6(bottoms[0]),)


class Mish(Layer):
    """x * tanh(log(1 + e^x)) (Misra 2019)."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.mish(bottoms[0]),)


class HSigmoid(Layer):
    """(x + 3) / 6, limited to 0 and 1 (Howard et al., MobileNetV3)."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.hardsigmoid(bottoms[0]),)


class HSwish(Layer):
    """x times (x + 3) / 6 limited to 0 and 1 (Howard et al., MobileNetV3)."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.hardswish(bottoms[0]),)
