"""How a net is derived: every choice with its default. Commands and studies take the defaults from here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from caffe_split.backends import choose as backends
from caffe_split.derivation.choice import BY_TPM, parse_choice
from caffe_split.errors import WrongUseError, expect_count
from caffe_split.split.kinds import KIND_NAMES
from caffe_split.split.layer import Init, SplitOptions
from caffe_split.split.parts import Activation, SkipPool

Schedule = Literal["restart", "continue"]

# How many layers are split where nobody names them.
NUM_SPLITS = 1
# How many batches of the training data measure branches and saliencies where nothing is said.
CALIBRATE = 20


@dataclass(frozen=True)
class DeriveOptions(SplitOptions):
    """How layers are split and the derived net is trained on; see docs/splits.md for what each choice does.

    Args:
        kind: What is added to the slow half: "residual", "skip", "extension", "conv1x1", "acnet", "dbb" or
            "identity".
        init: "exact": the derived net computes its baseline's function; "study": the initial values of the studies.
        noise: Standard deviation of the noise that breaks symmetry; 0 or more.
        seed: Seed of that noise.
        activation: "none" or "relu", between residual_pre and residual_post.
        skip_pool: The skip or identity beside stride s: "stride" takes every s-th pixel, "average" the mean of s x s.
        branch_norm: Batches of the training data that measure normalised branches, for instance 20; 0: no BatchNorm.
        added_lr: Factor on the lr_mult of the added convolutions.
        partition: Which kernels are fast: by TPM "median", "otsu", "threshold:X" or "ratio:R"; the half of higher
            saliency, "score:NAME" with grad-norm, snip or synflow; "random:SEED"; "list:I,J,...". "all": the layer is
            not divided, the whole of it gains the added path.
        choose_by: Which layers are split where only their number is given: those of highest "tpm-entropy",
            "grad-norm", "snip" or "synflow", or "random:SEED".
        calibrate: Batches of the training data that measure the saliencies of `choose_by` and `partition`; with
            `branch_norm` its number is taken.
        schedule: "restart": the parent's solver from iteration 0; "continue": also a solver state to go on from.
        window: The iterations (start, stop) of the TPM to use; None: the window that the TPM layers saw last.
        engine: What measures branches and saliencies: the name of a back end; None: the first that is installed.
        ignore_extra_weights: Leave out weights of layers that the net does not have.

    Raises `CaffeSplitError` for a value that is none of these.

    >>> DeriveOptions(kind="skip", partition="otsu").noise
    0.01
    >>> DeriveOptions(init="exactly")
    Traceback (most recent call last):
    ...
    caffe_split.errors.WrongUseError: init is 'exactly', expected one of exact, study.
    """

    partition: str = "median"
    choose_by: str = BY_TPM
    calibrate: int = CALIBRATE
    schedule: Schedule = "restart"
    window: tuple[int, int] | None = None
    engine: str | None = None
    ignore_extra_weights: bool = False

    @property
    def batches(self) -> int:
        """The number of batches that measure saliencies."""
        return self.branch_norm or self.calibrate

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise WrongUseError(f"{name} is {value!r}, expected one of {', '.join(choices)}.")
        if self.engine is not None and self.engine not in backends.names():
            raise WrongUseError(f"engine is {self.engine!r}, expected one of {', '.join(backends.names())}.")
        for name in ("noise", "added_lr"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value)):
                # The command line's option, too, is called so.
                raise WrongUseError(f"--{name.replace('_', '-')} is not a finite number.")
            if value < 0:
                raise WrongUseError(f"{name} is {value}, expected 0 or more.")
        for name, least in (("seed", 0), ("branch_norm", 0), ("calibrate", 1)):
            expect_count(getattr(self, name), name, least)
        parse_choice(self.choose_by)


CHOICES: dict[str, tuple[str, ...]] = {
    "kind": KIND_NAMES,
    "init": get_args(Init),
    "activation": get_args(Activation),
    "skip_pool": get_args(SkipPool),
    "schedule": get_args(Schedule),
}
DEFAULTS = DeriveOptions()
