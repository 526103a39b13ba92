"""Logs out of pipes, `best <(ssh gpu cat train.log)`, and nets and weights, which are not read from one."""

from __future__ import annotations

import contextlib
import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from caffe_split.cli.plot_loss import main
from tests.support import caffe_split, inside

LOGS = Path(__file__).parent / "logs"


@contextlib.contextmanager
def piped(data: bytes) -> Iterator[str]:
    """The path of a pipe that gives `data`, as a shell makes it for `<(...)`."""
    reader, writer = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), open(writer, "wb") as stream:
            stream.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield f"/dev/fd/{reader}"
    finally:
        os.close(reader)
        thread.join()


@pytest.mark.parametrize("name", ["bvlc_1_0.log", "diverged.log"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "words", [["best"], ["best", "--json"], ["best", "--value"], ["final"], ["watch", "--once"], ["table", "--json"]]
)
def test_a_pipe_says_what_the_file_says(name: str, packed: bool, words: list[str]) -> None:
    data = (LOGS / name).read_bytes()
    of_file = caffe_split(*words, LOGS / name, cwd=LOGS)
    with piped(gzip.compress(data) if packed else data) as path:
        of_pipe = caffe_split(*words, path, cwd=LOGS)
    if "--json" not in words:
        assert of_pipe.stdout == of_file.stdout
    else:
        assert of_pipe.stdout.count("\n") > 3 and of_pipe.stdout.count("\n") == of_file.stdout.count("\n")


def test_of_a_pipe_a_plot_and_tpm(tmp_path: Path) -> None:
    with piped((LOGS / "bvlc_1_0.log").read_bytes()) as path, inside(tmp_path):
        assert main([path, "--no_refresh", "--out", "a.png"]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with piped((LOGS / "bvlc_1_0.log").read_bytes()) as path:
        assert "no TPM layer printed anything" in caffe_split("tpm", path, cwd=tmp_path, status=1).stderr


def test_standard_input() -> None:
    log = LOGS / "bvlc_1_0.log"
    of_file = caffe_split("best", log, cwd=LOGS).stdout
    for name in ("-", "/dev/stdin"):
        with log.open("rb") as stream:
            cat = subprocess.Popen(["cat"], stdin=stream, stdout=subprocess.PIPE)
            done = subprocess.run(
                [sys.executable, "-m", "caffe_split", "best", name], stdin=cat.stdout, capture_output=True, check=False
            )
            cat.wait()
        assert (done.returncode, done.stdout.decode()) == (0, of_file)


def test_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    data = (LOGS / "bvlc_1_0.log").read_bytes()
    thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[data], daemon=True)
    thread.start()
    said = caffe_split("best", "pipe", cwd=tmp_path).stdout
    thread.join(10)
    assert said == caffe_split("best", LOGS / "bvlc_1_0.log", cwd=LOGS).stdout


@pytest.mark.parametrize(
    ("words", "argument"),
    [
        (["summary", "PIPE"], "NET"),
        (["test", "net", "PIPE"], "WEIGHTS"),
        (["make-derived", "PIPE", "--iter", "5"], "NET_OR_SOLVER"),
    ],
)
def test_nets_and_weights_are_not_read_from_a_pipe(tmp_path: Path, words: list[str], argument: str) -> None:
    (tmp_path / "net").write_text('name: "n"\nlayer { name: "d" type: "Input" top: "d" }\n')
    with piped(b'name: "n"\n') as path:
        said = caffe_split(*(path if word == "PIPE" else word for word in words), cwd=tmp_path, status=1).stderr
    assert f"{path}: this is a pipe, which can be read only once; {argument} takes " in said and said.count("\n") == 1


def test_other_commands_say_that_it_is_a_pipe(tmp_path: Path) -> None:
    with piped(b"no log\n") as path:
        assert (
            "this is a pipe, which is read only where it gives a log"
            in caffe_split("tpm", path, cwd=tmp_path, status=1).stderr
        )
    with piped((LOGS / "bvlc_1_0.log").read_bytes()) as path:
        assert "does not grow; give the file, or add --once" in caffe_split("watch", path, cwd=LOGS, status=1).stderr
