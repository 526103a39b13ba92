"""tools/test_gpu, without a device: what it makes of what the programs print, in a pack whose programs print it."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SMI = 'case "$1" in -L) echo "GPU 0: Some card" ;; *) echo "580.1" ;; esac'
MEASURED = "[ MEASURED ] nets/digits.prototxt: GPU is off the CPU by 2e-06 (blobs), 3e-06 (gradients) at most"
SKIPPED = "[  SKIPPED ] DeviceAgreementTest.TestNets: no CUDA device"
GTEST = """[==========] 321 tests from 40 test cases ran. (1000 ms total)
[  PASSED  ] 321 tests."""
FAILED = """[  FAILED  ] ConvolutionLayerTest/2.TestSobelConvolution, where TypeParam = caffe::GPUDevice<float> (3 ms)
[  PASSED  ] 320 tests.
[  FAILED  ] 1 test, listed below:
[  FAILED  ] ConvolutionLayerTest/2.TestSobelConvolution, where TypeParam = caffe::GPUDevice<float>"""
# Caffe's own tests, the TPM layer's, the nets.
TESTS = f"""
case "$1" in
  *-TPM*) cat <<'END'
{GTEST}
END
  ;;
  *=TPM*) echo "[  PASSED  ] 42 tests." ;;
  *) cat <<'END'
{MEASURED}
[  PASSED  ] 1 test.
END
  ;;
esac
"""
QUERY = """echo "$log common.cpp:200] Name:                          Some card"
  echo "$log common.cpp:201] Total global memory:           85520809984"
"""
NONE = """echo "E20261125 07:26:37.020287 24855 caffe.cpp:96] no CUDA device: driver too old"; exit 1
"""
# `caffe train` as its log is; $4 is the solver, and -gpu comes after it.
CAFFE = f"""
log="I20261125 07:26:37.020287 24855"
if [ $1 = device_query ]; then
  {QUERY}
  exit 0
fi
line() {{ echo "$log solver.cpp:239] Iteration $1 ($2 iter/s, 0.1s/100 iters), loss = $3"; }}
case "$3" in
  digits/*)
    for i in $(seq 0 19); do [ "$4" = -gpu ] && line $i 9 2.301 || line $i 9 2.300; done ;;
  *plain*) line 0 -1e+30 4.6; line 100 1 4; for i in 200 300 400; do line $i 250.5 3; done ;;
  *) line 0 -1e+30 4.6; line 100 1 4; for i in 200 300 400; do line $i 240.1 3; done ;;
esac
exit 0
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
    stub(build / "libexec/caffe-test", TESTS)
    stub(build / "bin/caffe", CAFFE)
    (folder / "nets").mkdir()
    (folder / "nets/digits.prototxt").write_text("")
    (folder / "test_gpu").write_bytes((ROOT / "tools/test_gpu").read_bytes())
    (folder / "torch_resnet20.py").write_text("print('812.30 iterations a second')\n")
    return folder


def replace(path, old, new):
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


def run(pack, smi=True, **env):
    # Where there is a driver, its own program is in /usr/bin.
    stub(pack.parent / "bin/nvidia-smi", SMI if smi else "exit 9")
    command = [sys.executable, pack / "test_gpu", "--out", pack / "gpu.md"]
    env = {**os.environ, "PATH": f"{pack.parent / 'bin'}:/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "0", **env}
    return subprocess.run(command, env=env, cwd=pack, capture_output=True, text=True)


def problems(pack):
    return [line for line in (pack / "gpu.md").read_text().splitlines() if line.startswith("- FAILED ")]


ALL_WELL = "| cudnn | 42 passed, 0 failed | 1 of 1 | 4.3e-04 | 250.5 | 240.1 | 321 passed, 0 failed |"


def test_table_of_a_device_on_which_all_is_well(pack):
    done = run(pack)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (pack / "gpu.md").read_text()
    # 2.301 beside 2.300.
    assert ALL_WELL in text
    assert "| plain PyTorch, float32 |  |  |  | 812.3 |  |  |" in text
    assert "# On a GPU: Some card, 81559 MiB, driver 580.1" in text
    assert "cudnn: nets/digits.prototxt: GPU is off the CPU by 2e-06" in text
    assert "cudnn: losses: 4.3e-04 off the CPU's at most, at iteration 0" in text
    assert problems(pack) == []
    logs = pack / "gpu.logs"
    steps = ["Caffe", "TPM", "losses", "nets", "plain", "watched"]
    assert sorted(path.name for path in logs.iterdir()) == [f"cudnn.{step}.log" for step in steps]
    assert MEASURED in (logs / "cudnn.nets.log").read_text()
    # Those of both devices; another run does not add to them.
    assert (logs / "cudnn.losses.log").read_text().count("Iteration 19 ") == 2
    run(pack)
    assert (logs / "cudnn.losses.log").read_text().count("Iteration 19 ") == 2


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("libexec/caffe-test", GTEST, FAILED, "test ConvolutionLayerTest/2.TestSobelConvolution failed"),
        ("libexec/caffe-test", GTEST, "[ RUN      ] A/2.B\nCheck failed", "test A/2.B (stopped: Check failed) failed"),
        (
            "libexec/caffe-test",
            'echo "[  PASSED  ] 42 tests."',
            "echo no memory; exit 134",
            "test the first test (stopped: no memory) failed",
        ),
        ("libexec/caffe-test", MEASURED, SKIPPED, "not held to the CPU: DeviceAgreementTest.TestNets: no CUDA device"),
        ("libexec/caffe-test", MEASURED, "", "digits.prototxt was not held to the CPU: no line of"),
        ("libexec/caffe-test", "GPU is off", "CPU is off", "digits.prototxt was not held to the CPU: no line"),
        ("libexec/caffe-test", "nets/digits", "nets/resnet20", "digits.prototxt was not held to the CPU: no line"),
        (
            "libexec/caffe-test",
            "[  PASSED  ] 1 test.",
            "[  PASSED  ] 0 tests.\n[  FAILED  ] DeviceAgreementTest.TestNets",
            "digits.prototxt: test DeviceAgreementTest.TestNets failed",
        ),
        (
            "bin/caffe",
            "2.301",
            "2.303",
            "losses: 1.3e-03 off the CPU's at most, at iteration 0; beyond 1e-03 first at iteration 0, by 1.3e-03",
        ),
        (
            "bin/caffe",
            "2.301",
            "2.3$(($i / 6))0",
            "losses: 1.3e-02 off the CPU's at most, at iteration 18; beyond 1e-03 first at iteration 6, by 4.3e-03",
        ),
        ("bin/caffe", "2.301", "nan", "losses: nan off the CPU"),
        (
            "bin/caffe",
            "2.301",
            "$([ $i -gt 5 ] && echo nan || echo 2.301)",
            "losses: nan off the CPU's at most, at iteration 6; beyond 1e-03 first at iteration 6, by nan",
        ),
        ("bin/caffe", "esac\nexit 0", "esac\ncase $3 in *plain*) echo no memory; exit 134;; esac", "plain: no memory"),
        ("bin/caffe", "seq 0 19", "seq 0 9", "losses: 10 and 10 losses were displayed, not 20"),
        ("bin/caffe", "esac\nexit 0", "esac\necho out of memory; exit 1", "out of memory"),
    ],
)
def test_what_fails_is_told_and_is_the_status(pack, file, old, new, said):
    replace(pack / "builds/cudnn" / file, old, new)
    done = run(pack)
    assert done.returncode == 1, done.stderr
    assert [line for line in problems(pack) if said in line], problems(pack)


def test_what_dies_or_hangs_ends_alone(pack):
    """The first net's test hangs, the third's dies: all else has its place in the table."""
    (pack / "nets/cifar.prototxt").write_text("")
    (pack / "nets/resnet.prototxt").write_text("")
    replace(pack / "test_gpu", '"nets": 120', '"nets": 2')
    begun = 'case "$CAFFE_TEST_NETS" in *cifar*) echo begun; exec sleep 60 ;; *resnet*) echo died; exit 134 ;; esac\n'
    replace(pack / "builds/cudnn/libexec/caffe-test", f"cat <<'END'\n{MEASURED}", f"{begun}cat <<'END'\n{MEASURED}")
    assert run(pack).returncode == 1
    assert ALL_WELL.replace("1 of 1", "1 of 3") in (pack / "gpu.md").read_text()
    hung, died = problems(pack)
    assert "cifar.prototxt: test the first test (stopped: not done in 2 s, and ended; its last line: begun)" in hung
    assert "resnet.prototxt: test the first test (stopped: died) failed" in died


def test_the_table_is_there_while_it_is_made(pack):
    """PyTorch's turn is the last but one: by then all but Caffe's own tests is written."""
    program = "import shutil; shutil.copy('gpu.md', 'then.md'); print('1.0 iterations')\n"
    (pack / "torch_resnet20.py").write_text(program)
    assert run(pack).returncode == 0
    assert ALL_WELL.replace("321 passed, 0 failed", "not run") in (pack / "then.md").read_text()
    assert ALL_WELL in (pack / "gpu.md").read_text()


def test_a_program_that_cannot_be_run_ends_alone(pack):
    (pack / "builds/cudnn/libexec/caffe-test").chmod(0o644)
    assert run(pack).returncode == 1
    assert ALL_WELL.split("4.3e-04")[1].split("321")[0] in (pack / "gpu.md").read_text()
    assert "libexec/caffe-test cannot be run: Permission denied" in problems(pack)[0]


def test_pack_without_nets_is_a_failure(pack):
    (pack / "nets/digits.prototxt").unlink()
    assert run(pack).returncode == 1
    assert "- FAILED the pack holds no nets" in problems(pack)


def test_pack_without_builds_is_a_failure(pack):
    (pack / "builds/cudnn").rename(pack / "elsewhere")
    assert run(pack).returncode == 1
    assert "- FAILED the pack holds no build" in problems(pack)


def test_no_torch_is_told(pack):
    (pack / "torch_resnet20.py").write_text("import no_such_module_here\n")
    assert run(pack).returncode == 0
    assert "not run (ModuleNotFoundError: No module named 'no_such_module_here')" in (pack / "gpu.md").read_text()


def test_the_built_caffe_says_whether_there_is_a_device(pack):
    caffe = pack / "builds/cudnn/bin/caffe"
    # It is enough by itself.
    assert run(pack, smi=False).returncode == 0
    assert "# On a GPU: Some card, 81559 MiB\n" in (pack / "gpu.md").read_text()
    (pack / "gpu.md").unlink()
    replace(caffe, QUERY, NONE)
    done = run(pack, smi=False)
    assert (done.returncode, done.stdout) == (0, "no CUDA device: driver too old: nothing is run\n")
    # Here there is one, unless it is hidden.
    done = run(pack)
    said = f"nvidia-smi shows a device, and {caffe.parents[1]} finds none: no CUDA device: driver too old"
    assert done.returncode == 1 and said in done.stderr
    assert run(pack, CUDA_VISIBLE_DEVICES="").returncode == 0
    replace(caffe, NONE, 'echo "F20261125 07:26:37.020287 1 a.cpp:1] CPU-only"; exit 134\n')
    done = run(pack, smi=False)
    assert done.returncode == 1 and "caffe device_query fails: CPU-only" in done.stderr
    assert "a build for a GPU is made by tools/build_caffe --cuda" in done.stderr
    caffe.unlink()
    done = run(pack)
    assert done.returncode == 1 and "has no bin/caffe: make it by tools/build_caffe --cuda --caffe-tests" in done.stderr
    assert not (pack / "gpu.md").exists()


def load(name):
    """A tool as a module."""
    loader = importlib.machinery.SourceFileLoader(name.replace(".", "_"), str(ROOT / "tools" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def no_bytecode(monkeypatch):
    # A tool without .py would leave its bytecode beside it.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def test_libraries_of_another_cuda_are_left_out(tmp_path, monkeypatch):
    test_gpu = load("test_gpu")
    places = {
        "cu13": ("libcudart.so.13", "libcurand.so.10"),
        "cublas": ("libcublas.so.12",),
        "cuda_runtime": ("libcudart.so.12",),
        "cudnn": ("libcudnn.so.9",),
        "curand": ("libcurand.so.10",),
    }
    for place, names in places.items():
        for name in names:
            stub(tmp_path / "nvidia" / place / "lib" / name, "")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)

    def taken(major):
        monkeypatch.setattr(test_gpu, "cuda_major", lambda build: major)
        return [path.split("/")[-2] for path in test_gpu.libraries("/b").split(":")[1:]]

    assert taken("13") == ["cu13", "cudnn", "curand"]
    # cuDNN and cuRAND tell no CUDA; without cu13 they are those of the others.
    (tmp_path / "nvidia/cu13").rename(tmp_path / "cu13")
    assert taken("13") == []
    (tmp_path / "cu13").rename(tmp_path / "nvidia/cu13")
    assert taken("12") == ["cublas", "cuda_runtime", "cudnn", "curand"]
    assert taken("") == sorted(places)


@pytest.mark.parametrize(
    ("major", "runtime", "compiler"),
    [
        ("13", "nvidia/cu13/lib", "nvidia/cu13/lib"),
        ("12", "nvidia/cuda_runtime/lib", "nvidia/cuda_nvrtc/lib"),
        ("13", "cuda/lib64", "cuda/lib64"),
    ],
)
def test_packed_libraries_bring_the_compiler_that_cudnn_loads(tmp_path, major, runtime, compiler):
    gpu_pack = load("gpu_pack.py")
    names = [f"libnvrtc-builtins.so.{major}.4", f"libnvrtc.so.{major}"]
    for name in [*names, f"libnvrtc.so.{major}.4.12", "libnvrtc.alt.so.13", "libnvrtc.so.11.2", "libnvrtc_static.a"]:
        stub(tmp_path / compiler / name, "")
    needed = {f"libcudart.so.{major}": tmp_path / runtime / f"libcudart.so.{major}"}
    needed["libcudnn.so.9"] = tmp_path / "nvidia/cudnn/lib/libcudnn.so.9"
    assert sorted(path.name for path in gpu_pack.nvrtc(needed)) == names


def test_packed_libraries_are_not_those_of_the_c_library():
    gpu_pack = load("gpu_pack.py")
    system = "libc.so.6 libm.so.6 libmvec.so.1 libutil.so.1 libanl.so.1 libnsl.so.1 libcrypt.so.1 libpthread.so.0"
    system += " libdl.so.2 librt.so.1 libresolv.so.2 ld-linux-x86-64.so.2 libcuda.so.1 libnvidia-ml.so.1"
    assert [name for name in system.split() if not gpu_pack.SYSTEM.match(name)] == []
    ours = "libcaffe.so.1.0.0 libcudart.so.13 libcrypto.so.3 libcurl.so.4 libmpi.so.40 libz.so.1 libstdc++.so.6"
    assert [name for name in ours.split() if gpu_pack.SYSTEM.match(name)] == []


def test_a_build_without_caffe_cannot_be_packed(tmp_path):
    command = [sys.executable, ROOT / "tools/gpu_pack.py", tmp_path / "pack", tmp_path / "build"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    how = f"tools/build_caffe --cuda --caffe-tests --into {tmp_path}/build"
    assert done.stderr == f"tools/gpu_pack.py: {tmp_path}/build has no bin/caffe: make it by {how}\n"
    assert not (tmp_path / "pack").exists()


def test_torch_net_has_the_parameters_of_the_prototxt():
    torch = pytest.importorskip("torch")
    from caffe_split.formats import prototxt
    from caffe_split.layertypes.summary import summarize

    names = {}
    exec(compile((ROOT / "benchmarks/torch_resnet20.py").read_text(), "torch_resnet20.py", "exec"), names)
    net = names["resnet20"]()
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 100)
    expected = summarize(prototxt.read(ROOT / "prototxt/resnet20_cifar100/deploy.prototxt"))
    assert sum(parameter.numel() for parameter in net.parameters()) == sum(row.parameters for row in expected.rows)
