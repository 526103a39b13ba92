"""The reason that a process with pycaffe gives for its end."""

from __future__ import annotations

import pytest

from caffe_split.backends.caffe.child import last_words

SYSTEM = "SystemError: <Boost.Python.function object at 0x2a528560> returned NULL without setting an exception\n"
UNKNOWN = (
    "F1129 10:00:00.000000 7 layer_factory.hpp:81] Check failed: registry.count(type) == 1 (0 vs. 1) Unknown layer "
    "type: {} (known types: AbsVal, Accuracy, ArgMax)\n*** Check failure stack trace: ***\n"
)


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
        (
            UNKNOWN.format("ImageData"),
            "Caffe: Unknown layer type: ImageData, which this Caffe is built without; take --engine torch; or build it "
            "with ./tools/build_caffe --opencv",
        ),
        (
            UNKNOWN.format("PSROIPooling"),
            "Caffe: Unknown layer type: PSROIPooling, which this Caffe is built without; take --engine torch",
        ),
        (UNKNOWN.format("Acuracy"), "Caffe: Unknown layer type: Acuracy; did you mean Accuracy?"),
        (
            UNKNOWN.format("MyOwn"),
            "Caffe: Unknown layer type: MyOwn, which is no type of Caffe's; the Caffe of the fork that has it can be "
            "named by --caffe",
        ),
    ],
)
def test_last_words(errors: str, said: str) -> None:
    assert last_words(errors) == said
