"""A derivation is written whole or not at all: full disks, killed processes, folders that may not be written."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs
from caffe_split.errors import CaffeSplitError
from caffe_split.files import folders, new_folder
from caffe_split.formats.weights.caffemodel import SolverState
from tests.support import caffe_split

pytestmark = pytest.mark.usefixtures("any_backend")

COMMAND = [
    "make-derived",
    "digits/solver.prototxt",
    "--iter",
    "100",
    "--layers",
    "res2_conv1",
    "--partition",
    "random:0",
]
KILLED = """
import os, signal, sys
from caffe_split.cli import main
from caffe_split.derivation import plan as write
def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(write, sys.argv[1], killed)
sys.argv[:2] = ["caffe-split"]
main()
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_that_trains_can_be_typed_whatever_the_names_are(tmp_path: Path) -> None:
    net, weights = tmp_path / "net.prototxt", tmp_path / "w.caffemodel"
    net.write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }'
        'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4'
        " kernel_size: 3 pad: 1 } }"
    )
    cs.write_weights(weights, {"conv": [np.ones((4, 3, 3, 3)), np.zeros(4)]})
    options, out = cs.DeriveOptions(partition="list:0,1"), tmp_path / "my nets; $d1"
    plan = cs.derive(cs.open_training(net), weights=weights, layers=["conv"], options=options, out=out)
    state = SolverState(1, "", 0, [])
    command = replace(plan, solver_path=tmp_path / "a solver.prototxt", state=state).train_command()
    assert command is not None
    assert shlex.split(command) == [
        *("caffe-split", "train", f"{out}/a solver.prototxt"),
        *("--snapshot", f"{out}/init.solverstate"),
    ]


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "replaced"])
def test_a_full_disk_leaves_nothing(digits: Path, earlier: bool) -> None:
    if earlier:
        caffe_split(*COMMAND, cwd=digits)
    before = files(digits)
    result = subprocess.run(
        [sys.executable, "-m", "caffe_split", *COMMAND, "--force", "--seed", "1"],
        cwd=digits,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("caffe-split: derived1: cannot be written: ") and result.stderr.count("\n") == 1
    assert files(digits) == before
    assert not [path for path in digits.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("at", ["write_manifest", "new_folder"])
def test_a_killed_process_leaves_the_old_folder(digits: Path, at: str) -> None:
    caffe_split(*COMMAND, cwd=digits)
    before = files(digits / "derived1")
    result = subprocess.run(
        [sys.executable, "-c", KILLED, at, *COMMAND, "--force", "--seed", "1"],
        cwd=digits,
        capture_output=True,
        check=False,
    )
    assert result.returncode == -9
    assert files(digits / "derived1") == before
    caffe_split(*COMMAND, "--force", "--seed", 1, cwd=digits)
    assert files(digits / "derived1") != before


def test_a_swap_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with new_folder(out, False) as folder:
        (folder / "manifest.json").write_text('{"outputs": {}}')

    def refused(source: Path, target: Path) -> None:
        raise FileExistsError if target.exists() else OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "exchange", lambda *_: False)
    monkeypatch.setattr(folders, "rename_new", refused)
    monkeypatch.setattr(folders, "rename_again", refused)
    said = "out: cannot be written: No space left on device. Nothing is left"
    with pytest.raises(CaffeSplitError, match=said), new_folder(out, True) as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in out.iterdir()] == ["manifest.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(digits: Path) -> None:
    digits.chmod(0o555)
    try:
        result = caffe_split(*COMMAND, cwd=digits, status=1)
    finally:
        digits.chmod(0o755)
    assert "derived1: cannot be written: Permission denied" in result.stderr


def test_a_dry_run_needs_no_folder(digits: Path) -> None:
    caffe_split(*COMMAND, cwd=digits)
    (digits / "derived1" / "train.log").write_text("a training")
    before = files(digits)
    assert "nothing written (--dry-run)" in caffe_split(*COMMAND, "--dry-run", cwd=digits).stdout
    (digits / "taken").mkdir()
    said = caffe_split(*COMMAND, "--dry-run", "--out", "taken", cwd=digits)
    assert said.stdout.endswith("nothing written (--dry-run)\n")
    assert "note: taken exists; nothing is overwritten unasked" in said.stderr
    refused = caffe_split(*COMMAND, "--force", cwd=digits, status=1).stderr
    assert "holds more than was written into it: train.log" in refused and "derived2 is free" in refused
    assert files(digits) == before
