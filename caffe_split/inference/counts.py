"""Which classes a net takes for which: a confusion matrix, and how often the right class is among the highest K."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.inference.given import GivenNet
from caffe_split.layertypes.table import record_of
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

# Layers of scores and labels -> the messages in which they read their axis and ignore_label; "": none.
_HEADS = {
    "Accuracy": ("accuracy_param", "accuracy_param"),
    "SoftmaxWithLoss": ("softmax_param", "loss_param"),
    "InfogainLoss": ("infogain_loss_param", "loss_param"),
    "MultinomialLogisticLoss": ("", ""),
    "HingeLoss": ("", ""),
}


@dataclass(frozen=True)
class Head:
    """Where the scores and the labels of a net are.

    axis: that of the classes. ignored: a label that does not count.
    """

    layer: str
    scores: str
    labels: str
    axis: int
    ignored: int | None


def find_head(net: GivenNet, name: str | None = None) -> Head:
    """The head of a net: the layer `name`, else the last Accuracy, else the last loss of scores and labels.

    Raises `CaffeSplitError` where there is none, naming those that there are.
    """
    there = [layer for layer in net.layers if layer.type in _HEADS and len(layer.bottoms) >= 2]
    found = [layer for layer in there if layer.name == name] if name is not None else _in_order(there)
    if not found:
        listed = ", ".join(layer.name for layer in there) or "none"
        what = f"no layer '{name}' of scores and labels" if name is not None else "no layer of scores and labels"
        raise CaffeSplitError(
            f"{net.path}: {what} in the {net.state.phase} phase; expected {', '.join(_HEADS)}. There is: {listed}."
        )
    layer = found[-1]
    axis_in, ignored_in = _HEADS[layer.type]
    axis = int(Options.of(layer.message, axis_in).get("axis")) if axis_in else 1
    ignored = None
    if ignored_in and (loss := Options.of(layer.message, ignored_in)).has("ignore_label"):
        ignored = int(loss.get("ignore_label"))
    return Head(layer.name, layer.bottoms[0], layer.bottoms[1], axis, ignored)


def _in_order(layers: Sequence[Layer]) -> list[Layer]:
    return sorted(layers, key=lambda layer: not record_of(layer.type).is_loss)


class Counts:
    """Counts of labels and of the classes that scores put highest.

    names: of the classes. matrix: (labels, predicted classes). among: K -> how many labels are among the K highest
    scores, as Caffe's Accuracy counts: a class with the same score stands before the right one. total: labels that
    count.
    """

    def __init__(self, head: Head, names: Sequence[str], tops: Sequence[int]) -> None:
        self.head, self.names = head, list(names)
        self.matrix = np.zeros((len(names), len(names)), np.int64)
        self.among = dict.fromkeys(tops, 0)
        self.total = 0

    def add(self, scores: np.ndarray, labels: np.ndarray, rows: int | None = None) -> None:
        """Count a batch, or its first `rows` records. Raises `CaffeSplitError` for a label that is no class."""
        places = np.moveaxis(scores, self.head.axis, -1)
        places, found = places[:rows], labels.reshape(places.shape[:-1])[:rows]
        classes = places.shape[-1]
        given, truth = places.reshape(-1, classes), found.reshape(-1).astype(np.int64)
        if self.head.ignored is not None:
            counted = truth != self.head.ignored
            given, truth = given[counted], truth[counted]
        wrong = truth[(truth < 0) | (truth >= classes)]
        if wrong.size:
            raise CaffeSplitError(
                f"layer '{self.head.layer}': a label is {wrong[0]}, but bottom '{self.head.scores}' scores the "
                f"{classes} classes 0 to {classes - 1}."
            )
        np.add.at(self.matrix, (truth, given.argmax(axis=1)), 1)
        right = np.take_along_axis(given, truth[:, None], axis=1)
        before = (given >= right).sum(axis=1) - 1
        for most in self.among:
            self.among[most] += int((before < most).sum())
        self.total += len(truth)

    def share(self, most: int) -> float:
        """The share of labels that are among the `most` highest scores; nan where none was counted."""
        return self.among[most] / self.total if self.total else float("nan")

    def csv_text(self) -> str:
        """The matrix as CSV: a row per label, a column per predicted class."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["label", *self.names])
        writer.writerows([name, *row] for name, row in zip(self.names, self.matrix.tolist()))
        return stream.getvalue()
