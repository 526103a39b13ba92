"""Caffe's files: the only room that knows the wire format."""
