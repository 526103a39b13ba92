"""A training before PyTorch is loaded: whether the engine can run its nets, and the command that does."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from caffe_split.engine.require import require_torch
from caffe_split.engine.spec.python_layers import load_python_layers
from caffe_split.engine.spec.support import (
    Problem,
    judge,
    judge_training,
    lacking_files,
    layers_of,
    refusal,
    refuse_own_phase,
)
from caffe_split.layertypes.records import fork_data
from caffe_split.layertypes.table import RECORDS, record_for
from caffe_split.net.layers import Layer
from caffe_split.net.solver_nets import nets_of


def _given_by(layer: Layer) -> str | None:
    """How a program gives the arrays of a layer whose data no command reads; None for all others."""
    if layer.type == "MemoryData":
        return "caffe_split.engine.Solver, net.set_input_arrays"
    engine = record_for(layer).engine
    return "caffe_split.engine.Net, forward" if engine is not None and engine.class_name == "Given" else None


def _because(layer: Layer) -> str:
    """What of a data layer of Caffe's own type is a fork's, after a colon; nothing for other types."""
    engine = record_for(layer).engine
    if engine is None or engine.class_name != "Given" or layer.type not in RECORDS or layer.type in fork_data.NAMES:
        return ""
    return f": {engine.ignored['*'].partition(', so its')[0]}"


def check_training(solver: Path) -> None:
    """Raises `CaffeSplitError` with everything in the nets of a solver that the engine cannot run."""
    problems = []
    for document, state in nets_of(solver):
        refuse_own_phase(document, state)
        layers = layers_of(document, state)
        found = judge(document, layers)[0]
        if not found and state.phase == "TRAIN":
            found = judge_training(document, layers)
        problems += found + lacking_files(document, layers)
        problems += [
            Problem(
                document.filename,
                layer.field.line,
                f"layer '{layer.name}': {layer.type} is given its arrays in Python ({_given_by(layer)}), not by a "
                f"command{_because(layer)}",
            )
            for layer in layers
            if _given_by(layer)
        ]
    if problems:
        raise refusal(problems)


@dataclass(frozen=True)
class Choices:
    """Options of the engine, those of `python -m caffe_split.engine`; None leaves the choice to the engine."""

    device: str | None = None
    seed: int | None = None
    precision: str | None = None
    compile: bool = False
    processes: int | None = None
    sync_bn: bool = False
    scale_batch: bool = False
    continue_data: bool = False
    python_layers: str | None = None
    workers: int | None = None

    def words(self) -> list[str]:
        """The options as words of a command line."""
        words = []
        for name, value in vars(self).items():
            flag = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(flag)
            elif value is not None and value is not False:
                words += [flag, str(value)]
        return words


def command_for(
    solver: Path, weights: str | None, snapshot: str | None, threads: int | None, choices: Choices
) -> list[str]:
    """The command that trains. Raises `CaffeSplitError` without PyTorch, and for nets that the engine cannot run."""
    require_torch()
    if choices.python_layers is not None:
        load_python_layers(choices.python_layers)
    check_training(solver)
    words = [sys.executable, "-m", "caffe_split.engine", str(solver)]
    for name, value in (("weights", weights), ("snapshot", snapshot), ("threads", threads)):
        if value is not None:
            words += [f"--{name}", str(value)]
    return words + choices.words()
