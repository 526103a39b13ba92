"""Caffe's files, the only room that knows their bytes: `prototxt` (nets, solvers), `weights` (snapshots, records)."""
