"""The training loop of Caffe: solver, updates, rates, snapshots, log."""
