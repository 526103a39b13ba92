"""A net on PyTorch: its layers and parameters, and the order in which the layers are called."""
