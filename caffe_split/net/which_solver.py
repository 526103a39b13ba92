"""Several solvers name one net: what distinguishes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caffe_split.formats import prototxt

Solvers = Sequence[tuple[Path, prototxt.Document]]

# What a solver is known by comes first.
_FIRST = ("type", "base_lr", "lr_policy", "max_iter", "snapshot_prefix", "momentum", "weight_decay")
_MOST = 5


def listing(solvers: Solvers) -> str:
    """The solvers, a line each, with the settings in which they differ; an absent setting has Caffe's default."""
    written = [name for _, solver in solvers for name in (f.name for f in solver.fields if f.message is None)]
    names = [name for name in dict.fromkeys([*_FIRST, *written]) if len(set(_values(solvers, name))) > 1][:_MOST]
    columns = {name: _values(solvers, name) for name in names}
    width = max((len(str(path)) for path, _ in solvers), default=0)
    return "".join(
        f"\n  {path!s:{width}}  "
        + (", ".join(f"{name} {values[index]}" for name, values in columns.items()) or _alike(solvers))
        for index, (path, _) in enumerate(solvers)
    )


def _alike(solvers: Solvers) -> str:
    return "(all settings are equal)" if len(solvers) > 1 else ""


def agreed(solvers: Solvers, name: str) -> bool:
    """Whether all the solvers say the same of a setting."""
    return len(set(_values(solvers, name))) <= 1


def _values(solvers: Solvers, name: str) -> list[str]:
    return [_value(solver, name) for _, solver in solvers]


def _value(solver: prototxt.Document, name: str) -> str:
    values = solver.get_all(name) or [solver.get(name)]
    return " ".join(_word(value) for value in values if value not in (None, "")) or "none"


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
