"""How far two nets' blobs lie apart, whatever ran them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from caffe_split.backends.offsets import Offset
from caffe_split.backends.protocol import Backend, Forwarded, Forwarding, NetFiles
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.arrays import read_arrays

# A blob may differ by this many times what one rounding of the input alone does to it. Measured on nets of 18 to 100
# layers, with and without BatchNorm, a third of them split: rounding in all layers together came to at most 2.3 times.
ROUNDINGS = 4
# Where a net makes more than this of rounding alone, nothing can be said of it.
HOPELESS = 1e-2
# Whether a difference is rounding is judged by many values: one alone, such as a loss, may be moved by next to nothing.
FEW = 16
# A loss of less is held against this: it is the logarithm of a probability, whose last place moves it by up to 1e-7,
# however small the loss of a net is that has learnt its images by heart.
LEAST_LOSS = 1e-2


@dataclass(frozen=True)
class BlobDifference:
    """How far a blob that both nets have differs over all batches.

    `largest` is the largest absolute difference, `scale` the largest absolute value in the first net (of a loss
    `LEAST_LOSS` at least), `rms` the root
    mean square of the difference in the channel where that is largest. `why` says in words why the difference is
    infinite; '' where it is a number. `taken_by` is the BatchNorm that takes off what the blobs differ by beside that,
    a constant per channel. `rounding` is how far one rounding of the input alone moves the blob in the first net,
    relative to `scale`, and `times` how many times as far the nets differ, by their `rms`; None where that was not
    measured.
    """

    blob: str
    is_output: bool
    largest: float
    scale: float
    rms: float = 0.0
    why: str = ""
    taken_by: str = ""
    rounding: float | None = None
    times: float | None = None

    @property
    def relative(self) -> float:
        """The largest difference against the blob's largest value; infinite where it is not a number."""
        if not np.isfinite(self.largest):
            return float("inf")
        return self.largest / self.scale if self.scale else self.largest

    @property
    def is_rounding(self) -> bool:
        """Whether rounding in all layers explains the difference."""
        return self.times is not None and self.times <= ROUNDINGS

    def passes(self, tolerance: float) -> bool:
        """Whether the blobs differ by at most the tolerance (relative), or by what rounding makes of them."""
        return self.relative <= tolerance or (self.is_rounding and self.relative <= HOPELESS)


def compare_nets(
    backend: Backend,
    first: NetFiles,
    second: NetFiles,
    how: Forwarding,
    tolerance: float = float("inf"),
    *,
    constants: Mapping[str, Offset] | None = None,
    losses: Collection[str] = (),
) -> list[BlobDifference]:
    """Forward both nets on the same input and compare all blobs that both have; see `compare_blobs`.

    `losses` are blobs that loss layers write.

    Where a blob differs by more than `tolerance` (relative), the first net is forwarded once more, its input rounded
    once, which shows how far rounding alone can move each blob. Raises `CaffeSplitError` for an input file that holds
    no numbers, and for what the back end cannot run.
    """
    if how.input_file is not None:
        read_arrays(how.input_file)
    one, other = backend.forward([first, second], how)
    rows = [
        replace(row, scale=max(row.scale, LEAST_LOSS)) if row.blob in losses and not row.why else row
        for row in compare_blobs(one, other, constants)
    ]
    worst = max((row.relative for row in rows), default=0.0)
    if not tolerance < worst < float("inf"):
        return rows
    (moved,) = backend.forward([first], replace(how, rounded=True))
    sizes = {name: values.size for name, values in one.batches[0].items()}
    return _against_rounding(rows, {row.blob: row for row in compare_blobs(one, moved)}, sizes)


def _against_rounding(
    rows: Sequence[BlobDifference], moved: Mapping[str, BlobDifference], sizes: Mapping[str, int]
) -> list[BlobDifference]:
    """The rows with what rounding alone does, by `moved`; `sizes` are the blobs' numbers of values.

    A blob of few values is held against the blob before it that rounding moves most.
    """
    judged = []
    most = 0.0
    for row in rows:
        found = moved.get(row.blob)
        if found is None or found.why:
            judged.append(row)
            continue
        scale = row.scale or 1.0
        rms = found.rms / scale
        expected = max(rms, most) if sizes[row.blob] < FEW else rms
        most = max(most, rms)
        times = 0.0 if not row.rms else row.rms / scale / expected if expected else float("inf")
        judged.append(replace(row, rounding=found.relative, times=times))
    return judged


def compare_blobs(
    first: Forwarded, second: Forwarded, constants: Mapping[str, Offset] | None = None
) -> list[BlobDifference]:
    """The difference at each blob that both nets have, in the first net's order.

    An output of one net alone is there, too, with an infinite difference; so is a blob whose shapes differ or whose
    values are not finite. `constants` are what blobs of the first net have more per channel (axis 1): they are taken
    off where that brings the nets nearer.
    """
    ours, theirs = first.batches, second.batches
    rows = []
    for name in ours[0]:
        if name not in theirs[0]:
            if name in first.outputs:
                rows.append(_missing(name, "the baseline alone has this output"))
            continue
        pairs = [(mine[name], other[name]) for mine, other in zip(ours, theirs)]
        row = _difference(name, name in first.outputs, pairs)
        constant = (constants or {}).get(name)
        if constant is not None and row.largest and not row.why:
            shape = (1, -1, *[1] * (pairs[0][0].ndim - 2))
            less = _difference(name, row.is_output, [(a - constant.values.reshape(shape), b) for a, b in pairs])
            if less.largest < row.largest:
                row = replace(less, scale=row.scale, taken_by=constant.norm)
        rows.append(row)
    lacking = [name for name in second.outputs if name not in ours[0]]
    return rows + [_missing(name, "the derived net alone has this output") for name in lacking]


def _missing(name: str, why: str) -> BlobDifference:
    return BlobDifference(name, True, float("inf"), 0.0, why=why)


def _difference(name: str, is_output: bool, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> BlobDifference:
    """The row of a blob from its values in both nets, batch by batch."""
    largest = scale = rms = 0.0
    why = ""
    for mine, other in pairs:
        a, b = mine.astype(np.float64), other.astype(np.float64)
        scale = _larger(scale, float(np.abs(a).max(initial=0)))
        if a.shape != b.shape:
            largest, why = float("inf"), why or f"shapes {_shape(a)} and {_shape(b)}"
            continue
        with np.errstate(invalid="ignore"):
            largest = _larger(largest, float(np.abs(a - b).max(initial=0)))
            rms = _larger(rms, _rms(a - b))
        strange = [int(np.count_nonzero(~np.isfinite(values))) for values in (a, b)]
        if any(strange):
            largest = float("inf")
            why = why or f"nan or infinity: {strange[0]:,} of {a.size:,} values, in the derived net {strange[1]:,}"
    return BlobDifference(name, is_output, largest, scale, rms, why)


def _rms(values: np.ndarray) -> float:
    """The largest root mean square of a channel (axis 1)."""
    if not values.size:
        return 0.0
    channels = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1) if values.ndim > 1 else values.reshape(1, -1)
    return float(np.sqrt(np.square(channels).mean(axis=1).max(initial=0)))


def _shape(values: np.ndarray) -> str:
    return "x".join(map(str, values.shape)) or "scalar"


def one_rounding(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Float32 values of which half, drawn at random, are moved away from zero by one unit in the last place.

    Never towards zero, since layers cut labels to whole numbers. Zeros stay.
    """
    outwards = np.nextafter(values, np.copysign(np.float32(np.inf), values))
    return np.asarray(np.where((rng.random(values.shape) < 0.5) & (values != 0), outwards, values), np.float32)


def _larger(one: float, other: float) -> float:
    """The larger of the two; NaN where one of them is NaN, which `max` may lose."""
    return float(np.maximum(one, other))


def load_inputs(path: Path, names: Sequence[str], net: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file for a net's inputs `names`, as float32: one of an .npy, or several by name of an .npz.

    Raises `CaffeSplitError` for a file that holds no numbers, an .npy for a net that has not one input, and an .npz
    without an array for any of the net's inputs.
    """
    found = read_arrays(path)
    if not isinstance(found, dict):
        if len(names) != 1:
            raise CaffeSplitError(
                f"{net}: it has {len(names)} inputs, and {path} holds one array without a name; give an .npz with an "
                "array per input, under its name."
                if names
                else f"{net}: it has no input for the array of {path}; give a deploy net, with an Input layer."
            )
        return {names[0]: found}
    if not found.keys() & set(names):
        raise CaffeSplitError(
            f"{path}: it holds {', '.join(map(repr, found)) or 'no array'}; the inputs of {net} are "
            f"{', '.join(map(repr, names)) or 'none'}. Save each array under the name of its input."
        )
    return {name: found[name] for name in names if name in found}
