"""A file is written completely or not at all, and never over something that is not a file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.files import (
    check_file,
    check_ours,
    free_name,
    lock_file,
    locked,
    new_folder,
    remove_folder,
    write_atomic,
)
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.plot.picture_file import SIGN, write_picture
from caffe_split.trainlog import read_log
from caffe_split.trainlog.export import write_csv, write_json

WRITERS = {
    "weights": lambda path: caffemodel.write_weights(path, {"a": [np.ones(3)]}),
    "hdf5": lambda path: caffemodel.write_weights(f"{path}.h5", {"a": [np.ones(3)]}),
    "state": lambda path: caffemodel.write_solverstate(path, caffemodel.SolverState(1)),
    "prototxt": lambda path: prototxt.write(prototxt.parse("name: 'a'"), path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_no_file_is_never_replaced(writer: str, tmp_path: Path) -> None:
    suffix = ".h5" if writer == "hdf5" else ""
    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"link{suffix}").symlink_to(f"pipe{suffix}")
    before = sorted((path.name, path.is_fifo()) for path in tmp_path.iterdir())
    for name, what in (
        ("folder", "a folder"),
        ("pipe", "is not an ordinary file"),
        ("link", "is not an ordinary file"),
    ):
        with pytest.raises(CaffeSplitError, match=f"{name}.*{what}; give the name of a file"):
            WRITERS[writer](tmp_path / name)
    for name in ("no/where", "n" * 300, "a\0b"):
        with pytest.raises(CaffeSplitError, match="cannot write"):
            WRITERS[writer](tmp_path / name)
    assert sorted((path.name, path.is_fifo()) for path in tmp_path.iterdir()) == before


def test_a_name_that_is_no_utf8_is_a_name_like_others(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_atomic(tmp_path / name, b"1")
    with new_folder(tmp_path / f"{name}s", force=False) as building:
        (building / "a").write_bytes(b"2")
    assert sorted(os.listdir(tmp_path)) == [name, f"{name}s"]


FULL = """
import resource, signal, sys
import numpy as np
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights import caffemodel
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    caffemodel.write_weights(sys.argv[1], {"a": [np.ones(100_000)]})
except CaffeSplitError as error:
    print(error)
"""


FULL_STORE = """
import resource, signal, sys
import numpy as np
from caffe_split.data.store import write_store
from caffe_split.errors import CaffeSplitError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_store(sys.argv[1], ((np.zeros((1, 100, 100), np.uint8), 0) for _ in range(50)))
except CaffeSplitError as error:
    print(error)
"""


def test_a_full_disk_leaves_nothing_of_a_data_set(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_STORE, str(tmp_path / "set")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'set'}: cannot be written: " in done.stdout and "is the disk full?" in done.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x.caffemodel", "x.caffemodel.h5"])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{path}: cannot write it: " in done.stdout and done.stdout.count("\n") == 1
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == [name]


def test_nothing_of_a_failed_write_is_left(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "x", pieces())
    assert os.listdir(tmp_path) == []


def test_exports_replace_what_they_wrote_and_nothing_else(tmp_path: Path) -> None:
    log = read_log(Path(__file__).parents[1] / "trainlog" / "logs" / "bvlc_1_0.log")
    plot = partial(check_ours, tmp_path / "a.png", SIGN.encode(), "plot")
    for export in (partial(write_csv, log, tmp_path), partial(write_json, log, tmp_path)):
        export()
        export()
    write_picture(tmp_path / "a.png", lambda figure: figure.add_subplot())
    plot()
    for path in tmp_path.iterdir():
        path.write_text("mine")
    for export in (partial(write_csv, log, tmp_path), partial(write_json, log, tmp_path), plot):
        with pytest.raises(CaffeSplitError, match=r"exists and is no (table|log|plot).*overwritten unasked"):
            export()
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}


@pytest.mark.parametrize(
    ("taken", "free"),
    [
        (["derived"], "derived2"),
        (["derived1"], "derived2"),
        (["run007"], "run008"),
        (["run007", "run008"], "run009"),
        (["run099"], "run100"),
        (["run\u00b2"], "run\u00b22"),
        (["8"], "9"),
    ],
)
def test_the_next_free_name_counts_on(taken: list[str], free: str, tmp_path: Path) -> None:
    for name in taken:
        (tmp_path / name).mkdir()
    assert free_name(tmp_path / taken[0]).name == free


@pytest.mark.parametrize(
    ("name", "force", "said"),
    [
        ("no/f", True, "no/f: there is no folder '.*no'"),
        ("file/f", True, "file/f: '.*file' is not a folder"),
        ("folder", True, "folder is a folder; give the name of a file"),
        ("folder", False, "folder is a folder; give the name of a file"),
        ("pipe", True, "pipe is not an ordinary file"),
        ("file", False, "file exists; nothing is overwritten unasked"),
        ("x" * 300, True, "cannot be written: File name too long"),
    ],
)
def test_a_place_for_no_file_is_refused_before_anything_is_computed(
    name: str, force: bool, said: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CaffeSplitError, match=said):
        check_file(tmp_path / name, force)
    check_file(tmp_path / "new", False)
    check_file(tmp_path / "file", True)


def test_a_folder_with_a_link_in_it_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/data").write_text("mine")
    made = tmp_path / "made"
    for name in ("theirs", "theirs/data", "nowhere"):
        made.mkdir()
        (made / "link").symlink_to(tmp_path / name)
        with pytest.raises(CaffeSplitError, match=r"made is not removed: .*link was not written by this program"):
            remove_folder(made, lambda _: True)
        assert (made / "link").is_symlink()
        (made / "link").unlink()
        made.rmdir()
    made.symlink_to(tmp_path / "theirs")
    with pytest.raises(CaffeSplitError, match="made was not written by this program"):
        remove_folder(made, lambda _: True)
    assert (tmp_path / "theirs/data").read_text() == "mine"


def test_a_folder_that_the_system_keeps_is_said_to_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.raises(CaffeSplitError, match=r"made: cannot be removed: Permission denied"):
        remove_folder(tmp_path / "made", lambda _: True)


def test_a_lock_that_cannot_be_made_is_said_in_a_line(tmp_path: Path) -> None:
    nowhere = tmp_path / "none" / "lock"
    with pytest.raises(CaffeSplitError, match=f"^{nowhere}: cannot be written: No such file or directory$"):
        lock_file(nowhere)
    why = "^features: cannot be written: No such file or directory$"
    with pytest.raises(CaffeSplitError, match=why), locked(nowhere, "features"):
        pass
