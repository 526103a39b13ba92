"""New folders: made beside their place, and put there whole; nothing of anybody else's is replaced or removed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files.hidden import hidden_folder
from caffe_split.files.own import MANIFEST, added, remove_listed
from caffe_split.files.rename import exchange, rename_again, rename_new
from caffe_split.files.writing import check_parent, reason

__all__ = ["MANIFEST", "check_out", "free_name", "new_folder", "remove_folder"]

_STAYS = "it is not replaced. Move it away, or choose another --out"


def check_out(out: Path, force: bool) -> None:
    """Raises `CaffeSplitError` if `out` may not be written.

    With `force` a folder may be replaced if its manifest shows that this program made it, and if nothing was added
    or changed since: the snapshots and logs of a training are never deleted.
    """
    check_parent(out)
    try:
        there = os.path.lexists(out)
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{out}: cannot be written: {reason(error)}.") from error
    said = added(out) if there else None
    if said is not None:
        # Of a file the next free name is none for a folder.
        free = f" ({free_name(out)} is free)" if out.is_dir() else ""
        raise CaffeSplitError(f"{out} {'' if force else 'exists and '}{said}; {_STAYS}{free}.")
    if there and not force:
        raise CaffeSplitError(
            f"{out} exists; nothing is overwritten unasked. Choose another --out ({free_name(out)} is free), or add "
            "--force."
        )


def free_name(path: Path) -> Path:
    """The next name that nothing has: derived2 where derived1 is there, folded2 where folded is."""
    if path.name in ("", ".."):
        path = path.resolve()  # "." and ".." have no name to count on from
    if not path.name:
        path = path / "out"
    found = re.search(r"[0-9]*\Z", path.name)
    digits = found[0] if found else ""
    stem, number = path.name[: len(path.name) - len(digits)], int(digits or 1)
    while True:
        # Zeros before the number stay: run008 comes after run007.
        free = path.with_name(f"{stem}{number:0{len(digits)}d}")
        if not os.path.lexists(free) and number > 1:
            return free
        number += 1


@contextlib.contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and is removed when it does not.

    With `force` it takes the place of an `out` that exists, which is untouched until then; see `check_out` for what
    may be replaced. That is looked at once more when the folder gets its name, so that what appeared in the meantime
    stays. Raises `CaffeSplitError` if the system refuses to write, for example because the disk is full.
    """
    try:
        check_out(out, force)
        with hidden_folder(out) as hidden:
            building = hidden / "new"
            building.mkdir()
            yield building
            if force:
                _replace(building, out, hidden / "old")
            else:
                rename_new(building, out)
    except FileExistsError:
        raise CaffeSplitError(
            f"{out} has appeared while this command ran; it stays as it is, and nothing was written. Choose another "
            f"--out ({free_name(out)} is free)."
        ) from None
    except (OSError, CaffeSplitError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__  # one of its files could not be written
        if not isinstance(cause, OSError):
            raise
        raise CaffeSplitError(
            f"{out}: cannot be written: {reason(cause)}. Nothing is left behind, and nothing was replaced."
        ) from cause


def _replace(building: Path, out: Path, old: Path) -> None:
    """Put `building` in the place of `out`. Raises `CaffeSplitError` if that holds what we did not write."""
    with contextlib.suppress(OSError):
        out.rmdir()
    try:
        rename_new(building, out)
        return
    except FileExistsError:
        pass
    # Checked after the move, when no other process can reach it by its name.
    if exchange(building, out):
        building.rename(old)
    else:
        out.rename(old)
        _again(building, out, old)
    said = added(old)
    if said is None:
        remove_listed(old)
        return
    if exchange(old, out):
        old.rename(building)
    else:
        out.rename(building)
        _again(old, out, old)
    raise CaffeSplitError(f"{out} {said}; {_STAYS}.")


def _again(folder: Path, out: Path, old: Path) -> None:
    """Name a folder `out`, which was moved away in this moment; if the name is taken, `old` gets the next free one."""
    try:
        rename_again(folder, out)
    except FileExistsError:
        kept = free_name(out)
        rename_new(old, kept)
        raise CaffeSplitError(
            f"{out} has appeared while this command replaced it; it stays as it is. What was there before is {kept} "
            "now, and nothing was written."
        ) from None


def remove_folder(folder: Path, is_ours: Callable[[Path], bool]) -> None:
    """Remove a folder, if it is there and all files in it are `is_ours`.

    Raises `CaffeSplitError` where another is in it, or a link, which this program never makes there: nothing is removed
    then. Raises it, too, where the system refuses to remove something.
    """
    if not os.path.lexists(folder):
        return
    try:
        inside = [folder, *folder.rglob("*")]
        strange = sorted(
            str(path)
            for path in inside
            if path.is_symlink() or not (path.is_dir() or (path != folder and is_ours(path)))
        )
        if strange:
            raise CaffeSplitError(
                f"{folder} is not removed: {strange[0]} was not written by this program; move it away."
            )
        shutil.rmtree(folder)
    except OSError as error:
        raise CaffeSplitError(f"{folder}: cannot be removed: {reason(error)}.") from error
