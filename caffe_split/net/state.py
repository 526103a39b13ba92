"""The state in which a net is built: it decides which layers are in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from caffe_split.formats import prototxt
from caffe_split.net.options import Options

PHASES = ("TRAIN", "TEST")


@dataclass(frozen=True)
class NetState:
    """Caffe's NetState: what the rules of a layer (NetStateRule, in its `include` and `exclude`) are held against.

    phase: "TRAIN" or "TEST"; a rule with a `phase` is met in that one only.
    stages: names, in any order; a rule is met where each of its `stage` is among them and none of its `not_stage`.
    level: a rule is met from its `min_level` to its `max_level`, both included.

    A layer with `include` rules is in the net where one of them is met, one with `exclude` rules where none is.
    """

    phase: str = "TEST"
    stages: tuple[str, ...] = ()
    level: int = 0

    @classmethod
    def written(cls, phase: str, options: Options) -> NetState:
        """The state of `phase` with the stages and the level of a NetState message; its own phase is not read."""
        return cls(phase, tuple(str(stage) for stage in options.all("stage")), int(options.get("level")))

    @classmethod
    def of(cls, state: NetState | str) -> NetState:
        """A state, or a phase alone, which stands for that phase without stages at level 0."""
        return state if isinstance(state, NetState) else cls(state)

    def over(self, own: NetState) -> NetState:
        """This state whatever a net's `own` is: it was asked for as a whole; compare `AskedState`."""
        return self

    @property
    def words(self) -> str:
        """The state for a reader: `the TEST phase with no stages and level 0`."""
        stages = "stages " + ", ".join(self.stages) if self.stages else "no stages"
        return f"the {self.phase} phase with {stages} and level {self.level}"

    def in_phase(self, phase: str) -> NetState:
        """The same stages and level in another phase."""
        return replace(self, phase=phase)

    def added_to(self, own: NetState) -> NetState:
        """This state on top of a net's own `state`, as Caffe merges them: all stages, and the level where not 0."""
        return NetState(self.phase, tuple(dict.fromkeys((*own.stages, *self.stages))), self.level or own.level)

    def in_net(self, net: prototxt.Message) -> NetState:
        """The state in which this net is built: with the stages and the level of the net's own `state`."""
        own = net.sub("state")
        return self if own is None else self.added_to(NetState.written(self.phase, Options("NetState", [own])))

    def meets(self, rule: prototxt.Message) -> bool:
        """Whether the state meets a NetStateRule, as Caffe's `Net::StateMeetsRule` decides."""
        if rule.has("phase") and rule.get("phase") != self.phase:
            return False
        if rule.has("min_level") and self.level < rule.get("min_level"):
            return False
        if rule.has("max_level") and self.level > rule.get("max_level"):
            return False
        if any(stage not in self.stages for stage in rule.get_all("stage")):
            return False
        return not any(stage in self.stages for stage in rule.get_all("not_stage"))


@dataclass(frozen=True)
class AskedState:
    """What was asked for of a state: what is not given stays as the net's solver has it."""

    phase: str
    stages: tuple[str, ...] = ()
    level: int | None = None

    def over(self, own: NetState) -> NetState:
        """The state that is asked for where a net's `own` is known."""
        return NetState(self.phase, self.stages or own.stages, own.level if self.level is None else self.level)


TRAIN = NetState("TRAIN")
TEST = NetState("TEST")
# Phase TEST as the solver has it.
TESTED = AskedState("TEST")


def state_of_training(solver: Options) -> NetState:
    """The state in which a solver (its SolverParameter) trains: its `train_state`."""
    return NetState.written("TRAIN", solver.sub("train_state"))


def state_of_solver(solver: prototxt.Document | None, phase: str) -> NetState:
    """The state in which a solver trains, or (phase TEST) that of its first test net; the phase alone without either.

    A net's own `state` comes on top of it: `NetState.in_net`.
    """
    states = []
    if solver is not None:
        options = Options("SolverParameter", [solver])
        states = [state_of_training(options)] if phase == "TRAIN" else states_of_tests(options)
    return states[0] if states else NetState(phase)


def states_of_tests(solver: Options) -> list[NetState]:
    """The states in which a solver (its SolverParameter) tests, one per `test_state`; none where it says nothing."""
    return [NetState.written("TEST", options) for options in solver.subs("test_state")]
