"""A net as an ONNX model: each layer type's operators, the sizes that may vary, and the check against Caffe."""
