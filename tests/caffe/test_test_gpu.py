"""tools/test_gpu, without a device: what it makes of what the programs print, in a pack whose programs print it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SMI = 'case "$1" in -L) echo "GPU 0: Some card" ;; *) echo "Some card, 580.1, 81559 MiB" ;; esac'
MEASURED = "[ MEASURED ] nets/digits.prototxt: GPU is off the CPU by 2e-06 (blobs), 3e-06 (gradients) at most"
SKIPPED = "[  SKIPPED ] DeviceAgreementTest.TestNets: no CUDA device"
GTEST = f"""{MEASURED}
[==========] 321 tests from 40 test cases ran. (1000 ms total)
[  PASSED  ] 321 tests."""
FAILED = """[  FAILED  ] ConvolutionLayerTest/2.TestSobelConvolution, where TypeParam = caffe::GPUDevice<float> (3 ms)
[  PASSED  ] 320 tests.
[  FAILED  ] 1 test, listed below:
[  FAILED  ] ConvolutionLayerTest/2.TestSobelConvolution, where TypeParam = caffe::GPUDevice<float>"""
# `caffe train` as its log is; $4 is the solver, and -gpu comes after it.
CAFFE = """
line() { echo "I20261125 07:26:37.020287 24855 solver.cpp:239] Iteration $1 ($2 iter/s, 0.1s/100 iters), loss = $3"; }
case "$3" in
  digits/*)
    for i in $(seq 0 19); do [ "$4" = -gpu ] && line $i 9 2.30{digit} || line $i 9 2.300; done ;;
  *plain*) line 0 -1e+30 4.6; line 100 1 4; for i in 200 300 400; do line $i 250.5 3; done ;;
  *) line 0 -1e+30 4.6; line 100 1 4; for i in 200 300 400; do line $i 240.1 3; done ;;
esac
exit {status}
"""


def stub(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def pack(tmp_path):
    folder = tmp_path / "pack"
    build = folder / "builds/cudnn"
    (build / "share").mkdir(parents=True)
    stub(build / "libexec/caffe-test", f"cat <<'END'\n{GTEST}\nEND")
    stub(build / "bin/caffe", CAFFE.replace("{digit}", "1").replace("{status}", "0"))
    stub(tmp_path / "bin/nvidia-smi", SMI)
    (folder / "nets").mkdir()
    (folder / "nets/digits.prototxt").write_text("")
    (folder / "test_gpu").write_bytes((ROOT / "tools/test_gpu").read_bytes())
    (folder / "torch_resnet20.py").write_text("print('812.30 iterations a second')\n")
    return folder


def run(pack, smi=True):
    path = f"{pack.parent / 'bin'}:/usr/bin:/bin" if smi else "/usr/bin:/bin"
    command = [sys.executable, pack / "test_gpu", "--out", pack / "gpu.md"]
    return subprocess.run(command, env={**os.environ, "PATH": path}, cwd=pack, capture_output=True, text=True)


def test_table_of_a_device_on_which_all_is_well(pack):
    done = run(pack)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (pack / "gpu.md").read_text()
    # 2.301 beside 2.300.
    assert "| cudnn | 321 | 0 | 4.3e-04 | 250.5 | 240.1 |" in text
    assert "| plain PyTorch, float32 | | | | 812.3 | |" in text
    assert "Some card, 580.1" in text and "cudnn: nets/digits.prototxt: GPU is off the CPU by 2e-06" in text
    assert "FAILED" not in text


@pytest.mark.parametrize(
    "file, old, new, said",
    [
        ("libexec/caffe-test", GTEST, FAILED, "test ConvolutionLayerTest/2.TestSobelConvolution failed"),
        ("libexec/caffe-test", f"cat <<'END'\n{GTEST}\nEND", "echo Check failed; exit 134", "(stopped: Check failed)"),
        ("libexec/caffe-test", MEASURED, SKIPPED, "not held to the CPU: DeviceAgreementTest.TestNets: no CUDA device"),
        ("libexec/caffe-test", MEASURED, "", "digits.prototxt was not held to the CPU: no line of"),
        ("libexec/caffe-test", "GPU is off", "CPU is off", "digits.prototxt was not held to the CPU: no line"),
        ("libexec/caffe-test", "nets/digits", "nets/resnet20", "digits.prototxt was not held to the CPU: no line"),
        ("bin/caffe", "2.301", "2.303", "losses: 1.3e-03 off the CPU"),
        ("bin/caffe", "2.301", "nan", "losses: nan off the CPU"),
        ("bin/caffe", "esac\nexit 0", "esac\ncase $3 in *plain*) echo no memory; exit 134;; esac", "plain: no memory"),
        ("bin/caffe", "seq 0 19", "seq 0 9", "losses: 10 and 10 losses were displayed, not 20"),
        ("bin/caffe", "exit 0", "echo out of memory; exit 1", "out of memory"),
    ],
)  # fmt: skip
def test_what_fails_is_told_and_is_the_status(pack, file, old, new, said):
    path = pack / "builds/cudnn" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    done = run(pack)
    assert done.returncode == 1
    text = (pack / "gpu.md").read_text()
    assert [line for line in text.split("\n- ") if "FAILED" in line and said in line]


def test_pack_without_nets_is_a_failure(pack):
    (pack / "nets/digits.prototxt").unlink()
    assert run(pack).returncode == 1
    assert "- FAILED the pack holds no nets" in (pack / "gpu.md").read_text()


def test_pack_without_builds_is_a_failure(pack):
    (pack / "builds/cudnn").rename(pack / "elsewhere")
    assert run(pack).returncode == 1
    assert "- FAILED the pack holds no build" in (pack / "gpu.md").read_text()


def test_no_torch_is_told(pack):
    (pack / "torch_resnet20.py").write_text("import no_such_module_here\n")
    assert run(pack).returncode == 0
    assert "not run (ModuleNotFoundError: No module named 'no_such_module_here')" in (pack / "gpu.md").read_text()


def test_without_a_device_nothing_is_run(pack):
    done = run(pack, smi=False)
    assert (done.returncode, done.stdout) == (0, "no CUDA device: nothing is run\n")
    assert not (pack / "gpu.md").exists()


def test_torch_net_has_the_parameters_of_the_prototxt():
    torch = pytest.importorskip("torch")
    from caffe_split.proto import prototxt
    from caffe_split.summary import summarize

    names = {}
    exec(compile((ROOT / "benchmarks/torch_resnet20.py").read_text(), "torch_resnet20.py", "exec"), names)
    net = names["resnet20"]()
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
    expected = summarize(prototxt.read(ROOT / "prototxt/resnet20_cifar100/deploy.prototxt"))
    assert sum(parameter.numel() for parameter in net.parameters()) == sum(row.parameters for row in expected.rows)
