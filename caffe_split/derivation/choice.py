"""By what the layers to split are chosen: `--choose-by`."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_split.errors import WrongUseError
from caffe_split.split.partition import known_word, seed_of
from caffe_split.split.saliency import SALIENCIES

BY_TPM = "tpm-entropy"
_RANDOM = "random"
CHOICE_FORMS = f"{BY_TPM}, {', '.join(SALIENCIES)}, {_RANDOM}:SEED"


@dataclass(frozen=True)
class Choice:
    """What the layers are ranked by: a saliency of that name, chance under `seed`, or else the entropy of their TPM."""

    saliency: str = ""
    seed: int | None = None

    @property
    def by_tpm(self) -> bool:
        """Whether TPM is needed."""
        return not self.saliency and self.seed is None


def parse_choice(text: str) -> Choice:
    """Read `tpm-entropy`, `grad-norm`, `snip`, `synflow` or `random:SEED`. Raises `WrongUseError` for anything else.

    >>> parse_choice("random:3").seed
    3
    >>> parse_choice("snap")
    Traceback (most recent call last):
    ...
    caffe_split.errors.WrongUseError: choose-by 'snap': 'snap' is not known (did you mean 'snip'?). Expected one of \
tpm-entropy, grad-norm, snip, synflow, random:SEED.
    """
    name, _, argument = text.partition(":")
    try:
        if name == _RANDOM:
            return Choice(seed=seed_of(argument))
        known = known_word(text, (BY_TPM, *SALIENCIES, _RANDOM))
    except ValueError as error:
        raise WrongUseError(f"choose-by '{text}': {error}. Expected one of {CHOICE_FORMS}.") from None
    return Choice() if known == BY_TPM else Choice(saliency=known)
