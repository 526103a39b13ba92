"""The nets that a solver builds, and the state of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.options import Options
from caffe_split.net.state import TEST, NetState, state_of_training, states_of_tests
from caffe_split.net.training import open_training, solver_test_nets


def nets_of(path: Path) -> Iterator[tuple[prototxt.Document, NetState]]:
    """The train net and the test nets of a solver, each with the state that it asks for.

    Raises `CaffeSplitError` for a file that is no solver.
    """
    training = open_training(path)
    solver = training.solver
    if solver is None or training.solver_path is None or training.solver_path.resolve() != path.resolve():
        raise CaffeSplitError(f"{path} is a net, not a solver; give the solver file that names it")
    options = Options("SolverParameter", [solver])
    yield training.net, state_of_training(options)
    states = states_of_tests(options)
    for index, document in enumerate(solver_test_nets(solver, training.net)):
        yield document, states[index] if index < len(states) else TEST
