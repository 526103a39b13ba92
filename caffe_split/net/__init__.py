"""A net as layers, blobs and parameters, and the files of a training around it."""
