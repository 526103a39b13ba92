"""The registry of back ends: which there are, which are here, and which one serves where the user asks for none."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from caffe_split.backends.protocol import Backend, NotFoundError
from caffe_split.errors import CaffeSplitError

# Name -> module:class, in the order of preference: the best witness of what Caffe computes first.
REGISTRY = {
    "caffe": "caffe_split.backends.caffe.backend:Caffe",
    "torch": "caffe_split.backends.torch:Torch",
    "opencv": "caffe_split.backends.opencv:OpenCV",
}


def get_backend(name: str) -> Backend:
    """The back end of that name, installed or not. Raises `CaffeSplitError` naming those that there are."""
    if name not in REGISTRY:
        raise CaffeSplitError(f"there is no engine {name!r}; expected one of {', '.join(REGISTRY)}.")
    module, _, kind = REGISTRY[name].partition(":")
    made: Backend = getattr(importlib.import_module(module), kind)()
    return made


def backends(deploy_only: bool = False) -> list[Backend]:
    """All back ends in the order of preference; those that run deploy nets only where `deploy_only` admits them."""
    found = [get_backend(name) for name in REGISTRY]
    return [each for each in found if deploy_only or not each.deploy_only]


def names(deploy_only: bool = False) -> list[str]:
    """The names of `backends`."""
    return [each.name for each in backends(deploy_only)]


def choose_backend(name: str | None = None, deploy_only: bool = False) -> Backend:
    """The back end of that name, else the first of `backends` that is installed.

    Raises `CaffeSplitError` where it is not installed, or none is, with the next steps.
    """
    candidates = backends(deploy_only)
    if name is not None:
        chosen = get_backend(name)
        try:
            chosen.require()
        except NotFoundError as error:
            others = [each for each in candidates if each.name != name and each.is_there()]
            raise NotFoundError(f"{error}{', or give ' + in_words(others) if others else ''}.") from None
        return chosen
    for each in candidates:
        if each.is_there():
            return each
    full = [each for each in candidates if not each.deploy_only]
    limited = [each for each in candidates if each.deploy_only]
    raise NotFoundError(
        f"there is nothing here to run nets, neither {' nor '.join(each.library for each in full)}: "
        f"{', or '.join(each.how_to_get for each in full)}"
        f"{''.join(f'. Deploy nets also run in {each.library}: {each.how_to_get}' for each in limited)}."
    )


def in_words(found: Sequence[Backend]) -> str:
    """Back ends as a user asks for them: `--engine a or --engine b`; how to get those that are not installed."""
    return " or ".join(f"--engine {each.name}" + ("" if each.is_there() else f" ({each.how_to_get})") for each in found)
