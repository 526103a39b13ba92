"""The net that a command is given, by itself or by its solver, and the state in which it is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, scratch, write_atomic
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net, read_net_or_solver
from caffe_split.net.bottoms import lacking_bottoms
from caffe_split.net.layers import Layer, phase_layers
from caffe_split.net.options import Options
from caffe_split.net.state import AskedState, NetState, state_of_solver, states_of_tests
from caffe_split.net.which_net import (
    inline_name,
    inline_net,
    needed_as_file,
    net_file,
    place_among_tests,
    solver_net_path,
    solver_test_net_fields,
    solvers_in,
    trains,
)


class NetOfSolver(NamedTuple):
    """A net that a solver builds.

    path: its file, or the name that one within the solver gets in a file of its own. key: the solver's field that it
    stands in; None where it has a file. document: its text.
    """

    path: Path
    key: str | None
    document: prototxt.Document


def net_of_solver(
    solver: prototxt.Document, phase: str, upgrade: bool = True, caffe_proto: PathLike | None = None
) -> NetOfSolver:
    """The net that a solver trains, or (phase TEST) the first that it tests; the one that it trains if it has no other.

    With `upgrade` an old net is in today's form; one within the solver stays as it is, as in Caffe. Raises
    `CaffeSplitError` where the file is not there or cannot be read.
    """
    path = Path(solver.filename)
    fields = solver_test_net_fields(solver) if phase == "TEST" else []
    if fields:
        first = fields[0].values()[0]
        if isinstance(first, prototxt.Message):
            return NetOfSolver(inline_name(path, "test0_net_param"), "test_net_param", solver.inner(first))
        file = net_file(solver, "test_net", str(first))
        return NetOfSolver(file, None, read_net(file, upgrade, caffe_proto))
    inline = None if solver.has("net") or solver.has("train_net") else inline_net(solver)
    if inline is not None:
        return NetOfSolver(inline_name(path, inline[0]), inline[0], solver.inner(inline[1]))
    file = solver_net_path(solver)
    return NetOfSolver(file, None, read_net(file, upgrade, caffe_proto))


class ChosenNet(NamedTuple):
    """A net that was given, or that of a solver, in today's form.

    path, key: as those of `NetOfSolver`. solver: the one that was given; None where the net was.
    """

    path: Path
    key: str | None
    document: prototxt.Document
    solver: prototxt.Document | None

    @property
    def file(self) -> Path:
        """The file in which the net stands: its own, or the solver's."""
        return Path(self.document.filename)

    def state(self, asked: NetState | AskedState) -> NetState:
        """The state that is asked for; what is not given is as the solver has it, if one was given.

        A net that was given is built as `caffe test` builds it, without stages at level 0. If Caffe cannot build it so,
        what is not given is as the solver beside it has it. The net's own `state` comes on top, see `NetState.in_net`.

        Raises `CaffeSplitError` where several solvers beside it build it with other layers.
        """
        if self.solver is not None:
            return asked.over(state_of_solver(self.solver, asked.phase))
        plain = asked.over(NetState(asked.phase))
        if isinstance(asked, NetState) or self.is_built(plain):
            return plain
        states = {path: asked.over(own) for path, own in self._states_beside(asked.phase)}
        states = {path: state for path, state in states.items() if self.is_built(state)}
        if len({self._layers_in(state) for state in states.values()}) > 1:
            width = max(len(str(path)) for path in states)
            listed = "".join(f"\n  {path!s:{width}}  {state.words}" for path, state in states.items())
            raise CaffeSplitError(
                f"{self.path}: {len(states)} solvers beside it name this net, and with their stages and levels it has "
                "other layers. Give the one that is meant in place of the net, or say the stage and the level by the "
                f"options of these names:{listed}"
            )
        return next(iter(states.values()), plain)

    def is_built(self, state: NetState) -> bool:
        """Whether each bottom of the net in that state has one layer above that gives it, as Caffe demands."""
        return is_built(self.document, phase_layers(self.document, state.in_net(self.document)))

    def _layers_in(self, state: NetState) -> tuple[int, ...]:
        return tuple(id(layer.field) for layer in phase_layers(self.document, state.in_net(self.document)))

    def _states_beside(self, phase: str) -> Iterator[tuple[Path, NetState]]:
        """The solvers beside the net that build it in the phase, and the state in which each does."""
        for path, solver in solvers_in(self.path.parent):
            if phase == "TRAIN":
                if trains(solver, self.path):
                    yield path, state_of_solver(solver, phase)
                continue
            place = place_among_tests(solver, self.path)
            if place is not None:
                states = states_of_tests(Options("SolverParameter", [solver]))
                yield path, states[place] if place < len(states) else NetState(phase)

    def need_file(self) -> Path:
        """The file of the net. Raises `CaffeSplitError` for one within a solver."""
        if self.key is not None:
            raise needed_as_file(self.document, self.key, self.path)
        return self.path

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """The file of the net; of one within a solver a copy for as long as the context lasts."""
        if self.key is None:
            yield self.path
            return
        with scratch() as folder:
            path = folder / self.path.name
            write_atomic(path, self.document.to_bytes())
            yield path


def is_built(document: prototxt.Document, layers: Sequence[Layer]) -> bool:
    """Whether Caffe can join these layers of a net, in order: each bottom is given above, and no top twice."""
    if not layers or lacking_bottoms(document, layers):
        return False
    given = {str(name) for name in document.get_all("input")}
    for layer in layers:
        tops = set(layer.tops) - set(layer.bottoms)
        if tops & given:
            return False
        given |= tops
    return True


def choose_net(path: PathLike, phase: str, caffe_proto: PathLike | None = None) -> ChosenNet:
    """The net at `path`, or that of the solver there, see `net_of_solver`.

    Raises `CaffeSplitError` as `read_net_or_solver` does, and where the solver's net is not there.
    """
    given = read_net_or_solver(path, caffe_proto)
    if given.kind == "solver":
        return ChosenNet(*net_of_solver(given, phase, True, caffe_proto), given)
    return ChosenNet(Path(path), None, read_net(path, True, caffe_proto), None)
