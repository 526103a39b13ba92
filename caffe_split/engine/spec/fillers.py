"""The types of fillers that are known, and what is made of others: a fork's own, or a slip."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from caffe_split.formats import prototxt
from caffe_split.layertypes.table import record_for
from caffe_split.net.layers import Layer

FILLERS = ("constant", "gaussian", "uniform", "xavier", "msra", "positive_unitball", "bilinear")
# How much of two names is equal, from which on one is taken for a slip in the other (difflib's ratio).
_ALIKE = 0.7


def is_a_forks(kind: str) -> bool:
    """Whether a type that is not known may be a fork's, since it is not nearly a known one.

    >>> is_a_forks("orthogonal"), is_a_forks("guassian")
    (True, False)
    """
    return bool(kind) and not difflib.get_close_matches(kind.lower(), FILLERS, 1, _ALIKE)


def forks_fillers(layer: Layer) -> Iterator[tuple[prototxt.Field, str]]:
    """The fillers of a layer's parameters whose type is a fork's, and that type."""
    for name in record_for(layer).options:
        for options in layer.message.subs(name) if name != "dummy_data_param" else ():
            for entry in options:
                for filler in entry.values() if "filler" in entry.name else ():
                    kind = filler.get("type", "constant") if isinstance(filler, prototxt.Message) else "constant"
                    if kind not in FILLERS and is_a_forks(str(kind)):
                        yield entry, str(kind)
