"""What a user gave to be measured: a net or solver, a training log, or snapshots, recognised by content."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from caffe_split.errors import CaffeSplitError
from caffe_split.files import stream_kind
from caffe_split.net.snapshots import find_snapshots
from caffe_split.tpm.from_snapshots import snapshots_of
from caffe_split.trainlog.pipeline import looks_like_log

Given = Literal["training", "log", "snapshots"]


@dataclass(frozen=True)
class Source:
    """`kind` says what it is; `path` is the net, solver or log; `snapshots` are iteration -> file."""

    kind: Given
    path: Path
    snapshots: dict[int, Path]


def recognise(given: Sequence[str]) -> Source:
    """Recognise the arguments.

    Snapshots are given as files, as a pattern (run/net_iter_*), or as their prefix (run/net). Raises
    `CaffeSplitError` for what is none of these.
    """
    first = given[0]
    path = Path(first)
    if len(given) > 1 or (glob.has_magic(first) and not path.exists()):
        return Source("snapshots", path, snapshots_of(given))
    if path.is_file():
        if path.name.endswith((".caffemodel", ".caffemodel.h5")):
            return Source("snapshots", path, snapshots_of(given))
        log = path.suffix != ".prototxt" and looks_like_log(path)
        return Source("log" if log else "training", path, {})
    stream = stream_kind(path)
    if stream:
        if looks_like_log(path):
            return Source("log", path, {})
        raise CaffeSplitError(f"{first}: this is {stream}, which is read only where it gives a log.")
    series = find_snapshots(path)
    if series:
        return Source("snapshots", path, series)
    if path.is_dir():
        inside = path / "train.log"
        hint = f", for example {inside}" if inside.is_file() else ""
        raise CaffeSplitError(
            f"{first}: this is a folder; give a net, a solver, a training log or snapshots in it{hint}."
        )
    raise CaffeSplitError(
        f"{first}: no such file, and no snapshots {first}_iter_N.caffemodel[.h5] (seen from {Path.cwd()}). Give a net, "
        "a solver, a training log, or snapshots."
    )
