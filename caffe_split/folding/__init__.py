"""Folding a derived net back: every linear branch into the convolution that it was split from."""
