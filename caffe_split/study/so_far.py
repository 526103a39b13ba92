"""What a study has so far: of one that is not finished, or that still runs, the seeds whose steps have all ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from caffe_split.errors import CaffeSplitError
from caffe_split.files import sha256
from caffe_split.study import nets
from caffe_split.study.checks import check_name
from caffe_split.study.model import Study
from caffe_split.study.paths import PLAN, read_json
from caffe_split.study.pieces import piece
from caffe_split.study.plan import StudyStep, steps_of


@dataclass(frozen=True)
class SoFar:
    """A study with its whole seeds only; `planned` are all of its seeds, `done` of `steps` steps have ended."""

    study: Study
    planned: tuple[int, ...]
    done: int
    steps: int

    def __str__(self) -> str:
        whole = ", ".join(map(str, self.study.seeds))
        return (
            f"whole seeds: {len(self.study.seeds)} of {len(self.planned)} ({whole}); {self.done} of {self.steps} steps "
            "have ended. Nothing was run, and other seeds are left out."
        )


def so_far(study: Study, out: Path, wanted: Mapping[str, Any] | None = None) -> SoFar:
    """What the folder `out` has of `study`, which is as its file says; nothing in `out` is changed.

    All settings are those with which the folder was begun; of the file only its place is used, since the folder may
    come from another checkout. `wanted` may have the `scale` that the folder must have, `seeds`, how many of its seeds
    are looked at, and `only`, names of its runs as in `piece`. Raises `CaffeSplitError` where `out` is no folder of
    this study, where the solver or net is another by now, for a name that is none of its runs, and where no seed is
    whole.
    """
    if not (out / PLAN).exists():
        raise CaffeSplitError(f"{out} is no folder of a study: it has no {PLAN}; name the study's with --out")
    plan = read_json(out / PLAN)
    try:
        begun = Study.from_dict(plan["study"])
        inputs = dict(plan["inputs"])
    except (TypeError, KeyError, AttributeError, ValueError):
        raise CaffeSplitError(f"{out / PLAN}: a plan of another version; use the version that wrote it") from None
    check_name(study, begun.name, out)
    for path in (study.solver, nets.net_path(study)):
        if sha256(path) not in inputs.values():
            raise CaffeSplitError(f"{path}: it has changed since {out} was begun; use the checkout that began it")
    wanted, planned = wanted or {}, begun.seeds
    if "scale" in wanted and study.scale != begun.scale:
        raise CaffeSplitError(f"{out}: its runs have scale {begun.scale}, not {study.scale}; leave --scale out")
    if "seeds" in wanted:
        begun = replace(begun, seeds=tuple(seed for seed in begun.seeds if seed in study.seeds))
    begun = replace(begun, only=())
    if "only" in wanted:
        begun = piece(replace(begun, file=out / PLAN), wanted["only"])
    steps = steps_of(begun)
    left = [step for step in steps if not (out / step.output).exists()]
    whole = tuple(seed for seed in begun.seeds if all(step.seed != seed for step in left))
    if not whole:
        raise CaffeSplitError(
            f"{out}: no seed is whole yet: {len(left)} of {len(steps)} steps are left, {_next(left)}; "
            "--only RUN,... takes the runs that are done"
        )
    found = replace(begun, seeds=whole, file=study.file, solver=study.solver, root=study.root)
    return SoFar(found, planned, len(steps) - len(left), len(steps))


def _next(left: list[StudyStep]) -> str:
    """The steps without which the first seed is not whole."""
    first = [step.title for step in left if step.seed in (-1, min(step.seed for step in left if step.seed >= 0))]
    return f"of its first seed {', '.join(first[:3])}{f' and {len(first) - 3} more' if len(first) > 3 else ''}"
