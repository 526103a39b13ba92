"""Whether the trainings of a study can run on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from caffe_split.backends.choose import backends, get_backend
from caffe_split.backends.protocol import NotFoundError
from caffe_split.engine.spec.command import Choices
from caffe_split.errors import CaffeSplitError
from caffe_split.study.model import Study

# Snakemake's options that may send the steps to other machines.
_ELSEWHERE = ("--executor", "-e", "--profile", "--workflow-profile")


def runs_here(extra: Sequence[str]) -> bool:
    """Whether the steps run on this machine, with these options for Snakemake.

    >>> runs_here(["--quiet"]), runs_here(["--executor=slurm"])
    (True, False)
    """
    given = {word.partition("=")[0] for word in extra}
    return given.isdisjoint(_ELSEWHERE) and not os.environ.get("SNAKEMAKE_PROFILE")


def check_trainer(study: Study) -> None:
    """Raises `CaffeSplitError` where the engine, the device or the precision of a study is not to be had here."""
    backend = get_backend(study.engine)
    try:
        backend.require_trainer(None)
        backend.require()  # the check of a folded net, and gradients after a split
    except NotFoundError as error:
        others = " or ".join(each.name for each in backends() if each.name != study.engine and each.is_there())
        instead = f", or write engine: {others}" if others else ""
        lacking = error.short.partition(";")[0]
        raise CaffeSplitError(f"{study.file}: engine: {lacking}: {backend.how_to_get}{instead}") from None
    except CaffeSplitError as error:
        raise CaffeSplitError(f"{study.file}: engine: {error}") from None
    try:
        backend.require_choices(study.solver, Choices(study.device, precision=study.precision))
    except CaffeSplitError as error:
        # They are options of commands, and keys of a study.
        said = re.sub("--(device|precision) ", r"\1: ", str(error))
        raise CaffeSplitError(f"{study.file}: {said}") from None
