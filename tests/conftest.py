"""Fixtures that all tests share, and the rule for tests that need the built Caffe."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import CAFFE, ROOT, Trained, caffe_split, train


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CAFFE.exists():
        return
    for item in items:
        if item.get_closest_marker("caffe"):
            item.add_marker(pytest.mark.skip(reason="no built Caffe beside python: run ./tools/build_caffe"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(ROOT / "prototxt" / "digits", folder / "digits")
    caffe_split("data", "digits", "--out", "data", cwd=folder)
    solver = folder / "digits/solver.prototxt"
    text = solver.read_text()
    for old, new in (("max_iter: 2000", "max_iter: 100"), ("snapshot: 100", "snapshot: 10")):
        assert old in text
        text = text.replace(old, new)
    solver.write_text(text)
    caffe_split(
        "instrument", "digits/train_val.prototxt", "--window", "0:100", "--interval", 10, "--in-place", cwd=folder
    )
    return Trained(folder, train("digits/solver.prototxt", folder))


@pytest.fixture
def digits(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the trained folder of one's own."""
    shutil.copytree(trained.folder, tmp_path / "run")
    return tmp_path / "run"
