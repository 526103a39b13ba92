"""The files of a published data set, from its archive or a folder."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files import md5


def read_members(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Base name -> content of those files in `path`, a tar archive (compressed or not) or a folder, that are `wanted`.

    Raises `CaffeSplitError` if it cannot be read, for an archive that is cut short, and for two different files of one
    name.
    """
    found: dict[str, bytes] = {}
    places: dict[str, str] = {}

    def add(name: str, place: str, content: bytes) -> None:
        if found.setdefault(name, content) != content:
            raise CaffeSplitError(
                f"{path}: {places[name]} and {place} differ, and only one can be the {name} of the set. Take the other "
                "one out, or give the folder that has it alone."
            )
        places.setdefault(name, place)

    try:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if wanted(file.name) and file.is_file():
                    add(file.name, str(file.relative_to(path)), file.read_bytes())
            return found
        with tarfile.open(path) as archive:
            # One pass: to go back in a compressed archive means to unpack it again.
            for member in archive:
                name = Path(member.name).name
                stream = archive.extractfile(member) if member.isfile() and wanted(name) else None
                if stream is not None:
                    add(name, member.name, stream.read())
            return found
    except FileNotFoundError:
        raise CaffeSplitError(f"{path}: no such file or folder. Give the archive as it was published.") from None
    except CaffeSplitError:
        raise
    except Exception as error:  # each form of compression has errors of its own
        if path.is_dir() or isinstance(error, PermissionError):
            raise CaffeSplitError(f"{path}: cannot be read: {error}") from error
        # Of an unknown form there is a line for each that was tried, below one that says only that none opened it.
        reason = "" if isinstance(error, tarfile.ReadError) and "\n" in str(error) else f" ({error})"
        raise CaffeSplitError(
            f"{path}: not a whole tar archive{reason}. Was the download cut short? Fetch it again."
        ) from error


def check_md5(path: Path, published: Mapping[str, str]) -> None:
    """Raises `CaffeSplitError` if `path` has the name of a published archive but not its MD5."""
    expected = published.get(path.name)
    if expected is None or not path.is_file():
        return
    found = md5(path)
    if found != expected:
        raise CaffeSplitError(
            f"{path}: MD5 {found}, expected {expected} for the archive of that name "
            f"({path.stat().st_size:,} bytes here). Fetch it again; --no-checksum reads it all the same."
        )
