"""Data sets as the LMDBs that Caffe's Data layer reads."""

# The number of digits for training, by default.
DIGITS_TRAIN = 197
