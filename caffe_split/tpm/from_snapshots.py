"""TPM from a series of snapshots: any training that wrote enough of them can be measured."""

from __future__ import annotations

import glob
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.caffemodel import read_weights
from caffe_split.tpm.lengths import lengths
from caffe_split.tpm.scores import LayerScores
from caffe_split.tpm.state import check_finite

Weights = Mapping[str, Sequence[npt.NDArray[np.float32]]]
_SNAPSHOT = re.compile(r"(?P<prefix>.*)_iter_(?P<iteration>\d+)\.caffemodel(\.h5)?")


def snapshots_of(paths: Sequence[str]) -> dict[int, Path]:
    """Iteration -> file, ascending, of snapshots given one by one or as patterns such as `run/net_iter_*`.

    Of one iteration's two formats the binary one is taken; files that are no caffemodels (solver states) are left
    out. Raises `CaffeSplitError` when nothing is found, a name has no iteration, or two trainings are mixed.
    """
    found: dict[int, Path] = {}
    prefixes: dict[str, str] = {}
    for text in paths:
        pattern = not Path(text).exists() and glob.has_magic(text)
        names = sorted(glob.glob(text)) if pattern else [text]
        for name in names:
            match = _SNAPSHOT.fullmatch(name)
            if match is None:
                if pattern:
                    continue
                raise CaffeSplitError(
                    f"{name}: its name has no iteration; a snapshot is called PREFIX_iter_N.caffemodel[.h5]."
                )
            prefixes.setdefault(match["prefix"], name)
            found.setdefault(int(match["iteration"]), Path(name))
    if len(prefixes) > 1:
        first, second, *_ = prefixes.values()
        raise CaffeSplitError(
            f"snapshots of {len(prefixes)} trainings are mixed, for example {first} and {second}. Give those of one."
        )
    if not found:
        raise CaffeSplitError(f"{' '.join(paths)}: no snapshot (PREFIX_iter_N.caffemodel[.h5]) is called so.")
    return dict(sorted(found.items()))


def choose_iterations(known: Sequence[int], start: int, stop: int, interval: int | None = None) -> list[int]:
    """The iterations of `known` (ascending) that sample [start, stop] evenly, both ends among them.

    `interval` picks those that are this many iterations apart; without it all snapshots in the window are used.
    Raises `CaffeSplitError` naming those that are missing, or that lie between.
    """
    inside = [iteration for iteration in known if start <= iteration <= stop]
    if len(inside) < 2 or inside[0] != start or inside[-1] != stop:
        lacking = [iteration for iteration in (start, stop) if iteration not in inside]
        lack = f"none of iteration {' and of '.join(map(str, lacking))}" if lacking else "too few"
        raise CaffeSplitError(
            f"no snapshot series over {start}:{stop}: there is {lack}. There are snapshots of iterations "
            f"{listing(known)}: choose a --window between two of them."
        )
    if interval is None:
        # Of equally frequent distances the smallest: where a snapshot is missing, two of them make a longer one.
        counts = Counter(b - a for a, b in zip(inside, inside[1:]))
        interval = min(counts, key=lambda distance: (-counts[distance], distance))
        strict = True
    else:
        strict = False
        if interval > stop - start:
            raise CaffeSplitError(
                f"the window {start}:{stop} does not hold two samples {interval} iterations apart; choose a longer "
                "window or a shorter interval."
            )
    wanted = set(range(start, stop + 1, interval))
    missing = sorted(wanted - set(inside))
    others = sorted(set(inside) - wanted)
    if not missing and (stop - start) % interval == 0 and not (strict and others):
        return sorted(wanted)
    parts = []
    if missing:
        parts.append(f"those of {listing(missing)} are missing")
    if (stop - start) % interval:
        parts.append(f"{stop} is not among {start}, {start + interval}, {start + 2 * interval}, ...")
    if strict and others:
        parts.append(f"those of {listing(others)} lie between")
    raise CaffeSplitError(
        f"the snapshots over {start}:{stop} are not {interval} iterations apart: {', and '.join(parts)}. Choose "
        "another --window; `caffe-split tpm --interval N` uses some of them."
    )


def from_snapshots(
    snapshots: Mapping[int, Path],
    layers: Sequence[str],
    window: tuple[int, int],
    *,
    interval: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    read: Callable[[Path], Weights] = read_weights,
) -> list[LayerScores]:
    """TPM of `layers` over the window (start, stop) from the snapshots (iteration -> file) that lie in it.

    They must be evenly spaced and reach from start to stop; see `choose_iterations` for `interval`. Two of
    them are open at a time, and read layer by layer, by `read`. `progress(done, total)` is called after each. Raises
    `CaffeSplitError` for a gap, and for a snapshot of another net.
    """
    start, stop = window
    chosen = choose_iterations(list(snapshots), start, stop, interval)
    first = previous = read(snapshots[start])
    shapes = {layer: np.shape(_weight(first, layer, snapshots[start])) for layer in layers}
    del first  # The first snapshot comes again at the end: two at a time.
    paths = {layer: np.zeros(shape[0] + 1) for layer, shape in shapes.items()}
    for done, iteration in enumerate(chosen[1:], 1):
        current = read(snapshots[iteration])
        for layer in layers:
            now = _weight(current, layer, snapshots[iteration])
            if np.shape(now) != shapes[layer]:
                raise CaffeSplitError(
                    f"{snapshots[iteration]}: layer '{layer}' has shape {np.shape(now)}, but {shapes[layer]} in "
                    f"{snapshots[start]}. These are snapshots of two nets: choose a --window over those of one."
                )
            paths[layer] += lengths(now, _weight(previous, layer, snapshots[iteration]))
        previous = current
        if progress is not None:
            progress(done, len(chosen) - 1)
    begin = read(snapshots[start])
    scores = []
    for layer in layers:
        was, now = begin[layer][0], previous[layer][0]
        displacement = lengths(now, was)
        scores.append(
            LayerScores(
                layer=layer,
                start=start,
                stop=stop,
                interval=chosen[1] - chosen[0],
                steps=len(chosen) - 1,
                shape=shapes[layer],
                displacement=displacement[:-1],
                path=paths[layer][:-1],
                layer_displacement=float(displacement[-1]),
                layer_path=float(paths[layer][-1]),
                norm_start=float(lengths(was)[-1]),
                norm_stop=float(lengths(now)[-1]),
            )
        )
        check_finite(scores[-1])
    return scores


def norms_at(path: Path | None, layer: str) -> float:
    """L2 norm of a layer's weight in a snapshot; NaN where there is none."""
    if path is None:
        return math.nan
    weights = read_weights(path)
    return float(lengths(weights[layer][0])[-1]) if weights.get(layer) else math.nan


def _weight(weights: Weights, layer: str, path: Path) -> npt.NDArray[np.float32]:
    blobs = weights.get(layer)  # once: each look finds the layer's blobs in the file anew
    if not blobs or not blobs[0].size:
        have = ", ".join(name for name in weights if len(weights[name])) or "none"
        raise CaffeSplitError(
            f"{path}: no weights of layer '{layer}' in it; it has those of {have}. Is it a snapshot of this net? "
            "Choose layers with --layers."
        )
    return blobs[0]


def listing(iterations: Sequence[int], most: int = 12) -> str:
    """Iterations as text: all, or the first ones and how many there are."""
    shown = ", ".join(map(str, iterations[:most])) or "none"
    return shown + (f", ... ({len(iterations)} in all)" if len(iterations) > most else "")
