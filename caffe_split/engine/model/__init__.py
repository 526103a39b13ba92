"""A net on PyTorch: its layers, parameters and steps."""
