"""What each layer type makes of its bottoms' shapes: one small function a type, and the table of them."""
