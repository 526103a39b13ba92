"""Learning rates where Caffe's formulas leave what a number can hold: inf, 0 or nan as in C, and no error."""

from __future__ import annotations

import ctypes
import math

import pytest

pytest.importorskip("torch")

from caffe_split.engine.training.rates import Policy
from caffe_split.engine.training.updates import Updater
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.options import Options

LIBRARY = ctypes.CDLL("libm.so.6")
for name, count in (("pow", 2), ("exp", 1)):
    getattr(LIBRARY, name).restype = ctypes.c_double
    getattr(LIBRARY, name).argtypes = [ctypes.c_double] * count


def solver(text: str) -> Options:
    return Options("SolverParameter", [prototxt.parse(f"base_lr: 0.5 {text}", kind="solver")])


CASES = {
    ('lr_policy: "sigmoid" gamma: 0.1 stepsize: 10000', 0): lambda: 0.5 / (1 + LIBRARY.exp(1000.0)),
    ('lr_policy: "sigmoid" gamma: -0.1 stepsize: 10', 12): None,
    ('lr_policy: "exp" gamma: 1.5', 5000): lambda: 0.5 * LIBRARY.pow(1.5, 5000.0),
    ('lr_policy: "exp" gamma: 0.5', 5000): lambda: 0.5 * LIBRARY.pow(0.5, 5000.0),
    ('lr_policy: "poly" power: 0.5 max_iter: 10', 20): lambda: 0.5 * LIBRARY.pow(-1.0, 0.5),
    ('lr_policy: "poly" power: 2 max_iter: 10', 20): lambda: 0.5,
    ('lr_policy: "poly" power: 1 max_iter: 0', 3): lambda: -math.inf,
    ('lr_policy: "poly" power: 1 max_iter: 0', 0): lambda: math.nan,
    ('lr_policy: "inv" gamma: 2 power: -400', 1000): lambda: 0.5 * LIBRARY.pow(2001.0, 400.0),
    ('lr_policy: "step" gamma: 10 stepsize: 1', 400): lambda: 0.5 * LIBRARY.pow(10.0, 400.0),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rate_beyond_numbers_is_that_of_c(case: tuple[str, int]) -> None:
    text, iteration = case
    expected = CASES[case]
    if expected is None:
        with pytest.raises(CaffeSplitError, match="needs a gamma of 0 or more"):
            Policy.of(solver(text))
        return
    policy = Policy.of(solver(text))
    rate = policy.rate(iteration, policy.next_step(iteration, 0))
    assert type(rate) is float and rate == pytest.approx(expected(), nan_ok=True)


def test_adam_with_a_momentum_of_1_is_refused() -> None:
    with pytest.raises(CaffeSplitError, match="momentum 1 makes Adam divide by 0"):
        Updater([], solver('type: "Adam" momentum: 1.0'))
