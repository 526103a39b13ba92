"""Splitting a trained convolution, finding the splits in a net, and undoing them."""
