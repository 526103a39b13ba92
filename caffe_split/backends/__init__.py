"""Back ends run nets (the built Caffe, PyTorch, OpenCV), all behind one protocol; verifying and training use it."""
