"""The command that plans the same derivation, for the manifest of one that was planned from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caffe_split.derivation.options import DEFAULTS, DeriveOptions
from caffe_split.net.names import join_names
from caffe_split.net.training import Training

# Field of the options -> the command line's option, where it takes the field's value.
_OPTIONS = {
    "kind": "--kind",
    "init": "--init",
    "noise": "--noise",
    "seed": "--seed",
    "activation": "--residual-activation",
    "skip_pool": "--skip-pool",
    "added_lr": "--added-lr",
    "partition": "--partition",
    "choose_by": "--choose-by",
    "schedule": "--schedule",
    "engine": "--engine",
}


def command_of(
    training: Training,
    options: DeriveOptions,
    *,
    iteration: int | None,
    weights: Path,
    layers: int | Sequence[str] | None,
    out: Path,
    deploy: Path | None,
) -> tuple[str, ...]:
    """The words of `caffe-split make-derived`; options that have their default are left out."""
    words = ["caffe-split", "make-derived", str(training.solver_path or training.net_path)]
    words += ["--weights", str(weights)] if iteration is None else ["--iter", str(iteration)]
    if isinstance(layers, int):
        words += ["--num-splits", str(layers)]
    else:
        words += ["--control"] if layers is None else ["--layers", join_names(layers)]
    for name, option in _OPTIONS.items():
        value = getattr(options, name)
        if value != getattr(DEFAULTS, name) and (layers is not None or name == "schedule"):
            words += [option, str(value)]
    if options.branch_norm:
        words += ["--branch-norm", "--calibrate", str(options.branch_norm)]
    elif options.calibrate != DEFAULTS.calibrate and layers is not None:
        words += ["--calibrate", str(options.calibrate)]
    if options.window is not None:
        words += ["--window", f"{options.window[0]}:{options.window[1]}"]
    if options.ignore_extra_weights:
        words.append("--ignore-extra-weights")
    words += _state_words(training)
    for option, path in (("--deploy", deploy), ("--caffe-proto", training.caffe_proto), ("--out", out)):
        if path is not None:
            words += [option, str(path)]
    return tuple(words)


def _state_words(training: Training) -> list[str]:
    """The options for the state that was asked for, where it is not the solver's own; see `Training.asked_for`."""
    words, state = [], training.state
    if state.phase != "TRAIN":
        words += ["--phase", state.phase]
    own = training.state_in(state.phase)
    if state.stages != own.stages:
        words += [word for stage in state.stages for word in ("--stage", stage)]
    if state.level != own.level:
        words += ["--level", str(state.level)]
    return words
