"""manifest.json: what a folder that this program wrote was made from, by which command, and what is in it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from caffe_split import __version__, jsontext
from caffe_split.files import MANIFEST, sha256, write_atomic

SCHEMA = 1  # the version of docs/schemas/outputs-N.json that it keeps to


def manifest_of(
    folder: Path,
    inputs: Iterable[Path],
    outputs: Iterable[str],
    plan: Mapping[str, Any],
    *,
    command: Sequence[str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """What a manifest says: `outputs` are names in the folder, hashed as they lie there.

    `command` None: the one that this process runs.
    """
    return {
        "caffe_split": __version__,
        "schema": SCHEMA,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]] if command is None else list(command),
        "inputs": {str(path): sha256(path) for path in inputs},
        "outputs": {name: sha256(folder / name) for name in outputs},
        "plan": plan,
        **more,
    }


def write_manifest(
    folder: Path, inputs: Iterable[Path], outputs: Iterable[str], plan: Mapping[str, Any], **more: Any
) -> None:
    """Write the folder's manifest, last of all; see `manifest_of`."""
    manifest = manifest_of(folder, inputs, outputs, plan, **more)
    write_atomic(folder / MANIFEST, (jsontext.dumps(manifest) + "\n").encode())
