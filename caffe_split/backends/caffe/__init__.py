"""The built Caffe as a child process."""
