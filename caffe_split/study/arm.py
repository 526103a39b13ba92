"""An arm of a study: one way to split."""

from __future__ import annotations

from dataclasses import dataclass, replace

from caffe_split.derivation.choice import parse_choice
from caffe_split.derivation.options import CALIBRATE, DEFAULTS, DeriveOptions
from caffe_split.split.kinds import KindName
from caffe_split.split.layer import Init
from caffe_split.split.partition import parse_rule
from caffe_split.split.parts import Activation, SkipPool


@dataclass(frozen=True)
class Arm:
    """One way to split; the defaults are those of `DeriveOptions`.

    `layers` or `num_splits`, the best by `choose_by`, says which convolutions; `calibrate` is in batches; `rounds` are
    the iterations at which the derived net is split again. `after` names the arm whose net is split again, from its
    snapshot at the split (empty: the baseline's), where every training begins at iteration 0.
    """

    name: str
    kind: KindName
    partition: str = DEFAULTS.partition
    choose_by: str = DEFAULTS.choose_by
    init: Init = DEFAULTS.init
    layers: tuple[str, ...] = ()
    num_splits: int = 0
    noise: float = DEFAULTS.noise
    branch_norm: bool = False
    calibrate: int = CALIBRATE
    skip_pool: SkipPool = DEFAULTS.skip_pool
    residual_activation: Activation = DEFAULTS.activation
    added_lr: float = DEFAULTS.added_lr
    rounds: tuple[int, ...] = ()
    after: str = ""

    @property
    def folds(self) -> bool:
        """Whether the added branch is linear, so that it can be folded."""
        return self.kind != "residual" or self.residual_activation == "none"

    def options(self, seed: int) -> DeriveOptions:
        """How the arm splits under `seed`."""
        return DeriveOptions(
            kind=self.kind,
            init=self.init,
            noise=self.noise,
            seed=seed,
            activation=self.residual_activation,
            skip_pool=self.skip_pool,
            branch_norm=self.calibrate if self.branch_norm else 0,
            added_lr=self.added_lr,
            partition=self.partition.replace("SEED", str(seed)),
            choose_by=self.choose_by.replace("SEED", str(seed)),
            calibrate=self.calibrate,
        )

    @property
    def unread(self) -> dict[str, str]:
        """The options that are given and that nothing of this arm reads -> what reads them."""
        options = self.options(0)
        chosen = "" if self.layers else parse_choice(options.choose_by).saliency
        readers = {
            "skip_pool": (self.kind in ("skip", "identity"), "the kinds skip and identity"),
            "residual_activation": (self.kind == "residual", "the kind residual"),
            "calibrate": (
                self.branch_norm or chosen or parse_rule(options.partition).saliency,
                "branch_norm: true, and choose_by and partition by scores other than TPM",
            ),
        }
        return {key: by for key, (read, by) in readers.items() if not read and getattr(self, key) != getattr(Arm, key)}

    @property
    def as_read(self) -> Arm:
        """The arm without the options that nothing reads."""
        return replace(self, **{key: getattr(Arm, key) for key in self.unread})

    @property
    def needs_tpm(self) -> bool:
        """Whether layers or kernels are chosen by TPM."""
        options = self.options(0)
        by_tpm = not self.layers and parse_choice(options.choose_by).by_tpm
        return by_tpm or parse_rule(options.partition).needs_scores
