"""Whether the baseline of a loop is trained, or has been: by the user's own training, or as given weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from caffe_split.errors import CaffeSplitError, WrongUseError
from caffe_split.net.training import Training
from caffe_split.rounds.options import MultiSplitOptions
from caffe_split.rounds.same_solver import check_same_solver
from caffe_split.rounds.training import LOG
from caffe_split.rounds.window import Watch
from caffe_split.tpm.collect import measure_tpm
from caffe_split.tpm.scores import latest_window


def adopted_watch(
    training: Training,
    watch: Watch,
    options: MultiSplitOptions,
    weights: Path | None,
    *,
    by_tpm: bool,
    begun: bool | None,
) -> tuple[Watch | None, str]:
    """What is watched of a baseline that has been trained, None where it is trained here; and the reason in words.

    weights: those to improve. by_tpm: whether layers or kernels are chosen by TPM. begun: whether the loop's folder was
    begun with such a baseline; None: it has not been begun. A loop that trains its baseline stays with that, whatever
    snapshots appear. Raises `CaffeSplitError` where the snapshots are those of another solver.
    """
    if weights is not None and not by_tpm:
        return watch, ""
    if weights is not None:
        return None, (
            "the weights have no history of TPM, so the baseline is trained on from them with TPM layers. With "
            "--choose-by snip --partition score:snip, or others that need no TPM, they are split as they are"
        )
    if begun is False:
        return None, ""
    return _own_training(training, watch, options, by_tpm)


def _own_training(
    training: Training, watch: Watch, options: MultiSplitOptions, by_tpm: bool
) -> tuple[Watch | None, str]:
    """What is watched of the user's own training, and why, as `adopted_watch` gives it.

    Without a choice of a window it is the one that the training's TPM layers sampled last.
    """
    assert training.solver is not None
    end, there = int(training.solver.get("max_iter", 0)), training.snapshots()
    if options.iteration is None:
        if end not in there:
            return None, ""
        condition = ", if its snapshots have TPM" if by_tpm else ""
        return None, (
            "the baseline is trained again, watched, to find where to split; with --iter N the training at "
            f"{training.prefix} is taken for it{condition}"
        )
    missing = [each for each in (options.iteration, end) if each not in there]
    if missing:
        return None, f"the baseline is trained: there is no snapshot of {missing[0]} at {training.prefix}"
    assert training.solver_path is not None
    check_same_solver(training, training.solver_path.parent / LOG)
    if by_tpm:
        try:
            found = measure_tpm(training, options.iteration, windows=[options.window] if options.window else ())
        except WrongUseError:
            raise
        except CaffeSplitError as error:
            return None, f"the baseline is trained again, watched: {error}"
        latest = latest_window(found)[0]
        watch = replace(watch, windows=((latest.start, latest.stop),))
    return watch, f"the baseline is the training at {training.prefix}"
