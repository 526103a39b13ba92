"""Refusals that several types share: values that the engine does not handle, and files that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from caffe_split.layertypes.record import Check
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

# Why the field `engine` of many layers does not matter.
ENGINE = {"engine": "it chooses among Caffe's own implementations"}


def one_of(message: str, name: str, *handled: str) -> Check:
    """Refuse the values of an enum that are not handled."""

    def check(layer: Layer) -> Iterator[str]:
        value = Options.of(layer.message, message).get(name)
        if value not in handled:
            yield f"{name}: {value} is not handled; {' and '.join(handled)} are"

    return check


def file_there(message: str, name: str = "source") -> Check:
    """Refuse a layer whose options name a file that is not there."""

    def check(layer: Layer) -> Iterator[str]:
        path = Options.of(layer.message, message).get(name)
        if not Path(path or "").is_file():
            yield f"{name}: no file '{path}' seen from {Path.cwd()}"

    return check
