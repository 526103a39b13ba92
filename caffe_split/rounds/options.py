"""What a loop of rounds does: every choice with its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from caffe_split.derivation.choice import BY_TPM
from caffe_split.derivation.options import DeriveOptions
from caffe_split.errors import WrongUseError, expect, expect_count
from caffe_split.tpm.layers import expect_pairs

ROUNDS = 3
# The layers that the ResNet-20 study split together in each round; a net that has fewer has all of its own split.
LAYERS = 9


@dataclass(frozen=True)
class MultiSplitOptions:
    """How a net is split in rounds.

    Args:
        rounds: How many times; each round splits what the one before has trained.
        layers: How many layers each round splits, the best by `derive.choose_by`; or the names of those that the first
            round splits, which then have to be the only round's. None: 9, or all that can be split if they are fewer.
        iteration: The iteration at which each round splits its parent. None: the end of the window in which the
            baseline's loss falls fastest.
        window: The iterations (start, stop) in which TPM is measured. None: those before `iteration`.
        control: Whether each round has a control: the same net trained equally long without a split.
        derive: How layers are chosen and split. With `schedule` "continue" the only round and its control go on with
            the baseline's schedule at the split, to its end.
        engine: What trains, verifies and measures; None: the first back end that is installed.
        threads: The threads of each training; None: the back end chooses.

    Raises `CaffeSplitError` for values that are none of these.

    >>> MultiSplitOptions(rounds=0)
    Traceback (most recent call last):
    ...
    caffe_split.errors.WrongUseError: rounds is 0, expected a whole number of 1 or more.
    """

    rounds: int = ROUNDS
    layers: int | tuple[str, ...] | None = None
    iteration: int | None = None
    window: tuple[int, int] | None = None
    control: bool = True
    derive: DeriveOptions = field(default_factory=DeriveOptions)
    engine: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        expect(self.derive, DeriveOptions, "DeriveOptions(...) as derive")
        expect(self.control, bool, "True or False as control")
        if self.window is not None:
            expect_pairs([self.window])
        if isinstance(self.layers, str):
            raise WrongUseError(f"layers are a number or names, found {self.layers!r}; write [{self.layers!r}].")
        if isinstance(self.layers, (list, tuple)):
            object.__setattr__(self, "layers", tuple(self.layers))
            if not self.layers or not all(isinstance(each, str) for each in self.layers):
                raise WrongUseError(f"layers is {self.layers!r}, expected a number, or names of layers.")
        for name in ("rounds", "layers", "iteration", "threads"):
            value = getattr(self, name)
            if (value is None and name != "rounds") or isinstance(value, tuple):
                continue
            expect_count(value, name)
            object.__setattr__(self, name, int(value))  # NumPy has whole numbers of its own, which JSON has not
        if isinstance(self.layers, tuple) and self.rounds > 1:
            raise WrongUseError("named layers exist only before the first round; give a number, or --rounds 1.")
        if isinstance(self.layers, tuple) and self.derive.choose_by != BY_TPM:
            raise WrongUseError("--choose-by chooses among layers, and --layers names them: give one.")
        if self.derive.schedule != "restart" and self.rounds > 1:
            raise WrongUseError(
                "a round that continues the schedule leaves no earlier iteration to split again: give --rounds 1, or "
                "--schedule restart. (A study takes rounds at rising iterations.)"
            )
        if self.window is not None and self.iteration is not None and self.window[1] > self.iteration:
            raise WrongUseError(
                f"the window ends at {self.window[1]}, after the split at {self.iteration}; choose one before it."
            )

    def as_dict(self) -> dict[str, Any]:
        """The choices as JSON has them, without those that do not change what comes out."""
        options = {name: value for name, value in vars(self.derive).items() if name not in ("engine", "window")}
        return {
            "layers": list(self.layers) if isinstance(self.layers, tuple) else self.layers,
            "iteration": self.iteration,
            "window": None if self.window is None else list(self.window),
            "control": self.control,
            "derive": options,
        }
