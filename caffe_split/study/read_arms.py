"""The arms of a study's YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from caffe_split.derivation.choice import parse_choice
from caffe_split.derivation.options import Schedule
from caffe_split.errors import CaffeSplitError
from caffe_split.split.kinds import KIND_NAMES
from caffe_split.split.layer import Init
from caffe_split.split.partition import parse_rule
from caffe_split.split.parts import Activation, SkipPool
from caffe_split.study.arm import Arm
from caffe_split.study.model import is_control_name
from caffe_split.study.values import Values

INITS: tuple[Init, ...] = get_args(Init)
SKIP_POOLS: tuple[SkipPool, ...] = get_args(SkipPool)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
_ARM = tuple(field for field in Arm.__dataclass_fields__)


class Arms(Values):
    """Takes arms out of a study's values. Every method raises `CaffeSplitError` for what cannot be one."""

    def chains(self, arms: Sequence[Arm], schedule: Schedule) -> None:
        """Check the arms that split another arm's net again."""
        before: list[str] = []
        for arm in arms:
            where = f"arm {arm.name}: after"
            if arm.after:
                if schedule != "restart":
                    raise self.wrong(where, f"expected schedule: restart, found {schedule}; with it, give rounds")
                if arm.layers:
                    raise self.wrong(where, "a later round chooses among other layers: give num_splits, not layers")
                self.one_of(arm.after, before, where)
            before.append(arm.name)

    def arms(self, value: Any, common: Mapping[str, Any]) -> tuple[Arm, ...]:
        """The arms; `common` has the study's `layers` or `num_splits`, for arms without either."""
        if not isinstance(value, list) or not value:
            raise self.wrong("arms", "expected a list of arms, each with a name and a kind")
        arms: list[Arm] = []
        for number, given in enumerate(value, 1):
            label = str(given.get("name", number)) if isinstance(given, dict) else str(number)
            if isinstance(given, dict) and "seeds" in given:
                raise self.wrong(
                    f"arm {label}: seeds",
                    "an arm has no seeds of its own: all runs share the study's, since runs of a seed are pairs",
                )
            own = self.known(given, _ARM, f"arm {label}")
            arms.append(self.arm(own if {"layers", "num_splits"} & set(own) else {**common, **own}, f"arm {label}"))
        names = [arm.name for arm in arms]
        for name in names:
            if names.count(name) > 1:
                raise self.wrong("arms", f"two arms are named '{name}'")
            if is_control_name(name):
                raise self.wrong("arms", f"'{name}' is the name of a control; choose another")
        return tuple(arms)

    def arm(self, given: dict[str, Any], where: str) -> Arm:
        """One arm, from its keys."""
        kind = self.one_of(given.get("kind"), KIND_NAMES, f"{where}: kind")
        partition = str(given.get("partition", Arm.partition))
        try:
            parse_rule(partition.replace("SEED", "0"))
        except CaffeSplitError as error:
            raise self.wrong(f"{where}: partition", str(error)) from None
        choose_by = str(given.get("choose_by", Arm.choose_by))
        try:
            parse_choice(choose_by.replace("SEED", "0"))
        except CaffeSplitError as error:
            raise self.wrong(f"{where}: choose_by", str(error)) from None
        layers = self.names(given["layers"], f"{where}: layers") if given.get("layers") else ()
        count = self.whole(given.get("num_splits", Arm.num_splits), f"{where}: num_splits")
        rounds = given.get("rounds", [])
        if not isinstance(rounds, list):
            raise self.wrong(f"{where}: rounds", f"expected a list of iterations, found {rounds!r}")
        rounds = tuple(self.whole(at, f"{where}: rounds", 1) for at in rounds)
        if rounds and not count:
            raise self.wrong(f"{where}: rounds", "later rounds choose among other layers: give num_splits, not layers")
        if bool(layers) == bool(count):
            raise self.wrong(where, "give either layers or num_splits, here or for the whole study")
        if layers and choose_by != Arm.choose_by:
            raise self.wrong(f"{where}: choose_by", "it chooses among layers, and `layers` names them: give one")
        norm = given.get("branch_norm", Arm.branch_norm)
        if not isinstance(norm, bool):
            raise self.wrong(f"{where}: branch_norm", f"expected true or false, found {norm!r}")
        arm = Arm(
            name=self.name(given.get("name", kind), f"{where}: name"),
            kind=kind,
            rounds=rounds,
            after=self.name(given["after"], f"{where}: after") if given.get("after") else "",
            partition=partition,
            choose_by=choose_by,
            init=self.one_of(given.get("init", Arm.init), INITS, f"{where}: init"),
            layers=layers,
            num_splits=count,
            noise=self.number(given.get("noise", Arm.noise), f"{where}: noise", 10),
            branch_norm=norm,
            added_lr=self.number(given.get("added_lr", Arm.added_lr), f"{where}: added_lr", 1000),
            calibrate=self.whole(given.get("calibrate", Arm.calibrate), f"{where}: calibrate", 1),
            skip_pool=self.one_of(given.get("skip_pool", Arm.skip_pool), SKIP_POOLS, f"{where}: skip_pool"),
            residual_activation=self.one_of(
                given.get("residual_activation", Arm.residual_activation),
                ACTIVATIONS,
                f"{where}: residual_activation",
            ),
        )
        for key, by in arm.unread.items():
            raise self.wrong(f"{where}: {key}", f"nothing in this arm reads it; it is for {by}: leave it out")
        return arm
