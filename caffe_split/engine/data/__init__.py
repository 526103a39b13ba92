"""Records read, transformed and made ready as batches."""
