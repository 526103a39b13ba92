"""The study's loop as one command: rounds of measuring, splitting, training and folding, each beside its control."""
