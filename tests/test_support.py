"""What tests start is ended after them, also where they fail."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.support import start_process

_LEFT: list[subprocess.Popen[Any]] = []


def test_a_test_may_leave_a_process() -> None:
    _LEFT.append(start_process(["sleep", "600"]))
    assert _LEFT[0].poll() is None


def test_which_has_ended_when_the_next_test_begins() -> None:
    if not _LEFT:
        pytest.skip("the test before was not run")
    assert _LEFT[0].poll() is not None
