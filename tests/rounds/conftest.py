"""What the tests of a loop share: the digits, never trained, and a loop that ran on them without a stop."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import caffe_split
from caffe_split.net.training import open_training
from tests.rounds.loop_words import SHORT, SOLVER
from tests.support import Trained


@pytest.fixture(scope="session")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, never trained: the net without TPM layers, and a solver of 40 iterations."""
    folder = tmp_path_factory.mktemp("rounds")
    shutil.copytree(trained.folder / "data", folder / "data")
    (folder / "digits").mkdir()
    text = (trained.folder / trained.solver).read_text()
    for old, new in (
        ("max_iter: 100", "max_iter: 40"),
        ("display: 20", "display: 4"),
        ("test_interval: 50", "test_interval: 20"),
        ("test_iter: 4 ", "test_iter: 1 "),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / SOLVER).write_text(text)
    caffe_split.uninstrument(open_training(trained.folder / trained.net)).write(folder / trained.net)
    return folder


@pytest.fixture(scope="session")
def ended(folder: Path) -> caffe_split.MultiSplits:
    """A loop that ran without a stop, in `whole`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return caffe_split.multisplit(SOLVER, options=SHORT, out="whole")
