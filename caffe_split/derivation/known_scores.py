"""What a derivation has to know of the layers before it chooses: their TPM, their saliency, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_split.derivation.choice import BY_TPM, parse_choice
from caffe_split.derivation.measure_saliency import measure_saliency, synflow_note
from caffe_split.derivation.options import DeriveOptions
from caffe_split.errors import WrongUseError, expect
from caffe_split.net.training import Training
from caffe_split.split.partition import parse_rule
from caffe_split.split.saliency import Saliency
from caffe_split.tpm.collect import measure_tpm, momentum_of
from caffe_split.tpm.scores import LayerScores, latest_window
from caffe_split.tpm.trust import warnings


@dataclass(frozen=True)
class KnownScores:
    """TPM over one window, and saliency; empty where not needed. `doubts`: what a choice by them lacks."""

    scores: tuple[LayerScores, ...] = ()
    saliency: tuple[Saliency, ...] = ()
    doubts: tuple[str, ...] = ()


def measure_known(
    training: Training,
    weights: Path,
    iteration: int | None,
    names: Sequence[str] | None,
    given: Sequence[LayerScores] | None,
    options: DeriveOptions,
) -> KnownScores:
    """Measure what `options` need to choose layers and kernels.

    `weights` is the file that is split, `iteration` where it is a snapshot; `names` are the layers where they are
    named, none for a control; `given` is TPM that was measured before. Raises `CaffeSplitError` where TPM is needed and
    not there, and as `measure_saliency` does.
    """
    choice, rule = parse_choice(options.choose_by), parse_rule(options.partition)
    if names and options.choose_by != BY_TPM:
        raise WrongUseError(f"--choose-by {options.choose_by} chooses among layers, and --layers names them: give one.")
    chooses, divides = names is None, names is None or bool(names)
    scores: list[LayerScores] = []
    if given is not None:
        for score in given:
            expect(score, LayerScores, "LayerScores in scores")
        scores = latest_window(given)
    elif (chooses and choice.by_tpm) or (divides and rule.needs_scores):
        if iteration is None:
            raise WrongUseError(
                "--weights alone has no TPM: give --layers or --choose-by, and a --partition score:NAME, random:SEED, "
                "list:... or all"
            )
        windows = () if options.window is None else (options.window,)
        scores = latest_window(measure_tpm(training, iteration, windows=windows))
    doubts = warnings(scores, momentum_of(training) or 0.0, list(training.snapshots()), chooses)
    looked_at = {choice.saliency if chooses else "", rule.saliency if divides else ""} - {""}
    saliency: list[Saliency] = []
    if looked_at:
        saliency = measure_saliency(
            training,
            weights=weights,
            batches=options.batches,
            engine=options.engine,
            ignore_extra_weights=options.ignore_extra_weights,
        )
        note = synflow_note(saliency)
        doubts += [note] if note and "synflow" in looked_at else []
    return KnownScores(tuple(scores), tuple(saliency), tuple(doubts))
