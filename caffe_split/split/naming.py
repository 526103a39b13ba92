"""The names of a split's layers: the only place that spells them, and that takes them apart.

A split of convolution X has X_split1 (fast half), X_split2 (slow half), the layers added to the slow half as
X_split2_WORD, their sum where there is one, X_concat and X_reorder. A layer's top has the layer's name, except that
X_reorder writes X's own top. A kind of split chooses the words of its layers.

A name alone decides nothing where a net is at hand: a user's own layer may have any name. `recognise` looks at how
layers are wired.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

_SPLIT1, _SPLIT2, _CONCAT, _REORDER = "_split1", "_split2", "_concat", "_reorder"
_SUM = "sum"

# What stands in a split's names after the name of the layer that was split.
Place = Literal["split1", "split2", "concat", "reorder", "added"]


class PartName(NamedTuple):
    """A name taken apart: the layer that was split, the place in its split, the kind's own word of an added layer."""

    origin: str
    place: Place
    word: str = ""


def fast_half(origin: str) -> str:
    """The convolution of X's fast kernels."""
    return origin + _SPLIT1


def slow_half(origin: str) -> str:
    """The convolution of X's slow kernels."""
    return origin + _SPLIT2


def added(origin: str, word: str) -> str:
    """A layer beside or after the slow half; `word` is the kind's own, such as 'skip'."""
    return f"{slow_half(origin)}_{word}"


def total(origin: str) -> str:
    """The sum of the slow half and what is added to it."""
    return added(origin, _SUM)


def concat(origin: str) -> str:
    """The concatenation of both halves."""
    return origin + _CONCAT


def reorder(origin: str) -> str:
    """The 1x1 convolution that puts the kernels back in X's order, the last layer of every split."""
    return origin + _REORDER


def batch_norm(branch: str) -> str:
    """The BatchNorm at the end of a branch (`--branch-norm`)."""
    return f"{branch}_bn"


def scale(branch: str) -> str:
    """The Scale after that BatchNorm."""
    return f"{branch}_scale"


def reordered(name: str) -> str | None:
    """X for the name X_reorder, None for any other name."""
    origin = name[: -len(_REORDER)]
    return origin if origin and name == reorder(origin) else None


def ended(name: str, words: Collection[str]) -> str | None:
    """X for the name of a layer that can be the last of X's split, None for any other name.

    That is X_reorder, or where X was not divided the sum or an added layer; `words` are those of the added layers.
    """
    part = take_apart(name, (*words, _SUM))
    return part.origin if part is not None and part.place in ("reorder", "added") else None


def within(name: str, origin: str) -> str:
    """What a picture of X's split calls one of its layers: the name without X in front of it."""
    return name[len(origin) :] if name.startswith(origin) else name


def take_apart(name: str, words: Collection[str]) -> PartName | None:
    """The split and the place in it that a name says, the innermost split where several are nested.

    `words` are those of the added layers; None for a name that says nothing.
    """
    for word in sorted(words, key=len, reverse=True):
        # X_split2_skip is the skip of X, not of a layer called X_split2.
        ending = added("", word)
        if name.endswith(ending) and len(name) > len(ending):
            return PartName(name[: -len(ending)], "added", word)
    places: tuple[tuple[str, Place], ...] = (
        (_SPLIT1, "split1"),
        (_SPLIT2, "split2"),
        (_CONCAT, "concat"),
        (_REORDER, "reorder"),
    )
    for ending, place in places:
        if name.endswith(ending) and len(name) > len(ending):
            return PartName(name[: -len(ending)], place)
    return None


def parts_among(names: Collection[str], words: Collection[str]) -> dict[str, PartName]:
    """The names that are parts of a split as far as names can tell, each taken apart.

    For weights without a net, where names are all there is. A name counts when the rest of its split is there, too:
    both halves (or the ends of their own splits), an added layer and the reorder; or the slow half and an added layer
    alone, where X was not divided. So a lone layer `frames_reorder` is no part. Layers without weights, concat and sum,
    need not be among the names.
    """
    found = {name: part for name in names if (part := take_apart(name, words)) is not None}
    adding = {
        part.origin
        for name in names
        for part in (found.get(name) or take_apart(reordered(name) or "", words),)
        if part is not None and part.place == "added"
    }

    def is_there(half: str) -> bool:
        return half in names or reorder(half) in names or is_whole(half)

    def is_whole(origin: str) -> bool:
        if origin not in adding or not is_there(slow_half(origin)):
            return False
        return is_there(fast_half(origin)) == (reorder(origin) in names)

    return {name: part for name, part in found.items() if is_whole(part.origin)}
