"""The nets that a solver builds, and the state of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.net.options import Options
from caffe_split.net.state import TEST, NetState, state_of_training, states_of_tests
from caffe_split.net.training import open_training
from caffe_split.net.which_net import solver_test_net_fields


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


def solver_test_nets(solver: prototxt.Document, net: prototxt.Document) -> list[prototxt.Document]:
    """The test nets of a solver in Caffe's order, one per test_iter; `net` is the one that it trains.

    Those within the solver come first, then those in files, then `net` once for every test_iter that is left. Raises
    `CaffeSplitError` for fewer test_iter than test nets, and for more if `net` is a train_net: such a net never tests.
    """
    count = len(solver.get_all("test_iter"))
    found: list[prototxt.Document] = []
    for field in solver_test_net_fields(solver):
        for value in field.values():
            inner = isinstance(value, prototxt.Message)
            found.append(solver.inner(value) if inner else read_net(str(value), upgrade=True))
    if count < len(found) or (solver.has("train_net") and count != len(found)):
        raise CaffeSplitError(f"{solver.filename}: {count} test_iter for {len(found)} test nets.")
    return found + [net] * (count - len(found))
