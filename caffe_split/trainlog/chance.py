"""How many test images stand behind a difference of accuracies, and whether chance alone may make it."""

from __future__ import annotations

import math
import re

from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.text import head

_HEAD = 1 << 20  # bytes of a log that hold the solver and the nets as Caffe prints them
_TEST_ITER = re.compile(rb"^test_iter: (\d{1,9})\r?$", re.MULTILINE)
_TEST_NET = re.compile(rb"^state \{\s+phase: TEST\b(.*?)(?=^[IWEF]\d{4}|\Z)", re.MULTILINE | re.DOTALL)
_BATCH = re.compile(rb"\b(?:batch_size|dim): (\d{1,9})")
# Of a normal distribution, 95 % lie within this many standard deviations.
NORMAL_95 = 1.96


def images_of_a_test(log: TrainingLog, net: int = 0) -> int:
    """The images of each test: `test_iter` times the batch, as the log prints them; -1 if it does not."""
    try:
        said = head(log.path, _HEAD)
    except (OSError, CaffeSplitError):
        return -1
    rounds, nets = _TEST_ITER.findall(said), _TEST_NET.findall(said)
    batch = _BATCH.search(nets[net]) if net < len(nets) else None
    return int(rounds[net]) * int(batch[1]) if batch is not None and net < len(rounds) else -1


def within_chance(one: float, other: float, images: int) -> bool:
    """Whether two accuracies (0 to 1) differ by no more than two tests of as many other images often do.

    The standard error of the difference of two independent shares p and q of n is sqrt((p(1-p) + q(1-q)) / n); within
    chance is what is below 1.96 of it, the 95 % interval of the normal distribution.
    """
    return abs(one - other) <= NORMAL_95 * math.sqrt((one * (1 - one) + other * (1 - other)) / images)
