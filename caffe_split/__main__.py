"""`python -m caffe_split` is `caffe-split`."""

from caffe_split.cli import main

if __name__ == "__main__":
    main()
