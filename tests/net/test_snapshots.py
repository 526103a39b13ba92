"""The names of a training's snapshots."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_split.net.snapshots import snapshot_prefix


def test_snapshots_are_named_as_caffe_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert snapshot_prefix("a/s.prototxt", "") == "a/s"
    assert snapshot_prefix("a/s.prototxt", "folder/x") == "folder/x"
    assert snapshot_prefix("a/s.prototxt", "folder") == "folder/s"
