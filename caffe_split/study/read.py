"""A study's YAML, read and checked whole before anything runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from caffe_split.backends.choose import backends, get_backend, names
from caffe_split.derivation.options import Schedule
from caffe_split.errors import CaffeSplitError
from caffe_split.study.arm import Arm
from caffe_split.study.model import Device, Expected, Precision, Study
from caffe_split.study.read_arms import Arms
from caffe_split.study.scale import parse_scale, shortened
from caffe_split.study.yaml_file import read_yaml

# A study goes on with the schedule unless its file says otherwise; so this choice is named first.
SCHEDULES: tuple[Schedule, ...] = ("continue", "restart")
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
    "rehearsal",
    "rehearsal_batch",
    "expect",
    "split",
    "window",
    "interval",
    "schedule",
    "layers",
    "num_splits",
    "arms",
    "controls",
    "compare",
)
# Far more than any study trains; to plan the steps of more takes the memory of the machine.
_MOST_SEEDS = 10_000
# What NumPy, PyTorch and Caffe all take; of a larger one Caffe takes the rest of a division by 2^32.
_LARGEST_SEED = 2**31 - 1
_CONTROLS = ("random", "wider", "rates")


def read_study(path: Path, changes: Mapping[str, Any] | None = None) -> Study:
    """Read and check a study file; `changes` are keys that take the place of the file's, such as `seeds`.

    Raises `CaffeSplitError`, one line, for whatever is wrong in it.
    """
    value = read_yaml(path)
    if isinstance(value, dict):
        value = {**value, **(changes or {})}
    return _Reader(path).study(value)


class _Reader(Arms):
    """Takes a study out of its file's values."""

    def study(self, value: Any) -> Study:
        top = self.known(value, _TOP, "the study")
        for key in ("solver", "seeds", "split", "arms"):
            if key not in top:
                raise self.wrong("the study", f"'{key}' is missing")
        base = self.path.parent.resolve()
        if not top["solver"]:
            raise self.wrong("solver", "it names no file")
        solver = self.path_from(base, top["solver"], "solver")
        root = self.path_from(base, top.get("root") or ".", "root")
        seeds = self.seeds(top["seeds"])
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
        for key in ("window", "interval"):
            if window is None and top.get(key) is not None:
                raise self.wrong(key, "it is of TPM, and no arm chooses layers or kernels by that: leave it out")
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
            solver=solver,
            root=root,
            data=self.path_from(base, top["data"], "data") if top.get("data") else None,
            make=self.one_of(top["make_data"], ("digits",), "make_data") if top.get("make_data") else "",
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
            rehearsal=self.rehearsal(top.get("rehearsal"), schedule),
            rehearsal_batch=self.rehearsal_batch(top),
        )
        study = replace(study, compare=self.compare(top.get("compare") or {}, study))
        for arm in arms:
            if arm.after and arm.name in study.wider:
                raise self.wrong("controls: wider", f"arm {arm.name} splits a net that is split; name other arms")
        try:
            study = shortened(study, parse_scale(top.get("scale", 1)))
        except CaffeSplitError as error:
            raise self.wrong("scale", str(error)) from None
        for (start, stop), (following, end) in zip(study.windows, study.windows[1:]):
            if following < stop:
                raise self.wrong(
                    "arms",
                    f"the windows {start}:{stop} and {following}:{end}, from a split to the next one of its arm, "
                    "overlap, and one net measures all; choose rounds whose spans are the same or lie apart",
                )
        for start, stop in study.windows:
            if (stop - start) % study.interval:
                raise self.wrong(
                    "interval",
                    f"{study.interval} does not divide the window {start}:{stop}, whose end is to be a sample",
                )
            if stop - start < 2 * study.interval:
                at, wanted = "", "a smaller interval or a longer window"
                if study.scale != "1":
                    at, wanted = f" at scale {study.scale}", "a larger scale"
                raise self.wrong(
                    "window",
                    f"{start}:{stop}{at} is one step of TPM (interval {study.interval}), which then is 1 for each "
                    f"kernel; choose {wanted}",
                )
        return study

    def path_from(self, base: Path, value: Any, where: str) -> Path:
        """A path relative to the folder `base`, as a whole one; nothing need be there."""
        try:
            path = (base / str(value)).resolve()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                path.stat()
        except (OSError, ValueError, RuntimeError) as error:
            said = getattr(error, "strerror", None) or error
            raise self.wrong(where, f"expected a path, found {str(value)[:40]!r}: {said}") from None
        return path

    def seeds(self, value: Any) -> tuple[int, ...]:
        """A number of seeds, as 1 to that, or a list; the same for all runs, since runs of a seed are pairs."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and value > _MOST_SEEDS:
            raise self.wrong("seeds", f"{value} seeds; expected at most {_MOST_SEEDS:,}, as each trains every run")
        seeds = list(range(1, value + 1)) if whole else value
        if not isinstance(seeds, list) or not seeds:
            wanted = "expected a number of seeds, or a list of them that all runs share, since runs of a seed are pairs"
            raise self.wrong("seeds", f"{wanted}; found {value!r}")
        found = tuple(self.whole(seed, "seeds") for seed in seeds)
        if max(found) > _LARGEST_SEED:
            raise self.wrong("seeds", f"expected seeds of at most {_LARGEST_SEED}, found {max(found)}")
        if len(set(found)) < len(found):
            raise self.wrong("seeds", f"a seed is given twice: {', '.join(map(str, found))}")
        return found

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

    def rehearsal(self, value: Any, schedule: Schedule) -> str:
        if value is None:
            return ""
        if schedule != "restart":
            raise self.wrong(
                "rehearsal", f"expected schedule: restart, in which only ends are compared; found {schedule}"
            )
        try:
            return str(parse_scale(value))
        except CaffeSplitError as error:
            raise self.wrong("rehearsal", str(error)) from None

    def rehearsal_batch(self, top: Mapping[str, Any]) -> int:
        if "rehearsal_batch" not in top:
            return 0
        if top.get("rehearsal") is None:
            raise self.wrong("rehearsal_batch", "it has no meaning without the key `rehearsal`, a scale")
        return self.whole(top["rehearsal_batch"], "rehearsal_batch", 1)

    def compare(self, value: Any, study: Study) -> tuple[tuple[str, str], ...]:
        """Pairs of runs, or a run and several others, beside those that `study` compares already."""
        where = "compare"
        if not isinstance(value, dict):
            raise self.wrong(where, f"expected runs with the runs they are compared with, found {value!r}")
        compared = {frozenset(pair) for pair in study.pairs}
        pairs = []
        for name, others in value.items():
            run = self.one_of(name, study.runs, where)
            for other in self.names(others, f"{where}: {run}"):
                pair = frozenset((run, self.one_of(other, study.runs, f"{where}: {run}")))
                if len(pair) == 1 or pair in compared:
                    raise self.wrong(
                        f"{where}: {run}",
                        f"{run} and {other} are compared already, or are one run; a run is always compared with its "
                        "control and its random partition: leave it out",
                    )
                compared.add(pair)
                pairs.append((run, other))
        return tuple(pairs)

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
            if names.count(name) > 1:
                raise self.wrong(where, f"arm {name} is named twice")
        return names
