"""Stand-ins for what tools/test_gpu runs on a machine with a GPU: a build of Caffe, NCCL, the engine, the driver."""

import os
import subprocess
import sys
from pathlib import Path

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
