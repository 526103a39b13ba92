"""What the outputs of a test net come to over its batches: means, and of detections the mean average precision."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

# How SSD's `ap_version` takes the area below precision over recall.
_AP_VERSIONS = ("11point", "MaxIntegral", "Integral")


def ap_version(solver: Options) -> str:
    """How a solver has the average precision taken. Raises `CaffeSplitError` for a way that SSD does not have."""
    version = str(solver.get("ap_version"))
    if version not in _AP_VERSIONS:
        raise CaffeSplitError(f"ap_version '{version}' is not known; expected {', '.join(_AP_VERSIONS)}")
    return version


class OutputTotals:
    """Adds up the outputs of a net with these layers, batch by batch.

    An output of a DetectionEvaluate layer is judged over all batches, as SSD's solver does: its rows are kept, and it
    comes to one value, the mean average precision as `solver` has it. Of any other output it is the mean of each value.
    Raises `CaffeSplitError` as `ap_version` does.
    """

    def __init__(self, layers: Iterable[Layer], solver: Options) -> None:
        self._detections = {top for layer in layers if layer.type == "DetectionEvaluate" for top in layer.tops}
        self._version = ap_version(solver)
        self._sums: dict[str, np.ndarray] = {}
        self._rows: dict[str, list[np.ndarray]] = {}

    def is_judged(self, name: str) -> bool:
        """Whether the output holds detections, whose single values say nothing."""
        return name in self._detections

    def add(self, name: str, values: np.ndarray) -> None:
        """The values of an output in the next batch.

        Raises `CaffeSplitError` where there are more or fewer than in the first one: a mean of them says nothing.
        """
        values = values.ravel()
        if name in self._detections:
            self._rows.setdefault(name, []).append(values.reshape(-1, 5))
            return
        so_far = self._sums.get(name)
        if so_far is not None and len(so_far) != len(values):
            raise CaffeSplitError(
                f"output '{name}' has {len(values)} values in this batch, and had {len(so_far)} in the first, so that "
                "there is no mean of them; end it in a Silence layer, or read it with `caffe-split extract`"
            )
        self._sums[name] = values if so_far is None else so_far + values

    def mean(self, name: str, count: int) -> np.ndarray:
        """What the output comes to over `count` batches, flat; in the precision of what was added."""
        if name in self._rows:
            of_classes = self.of_classes(name).values()
            return np.array([sum(of_classes) / max(len(of_classes), 1)], self._rows[name][0].dtype)
        total = self._sums[name]
        mean: np.ndarray = total / total.dtype.type(count)
        return mean

    def of_classes(self, name: str) -> dict[int, float]:
        """The average precision of each class, of an output with detections; nothing of another."""
        if name not in self._rows:
            return {}
        return average_precisions(np.concatenate(self._rows[name]), self._version)


def average_precisions(rows: np.ndarray, version: str) -> dict[int, float]:
    """The average precision of each class, 0 to 1 (Liu et al., SSD; Everingham et al., PASCAL VOC).

    Args:
        rows: (n, 5), of any number of DetectionEvaluate tops. -1, class, number of its objects, and two that mean
            nothing; or image, class, score, 1 if right, 1 if wrong. Rows that are neither right nor wrong do not count.
        version: 11point is the mean of the best precision at recalls of 0, 0.1, ... 1 or more (VOC 2007); MaxIntegral
            the area below the best precision at each recall or more (VOC 2012); Integral the area below the precision.

    Returns:
        class -> precision, in the order of the rows; 0 for a class with no objects or no detections.
    """
    objects: dict[int, int] = {}
    for _, label, number, *_ in rows[rows[:, 0] == -1].tolist():
        objects[int(label)] = objects.get(int(label), 0) + int(number)
    found = rows[(rows[:, 0] != -1) & ((rows[:, 3] != 0) | (rows[:, 4] != 0))]
    return {
        label: _average_precision(found[found[:, 1] == label], number, version) if number else 0.0
        for label, number in objects.items()
    }


def _average_precision(found: np.ndarray, number: int, version: str) -> float:
    """Of one class with `number` objects."""
    if not len(found):
        return 0.0
    right, wrong = found[np.argsort(-found[:, 2], kind="stable"), 3:].cumsum(0, np.float64).T
    # SSD's recalls are single: 7 of 10 objects are 0.69999999, which is less than the recall 0.7 of the 11 points.
    precision, recall = right / (right + wrong), (right / number).astype(np.float32).astype(np.float64)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if version == "11point":
        return float(sum(best[recall >= tenth / 10][:1].sum() for tenth in range(11)) / 11)
    return float((np.diff(recall, prepend=0.0) * (best if version == "MaxIntegral" else precision)).sum())
