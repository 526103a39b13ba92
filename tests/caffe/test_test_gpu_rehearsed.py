"""tools/gpu_rehearse: every step of tools/test_gpu with real programs, on processors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.caffe
@pytest.mark.timeout(3600)
def test_all_steps_run_with_real_programs(tmp_path):
    build = tmp_path / "cpu"
    # Compiled once for a machine, as for ./tools/test --caffe-tests.
    subprocess.run([ROOT / "tools/build_caffe", "--cpu", "--caffe-tests", "--into", build], check=True)
    out = tmp_path / "gpu.md"
    command = [sys.executable, ROOT / "tools/gpu_rehearse", "--within", "3000", "--out", out, build]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert re.search(r"^archive of [\d.]+ MiB in \d+ s$", done.stdout, re.M)
    text = out.read_text(encoding="utf-8")
    assert "# On a GPU: none, a rehearsal: " in text and "FAILED" not in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    found = {row[0]: row[1] for row in rows[1:]}
    nets = found.pop("nets held to the CPU")
    assert re.fullmatch(r"(\d+) of \1", nets)
    assert re.fullmatch(r"\d{3,} passed, 0 failed", found.pop("Caffe's own tests"))
    assert re.fullmatch(r"4\d passed, 0 failed", found.pop("TPM layer's tests"))
    for step in ("digits, losses and TPM off the CPU's", "digits through NCCL, off the CPU's"):
        assert found.pop(step) == "0.0e+00"
    assert re.fullmatch(r"[\d.]+, watched [\d.]+", found.pop("ResNet-20, batch 128, iterations a second"))
    # What is left has no real program without a device, or a speed.
    found.pop("TPM layer's tests under compute-sanitizer")
    assert len(found) == 2 and all(re.fullmatch(r"[\d.]+", cell) for cell in found.values()), found
