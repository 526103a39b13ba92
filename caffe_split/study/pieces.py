"""A study in pieces: some of its runs now, the others later, in one folder and under one plan of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from caffe_split.study.model import Study
from caffe_split.study.values import Values


def piece(study: Study, names: Sequence[str]) -> Study:
    """The study of which only the runs `names` are wanted, with what they start from and their controls.

    The correction stays that for all comparisons that the study plans. Raises `CaffeSplitError` for a name that is
    none of its runs.
    """
    values = Values(study.file)
    if not names:
        raise values.wrong("--only", f"no run is named; the study's are {', '.join(study.runs)}")
    return replace(study, only=tuple(dict.fromkeys(values.one_of(name, study.runs, "--only") for name in names)))
