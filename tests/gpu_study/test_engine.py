"""The steps of tools/gpu_study held to the engine: nets, splits, folding, updates, TPM, batches."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import ROOT

torch = pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "tools"))

import gpu_study_parts.split as nets  # noqa: E402
from gpu_study_parts.calibrate import random_scores  # noqa: E402
from gpu_study_parts.check import check  # noqa: E402
from gpu_study_parts.images import draws_of  # noqa: E402
from gpu_study_parts.run import Run  # noqa: E402
from gpu_study_parts.start import BASELINE, start_weights, with_inputs  # noqa: E402

from caffe_split.engine import Net  # noqa: E402
from caffe_split.tpm.lengths import lengths  # noqa: E402
from tests.gpu_study.trainings import CUTS, run_of  # noqa: E402


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
