"""ONNX models: what is in one (`graph`), and writing it without holding the weights twice (`write`)."""
