"""Bridges between documents and protobuf's messages, for comparison."""

from __future__ import annotations

import numpy as np
from google.protobuf import text_format

from caffe_split.formats.prototxt import caffe_pb2
from caffe_split.formats.prototxt.tree import Message

ROOTS = {"net": caffe_pb2.NetParameter, "solver": caffe_pb2.SolverParameter}


def protobuf_of(text: str, kind: str):
    """The text read by protobuf itself."""
    return text_format.Parse(text, ROOTS[kind]())


def assert_same(ours: Message, theirs) -> None:
    """Every field of protobuf's message is ours, with the same value, and the other way round."""
    present = {field.name: value for field, value in theirs.ListFields()}
    assert {name for name in {f.name for f in ours.fields} if ours.has(name)} == set(present)
    for descriptor in theirs.DESCRIPTOR.fields:
        name = descriptor.name
        value = getattr(theirs, name)
        repeated = ours.type.fields[name].repeated
        if descriptor.message_type is not None:
            subs = ours.subs(name)
            values = list(value) if repeated else ([value] if theirs.HasField(name) else [])
            assert len(subs) == len(values)
            for sub, item in zip(subs, values):
                assert_same(sub, item)
            continue
        mine = ours.get_all(name) if repeated else [ours.get(name)]
        for left, right in zip(mine, list(value) if repeated else [value]):
            if descriptor.enum_type is not None:
                right = descriptor.enum_type.values_by_number[right].name
            if descriptor.cpp_type == descriptor.CPPTYPE_FLOAT:
                left, right = single(left), single(right)
            assert left == right or (left != left and right != right), (name, left, right)
        if repeated:
            assert len(mine) == len(value)


def single(value: float) -> float:
    """A number rounded to float32, as protobuf keeps it: what is too large is infinite."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))
