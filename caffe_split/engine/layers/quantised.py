"""Ristretto's layers: convolutions and inner products on numbers of few bits (Gysel et al.)."""

from __future__ import annotations

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Tops
from caffe_split.engine.layers.dense import Convolution, Deconvolution, InnerProduct
from caffe_split.net.layers import Layer as Text
from caffe_split.net.options import Options


class Trimmer:
    """What a layer's quantization_param says of its weights and, in TEST, of its bottoms and tops.

    A number of `bits` bits with `fraction` bits behind the point is a multiple of 2^-fraction from -2^(bits - 1) to
    2^(bits - 1) - 1 times that. In TRAIN weights are rounded up or down at random, by how near they are.
    """

    def __init__(self, text: Text, training: bool) -> None:
        self.options = Options.of(text.message, "quantization_param")
        self.training = training
        self.at_random = training or self.options.get("rounding_scheme") == "STOCHASTIC"

    def blob(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight or bias in few bits; its gradient is that of the number before."""
        return self._fixed(weight, "params")

    def data(self, x: torch.Tensor, side: str) -> torch.Tensor:
        """A bottom (`side` layer_in) or top (layer_out), in TEST in few bits."""
        return x if self.training else self._fixed(x, side)

    def _fixed(self, x: torch.Tensor, name: str) -> torch.Tensor:
        bits, fraction = int(self.options.get(f"bw_{name}")), int(self.options.get(f"fl_{name}"))
        step, most = 2.0**-fraction, 2.0 ** (bits - 1)
        whole = x.detach().clamp(-most * step, (most - 1) * step) / step
        return _through(x, self._whole(whole) * step)

    def _whole(self, x: torch.Tensor) -> torch.Tensor:
        if self.at_random:
            return (x + torch.rand_like(x)).floor()
        # The nearest whole numbers, halves away from 0, as C's `round` has it.
        return x.sign() * (x.abs() + 0.5).floor()


def _through(x: torch.Tensor, trimmed: torch.Tensor) -> torch.Tensor:
    """The trimmed values, with the gradient of x."""
    return trimmed.detach() + (x - x.detach())


class _Trimmed(Layer):
    """Its bottoms, blobs and tops in few bits. Mixed in before the layer that it trims."""

    @property
    def draws(self) -> bool:  # type: ignore[override]
        """Whether weights are rounded at random."""
        return Trimmer(self.text, self.training).at_random

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        trim, own = Trimmer(self.text, self.training), self.blobs
        try:
            self.blobs = [trim.blob(blob) for blob in own]
            tops = super().run(*(trim.data(bottom, "layer_in") for bottom in bottoms))
        finally:
            self.blobs = own
        return tuple(trim.data(top, "layer_out") for top in tops)


class ConvolutionRistretto(_Trimmed, Convolution):
    """A convolution on numbers of few bits."""


class DeconvolutionRistretto(_Trimmed, Deconvolution):
    """A deconvolution on numbers of few bits."""


class FcRistretto(_Trimmed, InnerProduct):
    """An inner product on numbers of few bits."""
