"""What `make-derived` left in a derived folder: the plan of the split, read back from manifest.json."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_split.errors import CaffeSplitError
from caffe_split.files import MANIFEST


@dataclass(frozen=True)
class Scores:
    """TPM of a layer's kernels over the window [start, stop]; NaN: frozen. null: what pure noise would give."""

    start: int
    stop: int
    interval: int
    steps: int
    momentum: float
    entropy: float
    null: float
    tpm: tuple[float, ...]

    def mean(self, kernels: tuple[int, ...]) -> float:
        """Mean TPM of those kernels that moved; NaN when none did."""
        moved = [self.tpm[kernel] for kernel in kernels if not math.isnan(self.tpm[kernel])]
        return sum(moved) / len(moved) if moved else math.nan


@dataclass(frozen=True)
class LayerSplit:
    """One layer that was split: its kernels on both sides, the layers in its place. scores: None if no TPM was used.

    note: what is special about it, or empty.
    """

    name: str
    fast: tuple[int, ...]
    slow: tuple[int, ...]
    parts: tuple[str, ...]
    scores: Scores | None
    note: str


@dataclass(frozen=True)
class Manifest:
    """A derivation as it was made. Paths are relative to where the command ran; costs (before, after) may be None.

    notes: what was done to the net first, one line each.
    """

    command: tuple[str, ...]
    net: str
    solver: str | None
    weights: str
    iteration: int | None
    out: str
    options: dict[str, Any]
    layers: tuple[LayerSplit, ...]
    notes: tuple[str, ...]
    parameters: tuple[int | None, int | None]
    macs: tuple[int | None, int | None]


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest; None if it has none, or that of something else than a derivation, such as a fold.

    Raises `CaffeSplitError` for a file that is not such a manifest.
    """
    path = folder / MANIFEST
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CaffeSplitError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CaffeSplitError(f"{path} is no JSON: {error}; expected what `caffe-split make-derived` writes") from None
    try:
        if value["plan"] and not {"layers", "iteration"} & set(value["plan"]):
            return None
        return _manifest(value)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"does not fit: {error}"
        raise CaffeSplitError(f"{path} {what}; expected what `caffe-split make-derived` writes") from None


def _manifest(value: dict[str, Any]) -> Manifest:
    plan = value["plan"]
    before, after = plan["before"], plan["after"]
    return Manifest(
        command=tuple(map(str, value["command"])),
        net=str(plan["net"]),
        solver=None if plan["solver"] is None else str(plan["solver"]),
        weights=str(plan["weights"]),
        iteration=_count(plan["iteration"]),
        out=str(plan["out"]),
        options=dict(plan["options"]),
        layers=tuple(map(_layer, plan["layers"])),
        notes=tuple(map(str, plan.get("upgraded") or ())),
        parameters=(_count(before["parameters"]), _count(after["parameters"])),
        macs=(_count(before["macs"]), _count(after["macs"])),
    )


def _layer(value: dict[str, Any]) -> LayerSplit:
    scores = None if value["scores"] is None else _scores(value["scores"])
    fast, slow = tuple(map(int, value["fast"])), tuple(map(int, value["slow"]))
    if scores is not None and sorted((*fast, *slow)) != list(range(len(scores.tpm))):
        raise ValueError(f"fast and slow of {value['name']} are not its {len(scores.tpm)} kernels")
    parts = tuple(map(str, value["parts"]))
    return LayerSplit(str(value["name"]), fast, slow, parts, scores, str(value.get("note") or ""))


def _scores(value: dict[str, Any]) -> Scores:
    start, stop = value["window"]
    return Scores(
        start=int(start),
        stop=int(stop),
        interval=int(value["interval"]),
        steps=int(value["steps"]),
        momentum=float(value["momentum"]),
        entropy=_number(value["entropy"]),
        null=_number(value["null"]),
        tpm=tuple(map(_number, value["tpm"])),
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _count(value: Any) -> int | None:
    return None if value is None else int(value)
