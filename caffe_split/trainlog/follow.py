"""A log that is still being written: each look reads only what was appended."""

from __future__ import annotations

import os
import time

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, open_again, stream_kind
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.parse import Parser
from caffe_split.trainlog.ranks import check_rank
from caffe_split.trainlog.read import described
from caffe_split.trainlog.text import BLOCK, Text, open_log

# Bytes, the last ones read, that are compared at the next look.
_TAIL = 256


class Follower:
    """Reads a growing log. A log that became shorter, or was replaced or written anew, is read again from its start.

    rank: see `read_log`.
    """

    def __init__(self, path: PathLike, rank: int | None = None) -> None:
        self.path = str(path)
        self._wanted = rank
        self._start(Text() if rank is None else Text(several=True, rank=rank))

    def _start(self, text: Text) -> None:
        _, self._modified = open_log(self.path)
        self._text = text
        self._text.plain = text.plain and not stream_kind(self.path)
        self._parser = Parser(time.localtime(self._modified).tm_year)
        self._offset = 0
        self._inode = os.stat(self.path).st_ino
        self._tail = b""
        self._log: TrainingLog | None = None

    def _again(self) -> None:
        ranks = self._text.ranks
        self._start(Text() if ranks is None else Text(several=True, rank=ranks.rank))

    def poll(self) -> bool:
        """Read what is new; returns whether there was anything.

        Raises `CaffeSplitError` if the log is gone, and if it has ranks but not the wanted one.
        """
        open_log(self.path)
        state = os.stat(self.path)
        # A pipe has no size; what it gave stays.
        shorter = state.st_size < self._offset and not stream_kind(self.path)
        if shorter or state.st_ino != self._inode:
            self._again()
        self._modified = state.st_mtime
        with open_again(self.path) as stream:
            stream.seek(self._offset - len(self._tail))
            if stream.read(len(self._tail)) != self._tail:
                self._again()
                stream.seek(0)
            begin = self._offset
            while block := stream.read(BLOCK):
                self._take(block)
                better = self._better_rank()
                if better is not None:
                    self._start(better)
                    stream.seek(0)
                    begin = -1
        if self._text.ranks is not None and self._offset:
            check_rank(self.path, self._text.ranks, self._wanted)
        if self._offset != begin:
            self._log = None
        return self._offset != begin

    def _take(self, block: bytes) -> None:
        try:
            for piece in self._text.feed(block):
                self._parser.feed(piece)
        except CaffeSplitError as error:
            raise CaffeSplitError(f"cannot read the log {self.path}: {error}") from None
        self._offset += len(block)
        self._tail = (self._tail + block)[-_TAIL:] if len(block) < _TAIL else block[-_TAIL:]

    def _better_rank(self) -> Text | None:
        """How to read the log from its start, if it has turned out that it has ranks, or one before that shown."""
        ranks = self._text.ranks
        if ranks is None:
            return Text(several=True) if self._parser.several else None
        if self._wanted is None and ranks.seen and min(ranks.seen) != ranks.rank:
            return Text(several=True, rank=min(ranks.seen))
        return None

    @property
    def log(self) -> TrainingLog:
        """What has been read; the same object as long as nothing is added."""
        if self._log is None:
            self._log = described(self._parser.log(self.path, self._modified), self._text)
        return self._log
