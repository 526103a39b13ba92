"""The outputs of a net on its test set, as `caffe test` prints them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_split.engine.log import number
from caffe_split.errors import CaffeSplitError, expect, expect_count
from caffe_split.files import PathLike
from caffe_split.inference.counts import Counts, Head, find_head
from caffe_split.inference.given import DEFAULTS, RunOptions, data_set, open_net, run_net
from caffe_split.inference.labels import check_names, read_labels
from caffe_split.layertypes.left_out import KNOWN_MEASURES
from caffe_split.layertypes.table import record_of
from caffe_split.net.layers import Layer
from caffe_split.net.outputs import OutputTotals
from caffe_split.trainlog.outputs import is_accuracy

# As many as `caffe test` runs where it is not asked for a number.
ITERATIONS = 50


@dataclass(frozen=True)
class Score:
    """The mean of one value of an output over all batches; `weight` is the output's loss weight, 0 for none."""

    name: str
    value: float
    weight: float


@dataclass(frozen=True)
class NetScores:
    """What a net gives on its test set.

    weights: their file. iterations: the batches that were run. loss: the mean of the weighted sum of the net's losses.
    scores: one per value of each output, in Caffe's order. notes: what a reader should know of the data. counts: of
    labels and classes, where they were asked for. lacks_loss: a loss of the net is not computed, and `loss` is nan.
    measures: the outputs that should be high, such as accuracies.
    """

    weights: Path
    iterations: int
    loss: float
    scores: tuple[Score, ...]
    notes: tuple[str, ...] = ()
    counts: Counts | None = None
    lacks_loss: bool = False
    measures: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The last lines of `caffe test`; after them the shares that were asked for, such as `top-5 = 0.98`."""
        said = [f"Loss: {'not known' if self.lacks_loss else number(self.loss)}"]
        for score in self.scores:
            product = float(np.float32(score.weight) * np.float32(score.value))
            share = f" (* {number(score.weight)} = {number(product)} loss)" if score.weight else ""
            said.append(f"{score.name} = {number(score.value)}{share}")
        return said + [f"{name} = {number(value)}" for name, value in self.shares().items()]

    def shares(self) -> dict[str, float]:
        """`top-K` -> the share of labels that are among the K highest scores."""
        return {f"top-{most}": self.counts.share(most) for most in self.counts.among} if self.counts else {}

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "weights": str(self.weights),
            "iterations": self.iterations,
            "loss": self.loss,
            "outputs": [vars(score) for score in self.scores],
            "top": {str(most): self.counts.share(most) for most in self.counts.among} if self.counts else {},
            "classes": self.counts.names if self.counts else None,
            "confusion": self.counts.matrix.tolist() if self.counts else None,
        }


def _silent(_line: str) -> None:
    return


def score_net(
    net: PathLike,
    weights: PathLike,
    *,
    iterations: int | None = None,
    top: Sequence[int] = (),
    confusion: bool = False,
    head: str | None = None,
    labels: PathLike | None = None,
    options: RunOptions = DEFAULTS,
    say: Callable[[str], None] = _silent,
) -> NetScores:
    r"""Run a net (or the test net of a solver) on its test set, and average its outputs, as `caffe test` does.

    `iterations` are batches; by default one pass over the data set, or 50, as in Caffe, where
    the number of records is not known. `top` asks for the shares of labels among the K highest scores, and `confusion`
    for counts of labels against classes; both are read from the bottoms of the layer `head`, by default the last
    Accuracy, else the last loss with labels. Of a data set that is run once they count no record twice. `labels` is a
    file with the name of a class per line. `options` say how the net is run, and `say` is given each line of
    `caffe test` that comes with a batch.

    Raises:
        CaffeSplitError: weights do not fit, data are missing, nothing runs in the TEST phase, or there is no head.

    >>> import os, tempfile
    >>> import numpy as np
    >>> import caffe_split as cs
    >>> folder = tempfile.mkdtemp()
    >>> net, weights = os.path.join(folder, "net.prototxt"), os.path.join(folder, "w.caffemodel")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "DummyData" top: "data" top: "label"
    ...         dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
    ... layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }
    ... layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }''')
    >>> cs.write_weights(weights, {"ip": [np.zeros((4, 3)), np.array([0.0, 0.0, 0.0, 1.0])]})
    >>> print("\n".join(cs.score_net(net, weights, iterations=2, top=[4]).lines()))
    Loss: 1.74367
    loss = 1.74367 (* 1 = 1.74367 loss)
    top-4 = 1
    """
    expect(options, RunOptions, "RunOptions(...) as options")
    if iterations is not None:
        expect_count(iterations, "iterations")
    for most in top:
        expect_count(most, "top")
    given = open_net(net, options)
    if any(layer.type == "Input" for layer in given.layers):
        raise CaffeSplitError(
            f"{given.path}: a deploy net has no data to be tested on; give the net with data layers, or images "
            "(--image FILE)."
        )
    place = find_head(given, head) if top or confusion or head is not None else None
    notes: list[str] = []
    names = None if labels is None else read_labels(labels)
    with run_net(given, weights, options, [place.scores, place.labels] if place is not None else []) as session:
        notes += session.notes
        counts = None
        if place is not None:
            classes = session.shapes[place.scores][place.axis]
            _check_tops(top, classes, place)
            counts = Counts(place, check_names(names, classes, labels), top)
        data = data_set(given.layers)
        count = iterations or (data.batches if data is not None else ITERATIONS)
        surplus = data.batches * data.batch - data.records if data is not None and iterations is None else 0
        if data is not None and surplus:
            notes.append(
                f"{data.records} records in batches of {data.batch}: the last batch has the first {surplus} once more, "
                "and the means count them twice"
            )
        elif data is None and iterations is None:
            notes.append(f"how many records there are is not known; {count} batches, as `caffe test` runs")
        outputs = list(session.outputs)
        loss, totals = np.float32(0), OutputTotals(given.layers, given.solver)
        for index in range(count):
            batch = session.forward()
            loss += np.float32(batch.loss)
            for name in outputs:
                values = batch.blobs[name].ravel()
                totals.add(name, values)
                for value in () if totals.is_judged(name) else values.tolist():
                    say(f"Batch {index}, {name} = {number(value)}")
            if counts is not None:
                rows = data.batch - surplus if surplus and data is not None and index == count - 1 else None
                counts.add(batch.blobs[counts.head.scores], batch.blobs[counts.head.labels], rows)
        scores = tuple(
            Score(name, float(value), session.loss_weights.get(name, 0.0))
            for name in outputs
            for value in totals.mean(name, count).tolist()
        )
        mean = float("nan") if session.lacks_loss else float(loss / np.float32(count))
    measures = tuple(name for name in outputs if not session.loss_weights.get(name) and _is_measure(name, given.layers))
    return NetScores(Path(weights), count, mean, scores, tuple(notes), counts, session.lacks_loss, measures)


def _is_measure(name: str, layers: Sequence[Layer]) -> bool:
    """Whether an output should be high. Of a type that is not known as measure or loss its name decides, as in logs."""
    made_by = next((layer for layer in reversed(layers) if name in layer.tops), None)
    if made_by is None or record_of(made_by.type).is_loss:
        return False
    if made_by.type in KNOWN_MEASURES:
        return name == made_by.tops[0]  # the second top of an Accuracy has a value per class
    return is_accuracy(name)


def _check_tops(top: Sequence[int], classes: int, place: Head) -> None:
    if any(most > classes for most in top):
        raise CaffeSplitError(f"--top {max(top)}: blob '{place.scores}' scores {classes} classes; give 1 to {classes}.")


def table(results: Sequence[NetScores]) -> list[str]:
    """A row per weights: loss, each output of one value, shares; and which is the best, and which the final one.

    The best has the highest value of the first measure (accuracy), else the lowest loss; there is none in a net of
    neither. The final one is that of the most iterations by its name, `..._iter_N`, else the last.
    """
    heads, rows = _columns(results)
    values = [[number(value) for value in row] for row in rows]
    best, last = _best(results), _final([each.weights for each in results])
    marks = [
        [word for word, place in (("best", best), ("final", last)) if place == index] for index in range(len(rows))
    ]
    lines = [["weights", *heads, ""]]
    lines += [[str(each.weights), *row, " ".join(words)] for each, row, words in zip(results, values, marks)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:])), row[-1]]
        ).rstrip()
        for row in lines
    ]


def _columns(results: Sequence[NetScores]) -> tuple[list[str], list[list[float]]]:
    names = [score.name for score in results[0].scores]
    kept = [place for place, name in enumerate(names) if names.count(name) == 1]
    heads = ["Loss", *(names[place] for place in kept), *results[0].shares()]
    rows = [[each.loss, *(each.scores[place].value for place in kept), *each.shares().values()] for each in results]
    return heads, rows


def _best(results: Sequence[NetScores]) -> int | None:
    """The place of the best of `results`; None where none is a number, and where nothing is measured."""
    place = next((place for place, score in enumerate(results[0].scores) if score.name in results[0].measures), None)
    if place is None and not any(each.loss for each in results):
        return None
    values = [-each.loss if place is None else each.scores[place].value for each in results]
    known = [index for index, value in enumerate(values) if np.isfinite(value)]
    return max(known, key=lambda index: values[index]) if known else None


def _final(paths: Sequence[Path]) -> int:
    found = [re.search(r"_iter_(\d+)\.", path.name) for path in paths]
    if not all(found):
        return len(paths) - 1
    return max(range(len(paths)), key=lambda index: int(found[index][1]))  # type: ignore[index]
