"""Solver states: what is written comes back, protobuf reads it, and other files are refused by what they are."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import caffe_pb2
from caffe_split.formats.weights import caffemodel
from tests.formats.models import B, W, put, v2_model
from tests.formats.wire_files import raw_field


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_solver_states_come_back_as_they_were_written(suffix, tmp_path):
    path = tmp_path / f"x.solverstate{suffix}"
    state = caffemodel.SolverState(12345, "dir/x.caffemodel", 3, [W, B, np.float32(1)])
    caffemodel.write_solverstate(path, state)
    again = caffemodel.read_solverstate(path)
    assert (again.iter, again.learned_net, again.current_step) == (12345, "dir/x.caffemodel", 3)
    for left, right in zip(again.history, state.history):
        assert left.shape == np.shape(right)
        np.testing.assert_array_equal(left, right)


def test_binary_solver_states_are_protobufs(tmp_path):
    message = caffe_pb2.SolverState(iter=7, learned_net="n", current_step=2)
    message.history.add(data=B, shape=caffe_pb2.BlobShape(dim=[4]))
    data = message.SerializeToString() + raw_field(77, b"strange")
    state = caffemodel.read_solverstate(put(tmp_path, data))
    caffemodel.write_solverstate(tmp_path / "out", state)
    again = (tmp_path / "out").read_bytes()
    assert again.endswith(raw_field(77, b"strange"))
    assert caffe_pb2.SolverState.FromString(again) == caffe_pb2.SolverState.FromString(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (v2_model().SerializeToString(), "these are weights, not a solver state"),
        (b"\x08\x07\x1a\x04\x2d\0\0", "not a whole solver state"),
        (
            b"\x08\x07" + raw_field(3, raw_field(5, b"\0\0\0\0") + raw_field(7, b"\x08\x02")),
            "history blob 0: its shape 2",
        ),
        (b"net: 'x'", "a prototxt (text)"),
    ],
)
def test_bad_solver_states_are_named_for_what_they_are(data, expected, tmp_path):
    with pytest.raises(CaffeSplitError) as error:
        caffemodel.read_solverstate(put(tmp_path, data))
    assert expected in str(error.value)
