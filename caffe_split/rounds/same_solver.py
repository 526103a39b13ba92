"""Whether snapshots that are there come from a training by the solver as it stands now: the log has that solver."""

from __future__ import annotations

import re
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.upgrade import upgrade
from caffe_split.net.training import Training
from caffe_split.trainlog.text import head

# The settings that decide what is learnt; max_iter does where the rate depends on it.
_LEARNS = (
    "type",
    "base_lr",
    "lr_policy",
    "gamma",
    "power",
    "stepsize",
    "stepvalue",
    "momentum",
    "momentum2",
    "rms_decay",
    "delta",
    "weight_decay",
    "regularization_type",
    "clip_gradients",
    "iter_size",
)
# The first bytes of a log hold the solver as Caffe prints it, up to the next line with glog's prefix.
_HEAD = 1 << 22
_PRINTED = re.compile(rb"Initializing solver from parameters: ?\r?\n(.*?)^[IWEF]\d{4,8} ", re.MULTILINE | re.DOTALL)


def check_same_solver(training: Training, log: Path) -> None:
    """Raises `CaffeSplitError` where `log` says that its training ran by other settings than the solver has now.

    A log that is not there, or was cut short, says nothing.
    """
    assert training.solver is not None
    found = _PRINTED.findall(head(log, _HEAD)) if log.is_file() else []
    if not found:
        return
    try:
        printed = prototxt.parse(found[-1].decode("utf-8", "replace"), "solver", str(log))
    except CaffeSplitError:
        return
    now = training.solver.copy()
    for each in (printed, now):
        upgrade(each)
    names = (*_LEARNS, "max_iter") if now.get("lr_policy", "") in ("poly", "sigmoid") else _LEARNS
    others = [
        f"{name} {_words(printed, name)} there, {_words(now, name)} now"
        for name in names
        if _words(printed, name) != _words(now, name)
    ]
    if others:
        raise CaffeSplitError(
            f"{training.solver_path}: the snapshots at {training.prefix} were trained by another solver, as {log} "
            f"says: {'; '.join(others)}. Take that solver, or another snapshot_prefix: then the baseline is trained."
        )


def _words(solver: prototxt.Document, name: str) -> str:
    values = solver.get_all(name) or [solver.get(name)]
    return " ".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in values)
