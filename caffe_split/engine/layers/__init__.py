"""The layers, one class per type, each computing what Caffe's layer of that type computes.

Where no other source is named, a formula is that of the class documentation in Caffe's include/caffe/layers.
"""
