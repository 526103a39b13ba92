"""May Caffe open the LMDBs of a net? It writes into the lock file of each, even to read it.

Its own words, "mdb_status == 0 (13 vs. 0) Permission denied", name neither the layer nor the path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.layers import phase_layers
from caffe_split.net.options import Options
from caffe_split.net.state import NetState

_LOCK = "lock.mdb"


def check_lmdbs(nets: Iterable[tuple[prototxt.Document, NetState]]) -> None:
    """Raises `CaffeSplitError` for an LMDB, of a layer that runs in the state given with each net, that is locked."""
    for document, state in nets:
        for layer in phase_layers(document, state):
            options = Options.of(layer.message, "data_param")
            if layer.type != "Data" or options.get("backend") != "LMDB":
                continue
            source = Path(str(options.get("source")))
            if (source / "data.mdb").is_file() and not _may_lock(source):
                where = f"{document.filename}:{layer.field.line}: layer '{layer.name}'"
                raise CaffeSplitError(
                    f"{where}: Caffe cannot open the LMDB {source}: it writes {_LOCK} there, and you may not. Make "
                    "that file writable, copy the LMDB, or use --engine torch"
                )


def _may_lock(source: Path) -> bool:
    lock = source / _LOCK
    # On a disk that is mounted read-only LMDB does without the lock.
    return os.access(lock if lock.exists() else source, os.W_OK) or bool(os.statvfs(source).f_flag & os.ST_RDONLY)
