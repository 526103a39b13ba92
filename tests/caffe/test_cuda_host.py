"""The TPM layer's CUDA half, run on the host: its GPU tests, its state against numpy and the CPU layer, and its races.

Faults that are put into a copy of the .cu are seen by the checks that the true one passes (pytest -m slow).
"""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests import cuda_host

pytestmark = [pytest.mark.caffe, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[2]
# Types 2 and 3 of a test for all devices are float and double on the GPU. Two of the tests have 10,000 forwards.
GPU = "TPMLayerTest/2.*:TPMLayerTest/3.*"
LONG = "TPMLayerTest/2.TestMany{0}:TPMLayerTest/3.TestMany{0}"
SHORT = f"{GPU}-{LONG.format('Samples')}:{LONG.format('SmallSteps')}"
SAMPLES_IN_FLOAT = "TPMLayerTest/2.TestManySamples"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return cuda_host.Build(tmp_path_factory.mktemp("cuda_host"))


@pytest.fixture(scope="module")
def program(build, tmp_path_factory):
    return build.program(tmp_path_factory.mktemp("program") / "true")


@pytest.fixture(scope="module")
def sanitized(build, tmp_path_factory):
    return build.program(tmp_path_factory.mktemp("program") / "sanitized", sanitize=True)


def run(words, folder, **environment):
    env = {**os.environ, "GLOG_minloglevel": "1", "GLOG_logtostderr": "1", **environment}
    return subprocess.run([str(word) for word in words], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("seed", "tests", "count"),
    [
        (0, SHORT, 36),
        (1, SHORT, 36),
        (2, SHORT, 36),
        (0, SAMPLES_IN_FLOAT, 1),
        pytest.param(0, f"{LONG.format('Samples')}:{LONG.format('SmallSteps')}", 4, marks=pytest.mark.slow),
    ],
)
def test_gpu_tests(program, tmp_path, seed, tests, count):
    """In the order of blocks and threads, and in others."""
    done = run([program, f"--gtest_filter={tests}"], tmp_path, CUDA_HOST_SEED=str(seed))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"[  PASSED  ] {count} test{'s' * (count > 1)}." in done.stdout
    for off in re.findall(r"10,000 samples: D and P are off by (\S+) at most", done.stdout):
        assert float(off) < 1e-4


class Case:
    """A weight that wanders, and what numpy makes of it.

    Samples are (n, kernels, dim), one for each iteration; windows are (start, stop) of iterations.
    """

    def __init__(self, kernels, dim, *, iterations=7, windows=((1, 5),), interval=1, iter_size=1, step=0.1, nan=False):
        rng = np.random.default_rng([kernels, dim, iterations])
        moves = rng.standard_normal((iterations, kernels, dim)) * step
        moves[0] = rng.standard_normal((kernels, dim))
        self.samples = moves.cumsum(axis=0)
        if nan:
            self.samples[iterations // 2, kernels // 2, dim // 2] = np.nan
        self.windows, self.interval, self.iter_size = windows, interval, iter_size

    def options(self):
        windows = " ".join(f"start_iter: {start} stop_iter: {stop}" for start, stop in self.windows)
        return f"{windows} interval: {self.interval} iter_size: {self.iter_size}"

    def expected(self, dtype):
        """(windows, kernels + 1, 2): displacement and path, the last row of the whole weight, in double."""
        values = self.samples.astype(dtype).astype(float)
        rows = []
        for start, stop in self.windows:
            taken = values[start : stop + 1 : self.interval]
            parts = [taken[:, k] for k in range(taken.shape[1])] + [taken.reshape(len(taken), -1)]
            rows.append(
                [
                    (np.linalg.norm(part[-1] - part[0]), np.linalg.norm(np.diff(part, axis=0), axis=1).sum())
                    for part in parts
                ]
            )
        return np.array(rows)


CASES = {
    "one weight": Case(1, 1),
    "one kernel of 4608 weights": Case(1, 4608),
    "2048 kernels of one weight": Case(2048, 1, iterations=4, windows=((0, 3),)),
    "2048 kernels of 9 weights": Case(2048, 9, iterations=4, windows=((0, 3),)),
    "64 kernels of 576 weights": Case(64, 576, iterations=5, windows=((0, 4),)),
    "3 kernels of 128 weights": Case(3, 128),
    "129 kernels of 129 weights": Case(129, 129, iterations=4, windows=((0, 3),)),
    "two windows that meet": Case(5, 27, iterations=12, windows=((1, 5), (5, 11))),
    "interval and iter_size": Case(5, 27, iterations=12, windows=((1, 9),), interval=2, iter_size=3),
    "a weight that becomes NaN": Case(5, 27, nan=True),
    "many small steps": Case(2, 3, iterations=2000, windows=((0, 1999),), step=1e-3),
}


def replay(program, case, device, dtype, folder, **environment):
    """(start, previous, result, counter, top), the blobs from 1 on, of the layer after the samples of a case."""
    kernels, dim = case.samples.shape[1:]
    case.samples.tofile(folder / "samples")
    words = [program, "replay", device, np.dtype(dtype).name.replace("32", "").replace("64", "")]
    words[3] = "float" if dtype == np.float32 else "double"
    done = run([*words, case.options(), kernels, dim, "samples", "out"], folder, **environment)
    if done.returncode:
        return done
    values = np.fromfile(folder / "out")
    windows = len(case.windows)
    sizes = np.cumsum([kernels * dim, kernels * dim, windows * (kernels + 1) * 3, (windows + 1) * 8])
    start, previous, result, counter, top = np.split(values, sizes)
    return start, previous, result.reshape(windows, kernels + 1, 3), counter.reshape(-1, 8), top[0]


def wrong(program, case, dtype, folder):
    """{seed: what of the layer's state is not as numpy and the CPU layer have it}, of two orders."""
    expected, cpu = case.expected(dtype), replay(program, case, "cpu", dtype, folder)
    gpu = {seed: replay(program, case, "gpu", dtype, folder, CUDA_HOST_SEED=str(seed)) for seed in (0, 7)}
    said = {seed: difference(found, cpu, expected, dtype) for seed, found in gpu.items()}
    return {seed: what for seed, what in said.items() if what}


def difference(found, cpu, expected, dtype):
    if not isinstance(found, tuple):
        return f"status {found.returncode}: {found.stderr[-500:]}"
    # D is one number of the layer's type, the path two.
    limits = (3e-7, 1e-12) if dtype == np.float32 else (1e-12, 1e-12)
    for name, result in (("the device", found[2]), ("the CPU", cpu[2])):
        values = {"displacement": result[..., 0], "path": result[..., 1] + result[..., 2]}
        for place, (what, value) in enumerate(values.items()):
            if not np.allclose(value, expected[..., place], rtol=limits[place], atol=0, equal_nan=True):
                off = np.abs(value - expected[..., place]) / np.abs(expected[..., place])
                return f"the {what} on {name} is off numpy's by {off.max():.1e}"
    for blob in (0, 1, 3):
        if not np.array_equal(found[blob], cpu[blob], equal_nan=True):
            return f"blob {blob + 1} is not the CPU's"
    return "" if np.isclose(found[4], cpu[4], rtol=limits[0], equal_nan=True) else f"top {found[4]}, CPU {cpu[4]}"


NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 dim: 5 dim: 4 dim: 4 }
    data_filler { type: "gaussian" } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { name: "w" } param { lr_mult: 2 }
  convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "conv_tpm" type: "TPM" top: "conv_tpm" param { name: "w" }
  tpm_param { start_iter: 2 stop_iter: 12 start_iter: 12 stop_iter: 19 interval: INTERVAL iter_size: ITER_SIZE
    shape { dim: 5 dim: 3 dim: 3 dim: 3 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "conv" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.001 max_iter: 20
display: 0 random_seed: 3 snapshot: 7 snapshot_format: HDF5 snapshot_prefix: "PREFIX" iter_size: ITER_SIZE
clip_gradients: 0.8
"""


@pytest.mark.parametrize(("interval", "iter_size"), [(1, 1), (2, 3)])
def test_a_training_on_the_device_is_that_on_the_cpu_and_is_resumed(program, tmp_path, interval, iter_size):
    """Caffe's own solver: updates where the parameters lie, clipped gradients, snapshots."""
    h5py = pytest.importorskip("h5py")
    text = NET.replace("INTERVAL", str(interval)).replace("ITER_SIZE", str(iter_size))
    # The same data in each iteration, as a run that is resumed sees others.
    text = text.replace('data_filler { type: "gaussian" }', 'data_filler { type: "constant" value: 0.7 }')
    (tmp_path / "net.prototxt").write_text(text)

    def train(mode, name, *snapshot):
        """{(iteration, layer/number): blob} of the snapshots."""
        solver = SOLVER.replace("PREFIX", name).replace("ITER_SIZE", str(iter_size))
        (tmp_path / f"{name}.prototxt").write_text(solver)
        done = run([program, "train", mode, f"{name}.prototxt", *snapshot], tmp_path, CUDA_HOST_SEED="5")
        assert done.returncode == 0, done.stderr[-3000:]
        blobs = {}
        for iteration in (14, 20):
            with h5py.File(tmp_path / f"{name}_iter_{iteration}.caffemodel.h5") as file:
                for layer, group in file["data"].items():
                    blobs.update({(iteration, f"{layer}/{name}"): item[()] for name, item in group.items()})
        return blobs

    cpu, gpu = train("cpu", "cpu"), train("gpu", "gpu")
    resumed = train("gpu", "resumed", "gpu_iter_7.solverstate.h5")
    assert cpu.keys() == gpu.keys() == resumed.keys() and (20, "conv_tpm/3") in cpu
    assert cpu[20, "conv_tpm/4"][2, 0] == 7 // interval + 1
    for name, value in cpu.items():
        np.testing.assert_allclose(gpu[name], value, rtol=1e-4, atol=1e-7, err_msg=str(name))
        # To the last digit.
        np.testing.assert_array_equal(resumed[name], gpu[name], err_msg=str(name))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float", "double"])
@pytest.mark.parametrize("name", CASES)
def test_state_is_that_of_numpy_and_of_the_cpu(program, tmp_path, name, dtype):
    assert wrong(program, CASES[name], dtype, tmp_path) == {}


def orders(count):
    """A case of so many launches, each of which has an order of its own; both blocks run at once."""
    return Case(2, 200, iterations=count + 1, windows=((0, count),))


def races(sanitized, case, folder):
    """Lines of the kernels' file at which ThreadSanitizer sees a race; or another failure."""
    # Without the kernel's random places, which ThreadSanitizer of some compilers cannot take.
    words = ["setarch", "-R", sanitized]
    kernels, dim = case.samples.shape[1:]
    case.samples.tofile(folder / "samples")
    done = run(
        [*words, "replay", "gpu", "double", case.options(), kernels, dim, "samples", "out"],
        folder,
        CUDA_HOST_MODE="threads",
        TSAN_OPTIONS="halt_on_error=0 report_bugs=1 exitcode=66",
    )
    lines = re.findall(r"#0 .* src/caffe/layers/(tpm_layer\.cu:\d+)", done.stderr)
    if "ThreadSanitizer: data race" in done.stderr:
        return sorted(set(lines)) or ["a race elsewhere"]
    return [] if done.returncode == 0 else [f"status {done.returncode}: {done.stderr[-1000:]}"]


def test_no_race_in_100_orders(sanitized, tmp_path):
    case = orders(100)
    assert races(sanitized, case, tmp_path) == []
    result = np.fromfile(tmp_path / "out")[2 * 400 : 2 * 400 + 9].reshape(3, 3)
    expected = case.expected(np.float64)[0]
    np.testing.assert_allclose(result[:, 0], expected[:, 0], rtol=1e-12)
    np.testing.assert_allclose(result[:, 1] + result[:, 2], expected[:, 1], rtol=1e-12)


# What stands there, what is put in its place, the case whose numbers are wrong then, and whether there is a race.
FAULTS = {
    "no barrier in the sum": (
        "    __syncthreads();\n    if (threadIdx.x < half)",
        "    if (threadIdx.x < half)",
        "64 kernels of 576 weights",
        True,
    ),
    "no barrier before the last block": ("  __syncthreads();\n  if (!is_last)", "  if (!is_last)", None, True),
    "<= for < in the sum": ("threadIdx.x < half", "threadIdx.x <= half", "64 kernels of 576 weights", True),
    "no block is the last": ("== gridDim.x - 1", "== gridDim.x", "3 kernels of 128 weights", False),
    "the last block but one": ("== gridDim.x - 1", "== gridDim.x - 2", "3 kernels of 128 weights", True),
    "no fence": ("    __threadfence();\n", "", None, True),
    "the path's low part is forgotten": (
        "row[P_LOW] = path - double(row[P_HIGH])",
        "row[P_LOW] = 0",
        "many small steps",
        False,
    ),
    "the low part is not read": (
        "= double(row[P_HIGH]) + double(row[P_LOW]) +",
        "= double(row[P_HIGH]) +",
        "many small steps",
        False,
    ),
    "a sum in float": ("  double square = 0;\n", "  float square = 0;\n", "64 kernels of 576 weights", False),
    "the count of blocks is not reset": ("    *blocks_done = 0;\n", "", "3 kernels of 128 weights", False),
    "the previous weight is not kept": (
        "    previous[offset + i] = now;\n",
        "",
        "3 kernels of 128 weights",
        False,
    ),
    "the host reads the device's memory": (
        "is_sampled = counter[FORWARDS] == 0",
        "is_sampled = device_counter[FORWARDS] == 0",
        "one weight",
        False,
    ),
    "the whole weight's row is behind the last": (
        "result + gridDim.x * CELLS",
        "result + (gridDim.x + 1) * CELLS",
        "one weight",
        False,
    ),
    "the last sum without its last kernels": (
        "k < gridDim.x; k +=",
        "k < kThreads && k < gridDim.x; k +=",
        "129 kernels of 129 weights",
        False,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault[2]])
def test_fault_gives_wrong_numbers(build, tmp_path, name):
    old, new, case, _ = FAULTS[name]
    program = build.program(tmp_path / "faulty", faulty(old, new))
    dtype = np.float32 if case == "many small steps" else np.float64
    assert wrong(program, CASES[case], dtype, tmp_path), "the fault is not seen"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault[3]])
def test_fault_is_a_race(build, tmp_path, name):
    old, new, _, _ = FAULTS[name]
    found = races(build.program(tmp_path / "faulty", faulty(old, new), sanitize=True), orders(5), tmp_path)
    assert found and all(re.fullmatch(r"tpm_layer\.cu:\d+", line) for line in found), found


def faulty(old, new):
    text = (ROOT / "layers/tpm_layer.cu").read_text(encoding="utf-8")
    assert text.count(old) == 1
    return text.replace(old, new)


def test_forms_of_cuda_are_rewritten_in_their_lines():
    text = (ROOT / "layers/tpm_layer.cu").read_text(encoding="utf-8")
    first, *lines = cuda_host.rewrite(text, "a.cu").split("\n")
    assert first == '#line 1 "a.cu"' and len(lines) == text.count("\n") + 1
    changed = [line.strip() for old, line in zip(text.split("\n"), lines) if old != line]
    assert changed == [
        "double (&squares)[kThreads] = cuda_host::Shared<double[kThreads], 0>();",
        "double (&step_squares)[kThreads] = cuda_host::Shared<double[kThreads], 1>();",
        "bool (&is_last) = cuda_host::Shared<bool, 2>();",
        "cuda_host::Launch(TPMSampleKernel<Dtype>, num_kernels, kThreads)(",
        "cuda_host::Launch(TPMEndKernel<Dtype>, 1, 1)(end);",
    ]
    with pytest.raises(ValueError, match=r"b\.cu: a form with __shared__ that"):
        cuda_host.rewrite("extern __shared__ double some[];", "b.cu")


def test_the_source_is_written_once(tmp_path):
    command = [ROOT / "tools/build_caffe", "--write-source", "there"]
    for options, has in (([], False), (["--cuda"], True)):
        done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "cuda_compat" in (tmp_path / "there/include/caffe/util/device_alternate.hpp").read_text() or not has
        assert (tmp_path / "there/src/caffe/layers/tpm_layer.cu").is_file()
        again = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
        assert again.returncode == 1 and again.stderr == f"tools/build_caffe: {tmp_path}/there exists already\n"
        (tmp_path / "there").rename(tmp_path / f"done{has}")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["doneFalse", "doneTrue"]
