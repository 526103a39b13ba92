"""The files of a published data set, from its archive or a folder."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files import md5


def read_members(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Base name -> content of those files in `path`, a tar archive (compressed or not) or a folder, that are `wanted`.

    Raises `CaffeSplitError` if it cannot be read, and for an archive that is cut short.
    """
    try:
        if path.is_dir():
            return {file.name: file.read_bytes() for file in sorted(path.rglob("*")) if wanted(file.name)}
        with tarfile.open(path) as archive:
            found = {}
            # One pass: to go back in a compressed archive means to unpack it again.
            for member in archive:
                name = Path(member.name).name
                stream = archive.extractfile(member) if member.isfile() and wanted(name) else None
                if stream is not None:
                    found[name] = stream.read()
            return found
    except FileNotFoundError:
        raise CaffeSplitError(f"{path}: no such file or folder. Give the archive as it was published.") from None
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # of an unknown form, a line for each that was tried follows
        raise CaffeSplitError(
            f"{path}: not a whole tar archive ({reason}). Was the download cut short? Fetch it again."
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
