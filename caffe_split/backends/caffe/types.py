"""Which layer types the built Caffe has.

Run as a program it is the child of `unknown_types`; see `child.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from caffe_split.backends.caffe.child import run_job


def unknown_types(types: Iterable[str]) -> list[str]:
    """Those of the layer types that this Caffe does not have, in their order."""
    there = set(run_job("caffe_split.backends.caffe.types", {}))
    return [name for name in dict.fromkeys(types) if name not in there]


def main() -> None:
    """The child: the names of all types as JSON on the last line that it prints."""
    import caffe

    print(json.dumps(list(caffe.layer_type_list())))


if __name__ == "__main__":
    main()
