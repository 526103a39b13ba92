"""A log that is still being written: each look reads only what was appended."""

from __future__ import annotations

import os
import time

from caffe_split.files import PathLike
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.parse import Parser
from caffe_split.trainlog.read import BLOCK, open_log

# Bytes, the last ones read, that are compared at the next look.
_TAIL = 256


class Follower:
    """Reads a growing log. A log that became shorter, or was replaced or written anew, is read again from its start."""

    def __init__(self, path: PathLike) -> None:
        self.path = str(path)
        self._start()

    def _start(self) -> None:
        _, self._modified = open_log(self.path)
        self._parser = Parser(time.localtime(self._modified).tm_year)
        self._offset = 0
        self._inode = os.stat(self.path).st_ino
        self._tail = b""
        self._log: TrainingLog | None = None

    def poll(self) -> bool:
        """Read what is new; returns whether there was anything.

        Raises `CaffeSplitError` if the log is gone.
        """
        open_log(self.path)
        state = os.stat(self.path)
        if state.st_size < self._offset or state.st_ino != self._inode:
            self._start()
        self._modified = state.st_mtime
        with open(self.path, "rb", buffering=0) as stream:
            stream.seek(self._offset - len(self._tail))
            if stream.read(len(self._tail)) != self._tail:
                self._start()
                stream.seek(0)
            begin = self._offset
            while block := stream.read(BLOCK):
                self._parser.feed(block)
                self._offset += len(block)
                self._tail = (self._tail + block)[-_TAIL:] if len(block) < _TAIL else block[-_TAIL:]
        if self._offset != begin:
            self._log = None
        return self._offset != begin

    @property
    def log(self) -> TrainingLog:
        """What has been read; the same object as long as nothing is added."""
        if self._log is None:
            self._log = self._parser.log(self.path, self._modified)
        return self._log
