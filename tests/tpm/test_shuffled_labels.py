"""The example of docs/tpm.md does what the page says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT


@pytest.mark.caffe
@pytest.mark.slow
def test_shuffled_labels_give_the_lower_tpm_late_in_training(tmp_path: Path) -> None:
    script = ROOT / "docs/shuffled_labels.py"
    command = [sys.executable, str(script), str(tmp_path / "run"), "--picture", str(tmp_path / "picture.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "lower with shuffled labels in every layer"
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
