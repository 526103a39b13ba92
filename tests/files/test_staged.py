"""A log takes an earlier one's place only when its training has begun."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from caffe_split.files import staged


@pytest.mark.parametrize("keep", [False, True])
def test_it_takes_its_place_when_it_is_settled(tmp_path: Path, keep: bool) -> None:
    log = tmp_path / "train.log"
    log.write_bytes(b"old\n")
    with staged(log, keep) as stage:
        os.write(stage.stream.fileno(), b"one\n")
        assert log.read_bytes() == b"old\n"
        stage.settle()
        os.write(stage.stream.fileno(), b"two\n")
        assert stage.finish() == log
    assert log.read_bytes() == (b"old\n" if keep else b"") + b"one\ntwo\n"
    assert os.listdir(tmp_path) == ["train.log"]


@pytest.mark.parametrize("keep", [False, True])
def test_what_fails_before_is_put_beside_it(tmp_path: Path, keep: bool) -> None:
    log = tmp_path / "train.log"
    log.write_bytes(b"old\n")
    for name in ("train.log.failed", "train.log.failed2"):
        with staged(log, keep) as stage:
            os.write(stage.stream.fileno(), b"wrong\n")
            assert stage.finish() == tmp_path / name
        assert (tmp_path / name).read_bytes() == b"wrong\n" and log.read_bytes() == b"old\n"
    assert len(os.listdir(tmp_path)) == 3


def test_a_new_log_is_written_at_once(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    with staged(log, False) as stage:
        os.write(stage.stream.fileno(), b"one\n")
        assert log.read_bytes() == b"one\n"
        assert stage.finish() == log


def test_what_another_program_has_added_in_the_meantime_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_bytes(b"old\n")
    with staged(log, True) as stage:
        with log.open("ab") as other:
            other.write(b"of caffe itself\n")
        stage.settle()
    assert log.read_bytes() == b"old\n" and (tmp_path / "train.log.kept").read_bytes() == b"old\nof caffe itself\n"
