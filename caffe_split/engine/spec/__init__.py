"""What the engine handles, checked without PyTorch."""
