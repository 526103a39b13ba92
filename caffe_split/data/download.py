"""Fetching a published archive from its publisher: resumed if it was cut off, and checked."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from caffe_split.data.archive import check_md5
from caffe_split.errors import CaffeSplitError
from caffe_split.files import append_to, locked, make_folder, reason, remove_file, rename_new
from caffe_split.files import md5 as md5_of

CIFAR = "https://www.cs.toronto.edu/~kriz/"
_PIECE = 1 << 16
# Seconds without a byte after which the connection is given up; what has arrived is kept.
_SILENCE = 60.0


def fetch(base: str, name: str, md5: str, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetch `base` + `name` into `folder` unless it is there already; returns its path.

    Until it is complete it is NAME.part, and the next call asks only for the rest. `progress` is called with the number
    of bytes that are there and the number expected (0 if the server does not say). Raises `CaffeSplitError` if it
    cannot be fetched or written, and for content of another MD5, which is removed.
    """
    target, part = folder / name, folder / f"{name}.part"
    if target.exists():
        check_md5(target, {name: md5})
        return target
    by_hand = f"Fetch {base}{name} by hand (MD5 {md5}) and give it with --from {name}."
    try:
        make_folder(folder)
        with locked(folder / f"{name}.lock", target):
            _receive(base + name, part, progress or (lambda _have, _all: None))
            _check(part, base + name, md5, by_hand)
            rename_new(part, target)
    except BlockingIOError:
        raise CaffeSplitError(
            f"{target}: another process is fetching it; wait for it, or choose another --out"
        ) from None
    except FileExistsError:
        raise CaffeSplitError(f"{target} has appeared while it was fetched; it stays, beside {part}") from None
    except urllib.error.HTTPError as error:
        raise CaffeSplitError(f"{base}{name}: the server answers {error.code} {error.reason}. {by_hand}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        why = getattr(error, "reason", None) or error
        raise CaffeSplitError(f"{base}{name}: cannot be fetched ({why}); run it again to go on. {by_hand}") from None
    except OSError as error:
        raise CaffeSplitError(f"{part}: cannot be written: {reason(error)}") from None
    return target


def _check(part: Path, url: str, md5: str, by_hand: str) -> None:
    digest = md5_of(part)
    if digest != md5:
        remove_file(part)
        raise CaffeSplitError(f"{url}: what came has MD5 {digest}, expected {md5}; it was removed. {by_hand}")


def _receive(url: str, part: Path, progress: Callable[[int, int], None]) -> None:
    """Append the rest of `url` to `part`. Raises `http.client.HTTPException` if the connection ends early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_SILENCE)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # All of it is here already.
            return
        raise
    with contextlib.closing(answer):
        if have and answer.status != 206:
            have = 0  # A server that cannot resume sends all of it.
        length = int(answer.headers.get("Content-Length") or 0)
        whole = have + length if length else 0
        with append_to(part) as stream:
            if not have:
                stream.truncate(0)
            while piece := answer.read(_PIECE):
                stream.write(piece)
                have += len(piece)
                progress(have, whole)
        if have < whole:
            raise http.client.HTTPException(f"the connection ended after {have:,} of {whole:,} bytes")
