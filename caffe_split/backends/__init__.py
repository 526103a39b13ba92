"""What runs nets: the built Caffe, PyTorch, OpenCV; one protocol, and what stands on it alone."""
