"""The records of layer types, one file per family of types, each with a tuple `RECORDS`.

A new type is one more record: `caffe_split.layertypes.record` says what it holds.
"""
