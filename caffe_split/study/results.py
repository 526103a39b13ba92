"""What the steps of a study give, as values, and the marks (JSON files) that keep them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from caffe_split.study.paths import read_json, write_json
from caffe_split.study.plan import StudyStep


@dataclass(frozen=True)
class Failed:
    """A step that failed, or that waits for one that did, and why."""

    failed: str


@dataclass(frozen=True)
class DataMade:
    """The data set is there."""


@dataclass(frozen=True)
class Derived:
    """A net was split; `plan` is that of the derivation, as JSON."""

    plan: Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """A training that came to its end.

    `parameters` and `macs` are the net's (None where not known). `final` is the accuracy of the last test, `best` the
    highest, `curve` all of them by iteration. `movements` are layer -> part -> relative change of its weight, of a
    net that was split; `raised` layer -> number of kernels before and after, of a wider net.
    """

    parameters: int | None
    macs: int | None
    output: str
    final: float
    best: float
    best_iteration: int
    curve: tuple[tuple[int, float], ...]
    training_seconds: float
    speed: float
    manifest: Mapping[str, Any]
    movements: Mapping[str, Mapping[str, float | None]] | None = None
    raised: Mapping[str, list[int]] | None = None


@dataclass(frozen=True)
class Folded:
    """A net was folded; `unfolded` and `final` are the test accuracies before and after."""

    parameters: int | None
    macs: int | None
    kept: Mapping[str, str]
    unfolded: float
    final: float
    largest_difference: list[float]


Result = Union[Failed, DataMade, Derived, Trained, Folded]
_RESULTS: dict[str, type[Any]] = {"data": DataMade, "derive": Derived, "train": Trained, "fold": Folded}
# They are left out of a mark where they are None.
_OF_SOME = ("movements", "raised")


@dataclass(frozen=True)
class Mark:
    """The end of a step: its result, and how long it took in seconds."""

    result: Result
    seconds: float

    @property
    def failed(self) -> str | None:
        """Why the step failed; None where it did not."""
        return self.result.failed if isinstance(self.result, Failed) else None


def write_mark(step: StudyStep, mark: Mark) -> None:
    """Keep a mark in the study's folder, in which we are."""
    values = {key: value for key, value in vars(mark.result).items() if key not in _OF_SOME or value is not None}
    write_json(Path(step.output), {**values, "step": step.title, "seconds": mark.seconds})


def read_mark(step: StudyStep, out: Path = Path()) -> Mark | None:
    """The mark of a step in the study's folder `out`; None where the step has not ended.

    Raises `CaffeSplitError` where it is not whole.
    """
    path = out / step.output
    if not path.exists():
        return None
    value = read_json(path)
    return Mark(result_of(step, value), float(value.get("seconds", 0.0)))


def result_of(step: StudyStep, value: Mapping[str, Any]) -> Result:
    """The result that a mark holds; what a mark of an earlier version lacks is None."""
    if "failed" in value:
        return Failed(str(value["failed"]))
    kind = _RESULTS[step.verb]
    result: Result = kind(**{key: value.get(key) for key in kind.__dataclass_fields__})
    return result
