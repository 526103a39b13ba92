"""Opening a training: its solver and its net, and the files that belong to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check
from caffe_split.formats.prototxt.nets import read_net_or_solver, read_solver
from caffe_split.formats.prototxt.upgrade import types_of_forks, upgrade_old
from caffe_split.net.bottoms import check_bottoms
from caffe_split.net.chosen import net_of_solver
from caffe_split.net.layers import Layer, phase_layers
from caffe_split.net.snapshots import find_snapshots, snapshot_prefix
from caffe_split.net.state import TRAIN, AskedState, NetState, state_of_solver
from caffe_split.net.which_net import Solver, expect_one_net, not_taken, solvers_naming
from caffe_split.net.which_solver import listing


@dataclass(frozen=True)
class Training:
    """A net and, where there is one, the solver that trains it.

    `net` and `solver` are their texts without loss, `net_path` and `solver_path` the files; there may be no solver.
    `upgraded` has one line per change that brought an old net to today's form, `old_types` the types of a fork's old
    layers, whose names in that form are not known. `is_inline` means that the net stands
    in the text of the solver; `net_path` is then the name that it gets in a file of its own. `caffe_proto` is
    the schema of a fork that the files were read by. `notes` name what is kept of a fork's fields, or slips, and
    solvers beside the net that are not taken for its own. `solvers`
    are those that name the net where there is more than one, and none was given. `asked` is the state to build the net
    in, in place of the solver's.
    """

    net_path: Path
    net: prototxt.Document
    solver_path: Path | None
    solver: prototxt.Document | None
    upgraded: tuple[str, ...] = ()
    is_inline: bool = False
    caffe_proto: Path | None = None
    notes: tuple[str, ...] = ()
    solvers: tuple[Solver, ...] = ()
    asked: NetState | None = None
    old_types: tuple[str, ...] = ()

    @property
    def state(self) -> NetState:
        """The state in which the solver trains, or that was asked for; phase TRAIN alone without either."""
        return self.asked or self.state_in("TRAIN")

    @property
    def says_state(self) -> bool:
        """Whether a solver or the user says the stages and the level of the net."""
        return self.solver is not None or self.state != TRAIN.in_net(self.net)

    def state_in(self, phase: str) -> NetState:
        """The state in which the solver trains, or (phase TEST) that of its first test net."""
        return state_of_solver(self.solver, phase).in_net(self.net)

    def asked_for(self, phase: str, stages: tuple[str, ...] = (), level: int | None = None) -> Training:
        """This training with its net in `phase`, with these stages and this level in place of the solver's if given."""
        asked = AskedState(phase, stages, level).over(self.state_in(phase))
        return replace(self, asked=asked.in_net(self.net))

    def need_known_types(self) -> None:
        """Raises `CaffeSplitError` where the net cannot be written in today's form."""
        if self.old_types:
            raise CaffeSplitError(
                f"{self.net_path}: the net would be written in the new form (`layer`), and what the old layer types "
                f"{', '.join(self.old_types)} of a fork are called there is not known. Bring it to the new form by the "
                "fork's own upgrade_net_proto_text first."
            )

    def need_bottoms(self) -> None:
        """Raises `CaffeSplitError` where Caffe would not build the net for its bottoms, see `check_bottoms`.

        Also in the phase TEST if the solver tests this net, but there only for bottoms that no layer gives in any
        state.
        """
        check_bottoms(self.net, self.state, known=self.says_state)
        solver = self.solver
        if solver is not None and solver.has("test_iter") and (solver.has("net") or solver.has("net_param")):
            check_bottoms(self.net, self.state_in("TEST"), known=False)

    def need_one_solver(self) -> None:
        """Raises `CaffeSplitError` where several solvers name the net and none was given: the choice is the user's."""
        if self.solvers:
            raise CaffeSplitError(
                f"{self.net_path}: {len(self.solvers)} solvers name this net, and what comes depends on the solver. "
                f"Give the one that is meant in place of the net:{listing(self.solvers)}"
            )

    def train_layers(self) -> list[Layer]:
        """The layers of the net that the solver trains, in file order."""
        return phase_layers(self.net, self.state)

    @property
    def prefix(self) -> str | None:
        """What the names of the solver's snapshots begin with; None without a solver."""
        if self.solver is None or self.solver_path is None:
            return None
        return snapshot_prefix(self.solver_path, self.solver.get("snapshot_prefix", ""))

    def snapshots(self, ending: str = "caffemodel") -> dict[int, Path]:
        """Iteration -> snapshot file, in order; HDF5 ones (`.h5`) too, binaryproto first where both exist."""
        if self.prefix is None:
            return {}
        return find_snapshots(self.prefix, ending)

    def snapshot(self, iteration: int) -> Path:
        """The snapshot of that iteration. Raises `CaffeSplitError` naming those that exist."""
        found = self.snapshots()
        if iteration in found:
            return found[iteration]
        self.need_one_solver()
        if self.prefix is None:
            raise CaffeSplitError(
                f"{self.net_path}: no solver beside it names this net, so it is not known where its snapshots "
                "are. Give the solver instead, or the weights themselves."
            )
        known = ", ".join(map(str, found)) or "there is none"
        raise CaffeSplitError(
            f"no snapshot of iteration {iteration} at {self.prefix}_iter_{iteration}.caffemodel[.h5] "
            f"(seen from {Path.cwd()}). Iterations with one: {known}."
        )


def weights_named(texts: Iterable[str]) -> list[str]:
    """The files that `--weights` or the fields `weights` of a solver name, of which each may name several."""
    return [name.strip() for text in texts for name in text.split(",")]


def open_training(
    path: PathLike, upgrade: bool = True, caffe_proto: Path | None = None, phase: str = "TRAIN"
) -> Training:
    """Open a net or a solver, whichever the file holds, and find the other one.

    Of a solver, the net is the one that it trains, or (phase TEST) the first that it tests, as `net_of_solver` has it.

    Of a net, the solver is the one beside it whose `net` or `train_net` names it; where several do, it is none of them,
    and `Training.solvers` has them. A V0 or V1 net, or one with `input` fields, is brought to today's form in memory,
    as Caffe does on loading, unless `upgrade` is False. A net within a solver stays as it is, as in Caffe.
    `caffe_proto` is the caffe.proto of a fork, whose fields are then known, too. Raises
    `CaffeSplitError` as `read_net` and `read_solver` do, and for a solver that does not name one training net
    (`net`, `net_param`, `train_net` or `train_net_param`).

    >>> import os, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> net, solver = os.path.join(folder, "net.prototxt"), os.path.join(folder, "solver.prototxt")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('layer { name: "data" type: "Input" top: "data" }')
    >>> with open(solver, "w") as stream:
    ...     _ = stream.write(f'net: "{net}" snapshot_prefix: "{folder}/net"')
    >>> training = open_training(net)
    >>> str(training.solver_path) == solver, [layer.name for layer in training.train_layers()], training.snapshots()
    (True, ['data'], {})
    """
    document = read_net_or_solver(path, caffe_proto)
    solver_path: Path | None
    solver: prototxt.Document | None
    named: list[Solver] = []
    if document.kind == "solver":
        solver_path, solver = Path(path), document
        expect_one_net(document)
        net_path, key, net = net_of_solver(document, phase, False, caffe_proto)
        if key is not None:
            notes = tuple(check.notes(document))
            return Training(net_path, net, solver_path, solver, (), True, caffe_proto, notes)
    else:
        net_path, net = Path(path), document
        named = solvers_naming(net_path)
        solver_path = named[0][0] if len(named) == 1 else None
        solver = read_solver(solver_path, caffe_proto=caffe_proto) if solver_path is not None else None
    kept = (*check.notes(net), *(check.notes(solver) if solver is not None else not_taken(net_path)))
    old_types = tuple(types_of_forks(net)) if upgrade else ()
    upgraded = tuple(upgrade_old(net, fork_types=True)) if upgrade else ()
    solvers = tuple(named) if len(named) > 1 else ()
    return Training(net_path, net, solver_path, solver, upgraded, False, caffe_proto, kept, solvers, None, old_types)
