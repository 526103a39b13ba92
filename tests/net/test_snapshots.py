"""The names of a training's snapshots."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from caffe_split.net.snapshots import find_snapshots, prefix_problem, snapshot_prefix


def test_snapshots_are_named_as_caffe_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert snapshot_prefix("a/s.prototxt", "") == "a/s"
    assert snapshot_prefix("a/s.prototxt", "folder/x") == "folder/x"
    assert snapshot_prefix("a/s.prototxt", "folder") == "folder/s"


def test_a_prefix_that_ends_in_a_slash_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caffe joins strings; `Path` leaves the slash out."""
    monkeypatch.chdir(tmp_path)
    for name in ("folder_iter_1.caffemodel", "_iter_2.caffemodel"):
        (tmp_path / name).touch()
    assert prefix_problem("folder") is None and find_snapshots("folder/") == {}
    assert prefix_problem("folder/") == (
        f"snapshot_prefix: no folder folder seen from {tmp_path}; make it, or change to the directory that the "
        "paths are relative to"
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/_iter_3.caffemodel").touch()
    assert prefix_problem("folder/") is None
    assert find_snapshots("folder/") == {3: Path("folder/_iter_3.caffemodel")}
    assert find_snapshots("folder") == {1: Path("folder_iter_1.caffemodel")}


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert prefix_problem(tmp_path / "a") == (
        f"snapshot_prefix: the folder {tmp_path} cannot be written; change its permissions, or name another"
    )
