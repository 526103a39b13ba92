"""Shapes of a net's blobs and parameters by the built Caffe, and by the rules."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from caffe_split.formats import prototxt
from caffe_split.layertypes.shapes import NetShapes, document_inputs, infer_shapes
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import NetState


def in_caffe(
    path: Path, phase: str, cwd: Path | None = None
) -> tuple[dict[str, tuple[int, ...]], dict[str, list[tuple[int, ...]]]]:
    """Shapes of blobs and of layers' blobs in the built Caffe, without the copies of its Split layers."""
    program = Path(__file__).with_name("net_shapes.py")
    done = subprocess.run(
        [sys.executable, str(program), str(path), phase],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if line.startswith("F")]
    found = json.loads(done.stdout.splitlines()[-1])
    return (
        {
            name: tuple(shape)
            for name, shape in found["blobs"].items()
            if not re.search(r"_split_\d+$|^\(automatic\)$", name)
        },
        {name: [tuple(shape) for shape in shapes] for name, shapes in found["params"].items()},
    )


def ours(path: Path, phase: str, inputs: dict[str, tuple[int, ...]] | None = None) -> NetShapes:
    document = prototxt.read(path)
    return infer_shapes(phase_layers(document, NetState(phase)), {**document_inputs(document), **(inputs or {})})


def compare(path: Path, phase: str, cwd: Path | None = None) -> NetShapes:
    shapes = ours(path, phase)
    assert not shapes.unknown
    blobs, params = in_caffe(path, phase, cwd)
    assert shapes.blobs == blobs
    mine = {name: shapes.params.get(name, []) + shapes.state.get(name, []) for name in (*shapes.params, *shapes.state)}
    assert mine == params
    return shapes
