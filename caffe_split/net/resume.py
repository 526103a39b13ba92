"""Resuming a training: its newest whole snapshot, and how far its data have been read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.caffemodel import nonfinite, read_solverstate, read_weights
from caffe_split.net.snapshots import find_snapshots

Array = Literal["rest", "squares", "steps"]
# The solver types, and what each array is that they remember per learnable parameter, in Caffe's order: `rest` is what
# a parameter at rest has 0 of (velocity, a mean of gradients), `squares` are of gradients, `steps` of updates.
ARRAYS: dict[str, tuple[Array, ...]] = {
    "SGD": ("rest",),
    "Nesterov": ("rest",),
    "AdaGrad": ("squares",),
    "RMSProp": ("squares",),
    "AdaDelta": ("squares", "steps"),
    "Adam": ("rest", "squares"),
}
# How many arrays those are.
HISTORIES = {kind: len(arrays) for kind, arrays in ARRAYS.items()}
# Given in place of the name of a solver state: the newest whole one.
AUTO = "auto"


def newest_pair(prefix: str, say: Callable[[str], None]) -> Path | None:
    """The whole solver state of the highest iteration, with whole and finite weights; None where there is none.

    Of two states of one iteration, binary and HDF5, the one that was written last. `say` is called with the reason for
    each newer one that is passed over.
    """
    forms = (find_snapshots(prefix, form) for form in ("solverstate", "solverstate.h5"))
    found = [numbered for form in forms for numbered in form.items()]
    for iteration, path in sorted(found, key=_age, reverse=True):
        try:
            _check(path, iteration)
        except (CaffeSplitError, OSError) as error:
            say(f"Passing over {path}: {' '.join(str(error).split())}")
        else:
            return path
    return None


def _age(numbered: tuple[int, Path]) -> tuple[int, int, str]:
    iteration, path = numbered
    try:
        return iteration, path.stat().st_mtime_ns, path.name
    except OSError:
        return iteration, 0, path.name


def is_whole(state: Path) -> bool:
    """Whether a solver state and its weights are there, whole and finite."""
    try:
        _check(state)
    except (CaffeSplitError, OSError):
        return False
    return True


def _check(path: Path, iteration: int | None = None) -> None:
    state = read_solverstate(path)
    if iteration is not None and state.iter != iteration:
        raise CaffeSplitError(f"it is of iteration {state.iter}, whatever its name says")
    if not Path(state.learned_net).is_file():
        raise CaffeSplitError(f"its weights are {state.learned_net or 'not named'}, not there seen from {Path.cwd()}")
    weights = read_weights(state.learned_net)
    # What a TPM layer has not measured yet is NaN.
    bad = nonfinite({name: weights[name] for name in weights if weights.types.get(name) != "TPM"})
    if bad:
        raise CaffeSplitError(f"the weights of layer '{next(iter(bad))}' in {state.learned_net} are not finite")


def tests_before(iteration: int, interval: int, at_start: bool) -> int:
    """How many tests a training has run before `iteration`, a test at that iteration not counted.

    >>> [tests_before(iteration, 50, True) for iteration in (0, 1, 50, 51, 100)]
    [0, 1, 1, 2, 2]
    >>> [tests_before(iteration, 50, False) for iteration in (0, 1, 50, 51, 100)]
    [0, 0, 0, 1, 1]
    """
    if not interval or not iteration:
        return 0
    return (iteration - 1) // interval + (1 if at_start else 0)
