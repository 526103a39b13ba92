"""A study small enough for a test: the digits for 30 iterations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caffe_split.backends.choose import backends
from tests.support import ROOT

# An engine that trains here: that of the studies that are begun in tests which need no Caffe.
HERE = next((each.name for each in backends() if each.is_there()), "caffe")

TINY: dict[str, Any] = {
    "solver": "solver.prototxt",
    "root": str(ROOT / "prototxt"),
    "data": "data",
    "make_data": "digits",
    "engine": "caffe",
    "seeds": [3, 5],
    "split": 10,
    "window": "0:10",
    "interval": 5,
    "num_splits": 2,
    "arms": [{"name": "added", "kind": "residual"}],
    "controls": {"random": "none", "wider": "none"},
}


def write_study(folder: Path, **changes: Any) -> Path:
    """`tiny.yaml` in `folder`, with its solver; a change to None takes a key out."""
    import yaml

    text = (ROOT / "prototxt/digits/solver.prototxt").read_text()
    for old, new in (
        ("max_iter: 2000", "max_iter: 30"),
        ("test_interval: 50", "test_interval: 10"),
        ("snapshot: 100", "snapshot: 5"),
        ("display: 20", "display: 10"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "solver.prototxt").write_text(text)
    value = {key: kept for key, kept in {**TINY, **changes}.items() if kept is not None}
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(value))
    return file
