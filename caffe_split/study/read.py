"""A study's YAML, read and checked whole before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from caffe_split.backends.choose import backends, get_backend, names
from caffe_split.derivation.choice import parse_choice
from caffe_split.derivation.options import Schedule
from caffe_split.errors import CaffeSplitError
from caffe_split.split.kinds import KIND_NAMES
from caffe_split.split.layer import Init
from caffe_split.split.partition import parse_rule
from caffe_split.split.parts import Activation, SkipPool
from caffe_split.study.model import Arm, Device, Expected, Precision, Study
from caffe_split.study.scale import parse_scale, shortened
from caffe_split.study.values import Values

# A study goes on with the schedule unless its file says otherwise; so this choice is named first.
SCHEDULES: tuple[Schedule, ...] = ("continue", "restart")
INITS: tuple[Init, ...] = get_args(Init)
SKIP_POOLS: tuple[SkipPool, ...] = get_args(SkipPool)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DEVICES: tuple[Device, ...] = get_args(Device)
_TOP = (
    "name",
    "solver",
    "root",
    "data",
    "make_data",
    "engine",
    "precision",
    "device",
    "threads",
    "seeds",
    "scale",
    "tests",
    "expect",
    "split",
    "window",
    "interval",
    "schedule",
    "layers",
    "num_splits",
    "arms",
    "controls",
)
_ARM = tuple(field for field in Arm.__dataclass_fields__)
_CONTROLS = ("random", "wider", "rates")


def read_study(path: Path, changes: Mapping[str, Any] | None = None) -> Study:
    """Read and check a study file; `changes` are keys that take the place of the file's, such as `seeds`.

    Raises `CaffeSplitError`, one line, for whatever is wrong in it.
    """
    try:
        import yaml
    except ImportError:
        raise CaffeSplitError("a study needs PyYAML and Snakemake: pip install 'caffe-split[study]'") from None
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CaffeSplitError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except yaml.YAMLError as error:
        raise CaffeSplitError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if isinstance(value, dict):
        value = {**value, **(changes or {})}
    return _Reader(path).study(value)


class _Reader(Values):
    """Takes a study out of its file's values."""

    def study(self, value: Any) -> Study:
        top = self.known(value, _TOP, "the study")
        for key in ("solver", "seeds", "split", "arms"):
            if key not in top:
                raise self.wrong("the study", f"'{key}' is missing")
        base = self.path.parent.resolve()
        solver = base / str(top["solver"])
        root = (base / str(top.get("root", "."))).resolve()
        seeds = top["seeds"]
        if isinstance(seeds, int) and not isinstance(seeds, bool):
            seeds = list(range(1, seeds + 1))
        if not isinstance(seeds, list) or not seeds:
            raise self.wrong("seeds", f"expected a number of seeds or a list of them, found {seeds!r}")
        seeds = tuple(self.whole(seed, "seeds") for seed in seeds)
        if len(set(seeds)) < len(seeds):
            raise self.wrong("seeds", f"a seed is given twice: {seeds}")
        engine = self.one_of(top.get("engine", names()[0]), names(), "engine")
        precision = self.one_of(top.get("precision", "fp32"), PRECISIONS, "precision")
        device = self.one_of(top.get("device", "cpu"), DEVICES, "device")
        backend = get_backend(engine)
        for key, value, usual in (("precision", precision, "fp32"), ("device", device, "cpu")):
            if backend.no_choices and value != usual:
                others = " or ".join(each.name for each in backends() if not each.no_choices)
                raise self.wrong(key, f"'{value}' is for engine: {others}; {backend.no_choices}")
        split = self.whole(top["split"], "split", 1)
        common: dict[str, Any] = {key: top[key] for key in ("layers", "num_splits") if key in top}
        arms = self.arms(top["arms"], common)
        window = self.window(top.get("window"), split, arms)
        schedule = self.one_of(top.get("schedule", "continue"), SCHEDULES, "schedule")
        for arm in arms:
            falls = any(at >= after for at, after in zip((split, *arm.rounds), arm.rounds))
            if falls or (arm.rounds and schedule == "restart"):
                wanted = f"expected rising iterations after the split at {split}, and schedule: continue"
                raise self.wrong(f"arm {arm.name}: rounds", f"{wanted}; found {list(arm.rounds)}, {schedule}")
            if arm.rounds and not backend.reads_on:
                others = " or ".join(each.name for each in backends() if each.reads_on)
                raise self.wrong(
                    f"arm {arm.name}: rounds",
                    f"{backend.title} begins its data at the first record in every round, and its control does not: "
                    f"write engine: {others}",
                )
        controls = self.known(top.get("controls") or {}, _CONTROLS, "controls")
        named = [arm.name for arm in arms]
        # An arm whose own partition is random needs no random control; one that divides nothing has none.
        drawn = [arm for arm in arms if not arm.partition.startswith("random") and arm.partition != "all"]
        random = self.of_arms(controls.get("random", "first"), drawn, named, "controls: random")
        for arm in arms:
            if arm.name in random and arm not in drawn:
                raise self.wrong(
                    "controls: random",
                    f"arm {arm.name} has partition {arm.partition}, to which there is none; name the arms that are to "
                    "have the control",
                )
        self.chains(arms, schedule)
        study = Study(
            name=self.name(top.get("name", self.path.stem), "name"),
            file=self.path.resolve(),
            solver=solver.resolve(),
            root=root,
            data=(base / str(top["data"])).resolve() if top.get("data") else None,
            make=self.one_of(top.get("make_data", ""), ("", "digits"), "make_data"),
            engine=engine,
            precision=precision,
            device=device,
            threads=self.whole(top.get("threads", 1), "threads", 1),
            seeds=seeds,
            split=split,
            window=window,
            interval=self.whole(top.get("interval", 1), "interval", 1),
            schedule=schedule,
            arms=arms,
            random=random,
            wider=self.of_arms(controls.get("wider", "first"), arms, named, "controls: wider"),
            rates=self.rates(controls.get("rates", [])),
            tests=self.whole(top.get("tests", 0), "tests"),
            expect=self.expect(top.get("expect") or {}),
        )
        for arm in arms:
            if arm.after and arm.name in study.wider:
                raise self.wrong("controls: wider", f"arm {arm.name} splits a net that is split; name other arms")
        try:
            study = shortened(study, parse_scale(top.get("scale", 1)))
        except CaffeSplitError as error:
            raise self.wrong("scale", str(error)) from None
        for start, stop in study.windows:
            if (stop - start) % study.interval:
                raise self.wrong(
                    "interval",
                    f"{study.interval} does not divide the window {start}:{stop}, whose end is to be a sample",
                )
        return study

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

    def expect(self, value: Any) -> tuple[Expected, ...]:
        if not isinstance(value, dict):
            raise self.wrong("expect", f"expected data sets with `records` and `mean`, found {value!r}")
        found = []
        for name, given in value.items():
            where = f"expect: {name}"
            each = self.known(given, ("records", "mean"), where)
            mean = each.get("mean", [])
            if not isinstance(mean, list):
                raise self.wrong(where, f"mean: expected a list, a number per channel; found {mean!r}")
            records = self.whole(each.get("records"), f"{where}: records", 1)
            found.append(Expected(str(name), records, tuple(self.number(one, f"{where}: mean", 256) for one in mean)))
        return tuple(found)

    def arms(self, value: Any, common: Mapping[str, Any]) -> tuple[Arm, ...]:
        if not isinstance(value, list) or not value:
            raise self.wrong("arms", "expected a list of arms, each with a name and a kind")
        arms: list[Arm] = []
        for number, given in enumerate(value, 1):
            label = str(given.get("name", number)) if isinstance(given, dict) else str(number)
            own = self.known(given, _ARM, f"arm {label}")
            arms.append(self.arm(own if {"layers", "num_splits"} & set(own) else {**common, **own}, f"arm {label}"))
        names = [arm.name for arm in arms]
        for name in names:
            if names.count(name) > 1:
                raise self.wrong("arms", f"two arms are named '{name}'")
            if re.fullmatch(r"baseline|continue[0-9]*|(random|wider|rate)-.*", name):
                raise self.wrong("arms", f"'{name}' is the name of a control; choose another")
        return tuple(arms)

    def arm(self, given: dict[str, Any], where: str) -> Arm:
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
        return Arm(
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

    def window(self, value: Any, split: int, arms: Sequence[Arm]) -> tuple[int, int] | None:
        if value is None:
            value = f"0:{split}"
        found = re.fullmatch(r"([0-9]{1,15}):([0-9]{1,15})", str(value))
        if not found or not int(found[1]) < int(found[2]) <= split:
            wanted = f"START:STOP in quotes with START < STOP <= {split}, the split"
            raise self.wrong("window", f"{value!r} is not {wanted}")
        if not any(arm.needs_tpm for arm in arms):
            return None
        return int(found[1]), int(found[2])

    def rates(self, value: Any) -> tuple[float, ...]:
        if not isinstance(value, list):
            raise self.wrong("controls: rates", f"expected a list of numbers, found {value!r}")
        rates = tuple(self.number(rate, "controls: rates", 1000) for rate in value)
        if 0 in rates or 1 in rates or len({f"{rate:g}" for rate in rates}) < len(rates):
            raise self.wrong("controls: rates", f"expected different numbers, none of them 0 or 1, found {value!r}")
        return rates

    def of_arms(self, value: Any, arms: Sequence[Arm], named: Sequence[str], where: str) -> tuple[str, ...]:
        """`first`, `kinds` (the first arm of each kind), `all` of `arms`, `none`, or any of `named` by name."""
        if value in ("none", False):
            return ()
        if value == "first":
            return tuple(arm.name for arm in arms[:1])
        if value == "all":
            return tuple(arm.name for arm in arms)
        if value == "kinds":
            return tuple({arm.kind: arm.name for arm in reversed(arms)}.values())[::-1]
        names = self.names(value, where)
        for name in names:
            self.one_of(name, named, where)
        return names
