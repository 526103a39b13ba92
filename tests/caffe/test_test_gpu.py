"""tools/test_gpu, without a device: what it makes of what the programs print, in a pack whose programs print it."""

import os
import shutil
import tarfile

import pytest

from tests.caffe.gpu_stubs import (
    CAFFE,
    CHECKER,
    DEVICE,
    ENGINE,
    FAILED,
    MEASURED,
    NCCL,
    NONE,
    QUERY,
    ROOT,
    SCRIPTS,
    SKIPPED,
    TESTS,
    cells,
    problems,
    replace,
    run,
    stub,
)


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
