"""Published architectures as deploy nets, written from their papers: `NETS` gives the text of each by name."""

from collections.abc import Callable

from benchmarks.nets import classifiers, dense

NETS: dict[str, Callable[[], str]] = {**classifiers.NETS, **dense.NETS}
