"""tools/gpu_study: its steps held to the engine, its kernels to PyTorch, the whole of it rehearsed on a processor."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.support import ROOT

torch = pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "tools"))

import gpu_study_parts.arms as arms  # noqa: E402
import gpu_study_parts.data as packed  # noqa: E402
import gpu_study_parts.split as nets  # noqa: E402
from gpu_study_parts.calibrate import random_scores, random_sets  # noqa: E402
from gpu_study_parts.check import check  # noqa: E402
from gpu_study_parts.images import Data, Way, draws_of  # noqa: E402
from gpu_study_parts.report import write_report  # noqa: E402
from gpu_study_parts.run import Run  # noqa: E402
from gpu_study_parts.start import BASELINE, start_weights, with_inputs  # noqa: E402
from gpu_study_parts.table import read_results, rows_of  # noqa: E402

from caffe_split import CaffeSplitError, read_log  # noqa: E402
from caffe_split.engine import Net  # noqa: E402
from caffe_split.tpm.lengths import lengths  # noqa: E402

PLAIN = Way("fp32-plain", torch.device("cpu"))
CUTS = {
    "MultiSplits": nets.Cut("residual"),
    "SkipSplit_1x1": nets.Cut("skip", "stride"),
    "SkipSplit_AvgPooling": nets.Cut("skip", "average"),
    "random": nets.Cut("residual", partition="random:1"),
}


@pytest.fixture
def baseline(tmp_path, monkeypatch):
    """The baseline in a folder of its own, with weights that leave hardly a value near a ReLU's edge: there two sums
    of other order part."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BASELINE, "resnet20_cifar10")
    weights = start_weights(Path("resnet20_cifar10") / nets.NET, 1)
    for name, blobs in weights.items():
        # (In the last stage it would leave gradients to cancel themselves.)
        if name.endswith("_scale") and not name.startswith("res3"):
            blobs[1][:] = 2.5
        elif name.endswith("_bn"):
            for blob, value in zip(blobs, (0.3, 1.7, 2.5)):
                blob[:] = value
    return nets.read_program(Path("resnet20_cifar10") / nets.NET, weights), weights


def run_of(program, weights, way=PLAIN, batch=4, steps=12, images=32) -> Run:
    data = Data.of(way, *random_sets(images, images))
    draws = torch.as_tensor(draws_of(3, steps, batch))
    return Run(way, program, weights, data, draws, np.full(steps, 1e-3), tests=4, test_batch=16)


def off_the_engine(folder: str, weights, run: Run) -> dict[str, float]:
    """How far loss, gradients and running sums of one batch lie from the engine's Net's, relative to their length."""
    net = Net(with_inputs(Path(folder) / nets.NET, run.batch), "TRAIN")
    net.load(weights, "weights")
    loss = float(run.gradients())
    images = np.ascontiguousarray(run.x[..., :3].numpy().transpose(0, 3, 1, 2))
    theirs = net.forward({"data": images, "label": run.y.numpy()})
    theirs.loss.backward()
    ours = run.layout.blobs(run.gradient.numpy())
    state = run.blobs({name: tensor.numpy() for name, tensor in run.state().items()})
    off = {"loss": abs(loss / float(theirs.loss.detach()) - 1)}
    for layer in net.layers:
        if layer.text.type == "BatchNorm":
            pairs = zip(state[layer.name], (blob.numpy() for blob in layer.blobs))
        elif layer.name in ours:
            # A bias before the next BatchNorm hardly moves the loss: what is left of its gradient is rounding.
            pairs = list(zip(ours[layer.name], (blob.grad.numpy() for blob in layer.blobs)))
            pairs = pairs[:1] if layer.text.type == "Scale" else pairs
        else:
            continue
        for index, (one, other) in enumerate(pairs):
            apart = np.linalg.norm(one.reshape(-1) - other.reshape(-1))
            off[f"{layer.name} {index}"] = float(apart / np.linalg.norm(other))
    return off


def test_the_baseline_is_the_engines(baseline) -> None:
    off = off_the_engine("resnet20_cifar10", baseline[1], run_of(*baseline))
    assert len(off) == 1 + 19 * 5 + 2
    assert max(off.values()) < 1e-4, max(off.items(), key=lambda item: item[1])


@pytest.mark.parametrize("name", CUTS)
def test_a_split_net_is_the_engines(name: str, baseline) -> None:
    program, weights = baseline
    scores = random_scores(program, 1)
    made, start, facts = nets.split("resnet20_cifar10", "derived", 0, weights, scores, CUTS[name], seed=1)
    assert len(facts["layers"]) == 9
    run = run_of(made, start)
    off = off_the_engine("derived", start, run)
    # The 1x1 layers' gradients are sums of far larger terms.
    assert max(off.values()) < 2e-3, max(off.items(), key=lambda item: item[1])
    assert np.median(list(off.values())) < 2e-5
    before = float(run_of(program, weights).gradients())
    assert float(run_of(made, start).gradients()) == pytest.approx(before, rel=1e-5)


def test_three_rounds_are_the_engines_and_fold(baseline) -> None:
    program, weights = baseline
    parent = "resnet20_cifar10"
    for number in (1, 2, 3):
        program, weights, _ = nets.split(
            parent, f"round{number}", 0, weights, random_scores(program, number), nets.Cut("residual"), seed=number
        )
        parent = f"round{number}"
    run = run_of(program, weights)
    off = off_the_engine(parent, weights, run)
    assert max(off.values()) < 2e-3, max(off.items(), key=lambda item: item[1])
    # Once it was trained it folds to the baseline's cost, and the folded net sees the same classes.
    for _ in range(3):
        run.step()
    state = {name: tensor.numpy() for name, tensor in run.state().items()}
    images = np.random.default_rng(1).integers(0, 256, (16, 32, 32, 3), np.uint8)
    np.savez("tests.npz", images=images, labels=np.arange(16) % 10)
    found = check(parent, 3, run.blobs(state), "tests.npz", "cpu")
    assert found["folded_cost"] == nets.cost_of(Path("resnet20_cifar10") / nets.NET)
    assert found["cost"]["parameters"] > found["folded_cost"]["parameters"]
    assert found["differ"] == 0 and found["final"] == found["folded"] and not found["kept"]


def test_a_step_is_caffes_update(baseline) -> None:
    """v = 0.9 v + rate (g + decay w), w = w - v, with each blob's multipliers; a frozen skip stays."""
    program, weights = baseline
    made, start, _ = nets.split(
        "resnet20_cifar10", "derived", 0, weights, random_scores(program, 1), CUTS["SkipSplit_1x1"], seed=1
    )
    run, other = run_of(made, start), run_of(made, start)
    values, speed = run.values.clone(), run.speed.clone()
    run.pull *= 1000  # else the decay is lost in the gradients' rounding
    for _ in range(2):
        run.step()
        other.values.copy_(values)
        other.gradients()
        pull = np.float32(0.1) * torch.as_tensor(run.layout.decay_mult)
        speed = 0.9 * speed + 1e-3 * (other.gradient + pull * values)
        values = values - speed
        other.now.add_(1)
    np.testing.assert_allclose(run.values.numpy(), values.numpy(), rtol=1e-4, atol=1e-6)
    first, count = run.layout.places["fc", 1]
    assert not run.layout.decay_mult[first : first + count].any() and run.layout.decay_mult.any()
    state = {name: tensor.numpy() for name, tensor in run.state().items()}
    frozen = [name for name in start if name.endswith("_skip")]
    assert frozen and all((run.blobs(state)[name][0] == start[name][0]).all() for name in frozen)


def test_tpm_is_the_projects(baseline) -> None:
    """Displacement and path of every kernel, from the weights themselves."""
    run = run_of(*baseline, steps=6)
    seen = [run.layout.blobs(run.values.numpy().copy())]
    run.watch.begin()
    for _ in range(3):
        run.step()
        run.step()
        run.watch.sample()
        seen.append(run.layout.blobs(run.values.numpy().copy()))
    state = {name: tensor.numpy() for name, tensor in run.state().items()}
    scores = run.watch.scores(state, (0, 6), 2)
    assert [score["layer"] for score in scores] == run.program.watched and len(scores) == 19
    for score in scores:
        weights = [blobs[score["layer"]][0] for blobs in seen]
        path = sum(lengths(now, before) for before, now in zip(weights, weights[1:]))
        displacement = lengths(weights[-1], weights[0])
        np.testing.assert_allclose(score["path"], path[:-1], rtol=1e-5)
        np.testing.assert_allclose(score["displacement"], displacement[:-1], rtol=1e-5)
        assert score["layer_path"] == pytest.approx(path[-1], rel=1e-5)
        assert score["norm_stop"] == pytest.approx(lengths(weights[-1])[-1], rel=1e-6)


def test_batches_are_padded_cropped_mirrored_and_paired(baseline) -> None:
    run = run_of(*baseline, batch=8, images=12)
    run.now.fill_(2)
    run.next_batch()
    padded = run.data.images.numpy()
    drawn = draws_of(3, 12, 8)[2]
    for place, (row, column, mirrored) in enumerate(drawn):
        record = (2 * 8 + place) % 12
        image = padded[record, row : row + 32, column : column + 32].astype(np.float32)
        image = image[:, ::-1] if mirrored else image
        wanted = (image - np.float32([125.3, 123.0, 113.9])) * np.float32(0.015625)
        np.testing.assert_allclose(run.x[place].numpy(), wanted, rtol=1e-5, atol=1e-6)
        assert run.y[place] == run.data.labels[record]
    assert (drawn[:, :2].max(), set(drawn[:, 2])) == (8, {0, 1})
    assert (draws_of(3, 12, 8) == draws_of(3, 12, 8)).all() and (draws_of(3, 12, 8) != draws_of(4, 12, 8)).any()


JOB = """
import os, shutil, sys, tempfile
sys.path[:0] = [{tools!r}, {root!r}]
import torch
import tests.test_gpu_study as t
from gpu_study_parts.convs import Choice
from pathlib import Path
os.chdir(tempfile.mkdtemp())
shutil.copytree(t.BASELINE, "resnet20_cifar10")
weights = t.start_weights(Path("resnet20_cifar10/train_val.prototxt"), 1)
for name, blobs in weights.items():
    if name.endswith("_scale"):
        blobs[1][:] = 2.5
program = t.nets.read_program(Path("resnet20_cifar10/train_val.prototxt"), weights)
scores = t.random_scores(program, 1)
program, weights, _ = t.nets.split("resnet20_cifar10", "derived", 0, weights, scores, t.CUTS["MultiSplits"], seed=1)
convs = {{(16, 16, 32): Choice((64, 4), (64, 4), (64, 4, 4)), (32, 32, 16): Choice((128, 4), None, (64, 4, 4)),
         (64, 64, 8): Choice(None, (64, 4), (64, 2, 4))}}
cpu = torch.device("cpu")
ways = [t.Way("fp32-plain", cpu), t.Way("fp32", cpu), t.Way("fp32-convs", cpu, convs)]
runs = [t.run_of(program, weights, way, batch=2, images=8) for way in ways]
for run in runs:
    run.step()
    run.measure()
for run in runs[1:]:
    assert (run.x[..., :3] - runs[0].x).abs().max() < 1e-6 and not run.x[..., 3:].any() and (run.y == runs[0].y).all()
    for name, tensor in run.state().items():
        other = runs[0].state()[name].double()
        off = float((tensor.double() - other).norm() / other.norm().clamp_min(1e-9))
        print(run.way.name, name, off)
        assert off < 1e-4, name
"""


@pytest.mark.slow
def test_own_kernels_compute_what_pytorch_does() -> None:
    """In Triton's interpreter, which runs them on a processor: a step of a split net, and a test."""
    pytest.importorskip("triton")
    script = JOB.format(tools=str(ROOT / "tools"), root=str(ROOT))
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert done.stdout.count("\n") == 2 * len(run_names())


COMPILE = """
import sys
sys.path[:0] = [{tools!r}, {root!r}]
import triton
from gpu_study_parts import convs, kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

def compile(kernel, types, **constants):
    names = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(names, types.split())) | dict.fromkeys(constants, "constexpr")
    signature = {{name: signature[name] for name in kernel.arg_names}}
    places = {{(kernel.arg_names.index(name),): value for name, value in constants.items()}}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    print(kernel.__name__, constants, made.metadata.shared, "wgmma" in made.asm["ptx"] or "mma.sync" in made.asm["ptx"])

for c, side in ((16, 32), (32, 16), (64, 8)):
    shape = dict(height=side, width=side, ci=c, co=c)
    for back in (False, True):
        compile(convs._slide, "*bf16 *bf16 *bf16 *fp32 i32", **shape, back=back, stats=not back, block=128)
    compile(convs._kernel_gradient, "*bf16 *bf16 *fp32 i32", **shape, block=64, blocks=4)
size = dict(at_once=256, channels=16)
kind = dict(has_other=True, relu=True, **size)
compile(kernels._batch, "*u8 *i64 *u8 *i64 *bf16 *i64 i32", batch=128, pad=4)
compile(kernels._sums, "*bf16 *fp32 i32", **size)
compile(kernels._normed, "*bf16 *bf16 *bf16 *fp32 *fp32 *fp32 *fp32 *fp32 i32 fp32 fp32", **kind)
compile(kernels._back_sums, "*bf16 *bf16 *bf16 *fp32 *fp32 i32 fp32", relu=True, **size)
compile(kernels._back, "*bf16 *bf16 *bf16 *bf16 *bf16 *fp32 *fp32 *fp32 *fp32 *fp32 i32 fp32", **kind)
compile(kernels._affine, "*bf16 *bf16 *bf16 *fp32 *fp32 i32", **kind)
compile(kernels._update, "*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 *i64 fp32 i32", block=1024)
"""


@pytest.mark.slow
def test_kernels_compile_for_hopper() -> None:
    """To machine code for sm_90, without a device; convolutions to instructions of its tensor cores."""
    pytest.importorskip("triton")
    script = COMPILE.format(tools=str(ROOT / "tools"), root=str(ROOT))
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 16 and all(line.endswith(" True") for line in lines[:9])


def run_names() -> list[str]:
    """What a state holds."""
    weights = start_weights(BASELINE / nets.NET, 1)
    return list(run_of(nets.read_program(BASELINE / nets.NET, weights), weights, images=2).state())


@pytest.mark.parametrize("scale", [*arms.SCALES, Fraction(1, 2000)], ids=str)
def test_a_schedule_fits_together(scale: Fraction) -> None:
    s = arms.schedule_of(str(scale))
    start, stop = s.window
    assert stop == s.split < s.total and start > 0
    for count in (start, stop, s.total, s.test_interval):
        assert count % s.interval == 0
    assert s.interval % s.unroll == 0 and s.total % s.test_interval == 0
    if scale >= Fraction(1, 16):
        assert abs(s.tests - 65) <= 3
        assert s.total == pytest.approx(64000 * scale, rel=0.05) and s.split == pytest.approx(50000 * scale, rel=0.02)
    rates = s.rates()
    assert rates[0] == pytest.approx(0.1) and rates[-1] == pytest.approx(0.001) and len(rates) == s.total


def test_a_scale_that_is_none_or_too_small_is_told() -> None:
    for text in ("0", "2", "-1/4", "1/0", "a half"):
        with pytest.raises(CaffeSplitError, match="expected auto, or a number above 0"):
            arms.schedule_of(text)
    with pytest.raises(CaffeSplitError, match="the recipe's steps collide"):
        arms.schedule_of("1/20000")


def test_the_recipe_is_scale_1() -> None:
    s = arms.Schedule(Fraction(1))
    assert (s.total, s.split, s.window, s.rate_steps, s.interval) == (64000, 50000, (40000, 50000), (32000, 48000), 100)
    text = s.solver((BASELINE / nets.SOLVER).read_text(), "s1/baseline")
    assert 'net: "s1/baseline/train_val.prototxt"' in text and "stepvalue: 32000\nstepvalue: 48000\n" in text
    assert "max_iter: 64000" in text and "weight_decay: 0.0001" in text


def test_the_time_is_that_of_all_iterations_where_the_device_is_full() -> None:
    """With one pace for any number it is iterations times pace; on a device that is never full, the chain of rounds."""
    s, seeds = arms.Schedule(Fraction(1, 4)), [1, 2, 3]
    factors = {arm.name: 1.0 for arm in arms.arms_of(0)}
    count = len(seeds) * len(factors) * s.total
    assert arms.seconds_for(s, seeds, 6, lambda k: 0.5, factors) == pytest.approx(count * 0.0005, rel=1e-3)
    alone = arms.seconds_for(s, [1], 10, lambda k: 1.0 / k, factors)
    assert alone == pytest.approx((3 * s.split + s.total) * 0.001, rel=1e-2)
    pace = arms.pace_from({1: 1.0, 6: 0.5})
    assert pace(1) == 1 and pace(6) == pace(9) == 0.5 and 0.5 < pace(3) < 1


def test_packed_images_come_back_to_the_last_bit(tmp_path, monkeypatch) -> None:
    from caffe_split.data.store import write_store

    monkeypatch.setattr(packed, "COUNTS", {"train": 1500, "test": 40})
    generator = np.random.default_rng(0)
    sets = {
        half: (generator.integers(0, 256, (count, 3, 32, 32), np.uint8), generator.integers(0, 10, count))
        for half, count in packed.COUNTS.items()
    }
    for half, (images, labels) in sets.items():
        write_store(tmp_path / f"cifar10_{half}_lmdb", zip(images, map(int, labels)))
    with pytest.raises(CaffeSplitError, match="another set: the training images' mean is"):
        packed.read_stores(tmp_path)
    monkeypatch.setattr(packed, "MEAN", sets["train"][0].mean((0, 2, 3)))
    parts = [tmp_path / "part1", tmp_path / "part2"]
    packed.pack(tmp_path, parts)
    found = packed.load(parts)
    for half, (images, labels) in sets.items():
        assert (found[half][0] == images.transpose(0, 2, 3, 1)).all() and (found[half][1] == labels).all()
    with pytest.raises(CaffeSplitError, match=r"sheets of the train images are in none of .*Give all parts"):
        packed.load(parts[1:])
    (parts[0] / "test_labels.bin").write_bytes(bytes(40))
    with pytest.raises(CaffeSplitError, match="the test labels are not those that were packed"):
        packed.load(parts)
    with pytest.raises(CaffeSplitError, match=r"no cifar10\.json in"):
        packed.load([tmp_path])


# -- the whole, in a process of its own


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


def test_what_is_asked_wrongly_is_told(part, tmp_path) -> None:
    data = ["--data", part, "--out", tmp_path / "study", *TINY]
    for words, message in (
        (["--scale", "2"], "expected auto, or a number above 0"),
        (["--scale", "1/64", "--way", "bf17-plain"], "expected fp32, tf32 or bf16"),
        (["--scale", "1/64", "--way", "tf32-convs"], "expected fp32, tf32 or bf16"),
        (["--scale", "1/64", "--way", "bf16"], "our own kernels are for CUDA devices"),
        (["--scale", "1/64", "--seeds", 0], "expected 1 or more"),
    ):
        done = gpu_study(*data, *words)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "study").exists()
    if not torch.cuda.is_available():
        assert "PyTorch sees no CUDA device" in gpu_study("--data", part, "--out", tmp_path / "study").stderr
        assert "nothing is measured" in gpu_study("--calibrate").stdout
    assert gpu_study("--out", tmp_path).returncode == 2
    missing = gpu_study("--report", tmp_path)
    assert missing.returncode == 1 and "no table of a study" in missing.stderr


# -- the page, from results that nobody trained


def made_up(seeds: int, gain: float) -> dict:
    """A table.json in which every MultiSplits arm is `gain` points above its control."""
    results = []
    for seed in range(1, seeds + 1):
        for arm in arms.arms_of(seed):
            accuracy = 0.9 + seed / 1000 + (gain / 100 + seed / 10000 if arm.name.startswith("Multi") else 0)
            cost = {"parameters": 100, "macs": 1000}
            seen = dict.fromkeys(("final", "folded", "best", "last_test"), accuracy)
            results.append(
                {
                    "seed": seed,
                    "arm": arm.name,
                    **seen,
                    "differ": int(arm.name == "MultiSplits"),
                    "images": 10000,
                    "cost": cost,
                    "folded_cost": cost,
                    "seconds": 1.0,
                }
            )
    return {
        "results": results,
        "scale": "1/4",
        "total": 16000,
        "batch": 128,
        "split": 12500,
        "window": [10000, 12500],
        "interval": 25,
        "test_interval": 250,
        "seeds": list(range(1, seeds + 1)),
        "way": "bf16",
        "device": "none",
        "torch": "0",
        "together": 6,
        "seconds": 1.0,
        "whole": seeds > 2,
        "failed": {},
    }


def test_the_page_tells_what_is_reached_and_what_is_chance(tmp_path) -> None:
    (tmp_path / "table.json").write_text(json.dumps(made_up(3, 1.2)))
    page = write_report(tmp_path, tmp_path / "results")
    text = page.read_text()
    assert "at the baseline's cost against equal training: reached; the most is MultiSplits's +1.22 (" in text
    assert "3 seeds: fewer than the 5 that a claim needs" in text and "did not come to its end" not in text
    assert "differ in the class of 3 of 180,000 images" in text
    assert "- SkipSplit_1x1 against continue: +0.00 (+0.00 to +0.00) points, all pairs alike: no interval." in text
    assert "| MultiSplits against random-MultiSplits | +1.22 (+1.20 to +1.24) | 3 | above zero" in text
    # What a person has written stays when the page is made again.
    page.write_text(text.replace("<!-- end -->", "It was chance.\n<!-- end -->"))
    (tmp_path / "table.json").write_text(json.dumps(made_up(2, 0.2)))
    text = write_report(tmp_path, tmp_path / "results").read_text()
    assert "It was chance." in text and "not reached; the most is" in text and "did not come to its end" in text


def test_a_page_of_nothing_is_refused(tmp_path) -> None:
    (tmp_path / "table.json").write_text(json.dumps({**made_up(3, 1), "results": []}))
    with pytest.raises(CaffeSplitError, match="no training of this study came to its end"):
        write_report(tmp_path, tmp_path)
