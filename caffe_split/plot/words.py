"""Names of files, layers and classes as text: matplotlib reads some of their characters as instructions."""

from __future__ import annotations


def plain(name: str) -> str:
    """What matplotlib draws as `name`: between two `$` it would read a formula."""
    return name.replace("$", r"\$")


def label(name: str) -> str:
    """The same for a legend, which leaves out names that begin with an underscore: a blank stands before these."""
    return plain(" " + name if name.startswith("_") else name)
