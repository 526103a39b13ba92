"""Reading an LMDB that is not in memory, with and without the system reading ahead, and the plain file beside them.

`python benchmarks/bench_store.py [--records 1500] [--side 256] [--rounds 3] [--folder DIR]`. DIR (default: the system's
folder for temporary files) has to lie on a disk; before each run the file is dropped from the system's cache.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import in_turns, report, run  # noqa: E402
from caffe_split.data.store import write_store  # noqa: E402


def forget(path: Path) -> None:
    """Drop a file from the system's cache."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(how: str, folder: Path) -> int:
    """The number of bytes read: from the plain file, or from all records of the LMDB."""
    if how == "file":
        with (folder / "data.mdb").open("rb") as stream:
            return sum(len(block) for block in iter(lambda: stream.read(1 << 20), b""))
    with lmdb.open(str(folder), readonly=True, lock=False, readahead=how == "ahead") as store, store.begin() as records:
        return sum(len(bytes(value)) for _, value in records.cursor())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1500)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.read:
        how, folder = words.read[0], Path(words.read[1])
        forget(folder / "data.mdb")
        report(lambda: read(how, folder))
        return
    with tempfile.TemporaryDirectory(dir=words.folder) as place:
        folder = Path(place, "store")
        rng = np.random.default_rng(0)
        shape = (3, words.side, words.side)
        write_store(folder, ((rng.integers(0, 256, shape, dtype=np.uint8), 0) for _ in range(words.records)))
        command = [sys.executable, __file__, "--read"]
        contestants: dict[str, Callable] = {  # type: ignore[type-arg]
            how: lambda how=how: run([*command, how, str(folder)]) for how in ("ahead", "not ahead", "file")
        }
        for how, result in in_turns(contestants, dict.fromkeys(contestants, words.rounds)).items():
            print(f"{how:10} {words.records / result.seconds:8.0f} records/s")


if __name__ == "__main__":
    main()
