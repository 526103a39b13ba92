"""A study shortened, or its solver brought to the study's length: all iterations by one factor."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.study.model import Study

_SCALE = re.compile(r"[0-9]{1,9}(/[0-9]{1,9}|\.[0-9]{1,9})?")


def parse_scale(value: object) -> Fraction:
    """The factor on all iterations, above 0 and at most 1, from a text as `1/16` or `0.25`, or a number.

    Raises `CaffeSplitError` for anything else.

    >>> parse_scale("1/16")
    Fraction(1, 16)
    """
    text = str(value)
    try:
        found = Fraction(text) if _SCALE.fullmatch(text) and not isinstance(value, bool) else Fraction(0)
    except ZeroDivisionError:
        found = Fraction(0)
    if not 0 < found <= 1:
        raise CaffeSplitError(f"expected a scale above 0 and at most 1, such as 1/16; found {value!r}")
    return found


def scaled(iteration: int, scale: Fraction) -> int:
    """An iteration in the shortened training, rounded to the nearest (halves up).

    >>> scaled(50_000, Fraction(1, 64))
    781
    """
    return math.floor(iteration * scale + Fraction(1, 2))


def check_apart(iterations: Mapping[str, int], scale: Fraction) -> None:
    """Raises `CaffeSplitError` where iterations that differ, by their names, fall on one when they are scaled."""
    seen = {0: ("the start", 0)}
    for name, iteration in sorted(iterations.items(), key=lambda item: item[1]):
        other, before = seen.setdefault(scaled(iteration, scale), (name, iteration))
        if before != iteration:
            raise CaffeSplitError(
                f"at scale {scale} {other} ({before:,}) and {name} ({iteration:,}) both fall on iteration "
                f"{scaled(iteration, scale):,}; choose a larger scale"
            )


def shortened(study: Study, scale: Fraction) -> Study:
    """A study as its file has it, with all its iterations scaled.

    Raises `CaffeSplitError` where iterations that differ fall on one.
    """
    iterations = {"the split": study.split}
    if study.window is not None:
        iterations.update(zip(("the window's start", "the window's end"), study.window))
    for arm in study.arms:
        iterations.update({f"round {number} of {arm.name}": at for number, at in enumerate(arm.rounds, 2)})
    check_apart(iterations, scale)
    study = replace(
        study,
        split=scaled(study.split, scale),
        window=None if study.window is None else (scaled(study.window[0], scale), scaled(study.window[1], scale)),
        interval=max(1, scaled(study.interval, scale)),
        arms=tuple(replace(arm, rounds=tuple(scaled(at, scale) for at in arm.rounds)) for arm in study.arms),
        scale=str(scale),
        unscaled=tuple(iterations.items()),
    )
    if study.window is None or scale == 1:
        return study
    # The last sample is at the end of each window, and there is one between.
    long = [stop - start for start, stop in study.windows]
    most = max(1, min(2 * study.interval, min(long) // 2))
    return replace(study, interval=nearest_divisor(math.gcd(*long), study.interval, most=most))


def nearest_divisor(number: int, wanted: int, least: float = 0, most: float = math.inf) -> int:
    """The divisor of `number` that is nearest to `wanted` in proportion; of two as near, the larger.

    Those below `least`, at most `number`, or above `most`, at least 1, are left out: a prime number has no other
    divisors than 1 and itself.

    >>> nearest_divisor(1000, 8), nearest_divisor(781, 39)
    (8, 71)
    >>> nearest_divisor(9973, 100), nearest_divisor(9973, 100, most=200)
    (9973, 1)
    """
    small = [each for each in range(1, math.isqrt(number) + 1) if number % each == 0]
    divisors = {each for one in small for each in (one, number // one) if least <= each <= most}
    return min(divisors, key=lambda each: (abs(math.log(each / wanted)), -each))


def scale_solver(solver: prototxt.Document, study: Study) -> None:
    """Shorten a solver's training: its end, its rates' steps, and how often it displays, tests and snapshots.

    The rate at a share of the training is that of the whole one, for each of Caffe's policies; with `step`,
    whose steps are rounded, at the end of each step. Tests and displays stay at least one iteration apart; tests divide
    the training, so that it ends with one. Raises `CaffeSplitError` where the rate's steps, the end or the study's own
    iterations fall on one.
    """
    scale = study.factor
    if scale == 1:
        return
    end, stepsize = int(solver.get("max_iter", 0)), int(solver.get("stepsize", 0))
    steps = [int(step) for step in solver.get_all("stepvalue")]
    names = {**{f"stepvalue {step}": step for step in steps}, "max_iter": end}
    check_apart({**names, **dict(study.unscaled)}, scale)
    for key in ("max_iter", "stepsize", "display", "snapshot"):
        if int(solver.get(key, 0)):
            solver.set(key, max(1, scaled(int(solver.get(key)), scale)))
    if int(solver.get("test_interval", 0)):
        wanted = max(1, scaled(int(solver.get("test_interval")), scale))
        solver.set("test_interval", _seldom(scaled(end, scale), wanted))
    if steps:
        solver.remove("stepvalue")
        for step in steps:
            solver.add("stepvalue", scaled(step, scale))
    gamma, policy = float(solver.get("gamma", 0)), solver.get("lr_policy", None)
    if policy in ("inv", "sigmoid"):
        solver.set("gamma", float(f"{gamma / scale:.9g}"))
    elif policy == "exp":
        solver.set("gamma", float(f"{gamma ** (1 / scale):.9g}"))
    elif policy == "step" and gamma > 0 and (short := int(solver.get("stepsize", 0))) != stepsize * scale:
        # Rounded, a step is longer or shorter than it should be; its factor is that of the iterations that it has.
        solver.set("gamma", float(f"{gamma ** float(short / (stepsize * scale)):.9g}"))


def space_tests(solver: prototxt.Document, tests: int) -> None:
    """Have a training tested about `tests` times, the last time at its end."""
    end = int(solver.get("max_iter", 0))
    solver.set("test_interval", _seldom(end, max(1, end // tests)))


def _seldom(end: int, wanted: int) -> int:
    """The divisor of `end` that is nearest to `wanted`, and not so small that what happens then takes the most time."""
    return nearest_divisor(end, wanted, least=min(end, wanted / 2))
