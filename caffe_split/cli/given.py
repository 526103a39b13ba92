"""Files that are given in the wrong place: the one table of what each argument takes, and the check of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from caffe_split.errors import CaffeSplitError

_NETS = ("net", "solver")
# Command -> parameter -> the kinds of files that it takes (see `formats.kinds`, which recognises all of them except
# names and studies); what is sure to be another kind is refused.
TAKEN: dict[str, dict[str, tuple[str, ...]]] = {
    "instrument": {"net": _NETS},
    "tpm": {"source": (*_NETS, "weights", "log", "folder"), "weights": ("weights",)},
    "make-derived": {"net_or_solver": _NETS, "weights": ("weights",), "deploy": ("net",)},
    "multisplit": {"solver": ("solver", "net"), "weights": ("weights",), "deploy": ("net",)},
    "verify": {
        "baseline": _NETS,
        "derived": _NETS,
        "baseline_weights": ("weights",),
        "derived_weights": ("weights",),
        "input_file": ("array",),
    },
    "fold": {"net": _NETS, "weights": ("weights",), "deploy": ("net",)},
    "export": {"net": ("net",), "weights": ("weights",), "transform_of": ("net",)},
    "summary": {"net": _NETS, "other": _NETS},
    "draw": {"net": _NETS},
    "kernels": {"net": _NETS, "weights": ("weights",)},
    "train": {"solver": ("solver", "net"), "weights": ("weights",), "snapshot": ("state",)},
    "test": {
        "net": _NETS,
        "weights": ("weights",),
        "labels": ("names",),
        "images": ("picture",),
        "transform_of": ("net",),
    },
    "time": {"net": _NETS},
    "extract": {"net": _NETS, "weights": ("weights",), "images": ("picture", "folder"), "transform_of": ("net",)},
    "best": {"logs": ("log", "folder")},
    "final": {"logs": ("log", "folder")},
    "table": {"logs": ("log", "folder")},
    "watch": {"log": ("log", "folder")},
    "report": {"folders": ("log", "folder")},
    "study": {"file": ("study",)},
}
# The same for every command that has the parameter.
TAKEN_EVERYWHERE: dict[str, tuple[str, ...]] = {"caffe_proto": ("schema",)}

# What a parameter takes in the tables, but the command refuses with more to say, such as the solvers beside a net: it
# is not named among what is taken.
_REFUSED_LATER = {("train", "solver"): "net", ("multisplit", "solver"): "net", ("tpm", "source"): "folder"}

_WORDS = {
    "net": "a net",
    "solver": "a solver",
    "weights": "weights (.caffemodel)",
    "state": "a solver state (.solverstate)",
    "schema": "a caffe.proto",
    "log": "a training log",
    "array": "an array of NumPy (.npy or .npz)",
    "picture": "an image",
    "folder": "a folder",
    "names": "a text file with the name of one class per line",
    "study": "a study (.yaml)",
}


def taken_by(command: str, param: click.Parameter) -> tuple[str, ...] | None:
    """The kinds of files that a parameter of a command takes; None where it is none of those in the table."""
    name = param.name or ""
    return TAKEN.get(command, {}).get(name, TAKEN_EVERYWHERE.get(name))


def check_given(command: str, params: list[click.Parameter], values: dict[str, Any]) -> None:
    """Raises `CaffeSplitError` for a file, among a command's `values`, that is sure to be of another kind than taken.

    It says what the file is, and which parameter or command takes such a file.
    """
    for param in params:
        kinds = taken_by(command, param)
        if kinds is not None:
            for path in _paths(values.get(param.name or "")):
                others = [other for other in params if other is not param]
                _check(command, param, kinds, path, {other: values.get(other.name or "") for other in others})


def _paths(value: Any) -> Iterator[str]:
    """The paths in the value of a parameter: one, several, or several with commas between them."""
    if value is None:
        return
    for each in value if isinstance(value, (tuple, list)) else (value,):
        yield from str(each).split(",") if isinstance(each, str) else (str(each),)


def _check(
    command: str, param: click.Parameter, kinds: tuple[str, ...], path: str, others: dict[click.Parameter, Any]
) -> None:
    if "log" in kinds and _begins_as_log(path):
        return  # without loading the libraries of nets and weights
    from caffe_split.formats.kinds import kind_of

    found = kind_of(path)
    if found is None or found.kind in kinds or (found.kind in ("packed", "stream") and "log" in kinds):
        return
    later = _REFUSED_LATER.get((command, param.name or ""))
    wanted = " or ".join(_WORDS[kind] for kind in kinds if kind != later)
    place = _place_for(found.kind, command, others)
    raise CaffeSplitError(f"{path}: {found.sentence}; {_shown(param)} takes {wanted}.{place}")


def _begins_as_log(path: str) -> bool:
    from caffe_split.files import open_again
    from caffe_split.trainlog.lines import PREFIX

    try:
        with open_again(path) as stream:
            head = stream.read(4096)
    except (OSError, ValueError):
        return False
    # A net may cite a log in the comment at its head.
    return not head.lstrip().startswith(b"#") and PREFIX.search(head) is not None


def _place_for(kind: str, command: str, others: dict[click.Parameter, Any]) -> str:
    """Where a file of a kind would go: another parameter of the same command, else other commands.

    Nowhere where all such parameters, or an argument, have a file of the right kind already.
    """
    fitting = {other: value for other, value in others.items() if kind in (taken_by(command, other) or ())}
    free = [_shown(other) for other, value in fitting.items() if not _is_right(command, other, value)]
    if any(isinstance(other, click.Argument) and _shown(other) not in free for other in fitting):
        return ""
    if free:
        return f" Give it as {' or '.join(free)}."
    if fitting:
        return ""
    commands = [name for name, own in TAKEN.items() if name != command and any(kind in each for each in own.values())]
    return f" Commands that take one: {', '.join(commands)}." if commands and kind != "folder" else ""


def _is_right(command: str, param: click.Parameter, value: Any) -> bool:
    """Whether a parameter that takes one file has one of a kind that it takes."""
    from caffe_split.formats.kinds import kind_of

    paths = list(_paths(value))
    if param.multiple or param.nargs != 1 or len(paths) != 1:
        return False
    found = kind_of(paths[0])
    return found is not None and found.kind in (taken_by(command, param) or ())


def _shown(param: click.Parameter) -> str:
    return param.human_readable_name if isinstance(param, click.Argument) else param.opts[0]
