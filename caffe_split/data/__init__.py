"""Data sets as the LMDBs that Caffe's Data layer reads."""

# How many of the digits are for training, unless a user says so.
DIGITS_TRAIN = 197
