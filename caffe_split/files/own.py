"""Which files in a folder this program wrote, by the manifest in it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from caffe_split.files.hashes import sha256

# The file that says that this program wrote a folder, and from what.
MANIFEST = "manifest.json"


def added(folder: Path) -> str | None:
    """What is at `folder` that this program did not write, as a predicate; None if nothing is."""
    if folder.is_symlink() or not folder.is_dir():
        return "is not a folder"
    if not any(folder.iterdir()):
        return None
    outputs = _outputs(folder)
    if outputs is None:
        return f"is no folder that caffe-split wrote: it has no {MANIFEST} that says so"
    more = sorted(path.name for path in folder.iterdir() if path.name not in outputs and path.name != MANIFEST)
    if more:
        return f"holds more than was written into it: {_listed(more)}"
    changed = [
        name for name, digest in outputs.items() if (folder / name).is_file() and sha256(folder / name) != digest
    ]
    if changed:
        return f"holds what was changed since it was written: {_listed(changed)}"
    return None


def remove_listed(folder: Path) -> None:
    """Remove a folder's outputs, unless they were changed, its manifest, and the folder if nothing else is in it."""
    outputs = _outputs(folder) or {}
    with contextlib.suppress(OSError):
        for name, digest in outputs.items():
            if (folder / name).is_file() and sha256(folder / name) == digest:
                (folder / name).unlink()
        if not {path.name for path in folder.iterdir()} - {MANIFEST}:
            (folder / MANIFEST).unlink(missing_ok=True)
            folder.rmdir()


def _outputs(folder: Path) -> dict[str, Any] | None:
    """The files that a manifest lists, with their hashes; None where there is no such manifest.

    Names of files elsewhere are left out: nothing outside the folder is ever touched for a manifest's sake.
    """
    try:
        outputs = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["outputs"]
        return {name: digest for name, digest in outputs.items() if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
