"""Nets and solvers read for use: checked, and upgraded to today's form when asked."""

from __future__ import annotations

import os

from caffe_split.errors import CaffeSplitError, expect_path
from caffe_split.files import PathLike
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check, proto2
from caffe_split.formats.prototxt import upgrade as upgrading
from caffe_split.formats.prototxt.document import Document
from caffe_split.formats.prototxt.schema import Schema


def read_net(path: PathLike, upgrade: bool = False, caffe_proto: PathLike | None = None) -> Document:
    r"""Read a net's prototxt without loss; with `upgrade`, bring an old net to today's form.

    Returns a `prototxt.Document`: comments, order and unknown fields stay. `caffe_proto` is
    the caffe.proto of a fork, whose fields are then known, too.

    Raises `CaffeSplitError` when the file cannot be read, is not in the text format, is a solver, gives a field of
    Caffe's twice or a value that does not fit, or mixes `layer` and `layers`. Fields and enum values that Caffe does
    not have are kept: `check.notes(document)` lists them, with a guess where it looks like a slip.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "net.prototxt")
    >>> with open(path, "w") as stream:
    ...     _ = stream.write('layer { name: "data" type: "Input" top: "data" } # one layer\n')
    >>> net = read_net(path)
    >>> [layer.get("name") for layer in net.subs("layer")], str(net)
    (['data'], 'layer { name: "data" type: "Input" top: "data" } # one layer\n')
    """
    document = _read(path, "net", caffe_proto)
    if upgrade:
        # A type that only a fork's old form has keeps its name, so that what reads the net can refuse it by name.
        upgrading.upgrade_old(document, fork_types=True)
    return document


def read_solver(path: PathLike, upgrade: bool = False, caffe_proto: PathLike | None = None) -> Document:
    r"""Read a solver's prototxt without loss; with `upgrade`, the old enum `solver_type` becomes `type`.

    Returns a `prototxt.Document`. Paths in it are relative to the directory in which Caffe is started, as for
    Caffe. `caffe_proto` is the caffe.proto of a fork. Raises `CaffeSplitError` as `read_net` does.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "solver.prototxt")
    >>> with open(path, "w") as stream:
    ...     _ = stream.write('net: "net.prototxt"\nbase_lr: 0.01\nlr_policy: "fixed"\n')
    >>> solver = read_solver(path)
    >>> solver.get("net"), solver.get("base_lr"), solver.get("type")
    ('net.prototxt', 0.01, 'SGD')
    """
    document = _read(path, "solver", caffe_proto)
    if upgrade:
        upgrading.upgrade(document)
    return document


def read_net_or_solver(path: PathLike, caffe_proto: PathLike | None = None) -> Document:
    """Read a net or a solver and check it as `read_net` and `read_solver` do; `document.kind` says which it is.

    Raises `CaffeSplitError` as they do, and for a file that is neither.
    """
    return _read(path, None, caffe_proto)


def _read(path: PathLike, wanted: str | None, caffe_proto: PathLike | None) -> Document:
    expect_path(path, f"a {wanted}" if wanted else "a net or solver")
    schema: Schema | None = proto2.load(caffe_proto) if caffe_proto is not None else None
    document = prototxt.read(path, schema=schema)
    what = wanted or "net or a solver"
    if wanted is not None and document.kind not in (wanted, None):
        named = document.get("net", None) or document.get("train_net", None) if document.kind == "solver" else None
        where = f' (the net that it names is "{named}")' if named else ""
        raise CaffeSplitError(
            f"{os.fspath(path)}: this is a {document.kind}, expected a {wanted}; give the {wanted}'s file{where}"
        )
    if not document.fields:
        raise CaffeSplitError(f"{os.fspath(path)}: nothing in it; expected a {what}")
    if document.kind is None:
        if wanted is None:
            raise CaffeSplitError(f"{os.fspath(path)}: expected a {what}, but it has no field of either")
        document = prototxt.read(path, wanted, schema)
    check.check(document)
    return document
