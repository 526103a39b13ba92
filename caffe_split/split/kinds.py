"""The kinds of splits. Each is one module of this package, named as the kind, with its record `KIND`."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Literal, get_args

from caffe_split.errors import CaffeSplitError

if TYPE_CHECKING:
    from caffe_split.net.geometry import Geometry
    from caffe_split.split.parts import Kind

# The registry. Commands read it without loading the kinds themselves, which need NumPy.
KindName = Literal["residual", "skip", "extension", "conv1x1", "acnet", "dbb", "identity"]
KIND_NAMES: tuple[KindName, ...] = get_args(KindName)


@functools.cache
def kind_of(name: KindName) -> Kind:
    """The record of a kind. Raises `CaffeSplitError` for a name that is none."""
    if name not in KIND_NAMES:
        raise CaffeSplitError(f"kind '{name}' is not known; expected one of {', '.join(KIND_NAMES)}.")
    kind: Kind = importlib.import_module(f"caffe_split.split.{name}").KIND
    return kind


@functools.cache
def added_words() -> frozenset[str]:
    """The words in the names of the convolutions that any kind adds."""
    return frozenset(word for name in KIND_NAMES for word in kind_of(name).reads)


@functools.cache
def helper_words() -> frozenset[str]:
    """Those of them that are never split again."""
    return frozenset(word for name in KIND_NAMES for word in kind_of(name).reads if word not in kind_of(name).again)


def check_geometry(layer: str, kind: KindName, geometry: Geometry) -> None:
    """Raises `CaffeSplitError`, naming the layer, where a kind has no meaning for a convolution of this geometry."""
    reason = kind_of(kind).why_not(geometry)
    if reason:
        raise CaffeSplitError(f"layer '{layer}' cannot be split by {kind}: {reason}. Choose another kind for it.")
