"""A Caffe-compatible toolkit: measure how kernels move, split convolutions by it, train on."""

__version__ = "0.1.0"
