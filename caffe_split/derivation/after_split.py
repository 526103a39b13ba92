"""Do the layers that a split adds learn? The size of gradients in the parts of a derived net, from the split on.

Layers that are added to a trained net can be active and still receive little gradient. This is measured at the start
and at snapshots of the derived training, by the same batches of its data each time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from caffe_split import jsontext
from caffe_split.backends.check_weights import WEIGHTS_NAME
from caffe_split.backends.choose import choose_backend
from caffe_split.derivation.measure_saliency import expect_gradient, mean_gradients
from caffe_split.errors import CaffeSplitError
from caffe_split.files import MANIFEST, write_atomic
from caffe_split.net.layers import convolutions
from caffe_split.net.training import open_training
from caffe_split.split import naming

GRADIENTS = "gradients.json"
Role = Literal["untouched", "halves", "added", "reorder"]
ROLES: tuple[Role, ...] = get_args(Role)
# Snapshots that are measured, the start included, and the batches of each: some tens of iterations in all.
POINTS, BATCHES = 9, 5


@dataclass(frozen=True)
class Course:
    """Gradients in a derived net at `iterations`, 0 being the split, over `batches` of its training data.

    `rms` is, for each role that the net has, the root of the mean of the squared gradient of the loss per weight:
    `untouched` are the convolutions that this derivation did not split, `halves` X_split1 and X_split2, `added` what
    stands beside or after X_split2, `reorder` the 1x1 after the concat.
    """

    iterations: tuple[int, ...]
    batches: int
    engine: str
    rms: dict[Role, tuple[float, ...]]

    def write(self, folder: Path) -> None:
        """Write it beside the log of the derived training."""
        write_atomic(folder / GRADIENTS, (jsontext.dumps(vars(self)) + "\n").encode())

    def sentence(self) -> str:
        """What the added layers receive, in words; empty where there is nothing to compare."""
        added, old = self.rms.get("added"), self.rms.get("untouched")
        if not added or not old:
            return ""
        shares = [a / b if b else math.nan for a, b in zip(added, old)]
        known = [share for share in shares[1:] if not math.isnan(share)]
        later = f", and {min(known):.2g} to {max(known):.2g} times afterwards" if known else ""
        return (
            f"At the split a weight that was added receives {shares[0]:.2g} times the gradient of one in an untouched "
            f"convolution{later} (root mean square, {self.batches} batches)."
        )


def read_course(folder: Path) -> Course | None:
    """What `Course.write` left in a folder; None where there is none or it cannot be read."""
    try:
        value: dict[str, Any] = json.loads((folder / GRADIENTS).read_text(encoding="utf-8"))
        rms: dict[Role, tuple[float, ...]] = {
            role: tuple(math.nan if each is None else float(each) for each in value["rms"][role])
            for role in ROLES
            if role in value["rms"]
        }
        iterations = tuple(map(int, value["iterations"]))
        if any(len(values) != len(iterations) for values in rms.values()):
            return None
        return Course(iterations, int(value["batches"]), str(value["engine"]), rms)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def record_course(solver: Path, engine: str | None = None) -> str:
    """Measure a derived training that has ended, and write what came out beside its log.

    Returns what it says, in words. A net that cannot be measured so is trained all the same: then the reason.
    """
    try:
        course = measure_course(solver, engine)
    except CaffeSplitError as error:
        return f"the gradients after the split of {solver.parent} are not known: {error}"
    course.write(solver.parent)
    return course.sentence()


def measure_course(solver: Path, engine: str | None = None) -> Course:
    """Measure the derived training of `solver`, whose folder holds its manifest, its start and its snapshots.

    Raises `CaffeSplitError` where one of them is missing, and as `measure_saliency` does.
    """
    training, folder = open_training(solver), solver.parent
    roles = _roles(folder, [layer.name for layer in convolutions(training.train_layers())])
    names = expect_gradient(training, list(roles))
    points = {0: folder / WEIGHTS_NAME, **_some(training.snapshots())}
    backend = choose_backend(engine)
    found = mean_gradients(training, list(points.values()), names, BATCHES, backend)
    rms: dict[Role, tuple[float, ...]] = {}
    for role in ROLES:
        chosen = [name for name in names if roles[name] == role]
        if chosen:
            rms[role] = tuple(_rms([gradients[name] for name in chosen]) for gradients in found)
    return Course(tuple(points), BATCHES, backend.name, rms)


def _rms(gradients: Sequence[np.ndarray]) -> float:
    squares, count = sum(float(np.square(g).sum()) for g in gradients), sum(g.size for g in gradients)
    return math.sqrt(squares / count)


def _some(snapshots: Mapping[int, Path]) -> dict[int, Path]:
    """The first ones, where most changes, and then ever fewer, the last one among them."""
    every = sorted(iteration for iteration in snapshots if iteration > 0)
    if len(every) >= POINTS:
        places = np.unique(np.round(np.geomspace(1, len(every), POINTS - 1)).astype(int))
        every = [every[place - 1] for place in places]
    return {iteration: snapshots[iteration] for iteration in every}


def _roles(folder: Path, names: Sequence[str]) -> dict[str, Role]:
    """The role of each convolution, as the folder's manifest has the split."""
    try:
        layers = json.loads((folder / MANIFEST).read_bytes())["plan"]["layers"]
        parts = {str(part): str(layer["name"]) for layer in layers for part in layer["parts"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise CaffeSplitError(f"{folder / MANIFEST}: not what `caffe-split make-derived` writes.") from None

    def role(name: str) -> Role:
        origin = parts.get(name)
        if origin is None:
            return "untouched"
        if name in (naming.fast_half(origin), naming.slow_half(origin)):
            return "halves"
        return "reorder" if name == naming.reorder(origin) else "added"

    return {name: role(name) for name in names}
