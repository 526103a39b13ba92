"""Hashes of files."""

from __future__ import annotations

import hashlib
import os

_CHUNK = 1 << 20


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return _digest(path, "sha256")


def md5(path: str | os.PathLike[str]) -> str:
    """The MD5 of a file, in hexadecimal. Data sets are published with it; it proves no more than a whole download."""
    return _digest(path, "md5")


def _digest(path: str | os.PathLike[str], algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with open(path, "rb") as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()
