"""The reason that a process with pycaffe gives for its end."""

from __future__ import annotations

import pytest

from caffe_split.backends.caffe.child import last_words

SYSTEM = "SystemError: <Boost.Python.function object at 0x2a528560> returned NULL without setting an exception\n"


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ("", ""),
        ("Traceback:\nValueError: no\n", "ValueError: no"),
        (SYSTEM, SYSTEM.strip()),
        # Of a Caffe that is not there, no Python layer is the reason.
        ("ModuleNotFoundError: No module named 'caffe'\n", "ModuleNotFoundError: No module named 'caffe'"),
        (
            "I1 x.cpp:1] Creating layer\nModuleNotFoundError: No module named 'roi_data_layer'\nTraceback\n" + SYSTEM,
            "ModuleNotFoundError: No module named 'roi_data_layer'; it is that of a Python layer: add the folder in "
            "which it lies to PYTHONPATH",
        ),
        ("F1129 net.cpp:1] Check failed: data_\nAborted\n", "Caffe: Check failed: data_"),
    ],
)
def test_last_words(errors: str, said: str) -> None:
    assert last_words(errors) == said
