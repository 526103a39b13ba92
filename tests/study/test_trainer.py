"""What a study trains with is asked for before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caffe_split.backends.choose import get_backend
from tests.study.study_files import write_study
from tests.support import caffe_split

pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")
pytest.importorskip("snakemake", reason="pip install 'snakemake>=8'")

from caffe_split.study.read import read_study
from caffe_split.study.trainer import check_trainer, runs_here


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "cuda"}, "device: cuda, but PyTorch sees no CUDA device here; give device: cpu"),
        (
            {"precision": "tf32"},
            "precision: tf32 is for CUDA devices; this training runs on the CPU: take fp32 or bf16",
        ),
    ],
)
def test_what_the_machine_lacks_is_said_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], said: str, words: list[str]
) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    file = write_study(tmp_path, engine="torch", **changes)
    error = caffe_split("study", file, "--out", "out", *words, cwd=tmp_path, status=1).stderr
    assert error == f"caffe-split: {file}: {said}\n" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("lacking", ["the program", "pycaffe"])
def test_a_caffe_that_is_not_built_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    file = write_study(tmp_path)
    monkeypatch.setattr("caffe_split.backends.caffe.backend.Caffe.is_there", lambda _: lacking != "pycaffe")
    beside = tmp_path / "bin"
    beside.mkdir()
    monkeypatch.setattr("sys.executable", str(beside / "python"))
    monkeypatch.setenv("PATH", str(beside))
    if lacking == "pycaffe":
        (beside / "caffe").write_text("")
        (beside / "caffe").chmod(0o755)
    error = caffe_split("study", file, "--out", "out", cwd=tmp_path, status=1).stderr
    what = {"the program": "no built Caffe is found here", "pycaffe": "pycaffe is not in this environment"}[lacking]
    assert f"{file}: engine: {what}: build Caffe with ./tools/build_caffe" in error
    assert ("or write engine: torch" in error) == get_backend("torch").is_there()
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_what_an_engine_has_is_not_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    for precision in ("fp32", "bf16"):
        check_trainer(read_study(write_study(tmp_path, engine="torch", precision=precision)))


def test_other_machines_may_have_what_this_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs_here([]) and runs_here(["--quiet", "rules"])
    for words in (["--executor", "slurm"], ["--executor=slurm"], ["-e", "slurm"], ["--profile", "lab"]):
        assert not runs_here(words)
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "lab")
    assert not runs_here([])
