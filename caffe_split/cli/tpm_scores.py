"""`caffe-split tpm --scores`: TPM beside the scores that the gradient of the loss gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from caffe_split.cli.options import print_json
from caffe_split.errors import CaffeSplitError, WrongUseError, counted

if TYPE_CHECKING:
    from caffe_split.net.training import Training
    from caffe_split.tpm.scores import LayerScores


class ScoresAsked(NamedTuple):
    """The options of `tpm` that belong to --scores: the weights in place of a snapshot, batches, and so on."""

    weights: Path | None
    batches: int
    engine: str | None
    ignore_extra: bool

    def show(
        self,
        training: Training,
        iteration: int | None,
        windows: Sequence[tuple[int, int]],
        layers: list[str] | None,
        as_json: bool,
    ) -> None:
        """Measure and print all scores. TPM that is not there is a note, no error."""
        from caffe_split.backends.choose import choose_backend
        from caffe_split.derivation.compare_scores import ScoreTable
        from caffe_split.derivation.measure_saliency import measure_saliency, synflow_note
        from caffe_split.tpm.collect import snapshot_after
        from caffe_split.tpm.scores import latest_window

        at = iteration
        if self.weights is None and at is None:
            at = snapshot_after(training, windows)
        backend = choose_backend(self.engine)
        saliency = measure_saliency(
            training,
            at,
            weights=self.weights,
            layers=layers,
            batches=self.batches,
            engine=backend.name,
            ignore_extra_weights=self.ignore_extra,
        )
        scores = latest_window(self._tpm(training, at, windows, layers))
        table = ScoreTable.of(scores, saliency)
        source = str(self.weights) if at is None else str(training.snapshot(at))
        if as_json:
            print_json({"weights": source, "batches": self.batches, "engine": backend.name, **table.as_dict()})
            return
        batches = counted(self.batches, "batch", "batches")
        click.echo(f"{source}: gradients of {batches}, run in {backend.title}")
        for line in table.lines():
            click.echo(line)
        if note := synflow_note(saliency):
            click.echo(f"note: {note}", err=True)

    def _tpm(
        self, training: Training, at: int | None, windows: Sequence[tuple[int, int]], layers: list[str] | None
    ) -> list[LayerScores]:
        from caffe_split.tpm.collect import measure_tpm

        if at is None:
            click.echo("note: weights alone have no TPM", err=True)
            return []
        try:
            return measure_tpm(training, at, windows=windows, layers=layers)
        except WrongUseError:
            raise
        except CaffeSplitError as error:
            click.echo(f"note: TPM is not known: {error}", err=True)
            return []
