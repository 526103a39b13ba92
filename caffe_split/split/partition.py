"""Dividing a layer's kernels into fast and slow ones: by their TPM, their saliency, by chance or by hand."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from caffe_split.errors import CaffeSplitError, counted
from caffe_split.split.saliency import SALIENCIES

Scores = npt.NDArray[np.float64]
_WORDS = ("median", "otsu", "threshold", "ratio", "score", "random", "list", "all")
FORMS = f"median, otsu, threshold:X, ratio:R, score:{'|'.join(SALIENCIES)}, random:SEED, list:I,J,..., all"


@dataclass(frozen=True)
class Partition:
    """Indices of the fast and of the slow kernels, each ascending; together all of 0..n-1.

    Both have some, except where no half is fast: then the whole layer gains the added path.
    """

    fast: tuple[int, ...]
    slow: tuple[int, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The original channel that stands at each place of the concat: the fast ones, then the slow ones."""
        return self.fast + self.slow

    @property
    def is_whole(self) -> bool:
        """Whether the layer is not divided."""
        return not self.fast


@dataclass(frozen=True)
class PartitionRule:
    """A parsed `--partition`.

    `count` gives how many of the kernels are fast; `order` gives all indices, the fast ones first, for scores and a
    salt: the layer's name, so that a random rule treats each layer differently. `needs_scores` is False for the
    rules that do not look at TPM (score, random, list, all). `saliency` names what the scores are in place of TPM, for
    the rules that look at that. `whole`: nothing is divided, all kernels are slow.
    """

    text: str
    needs_scores: bool
    count: Callable[[Scores], int]
    order: Callable[[Scores, str], list[int]]
    saliency: str = ""
    whole: bool = False


def parse_rule(text: str) -> PartitionRule:
    """Read `median`, `otsu`, `threshold:X`, `ratio:R`, `score:NAME`, `random:SEED`, `list:I,J,...` or `all`.

    Raises `CaffeSplitError` when the text has none of these forms.
    """
    name, colon, argument = text.partition(":")
    try:
        if name == "median" and not colon:
            return PartitionRule(text, True, lambda scores: len(scores) // 2, _by_score)
        if name == "all" and not colon:
            return PartitionRule(text, False, lambda scores: 0, lambda scores, salt: [*range(len(scores))], whole=True)
        if name == "otsu" and not colon:
            return PartitionRule(text, True, otsu_count, _by_score)
        if name == "threshold":
            limit = float(argument)
            if np.isnan(limit):
                raise ValueError("the threshold is not a number")
            return PartitionRule(text, True, lambda scores: int(np.sum(scores >= limit)), _by_score)
        if name == "ratio":
            ratio = float(argument)
            if not 0 < ratio < 1:
                raise ValueError("the ratio is not between 0 and 1")
            return PartitionRule(text, True, lambda scores: round(ratio * len(scores)), _by_score)
        if name == "score":
            known = known_word(argument, SALIENCIES)
            return PartitionRule(text, False, lambda scores: len(scores) // 2, _by_score, saliency=known)
        if name == "random":
            seed = seed_of(argument)
            return PartitionRule(
                text,
                False,
                lambda scores: len(scores) // 2,
                lambda scores, salt: _shuffled(len(scores), seed, salt),
            )
        if name == "list":
            chosen = [int(index) for index in argument.split(",")]
            return PartitionRule(
                text, False, lambda scores: len(chosen), lambda scores, salt: _listed(chosen, len(scores))
            )
    except ValueError as error:
        raise CaffeSplitError(f"partition '{text}': {error}. Expected one of {FORMS}.") from error
    raise CaffeSplitError(f"partition '{text}': {not_known(name, _WORDS)}. Expected one of {FORMS}.")


def known_word(word: str, words: Sequence[str]) -> str:
    """`word`. Raises `ValueError` where it is none of `words`, with the nearest of them."""
    if word not in words:
        raise ValueError(not_known(word, words))
    return word


def not_known(word: str, words: Sequence[str]) -> str:
    """That a word is none of `words`, with the nearest of them: a clause without a full stop."""
    near = difflib.get_close_matches(word, words, 1, 0.4)
    return f"'{word}' is not known" + (f" (did you mean '{near[0]}'?)" if near else "")


def seed_of(text: str) -> int:
    """A seed. Raises `ValueError` for what is no whole number of 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"the seed '{text}' is no whole number of 0 or more")
    return int(text)


def divide(rule: PartitionRule, scores: Scores, group: int = 1, salt: str = "") -> Partition:
    """Divide the kernels that `scores` (float64, one a kernel, NaN = frozen) stand for.

    With several groups every group gives equally many fast kernels (Caffe wants equal groups): the rule's
    count for the whole layer, shared out, and inside each group the rule's order. Each side keeps at least
    one kernel a group. Raises `CaffeSplitError` when a group has one kernel only. A rule that divides nothing leaves
    all of them slow.
    """
    if rule.whole:
        return Partition(fast=(), slow=tuple(range(len(scores))))
    size = len(scores) // group
    if size < 2:
        reason = "depthwise, one kernel a group" if group > 1 else "one kernel only"
        raise CaffeSplitError(f"its kernels cannot be divided: {reason}.")
    per_group = min(max(round(rule.count(scores) / group), 1), size - 1)
    order = rule.order(scores, salt)
    fast: list[int] = []
    for g in range(group):
        fast += [index for index in order if index // size == g][:per_group]
    if rule.text.startswith("list") and sorted(fast) != sorted(order[: rule.count(scores)]):
        raise CaffeSplitError(
            f"partition '{rule.text}': all groups need equally many fast kernels, at least 1 and at most {size - 1} "
            f"each; the layer has {counted(group, 'group')} of {counted(size, 'kernel')}."
        )
    return Partition(fast=tuple(sorted(fast)), slow=tuple(sorted(set(order) - set(fast))))


def _by_score(scores: Scores, salt: str = "") -> list[int]:
    """Indices by falling score; ties by index; frozen kernels (they did not move at all) last, so slow."""
    return [int(i) for i in np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable")]


def otsu_count(scores: Scores) -> int:
    """How many of the highest scores lie above the two-class threshold (Otsu 1979).

    Of all cuts between sorted scores the one with the largest variance between the classes,
    w0 * w1 * (mean0 - mean1)^2; no histogram is involved. Where several are equal, the highest cut. Frozen
    kernels (NaN) take no part. With fewer than two different scores, half of them.
    """
    ordered = np.sort(scores[~np.isnan(scores)])[::-1]
    count = len(ordered)
    if count < 2 or ordered[0] == ordered[-1]:
        return count // 2
    above = np.arange(1, count)
    sums = np.cumsum(ordered)
    difference = sums[:-1] / above - (sums[-1] - sums[:-1]) / (count - above)
    between = above * (count - above) * difference**2
    # A cut inside a run of equal scores is no threshold.
    between[ordered[:-1] == ordered[1:]] = -1.0
    return int(np.argmax(between)) + 1


def _shuffled(count: int, seed: int, salt: str) -> list[int]:
    rng = np.random.default_rng([seed, zlib.crc32(salt.encode("utf-8", "surrogateescape"))])
    return [int(i) for i in rng.permutation(count)]


def _listed(chosen: list[int], count: int) -> list[int]:
    if len(set(chosen)) != len(chosen) or not all(0 <= index < count for index in chosen):
        raise CaffeSplitError(
            f"partition list:{','.join(map(str, chosen))} does not fit; give different indices of 0..{count - 1}."
        )
    return chosen + [index for index in range(count) if index not in set(chosen)]
