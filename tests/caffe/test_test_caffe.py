"""tools/test_caffe: what it makes of what Caffe's test program prints; a false program prints it here."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Other tests measure something, too.
TPM = "[ MEASURED ] the TPM of 10000 samples is off by 4.8e-08"
MEASURED = f"{TPM}\n[ MEASURED ] {{nets}}/digits.prototxt: CPU is off the CPU by 0 (blobs), 0 (gradients) in float"
ENDED = "[==========] 321 tests from 40 test cases ran. (1000 ms total)"
PASSED = "[  PASSED  ] 321 tests."
FAILED = """[  FAILED  ] ConvolutionLayerTest/0.TestSobel, where TypeParam = caffe::CPUDevice<float> (3 ms)
[  PASSED  ] 320 tests.
[  FAILED  ] 1 test, listed below:
[  FAILED  ] ConvolutionLayerTest/0.TestSobel, where TypeParam = caffe::CPUDevice<float>"""


def program(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(folder, *lines, status=0):
    """The script beside false ones: a build whose test program prints these lines, and a pack of one net."""
    shutil.copytree(ROOT / "tools", folder / "tools")
    said = "\n".join(lines).replace("{nets}", "${CAFFE_TEST_NETS%/*}")
    program(folder / "caffe-test", f"cat <<END\n{said}\nEND\nexit {status}")
    into = '"$4/libexec"'
    program(folder / "tools/build_caffe", f'mkdir -p {into} "$4/share/caffe"; cp {folder}/caffe-test {into}')
    program(folder / ".venv/bin/python", 'mkdir -p "$3/nets"; touch "$3/nets/digits.prototxt"')
    return subprocess.run([folder / "tools/test_caffe"], capture_output=True, text=True)


def test_all_is_well(tmp_path):
    done = run(tmp_path, MEASURED, ENDED, PASSED)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[ MEASURED ] digits.prototxt: CPU is off" in done.stdout and "321 passed, 0 failed" in done.stdout


@pytest.mark.parametrize(
    ("lines", "status", "said"),
    [
        ([MEASURED, ENDED, FAILED], 1, "  failed: ConvolutionLayerTest/0.TestSobel\n"),
        ([MEASURED, ENDED, FAILED], 1, "tools/test_caffe: not the failures that are expected"),
        ([MEASURED, ENDED, FAILED.replace("Convo", "A/Convo")], 1, "  failed: A/ConvolutionLayerTest/0.TestSobel\n"),
        ([MEASURED, ENDED, PASSED], 139, "no test failed, and yet the test program ended with status 139"),
        (["F1125 blob.cpp:1] Check failed"], 134, "the test program stopped with status 134 before its end"),
        (["[  SKIPPED ] no nets", ENDED, PASSED], 0, "[  SKIPPED ] no nets\n"),
        ([TPM, "[  SKIPPED ] no nets", ENDED, PASSED], 0, "DeviceAgreementTest compared 0 of 1 nets"),
    ],
)
def test_what_fails_is_told_and_is_the_status(tmp_path, lines, status, said):
    done = run(tmp_path, *lines, status=status)
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
