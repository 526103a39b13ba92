"""Nets and solvers as text, without loss: parse, read by name and type, edit in place, write.

Other rooms import `prototxt` and use the names below.
"""

from caffe_split.formats.prototxt.document import (
    UNSET,
    Document,
    Enum,
    Field,
    ListValue,
    Message,
    Scalar,
    field,
    parse,
    read,
    write,
)

__all__ = ["UNSET", "Document", "Enum", "Field", "ListValue", "Message", "Scalar", "field", "parse", "read", "write"]
