"""The steps of tools/test_gpu: what each runs, and what it makes of what the programs print.

A step takes the programs (gpu_programs.Programs) and a build's folder, or None where it is of no build, and returns
what it found. Its limit is the time of one of its processes, several times what that should need.
"""

import glob
import math
import os
import re
import shutil
import sys

from gpu_programs import processors, reason
from gpu_table import Found

# Types 2 and 3 of a test for all devices are the GPU's.
CAFFES_TESTS = "*/2.*:*/3.*:CuDNN*:*GPU*-TPM*:DeviceAgreement*"
# Without those of 10,000 forwards: a checker makes each launch a hundred times as long, and they add no kernel.
CHECKED = "TPMLayerTest/2.*:TPMLayerTest/3.*-*.TestManySamples:*.TestManySmallSteps"
CLOSE = 1e-3
ITERATIONS = 20
ITERATION = re.compile(r"Iteration (\d+) \(([-+.\deinfa]+) iter/s.*loss = (\S+)")
OUTPUT = re.compile(r"Train net output #\d+: (\w+_tpm) = (\S+)")
LIMITS = {"TPM": 90, "nets": 60, "losses": 30, "speed": 25, "torch": 60, "check": 60, "NCCL": 30, "Caffe": 150}
# Displays of a speed run that count, at least; those before them warm up.
WARM, COUNTED = 2, 3


def gtest(programs, build, filter, limit, prefix=(), **environment):
    """What a run of the test program says: how many tests passed, those that failed, and all of its output."""
    words = [*prefix, os.path.join(build, "libexec/caffe-test"), f"--gtest_filter={filter}", programs.device]
    status, text = programs.run(build, words, limit, os.path.join(build, "share"), **environment)
    passed = re.search(r"\[  PASSED  \] (\d+) test", text)
    failed = sorted(set(re.findall(r"^\[  FAILED  \] (\w+/\d+\.\w+|\w+\.\w+)", text, re.M)))
    if status is None or (status and not failed) or not passed:
        # It did not come to its end: those after the last were not run.
        begun = re.findall(r"^\[ RUN      \] (\S+)", text, re.M) or ["the first test"]
        failed.append(f"{begun[-1]} (stopped: {reason(status, text, programs.left(limit) or limit)})")
    return int(passed.group(1)) if passed else 0, failed, text


def suite(programs, build, filter, limit, shards):
    """A part of the test program's tests, in as many processes at once."""

    # The CPU's half of a test is small: threads that wait for each other would take more than they give.
    threads = str(max(1, min(4, processors() // shards)))

    def shard(index):
        part = {"GTEST_TOTAL_SHARDS": str(shards), "GTEST_SHARD_INDEX": str(index)}
        return gtest(programs, build, filter, limit, OPENBLAS_NUM_THREADS=threads, **part)

    results = list(programs.at_once(shards, shard, range(shards)))
    passed = sum(result[0] for result in results)
    failed = sorted(test for result in results for test in result[1])
    notes = [line for result in results for line in re.findall(r"^\[ MEASURED \] (.*)$", result[2], re.M)]
    problems = [f"test {test} failed" for test in failed] + ([] if passed else ["no test passed"])
    return Found(f"{passed} passed, {len(failed)} failed", notes, problems)


def tpm(programs, build):
    return suite(programs, build, "TPM*", LIMITS["TPM"], 1)


def caffes(programs, build):
    return suite(programs, build, CAFFES_TESTS, LIMITS["Caffe"], max(1, min(8, processors() // 2)))


def agreement(programs, build, net, threads):
    """What one net was off on the GPU, as the test says it, and why it was not held to the CPU, one of them empty."""
    name = os.path.basename(net)
    environment = {"CAFFE_TEST_NETS": net, "OPENBLAS_NUM_THREADS": str(threads)}
    _, failed, text = gtest(programs, build, "DeviceAgreement*", LIMITS["nets"], **environment)
    measured = [
        line
        for line in re.findall(r"^\[ MEASURED \] (.*)$", text, re.M)
        if ": GPU is off " in line and os.path.basename(line.split(": GPU is off ")[0]) == name
    ]
    measured = [name + line[line.index(": GPU is off ") :] for line in measured]
    if failed:
        return "; ".join(measured), f"{name}: test {', '.join(failed)} failed"
    if not measured:
        # This gtest counts a test that was skipped among those that passed.
        skipped = re.findall(r"^\[  SKIPPED \] (.*)$", text, re.M) or ["no line of DeviceAgreementTest names it"]
        return "", f"{name} was not held to the CPU: {skipped[0]}"
    return measured[0], ""


def agreements(programs, build):
    nets = sorted(glob.glob(os.path.join(programs.folder, "nets/*.prototxt")))
    at_once = max(1, min(4, processors() // 4))
    threads = max(1, processors() // at_once)
    results = list(programs.at_once(at_once, lambda net: agreement(programs, build, net, threads), nets))
    problems = [problem for _, problem in results if problem]
    cell = f"{len(nets) - len(problems)} of {len(nets)}"
    return Found(cell, [measured for measured, _ in results if measured], problems or ([] if nets else ["no nets"]))


def rows_of(text):
    """The (iteration, iterations a second, {output: value}) of each line that caffe train displays; loss is one."""
    rows = []
    for line in text.splitlines():
        shown, output = ITERATION.search(line), OUTPUT.search(line)
        if shown:
            rows.append((int(shown.group(1)), float(shown.group(2)), {"loss": float(shown.group(3))}))
        elif output and rows:
            rows[-1][2][output.group(1)] = float(output.group(2))
    return rows


def train(programs, build, solver, limit, device=False, program=("bin/caffe", "train", "-solver")):
    """The rows of a training, its status, and why it failed, if it did."""
    words = [os.path.join(build, program[0]), *program[1:], solver, *(["-gpu", programs.device] if device else [])]
    status, text = programs.run(build, words, limit)
    rows = rows_of(text)
    return rows, status, ("" if status == 0 and rows else reason(status, text, limit))


def compare(expected, found, what):
    """How far the rows of a training are off others', relatively, as a step finds it.

    Rounding grows from iteration to iteration; a difference in the first one is a wrong kernel.
    """
    if len(expected) != ITERATIONS or len(found) != ITERATIONS:
        counts = f"{len(expected)} and {len(found)}"
        return Found("failed", [], [f"{what}: {counts} losses were displayed, not {ITERATIONS}"])
    if [sorted(row[2]) for row in expected] != [sorted(row[2]) for row in found]:
        return Found("failed", [], [f"{what}: not the same outputs were displayed"])
    terms = []
    for (at, _, a), (_, _, b) in zip(expected, found):
        for name, value in a.items():
            # TPM is undefined before two samples, on both.
            same = math.isnan(value) and math.isnan(b[name]) and name != "loss"
            terms.append((at, name, 0.0 if same else abs(b[name] - value) / abs(value)))
    watched = len(expected[-1][2]) - 1
    defined = sum(not math.isnan(value) for row in expected for name, value in row[2].items() if name != "loss")
    # max() would pass over NaN.
    at, name, off = max(terms, key=lambda term: term[2] if math.isfinite(term[2]) else math.inf)
    where = f"{what}: {off:.1e} off the CPU's at most, {name} at iteration {at}"
    where += f" ({watched} layers watched, {defined} values of TPM)" if watched else ""
    beyond = [term for term in terms if not term[2] <= CLOSE]
    if not beyond:
        return Found(f"{off:.1e}", [where])
    at, name, first = beyond[0]
    return Found(f"{off:.1e}", [], [f"{where}; beyond {CLOSE:.0e} first: {name} at iteration {at}, by {first:.1e}"])


def losses(programs, build):
    cpu, _, trouble = train(programs, build, "digits/cpu.prototxt", LIMITS["losses"])
    gpu, _, more = train(programs, build, "digits/gpu.prototxt", LIMITS["losses"], True)
    if trouble or more:
        return Found("failed", [], [f"losses: {trouble or more}"])
    return compare(cpu, gpu, "losses")


def nccl(programs, build):
    """The same training through NCCL, with a single process; then two processes on one device, which NCCL refuses."""
    program = "libexec/caffe-nccl"
    if not os.path.exists(os.path.join(build, program)):
        return Found("built without NCCL")
    cpu, _, trouble = train(programs, build, "digits/cpu.prototxt", LIMITS["losses"])
    uid = os.path.join(programs.work, "nccl-one")
    gpu, _, more = train(programs, build, "digits/gpu.prototxt", LIMITS["NCCL"], program=(program, "0", "1", uid))
    if trouble or more:
        return Found("failed", [], [f"NCCL: {trouble or more}"])
    found = compare(cpu, gpu, "NCCL, one process")
    uid = os.path.join(programs.work, "nccl-two")

    def rank(number):
        words = (program, str(number), "2", uid)
        return train(programs, build, "digits/gpu.prototxt", LIMITS["NCCL"], program=words)[2]

    said = list(programs.at_once(2, rank, range(2)))
    if all(said):
        found.notes.append(f"NCCL, two processes on one device: refused, as NCCL wants a device for each: {said[0]}")
    else:
        found.notes.append("NCCL, two processes on one device: trained")
    return found


def rate(rows):
    """Iterations a second, the median of the displays after the first ones; None of too few."""
    rates = sorted(shown for _, shown, _ in rows[WARM:])
    return rates[len(rates) // 2] if len(rates) >= COUNTED else None


def speed(programs, build):
    """Caffe train of ResNet-20 unwatched and watched, in turns, twice.

    The better of both turns; a ratio for each turn, of runs one right after the other. A run that is out of time counts
    by its displays.
    """
    pairs = []
    for _ in range(2):
        pair = []
        for which in ("plain", "watched"):
            rows, status, trouble = train(programs, build, f"speed/{which}_solver.prototxt", LIMITS["speed"], True)
            found = rate(rows)
            if found is None or status not in (0, None):
                trouble = trouble or f"{len(rows)} lines with iterations a second"
                return Found("failed", [], [f"ResNet-20, {which}: {trouble}"])
            pair.append(found)
        pairs.append(pair)
    plain, watched = (sorted(column)[-1] for column in zip(*pairs))
    ratios = ", ".join(f"{b / a:.3f}" for a, b in pairs)
    return Found(f"{plain:.1f}, watched {watched:.1f}", [f"ResNet-20: watched to unwatched, by turns: {ratios}"])


def torch(programs, build):
    words = [sys.executable, os.path.join(programs.folder, "torch_resnet20.py"), "--device", f"cuda:{programs.device}"]
    status, text = programs.run(None, words, LIMITS["torch"])
    found = re.search(r"^([\d.]+) iterations", text, re.M)
    # A machine without PyTorch is no failure.
    return Found(f"{float(found.group(1)):.1f}" if found else f"not run ({reason(status, text, LIMITS['torch'])})")


def engine(programs, build):
    if not os.path.isdir(os.path.join(programs.folder, "python/caffe_split")):
        return Found("not in the pack")
    words = [sys.executable, "-m", "caffe_split.engine", "speed/plain_solver.prototxt", "--device", "cuda"]
    path = os.path.join(programs.folder, "python")
    status, text = programs.run(None, words, LIMITS["torch"], PYTHONPATH=path)
    found = rate(rows_of(text))
    if found is None and re.search(r"^ModuleNotFoundError: ", text, re.M):
        return Found(f"not run ({reason(status, text, LIMITS['torch'])})")
    if found is None:
        return Found("failed", [], [f"the engine: {reason(status, text, LIMITS['torch'])}"])
    return Found(f"{found:.1f}")


def checked(programs, build):
    """The TPM layer's GPU tests under compute-sanitizer: memory accesses, then races."""
    toolkit = os.path.join("/usr/local/cuda", "bin/compute-sanitizer")
    program = shutil.which("compute-sanitizer") or (toolkit if os.path.exists(toolkit) else None)
    if program is None:
        return Found("no compute-sanitizer")
    cells, problems = [], []
    for tool in ("memcheck", "racecheck"):
        prefix = [program, "--tool", tool, "--print-limit", "20", "--error-exitcode", "99"]
        passed, failed, text = gtest(programs, build, CHECKED, LIMITS["check"], prefix)
        summary = re.search(r"^=+ (?:ERROR|RACECHECK) SUMMARY: (.*)$", text, re.M)
        cells.append(f"{tool}: {summary.group(1) if summary else 'not run to its end'}, {passed} passed")
        if summary is None or not re.match(r"0 (errors|hazards)", summary.group(1)) or failed:
            said = re.findall(r"^=+ ((?:Invalid|Error|Warning|Program|Race|Target).*)$", text, re.M)[:3]
            problems.append(f"{cells[-1]}; {'; '.join([*said, *failed])}")
    return Found("; ".join(cells), [], problems)


# In this order, by worth: title, step, whether it is for each build.
STEPS = (
    ("TPM layer's tests", tpm, True),
    ("nets held to the CPU", agreements, True),
    ("digits, losses and TPM off the CPU's", losses, True),
    ("ResNet-20, batch 128, iterations a second", speed, True),
    ("the same in plain PyTorch, float32", torch, False),
    ("the same by the engine", engine, False),
    ("TPM layer's tests under compute-sanitizer", checked, True),
    ("digits through NCCL, off the CPU's", nccl, True),
    ("Caffe's own tests", caffes, True),
)
