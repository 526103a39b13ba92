"""Weights, solver states and records: binary and HDF5, at memory speed."""
