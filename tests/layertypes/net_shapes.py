"""A program for tests: the shapes of a net's blobs and of its layers' blobs, as the built Caffe has them, in JSON.

On its own because pycaffe ends the process where it refuses a net.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    import caffe

    net = caffe.Net(sys.argv[1], getattr(caffe, sys.argv[2]))
    blobs = {name: list(blob.data.shape) for name, blob in net.blobs.items()}
    params = {name: [list(blob.data.shape) for blob in vector] for name, vector in net.params.items()}
    print(json.dumps({"blobs": blobs, "params": params}))


if __name__ == "__main__":
    main()
