"""The parts of tools/gpu_study: the ResNet-20 study with all of it on one CUDA device."""
