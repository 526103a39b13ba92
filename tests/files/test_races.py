"""Whatever happens while something is written, what others have put there stays, and nothing half is seen."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.files import folders, hidden, new_folder, remove_folder, rename, scratch, sha256, write_atomic
from caffe_split.manifest import write_manifest


@pytest.fixture(params=[50, pytest.param(1000, marks=pytest.mark.slow)])
def rounds(request: pytest.FixtureRequest) -> int:
    """How often each race is run; a fault of the old way, to look and then to rename, shows in every tenth."""
    return int(request.param)


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the disk is not what is tested here, and a thousand rounds are to be quick."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(params=["renameat2", "without"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system whose renames can refuse to replace, and one without such renames."""
    if request.param == "without":
        monkeypatch.setattr(rename, "_renameat2", lambda *_: False)
    elif rename._system_call() is None:  # noqa: SLF001 - whether this system has it is known nowhere else.
        pytest.skip("no renameat2 here")
    return str(request.param)


def make(out: Path, text: str, force: bool = False) -> bool:
    """Write a folder as make-derived does. False if it was refused."""
    try:
        with new_folder(out, force) as folder:
            write_atomic(folder / "net.prototxt", text.encode())
            write_manifest(folder, [], ["net.prototxt"], {}, command=[])
    except CaffeSplitError:
        return False
    return True


def is_whole(out: Path) -> bool:
    outputs = json.loads((out / "manifest.json").read_text())["outputs"]
    return all(sha256(out / name) == digest for name, digest in outputs.items())


def at_once(*works: Callable[[], None]) -> None:
    """Run all at the same time, begun at moments that differ from call to call."""
    threads = [threading.Thread(target=_after, args=(random.random() / 200, work)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _after(delay: float, work: Callable[[], None]) -> None:
    time.sleep(delay)
    work()


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_folder_that_appears_stays(tmp_path: Path, system: str, rounds: int) -> None:
    seen = set()
    for number in range(rounds):
        out, made = tmp_path / f"out{number}", []

        def appear(out: Path = out, late: bool = number % 5 == 0) -> None:
            time.sleep(0.1 if late else 0)  # so that both ends are seen, whatever else the machine does
            with contextlib.suppress(FileExistsError):
                out.mkdir()
            (out / "mine").write_text("x")

        def write(out: Path = out, made: list[bool] = made) -> None:
            made.append(make(out, "a"))

        at_once(appear, write)
        assert (out / "mine").read_text() == "x"
        assert is_whole(out) if made[0] else left(out) == ["mine"], number
        seen.add(made[0])
    assert seen == {True, False}
    assert left(tmp_path) == sorted(f"out{number}" for number in range(rounds))


def test_a_file_that_appears_stays(tmp_path: Path, system: str, rounds: int) -> None:
    for number in range(rounds):
        path, written = tmp_path / f"x{number}", []

        def one(path: Path = path, written: list[bytes] = written) -> None:
            with contextlib.suppress(CaffeSplitError):
                write_atomic(path, b"ours", force=False)
                written.append(b"ours")

        def other(path: Path = path, written: list[bytes] = written) -> None:
            with contextlib.suppress(FileExistsError), open(path, "xb") as stream:
                stream.write(b"mine")
                written.append(b"mine")

        at_once(one, other)
        assert written == [path.read_bytes()]
    assert left(tmp_path) == sorted(f"x{number}" for number in range(rounds))


@pytest.mark.parametrize("force", [False, True])
def test_of_two_into_one_folder_the_result_is_one_whole(tmp_path: Path, system: str, rounds: int, force: bool) -> None:
    for number in range(rounds):
        out, made = tmp_path / f"out{number}", []
        works = [lambda text=text, out=out, made=made: made.append(make(out, text, force)) for text in "ab"]
        at_once(*works)
        assert is_whole(out)
        assert sum(made) == 1 or (force and any(made))
    assert left(tmp_path) == sorted(f"out{number}" for number in range(rounds))


def test_what_is_added_to_a_folder_that_is_replaced_stays(tmp_path: Path, system: str, rounds: int) -> None:
    for number in range(rounds):
        out = tmp_path / f"out{number}_"
        assert make(out, "old")

        def add(out: Path = out) -> None:
            for attempt in range(20):  # Without an exchange there is a moment at which nothing has the name.
                with contextlib.suppress(FileNotFoundError):
                    (out / "train.log").write_text("x")
                    return
                time.sleep(0.001 * attempt)

        at_once(add, lambda out=out: make(out, "new", force=True))
        places = list(tmp_path.glob(f"out{number}_*/train.log"))
        assert len(places) == 1 and places[0].read_text() == "x"
        assert is_whole(out), number
    assert not [name for name in left(tmp_path) if name.startswith(".")]


@pytest.fixture
def in_the_moment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Calls a function once on a system without renameat2, when the old folder has lost its name and before the next
    rename, which gives it to the new one."""

    def arrange(act: Callable[[], None]) -> None:
        renames, rename_of_system = [], os.rename

        def renamed(source: Path, target: Path) -> None:
            if Path(target).name == "out" and any(Path(earlier).name == "old" for earlier in renames):
                act()
            renames.append(target)
            rename_of_system(source, target)

        monkeypatch.setattr(rename, "_renameat2", lambda *_: False)
        monkeypatch.setattr(os, "rename", renamed)

    return arrange


def test_a_file_that_is_written_in_the_moment_between_finds_no_folder(
    tmp_path: Path, in_the_moment: Callable[[Callable[[], None]], None]
) -> None:
    out = tmp_path / "out"
    assert make(out, "old")

    def write() -> None:
        with pytest.raises(FileNotFoundError):
            (out / "train.log").write_text("x")

    in_the_moment(write)
    assert make(out, "new", force=True)
    assert is_whole(out) and (out / "net.prototxt").read_text() == "new" and left(tmp_path) == ["out"]


def test_a_folder_that_appears_in_the_moment_between_stays_and_so_does_the_old(
    tmp_path: Path, in_the_moment: Callable[[Callable[[], None]], None]
) -> None:
    out = tmp_path / "out"
    assert make(out, "old")

    def appear() -> None:
        out.mkdir()
        (out / "mine").write_text("x")

    in_the_moment(appear)
    said = r"it stays as it is. What was there before is .*out2 now"
    with pytest.raises(CaffeSplitError, match=said), new_folder(out, force=True) as folder:
        write_atomic(folder / "net.prototxt", b"new")
    assert left(out) == ["mine"] and is_whole(tmp_path / "out2") and left(tmp_path) == ["out", "out2"]


def test_what_was_changed_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert make(out, "old")
    (out / "net.prototxt").write_text("mine")
    with pytest.raises(CaffeSplitError, match=r"changed since it was written: net.prototxt; .*out2 is free"):
        folders.check_out(out, force=True)
    assert not make(out, "new", force=True)
    assert (out / "net.prototxt").read_text() == "mine" and left(tmp_path) == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_a_killed_one_leaves_nothing_that_stays(tmp_path: Path, force: bool, rounds: int) -> None:
    out = tmp_path / "out"
    kept = tmp_path / ".mine.00000000.caffe-split"
    kept.mkdir()
    (kept / "owner").write_text("a file of the user's")
    interrupted = 0
    for number in range(rounds):
        if force:
            make(out, "old")
        child = os.fork()
        if not child:
            try:
                while True:
                    make(out, "new" * 1000, force)
                    if not force:
                        remove_folder(out, lambda _: True)
            finally:
                os._exit(0)
        time.sleep(0.005 + random.random() / 100)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        interrupted += any(name.startswith(".out") for name in left(tmp_path))
        if force:
            assert is_whole(out), number
        hidden.sweep(tmp_path)
        assert set(left(tmp_path)) <= {"out", kept.name}, number
    assert interrupted
    assert (kept / "owner").read_text() == "a file of the user's"


def test_the_living_are_not_swept(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out", force=False) as folder:
        write_atomic(folder / "a", b"1")
        child = os.fork()
        if not child:
            hidden.sweep(tmp_path)
            os._exit(0)
        os.waitpid(child, 0)
        assert (folder / "a").read_bytes() == b"1"
    assert left(tmp_path) == ["out"]


def test_what_it_replaces_comes_back_if_it_was_killed_between_two_renames(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert make(out, "old")
    child = os.fork()
    if not child:
        with hidden.hidden_folder(out) as folder:
            out.rename(folder / "old")
            os._exit(0)  # as if killed: nothing is tidied up
    os.waitpid(child, 0)
    assert not out.exists()
    hidden.sweep(tmp_path)
    assert left(tmp_path) == ["out"] and is_whole(out)


def test_intermediate_files_are_gone_with_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch() as work:
        write_atomic(work / "a", b"1")
        assert (work / "a").read_bytes() == b"1"
    assert left(tmp_path) == []
