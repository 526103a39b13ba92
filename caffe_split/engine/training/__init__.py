"""Training a net as Caffe's Solver does: learning rates, updates, tests, snapshots and the lines of the log."""
