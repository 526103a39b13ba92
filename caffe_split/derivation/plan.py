"""The plan of a derivation: what will change, as text before anything is written, and the files that it writes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_split.backends.check_weights import STATE_NAME, WEIGHTS_NAME
from caffe_split.backends.choose import get_backend
from caffe_split.derivation.choice import BY_TPM, parse_choice
from caffe_split.derivation.options import DeriveOptions
from caffe_split.errors import counted
from caffe_split.files import new_folder, write_atomic
from caffe_split.formats.weights import caffemodel
from caffe_split.formats.weights.solverstate import SolverState, write_solverstate
from caffe_split.layertypes.cost import Cost, changes
from caffe_split.manifest import write_manifest
from caffe_split.net.state import TRAIN, NetState
from caffe_split.split.layer import SplitOptions
from caffe_split.split.mixing import NOISE_FORMS
from caffe_split.split.partition import Partition
from caffe_split.split.parts import Part
from caffe_split.split.saliency import SALIENCIES, Saliency
from caffe_split.tpm.scores import LayerScores, null_tpm, z_scores


@dataclass(frozen=True)
class LayerPlan:
    """One convolution that will be split, into which layers, and why.

    `scores` is None where neither the choice of the layer nor its partition looked at TPM, `saliency` where neither
    looked at that. `note` warns of a start that rounding makes less exact. `momentum` is the solver's.
    """

    name: str
    partition: Partition
    parts: tuple[Part, ...]
    scores: LayerScores | None
    saliency: Saliency | None = None
    momentum: float = 0.0
    note: str = ""

    def why(self) -> str:
        """What is known of it that a choice may look at, in a line; empty where nothing is."""
        known = [*([] if self.scores is None else [self._tpm()]), *([] if self.saliency is None else [self._salient()])]
        return "; ".join(known)

    def _salient(self) -> str:
        assert self.saliency is not None
        return ", ".join(f"{name} {self.saliency.whole[name]:.4g}" for name in SALIENCIES)

    def _tpm(self) -> str:
        assert self.scores is not None
        if self.partition.is_whole:
            return f"entropy {self.scores.entropy:.3f}, TPM {self._mean(self.scores.tpm, self.partition.slow):.3f}"
        fast, slow = (self._mean(self.scores.tpm, side) for side in (self.partition.fast, self.partition.slow))
        z = z_scores(self.scores, self.momentum)
        return (
            f"entropy {self.scores.entropy:.3f}, TPM fast {fast:.3f} slow {slow:.3f} "
            f"(noise {null_tpm(self.scores.steps, self.scores.interval, self.momentum):.3f}, "
            f"z {self._mean(z, self.partition.fast):+.1f} {self._mean(z, self.partition.slow):+.1f})"
        )

    @staticmethod
    def _mean(values: np.ndarray, chosen: Sequence[int]) -> float:
        """Mean over the chosen kernels that move; NaN when none does."""
        moving = values[list(chosen)]
        moving = moving[~np.isnan(moving)]
        return float(moving.mean()) if len(moving) else float("nan")


@dataclass(frozen=True)
class DerivePlan:
    """All that a derivation will write into the new folder `out`; `print(plan)` shows it, `plan.write()` writes it.

    `net_path`, `solver_path` and `weights_path` are the files that are split, `iteration` that of the snapshot (None:
    `weights` were given). `layers` has, for each layer that is split, its halves, parts and TPM; `before` and `after`
    are the net's parameters and multiply-adds for one image.
    `texts` are the prototxt files, name in the folder -> content; `weights` the derived net's blobs, layer -> blobs;
    `types` layer -> type; `state` the solver state to go on from, if any; `inputs` the files read. `net_path` need
    not exist: a net that stands in its solver gets that name. `notes` say what was done to bring old files to today's
    form, `warnings` what the scores lack that chose. `saliency` is that of all layers that learn, where it was needed;
    `engine` is what measured it, or branches for `options.branch_norm`. `state_split` is the state whose net is split
    and whose cost is given. `command` makes the same plan at the command
    line; it is empty where none does.
    """

    net_path: Path
    solver_path: Path | None
    weights_path: Path
    iteration: int | None
    out: Path
    options: DeriveOptions
    layers: tuple[LayerPlan, ...]
    before: Cost
    after: Cost
    texts: dict[str, bytes]
    weights: Mapping[str, Sequence[np.ndarray]]
    types: dict[str, str]
    state: SolverState | None = None
    inputs: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    engine: str | None = None
    saliency: tuple[Saliency, ...] = ()
    state_split: NetState = TRAIN
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def write(self, force: bool = False, *, command: Sequence[str] | None = None) -> None:
        """Write all files into `out`, or none: they are made in a folder beside it, which is renamed at the end.

        The folder gets the nets and the solver under their own names, init.caffemodel, init.solverstate where the
        schedule continues, and manifest.json, which names the `command` (None: the plan's own, or this process's where
        the plan has none). Raises `CaffeSplitError` where the folder may not be written; `force` replaces a folder that
        this program made and to which nothing was added.
        """
        with new_folder(self.out, force) as folder:
            for name, data in self.texts.items():
                write_atomic(folder / name, data)
            caffemodel.write_weights(folder / WEIGHTS_NAME, self.weights, net_name="", types=self.types)
            if self.state is not None:
                write_solverstate(folder / STATE_NAME, self.state)
            command = command or self.command or None
            write_manifest(folder, self.inputs, self.output_names(), self.as_dict(), command=command)

    def train_command(self) -> str | None:
        """The command that trains what was written; None without a solver."""
        if self.solver_path is None:
            return None
        state = [] if self.state is None else ["--snapshot", str(self.out / STATE_NAME)]
        return shlex.join(["caffe-split", "train", str(self.out / self.solver_path.name), *state])

    def output_names(self) -> list[str]:
        """The files that are written beside manifest.json."""
        return [*self.texts, WEIGHTS_NAME, *([STATE_NAME] if self.state is not None else [])]

    def lines(self) -> list[str]:
        """The plan as text, line by line."""
        source = f"iteration {self.iteration}" if self.iteration is not None else "the given weights"
        lines = [f"{self.net_path} at {source} ({self.weights_path}) -> {self.out}"]
        if self.layers:
            lines.append(
                f"{self.options.kind} split of {counted(len(self.layers), 'layer')}, "
                f"{self._chosen()}partition {self.options.partition}, init {self.options.init}, "
                f"noise {self.options.noise:g}, seed {self.options.seed}"
            )
        else:
            lines.append("no split: the control, the same net trained equally long from the same weights")
        lines += [f"  in today's form: {note}" for note in self.notes]
        lines += [f"  warning: {line}" for line in self.warnings]
        if self.options.added_lr != 1 and self.layers:
            lines.append(f"added convolutions learn at {self.options.added_lr:g} times the rate of the split layer")
        measured = {"branches normalised": self.options.branch_norm, "scores measured": self.options.batches}
        if not self.saliency:
            del measured["scores measured"]
        lines += [
            f"{what} by {batches} batches, run in {get_backend(self.engine).title}"
            for what, batches in measured.items()
            if self.engine is not None and batches
        ]
        without = "chosen by chance" if parse_choice(self.options.choose_by).seed is not None else "chosen by name"
        for layer in self.layers:
            fast, slow = len(layer.partition.fast), len(layer.partition.slow)
            sides = f"{fast} fast / {slow} slow" if fast else f"all {slow} kernels"
            lines += [
                f"  {layer.name}: {sides}; {layer.why() or without}",
                "    " + ", ".join(p.name for p in layer.parts),
            ]
            if layer.note:
                lines.append(f"    note: {layer.note}")
        lines += changes(self.before, self.after)
        lines.append("writes " + ", ".join(str(self.out / name) for name in self.output_names()))
        return lines

    def _chosen(self) -> str:
        return "" if self.options.choose_by == BY_TPM else f"chosen by {self.options.choose_by}, "

    def _saliency_dict(self) -> dict[str, Any]:
        return {
            "batches": self.options.batches,
            "layers": {
                each.layer: {"whole": each.whole, "kernels": {name: v.tolist() for name, v in each.kernels.items()}}
                for each in self.saliency
            },
        }

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON and the manifest have it, kernels' scores included."""
        options = (*SplitOptions.__dataclass_fields__, "partition", "choose_by", "schedule")
        return {
            "net": str(self.net_path),
            "solver": None if self.solver_path is None else str(self.solver_path),
            "weights": str(self.weights_path),
            "iteration": self.iteration,
            "out": str(self.out),
            "state": vars(self.state_split),
            "options": {name: getattr(self.options, name) for name in options},
            "noise_form": NOISE_FORMS[self.options.init],
            "upgraded": list(self.notes),
            "warnings": list(self.warnings),
            "engine": self.engine,
            "saliency": None if not self.saliency else self._saliency_dict(),
            "layers": [_layer_dict(layer) for layer in self.layers],
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
        }


def _layer_dict(layer: LayerPlan) -> dict[str, Any]:
    scores = layer.scores
    return {
        "name": layer.name,
        "fast": list(layer.partition.fast),
        "slow": list(layer.partition.slow),
        "parts": [part.name for part in layer.parts],
        "note": layer.note,
        "scores": None
        if scores is None
        else {
            "window": [scores.start, scores.stop],
            "interval": scores.interval,
            "steps": scores.steps,
            "momentum": layer.momentum,
            "entropy": scores.entropy,
            "null": null_tpm(scores.steps, scores.interval, layer.momentum),
            # JSON has no NaN: a frozen kernel is null there.
            "tpm": [None if np.isnan(value) else float(value) for value in scores.tpm],
        },
    }
