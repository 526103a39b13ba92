"""tools/gpu_study, rehearsed on a processor in a process of its own; what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from tests.support import ROOT, load_tool

torch = pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "tools"))

import gpu_study_parts.arms as arms  # noqa: E402
import gpu_study_parts.data as packed  # noqa: E402
from gpu_study_parts.calibrate import random_sets  # noqa: E402
from gpu_study_parts.table import read_results, rows_of  # noqa: E402

from caffe_split import read_log  # noqa: E402


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """A packed set of a few random images."""
    folder, facts = tmp_path_factory.mktemp("packed"), {}
    for half, (images, labels) in zip(packed.COUNTS, random_sets(24, 24)):
        labels = labels.astype(np.uint8)
        (folder / f"{half}_00000.webp").write_bytes(packed.sheet(images))
        (folder / f"{half}_labels.bin").write_bytes(labels.tobytes())
        arrays = {"images": images, "labels": labels}
        sums = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
        facts[half] = {"count": len(images), **sums}
    (folder / packed.FACTS).write_text(json.dumps(facts))
    return folder


def gpu_study(*words: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(ROOT / "tools/gpu_study"), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


TINY = ["--device", "cpu", "--way", "fp32-plain", "--batch", 2, "--seeds", 1, "--together", 3]


@pytest.mark.slow
def test_a_study_stops_goes_on_and_reports(part, tmp_path) -> None:
    out = tmp_path / "study"
    words = ["--data", part, "--out", out, *TINY, "--scale", "1/3000"]
    done, stops = gpu_study(*words, "--minutes", 0.75), 0
    while done.returncode == 3 and stops < 20:
        assert "the time is over; keeping where" in done.stdout
        stops += 1
        done = gpu_study(*words, "--minutes", 0.75 + stops / 4)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert stops
    results = read_results(out)
    by_arm = {result["arm"]: result for result in results}
    assert list(by_arm) == [arm.name for arm in arms.arms_of(1)]
    assert by_arm["MultiSplits"]["layers"] == by_arm["random-MultiSplits"]["layers"]
    assert len(by_arm["MultiSplits"]["layers"]) == len(by_arm["MultiSplits3"]["layers"]) == 9
    costs = [by_arm[name]["cost"]["parameters"] for name in ("baseline", "MultiSplits", "MultiSplits2", "MultiSplits3")]
    assert costs == sorted(costs) and len(set(costs)) == 4
    assert all(result["folded_cost"]["parameters"] == costs[0] for result in results)
    # An image may lie on the edge between two classes, between fp32 and fp32 of another order.
    assert sum(result["differ"] for result in results) <= 2
    assert all(abs(result["final"] - result["last_test"]) < 1.5 / 24 for result in results)
    log = read_log(out / "s1/MultiSplits3/train.log")
    assert [run.state for run in log.runs] == ["done"]
    tests = log.table("tests")
    assert len(tests) == 3 and tests.iteration[-1] == 20 and set(tests.names) == {"accuracy", "loss"}
    with tarfile.open(out / "hand_back/logs.tar.xz") as tar:
        assert "s1/MultiSplits/train.log" in tar.getnames()
    rows = {row["arm"]: row for row in rows_of(results)}
    assert rows["MultiSplits"]["folded_difference"]["pairs"] == 1 and "folded_difference" not in rows["baseline"]
    assert gpu_study(*words).returncode == 0
    other = gpu_study(*words, "--batch", 3)
    assert other.returncode == 1 and "holds a study of another scale, batch" in other.stderr
    page = gpu_study("--report", out / "hand_back", "--into", tmp_path / "results")
    assert page.returncode == 0 and (tmp_path / "results/resnet20_cifar10_gpu.csv").read_text().count("\n") == 11


def test_what_is_asked_wrongly_is_told(part, tmp_path, capsys, monkeypatch) -> None:
    # In this process, which has loaded PyTorch.
    tool = load_tool("gpu_study")

    def said(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["gpu_study", *map(str, words)])
        status = tool.main()
        return status, "".join(capsys.readouterr())

    data = ["--data", part, "--out", tmp_path / "study", *TINY]
    for words, message in (
        (["--scale", "2"], "expected auto, or a number above 0"),
        (["--scale", "1/64", "--way", "bf17-plain"], "expected fp32, tf32 or bf16"),
        (["--scale", "1/64", "--way", "tf32-convs"], "expected fp32, tf32 or bf16"),
        (["--scale", "1/64", "--way", "bf16"], "our own kernels are for CUDA devices"),
        (["--scale", "1/64", "--seeds", 0], "expected 1 or more"),
    ):
        status, found = said(*data, *words)
        assert status == 1 and message in found, found
    assert not (tmp_path / "study").exists()
    if not torch.cuda.is_available():
        assert "PyTorch sees no CUDA device" in said("--data", part, "--out", tmp_path / "study")[1]
        assert "nothing is measured" in said("--calibrate")[1]
    assert said("--out", tmp_path)[0] == 2
    status, found = said("--report", tmp_path)
    assert status == 1 and "no table of a study" in found
