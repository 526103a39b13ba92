"""What can be said of a training before PyTorch is loaded: whether the engine can run its nets, and the command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caffe_split.engine.require import require_torch
from caffe_split.engine.spec.support import Problem, judge, layers_of, refusal
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.net.options import Options
from caffe_split.net.training import open_training

_MEMORY = "MemoryData is given its arrays in Python (caffe_split.engine.Solver, net.set_input_arrays), not by a command"


def check_training(solver: Path) -> None:
    """Raises `CaffeSplitError` with whatever the engine cannot run in the nets of a solver, all of it at once."""
    problems = []
    for document, phase, state in _nets(solver):
        stages, level = [str(stage) for stage in state.all("stage")], int(state.get("level"))
        layers = layers_of(document, phase, stages, level)
        problems += judge(document, layers)[0]
        problems += [
            Problem(document.filename, layer.field.line, f"layer '{layer.name}': {_MEMORY}")
            for layer in layers
            if layer.type == "MemoryData"
        ]
    if problems:
        raise refusal(problems)


def _nets(path: Path) -> Iterator[tuple[prototxt.Document, str, Options]]:
    """The train net and the test nets, each with the state that the solver asks for."""
    training = open_training(path)
    solver = training.solver
    if solver is None or training.solver_path is None or training.solver_path.resolve() != path.resolve():
        raise CaffeSplitError(f"{path} is a net, not a solver; give the solver file that names it")
    options = Options("SolverParameter", [solver])
    yield training.net, "TRAIN", options.sub("train_state")
    tests = [solver.inner(message) for message in solver.subs("test_net_param")]
    tests += [read_net(str(name), upgrade=True) for name in options.all("test_net")]
    tests += [training.net] * (len(options.all("test_iter")) - len(tests))
    states = options.subs("test_state")
    for index, document in enumerate(tests):
        yield document, "TEST", states[index] if index < len(states) else Options("NetState", [])


@dataclass(frozen=True)
class Choices:
    """How the engine is to train, None where it shall choose itself; as flags of `python -m caffe_split.engine`."""

    device: str | None = None
    seed: int | None = None
    precision: str | None = None
    compile: bool = False
    processes: int | None = None
    sync_bn: bool = False
    scale_batch: bool = False
    continue_data: bool = False

    def words(self) -> list[str]:
        """The flags, on every command that trains so."""
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
    check_training(solver)
    words = [sys.executable, "-m", "caffe_split.engine", str(solver)]
    for name, value in (("weights", weights), ("snapshot", snapshot), ("threads", threads)):
        if value is not None:
            words += [f"--{name}", str(value)]
    return words + choices.words()
