"""tools/test_gpu, without a device: what it makes of what the programs print, in a pack whose programs print it."""

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("test_gpu", "gpu_programs.py", "gpu_steps.py", "gpu_table.py")

SMI = 'case "$1" in -L) echo "GPU 0: Some card" ;; *) echo "580.1" ;; esac'
MEASURED = "GPU is off the CPU by 2e-06 (blobs), 3e-06 (gradients) at most"
SKIPPED = "[  SKIPPED ] DeviceAgreementTest.TestNets: no CUDA device"
FAILED = """[  FAILED  ] ConvolutionLayerTest/2.TestSobelConvolution, where TypeParam = caffe::GPUDevice<float> (3 ms)
[  PASSED  ] 320 tests.
[  FAILED  ] 1 test, listed below:
[  FAILED  ] ConvolutionLayerTest/2.TestSobelConvolution, where TypeParam = caffe::GPUDevice<float>"""
# The file `device` counts how many programs still find the device; without it all do.
DEVICE = """if [ -f "$PACK/device" ]; then
  left=$(cat "$PACK/device")
  [ "$left" -gt 0 ] || { echo "E20261125 07:26:37.020287 1 a.cpp:1] no CUDA device: launch failure"; exit 1; }
  echo $((left - 1)) >"$PACK/device"
fi
"""
# Caffe's own tests, of which each shard has some, the TPM layer's, the nets.
TESTS = f"""
case "$1" in
  *-TPM*) cat <<'END'
[  PASSED  ] 7 tests.
END
  ;;
  *TPM*) echo "[  PASSED  ] 42 tests." ;;
  *) cat <<END
[ MEASURED ] $CAFFE_TEST_NETS: {MEASURED}
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
# A line of caffe's log, and the top of a TPM layer.
LINES = """log="I20261125 07:26:37.020287 24855"
line() {
  echo "$log solver.cpp:239] Iteration $1 ($2 iter/s, 0.1s/100 iters), loss = $3"
  echo "$log solver.cpp:258]     Train net output #0: conv1_tpm = $4"
}
"""
# $4 is -gpu, after the solver. TPM is not defined at first.
CAFFE = f"""
{LINES}
if [ $1 = device_query ]; then
  {QUERY}
  exit 0
fi
case "$3" in
  digits/*)
    for i in $(seq 0 19); do
      tpm=nan; [ $i -lt 3 ] || tpm=0.5
      [ "$4" = -gpu ] && line $i 9 2.301 $tpm || line $i 9 2.300 $tpm
    done ;;
  *plain*) line 0 -1e+30 4.6; line 100 1 4; for i in 200 300 400; do line $i 250.5 3; done ;;
  *) line 0 -1e+30 4.6; line 100 1 4; for i in 200 300 400; do line $i 240.1 3; done ;;
esac
exit 0
"""
NCCL = f"""
{LINES}
[ $2 = 1 ] || {{ echo "F20261125 07:26:37.020287 1 parallel.cpp:1] Check failed: Duplicate GPU detected"; exit 134; }}
for i in $(seq 0 19); do
  tpm=nan; [ $i -lt 3 ] || tpm=0.5
  line $i 9 2.300 $tpm
done
"""
ENGINE = """import sys
assert sys.argv[1:] == ["speed/plain_solver.prototxt", "--device", "cuda"]
for i in range(0, 500, 100):
    print(f"I20261125 07:26:37.020287 1 engine.py:1] Iteration {i} (300.5 iter/s, 0.1s/100 iters), loss = 3")
"""
CHECKER = """case "$*" in
  *racecheck*) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ;;
  *) echo "========= ERROR SUMMARY: 0 errors" ;;
esac
while [ "${1#--}" != "$1" ]; do shift 2; done
exec "$@"
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
    stub(build / "libexec/caffe-test", DEVICE + TESTS)
    stub(build / "libexec/caffe-nccl", DEVICE + NCCL)
    stub(build / "bin/caffe", DEVICE + CAFFE)
    (folder / "nets").mkdir()
    (folder / "nets/digits.prototxt").write_text("")
    for script in SCRIPTS:
        (folder / script).write_bytes((ROOT / "tools" / script).read_bytes())
    (folder / "torch_resnet20.py").write_text("print('812.30 iterations a second')\n")
    (folder / "python/caffe_split").mkdir(parents=True)
    (folder / "python/caffe_split/__init__.py").write_text("")
    (folder / "python/caffe_split/engine.py").write_text(ENGINE)
    stub(tmp_path / "bin/compute-sanitizer", CHECKER)
    return folder


def replace(path, old, new):
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


def run(pack, *options, smi=True, **env):
    # Where there is a driver, its own program is in /usr/bin.
    stub(pack.parent / "bin/nvidia-smi", SMI if smi else "exit 9")
    command = [sys.executable, pack / "test_gpu", "--out", pack / "gpu.md", *options]
    path = f"{pack.parent / 'bin'}:/usr/bin:/bin"
    env = {**os.environ, "PATH": path, "PACK": str(pack), "CUDA_VISIBLE_DEVICES": "0", **env}
    return subprocess.run(command, env=env, cwd=pack, capture_output=True, text=True)


def problems(pack):
    return [line for line in (pack / "gpu.md").read_text().splitlines() if line.startswith("- FAILED ")]


def cells(pack):
    """{step: cell of the first build} of the table."""
    lines = (pack / "gpu.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    return {row[0]: row[1] for row in rows[1:]}


TPM, NETS, LOSSES = "TPM layer's tests", "nets held to the CPU", "digits, losses and TPM off the CPU's"
SPEED = "ResNet-20, batch 128, iterations a second"
TORCH, ENGINES = "the same in plain PyTorch, float32", "the same by the engine"
CHECKED, THROUGH_NCCL = "TPM layer's tests under compute-sanitizer", "digits through NCCL, off the CPU's"
CAFFES = "Caffe's own tests"
WELL = {
    TPM: "42 passed, 0 failed",
    NETS: "1 of 1",
    LOSSES: "4.3e-04",
    SPEED: "250.5, watched 240.1",
    TORCH: "812.3",
    ENGINES: "300.5",
    CHECKED: "memcheck: 0 errors, 42 passed; racecheck: 0 hazards displayed (0 errors, 0 warnings), 42 passed",
    THROUGH_NCCL: "0.0e+00",
    CAFFES: f"{7 * max(1, min(8, len(os.sched_getaffinity(0)) // 2))} passed, 0 failed",
}


def test_table_of_a_device_on_which_all_is_well(pack):
    done = run(pack)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (pack / "gpu.md").read_text()
    assert cells(pack) == WELL
    assert "# On a GPU: Some card, 81559 MiB, driver 580.1" in text
    assert f"cudnn: digits.prototxt: {MEASURED}" in text
    # 2.301 beside 2.300; TPM is the same where it is defined.
    said = "cudnn: losses: 4.3e-04 off the CPU's at most, loss at iteration 0 (1 layers watched, 17 values of TPM)"
    assert said in text
    assert "watched to unwatched, by turns: 0.958, 0.958" in text
    assert "two processes on one device: refused, as NCCL wants a device for each: Check failed: Duplicate GPU" in text
    assert problems(pack) == []
    log = (pack / "gpu.log").read_text()
    assert f"nets/digits.prototxt: {MEASURED}" in log
    checks = [line for line in log.splitlines() if line.startswith("==== ") and "compute-sanitizer" in line]
    assert len(checks) == 2 and all("-*.TestManySamples:*.TestManySmallSteps 0" in line for line in checks)
    # Those of both devices, and through NCCL; another run does not add to them.
    assert log.count("Iteration 19 ") == 4
    run(pack)
    assert (pack / "gpu.log").read_text().count("Iteration 19 ") == 4


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "libexec/caffe-test",
            "[  PASSED  ] 7 tests.",
            FAILED,
            "test ConvolutionLayerTest/2.TestSobelConvolution failed",
        ),
        (
            "libexec/caffe-test",
            "[  PASSED  ] 7 tests.",
            "[ RUN      ] A/2.B\nCheck failed",
            "test A/2.B (stopped: Check failed) failed",
        ),
        (
            "libexec/caffe-test",
            'echo "[  PASSED  ] 42 tests."',
            "echo no memory; exit 134",
            "test the first test (stopped: no memory) failed",
        ),
        (
            "libexec/caffe-test",
            f"[ MEASURED ] $CAFFE_TEST_NETS: {MEASURED}",
            SKIPPED,
            "not held to the CPU: DeviceAgreementTest.TestNets: no CUDA device",
        ),
        (
            "libexec/caffe-test",
            f"[ MEASURED ] $CAFFE_TEST_NETS: {MEASURED}",
            "",
            "digits.prototxt was not held to the CPU: no line of",
        ),
        ("libexec/caffe-test", "GPU is off", "CPU is off", "digits.prototxt was not held to the CPU: no line"),
        ("libexec/caffe-test", "$CAFFE_TEST_NETS", "nets/resnet", "digits.prototxt was not held to the CPU: no line"),
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
            "losses: 1.3e-03 off the CPU's at most, loss at iteration 0 (1 layers watched, "
            "17 values of TPM); beyond 1e-03 first: loss at iteration 0, by 1.3e-03",
        ),
        (
            "bin/caffe",
            "2.301",
            "2.3$(($i / 6))0",
            "losses: 1.3e-02 off the CPU's at most, loss at iteration 18 (1 "
            "layers watched, 17 values of TPM); beyond 1e-03 first: loss at iteration 6, by 4.3e-03",
        ),
        ("bin/caffe", "2.301", "nan", "losses: nan off the CPU"),
        ("bin/caffe", "2.301 $tpm", "2.301 0.501", "losses: nan off the CPU's at most, conv1_tpm at iteration 0"),
        (
            "bin/caffe",
            "2.301 $tpm",
            "2.301 $(echo $tpm | tr 5 6)",
            "losses: 2.0e-01 off the CPU's at most, conv1_tpm at iteration 3",
        ),
        (
            "bin/caffe",
            "2.301",
            "$([ $i -gt 5 ] && echo nan || echo 2.301)",
            "losses: nan off the CPU's at most, loss "
            "at iteration 6 (1 layers watched, 17 values of TPM); beyond 1e-03 first: loss at iteration 6, by nan",
        ),
        ("bin/caffe", "esac\nexit 0", "esac\ncase $3 in *plain*) echo no memory; exit 134;; esac", "plain: no memory"),
        ("bin/caffe", "seq 0 19", "seq 0 9", "losses: 10 and 10 losses were displayed, not 20"),
        ("bin/caffe", "esac\nexit 0", "esac\necho out of memory; exit 1", "out of memory"),
        (
            "bin/caffe",
            "200 300 400; do line $i 250.5",
            "200 300; do line $i 250.5",
            "plain: 4 lines with iterations a second",
        ),
        ("libexec/caffe-nccl", "line $i 9 2.300", "line $i 9 2.310", "NCCL, one process: 4.3e-03 off the CPU's"),
        ("libexec/caffe-nccl", "[ $2 = 1 ] ||", "", "NCCL: Check failed: Duplicate GPU detected"),
        ("../../../bin/compute-sanitizer", "SUMMARY: 0 hazards", "SUMMARY: 3 hazards", "racecheck: 3 hazards"),
        ("../../../bin/compute-sanitizer", "ERROR SUMMARY: 0 errors", "Device not supported", "memcheck: not run"),
    ],
)
def test_what_fails_is_said_and_is_the_status(pack, file, old, new, said):
    replace(pack / "builds/cudnn" / file, old, new)
    done = run(pack)
    assert done.returncode == 1, done.stderr
    assert [line for line in problems(pack) if said in line], problems(pack)


def test_what_dies_or_hangs_ends_alone(pack):
    """The first net's test hangs, the third's dies: all else has its place in the table."""
    (pack / "nets/cifar.prototxt").write_text("")
    (pack / "nets/resnet.prototxt").write_text("")
    replace(pack / "gpu_steps.py", '"nets": 60', '"nets": 2')
    begun = 'case "$CAFFE_TEST_NETS" in *cifar*) echo begun; sleep 60 ;; *resnet*) echo died; exit 134 ;; esac\n'
    replace(pack / "builds/cudnn/libexec/caffe-test", "cat <<END\n", f"{begun}cat <<END\n")
    assert run(pack).returncode == 1
    assert cells(pack) == {**WELL, NETS: "1 of 3"}
    hung, died = problems(pack)
    assert "cifar.prototxt: test the first test (stopped: not done in 2 s, and ended; its last line: begun)" in hung
    assert "resnet.prototxt: test the first test (stopped: died) failed" in died


def test_a_device_that_dies_in_the_middle(pack):
    """It answers the question at the start, the TPM tests, the net and two runs of 20 iterations, no more."""
    (pack / "device").write_text("5")
    assert run(pack).returncode == 1
    found = cells(pack)
    for step in (TPM, NETS, LOSSES):
        assert found[step] == WELL[step]
    assert found[SPEED] == "failed"
    gone = "not run: the device is gone: no CUDA device: launch failure"
    assert [found[step] for step in (TORCH, ENGINES, CHECKED, THROUGH_NCCL, CAFFES)] == [gone] * 5
    first, *rest = problems(pack)
    assert first == "- FAILED cudnn: ResNet-20, plain: no CUDA device: launch failure"
    assert len(rest) == 5


def test_a_device_with_little_memory(pack):
    """What does not fit says so, and the rest is run."""
    said = "Check failed: error == cudaSuccess (2 vs. 0)  out of memory"
    lacks = f'echo "F20261125 07:26:37.020287 1 syncedmem.cpp:71] {said}"; exit 134'
    replace(pack / "builds/cudnn/bin/caffe", "*plain*) line", f"*plain*) {lacks}; line")
    assert run(pack).returncode == 1
    assert cells(pack) == {**WELL, SPEED: "failed"}
    assert problems(pack) == [f"- FAILED cudnn: ResNet-20, plain: {said}"]


def test_the_time_of_all_steps_is_limited(pack):
    """The nets' test hangs: it is ended with the time of all, and what comes after is not begun."""
    replace(pack / "builds/cudnn/libexec/caffe-test", "cat <<END\n", "echo begun; sleep 60\ncat <<END\n")
    assert run(pack, "--within", "8").returncode == 1
    found = cells(pack)
    assert (found.pop(TPM), found.pop(NETS)) == (WELL[TPM], "0 of 1")
    assert set(found.values()) == {"not run: out of time"}


def test_a_speed_that_is_out_of_time_counts_by_its_displays(pack):
    replace(pack / "gpu_steps.py", '"speed": 25', '"speed": 2')
    replace(pack / "builds/cudnn/bin/caffe", "line $i 250.5 3; done", "line $i 250.5 3; done; sleep 60")
    assert run(pack).returncode == 0, problems(pack)
    assert cells(pack) == WELL


def test_a_build_that_does_not_start_ends_alone(pack):
    """A library is missing there, say: the other build has its column."""
    shutil.copytree(pack / "builds/cudnn", pack / "builds/broken")
    stub(pack / "builds/broken/bin/caffe", "echo libcudnn.so.9: cannot open shared object file; exit 127")
    assert run(pack).returncode == 1
    lines = (pack / "gpu.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith(f"| {TPM} "))
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["not run: does not start", WELL[TPM]]
    said = f"- FAILED {pack}/builds/broken: caffe device_query fails: libcudnn.so.9: cannot open shared object file"
    assert len(problems(pack)) == 1 and problems(pack)[0].startswith(said)


def test_the_table_is_there_while_it_is_made(pack):
    """When PyTorch has its turn all that comes before is written."""
    program = "import shutil; shutil.copy('gpu.md', 'then.md'); print('1.0 iterations')\n"
    (pack / "torch_resnet20.py").write_text(program)
    assert run(pack).returncode == 0
    then = (pack / "then.md").read_text()
    assert f"| {SPEED} | {WELL[SPEED]} |" in then and f"| {TORCH} | not run |" in then
    assert cells(pack) == {**WELL, TORCH: "1.0"}


def test_a_program_that_cannot_be_run_ends_alone(pack):
    (pack / "builds/cudnn/libexec/caffe-test").chmod(0o644)
    assert run(pack).returncode == 1
    assert cells(pack)[SPEED] == WELL[SPEED]
    assert "libexec/caffe-test cannot be run: Permission denied" in problems(pack)[0]


def test_pack_without_nets_is_a_failure(pack):
    (pack / "nets/digits.prototxt").unlink()
    assert run(pack).returncode == 1
    assert "- FAILED the pack holds no nets" in problems(pack)


def test_pack_without_builds_is_a_failure(pack):
    shutil.move(pack / "builds/cudnn", pack / "elsewhere")
    assert run(pack).returncode == 1
    assert "- FAILED the pack holds no build" in problems(pack)


def test_an_archive_is_unpacked_and_run(pack, tmp_path):
    place = tmp_path / "carried"
    place.mkdir()
    with tarfile.open(place / "pack.tar.xz", "w:xz") as archive:
        for path in sorted(pack.iterdir()):
            archive.add(path, path.name)
    for script in SCRIPTS:
        shutil.move(pack / script, place)
    done = run(place)
    assert done.returncode == 0, done.stderr
    assert cells(place) == WELL
    assert {path.name for path in place.iterdir()} == {"gpu.log", "gpu.md", "pack.tar.xz", *SCRIPTS}


def test_no_torch_is_said(pack):
    (pack / "torch_resnet20.py").write_text("import no_such_module_here\n")
    (pack / "python/caffe_split/engine.py").write_text("import no_such_module_there\n")
    assert run(pack).returncode == 0
    found = cells(pack)
    assert found[TORCH] == "not run (ModuleNotFoundError: No module named 'no_such_module_here')"
    assert found[ENGINES] == "not run (ModuleNotFoundError: No module named 'no_such_module_there')"


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
    programs = load("gpu_programs.py")
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
    stub(tmp_path / "cuda/lib64/libcudart.so.13", "")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)

    def taken(major):
        monkeypatch.setattr(programs, "cuda_major", lambda build: major)
        found = programs.libraries("/b", [str(tmp_path)], [str(tmp_path / "cuda")])
        return [path.split("/")[-2] for path in found.split(":")[1:]]

    # A toolkit's come last.
    assert taken("13") == ["cu13", "cudnn", "curand", "cuda"]
    # cuDNN and cuRAND tell no CUDA; without cu13 they are those of the others.
    (tmp_path / "nvidia/cu13").rename(tmp_path / "cu13")
    assert taken("13") == ["cuda"]
    (tmp_path / "cu13").rename(tmp_path / "nvidia/cu13")
    assert taken("12") == ["cublas", "cuda_runtime", "cudnn", "curand"]
    assert taken("") == [*sorted(places), "cuda"]


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


def test_an_archive_has_a_limit(tmp_path):
    gpu_pack = load("gpu_pack.py")
    folder = tmp_path / "pack"
    (folder / "builds/a/lib").mkdir(parents=True)
    (folder / "builds/b/lib").mkdir(parents=True)
    (folder / "test_gpu").write_text("the script")
    library = tmp_path / "libopenblas.so.0"
    library.write_bytes(os.urandom(400_000))
    for build, others in (("a", []), ("b", [folder / "builds/a/lib"])):
        gpu_pack.copy_library(library, folder / "builds" / build / "lib" / library.name, others)
    with pytest.raises(SystemExit, match=r"the archive has 0 MiB, more than 0\.3: pack fewer builds"):
        gpu_pack.write_archive(folder, 0.3)
    assert (folder / "builds/a/lib" / library.name).is_file() and len(list(tmp_path.iterdir())) == 2
    # What both builds have is in it once.
    assert gpu_pack.write_archive(folder, 0.5) < 450_000
    assert sorted(path.name for path in folder.iterdir()) == ["pack.tar.xz", "test_gpu"]
    with tarfile.open(folder / "pack.tar.xz") as archive:
        archive.extractall(tmp_path / "there")
    for build in "ab":
        assert (tmp_path / "there/builds" / build / "lib" / library.name).read_bytes() == library.read_bytes()


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
