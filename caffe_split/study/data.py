"""Whether the data sets are those that a study was made for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffe_split.data.store import open_store
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.datum import decode_datum
from caffe_split.study import nets
from caffe_split.study.model import Expected, Study

# By how much the mean of a channel, of 0 to 255, may be off what the study expects: it is written with one decimal.
_OFF = 0.06


def check_data(study: Study) -> None:
    """Raises `CaffeSplitError` where a data set has another number of records or another mean than expected.

    Data sets that are not made yet are not looked at.
    """
    expected = {each.name: each for each in study.expect}
    paths = {path.name: path for path in nets.data_files(study)}
    for name in expected:
        if name not in paths:
            raise CaffeSplitError(
                f"{study.file}: expect: {name}: the net has no data set of that name; it has {', '.join(paths)}"
            )
    for name, path in paths.items():
        if name in expected and path.exists():
            _check(study, path, expected[name])


def _check(study: Study, path: Path, expected: Expected) -> None:
    with open_store(path).begin() as transaction:
        found = transaction.stat()["entries"]
        if found != expected.records:
            raise CaffeSplitError(
                f"{path}: {found:,} records, and {study.file} is about {expected.records:,}: another data set; let "
                "the key `data` name the right folder"
            )
        if not expected.mean:
            return
        totals = np.zeros(len(expected.mean))
        for key, value in transaction.cursor():
            try:
                image, _ = decode_datum(value)
            except CaffeSplitError as error:
                raise CaffeSplitError(f"{path}: record {key!r}: {error}") from None
            if len(image) != len(totals):
                raise CaffeSplitError(f"{path}: record {key!r} has {len(image)} channels, expected {len(totals)}")
            totals += image.mean(axis=(1, 2), dtype=np.float64)
    mean = totals / expected.records
    if np.abs(mean - expected.mean).max() > _OFF:
        ours, theirs = (", ".join(f"{value:.1f}" for value in values) for values in (mean, expected.mean))
        raise CaffeSplitError(
            f"{path}: the mean of its channels is {ours}, and {study.file} expects {theirs}: another data set, or "
            "another border (`caffe-split data cifar10 --pad`); let the key `data` name the right folder"
        )
