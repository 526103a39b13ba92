"""Records read from LMDBs, image lists and HDF5 files, transformed, and made ready as batches."""
