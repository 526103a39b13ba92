"""A study shortened: the same training in less iterations, or a reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caffe_split.engine.training.rates import Policy
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.options import Options
from caffe_split.study.scale import nearest_divisor, parse_scale
from tests.study.study_files import write_study
from tests.support import ROOT

pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")

from caffe_split.net.layers import all_layers
from caffe_split.study.checks import _parts, check_same, check_tests
from caffe_split.study.nets import length, study_net, study_solver
from caffe_split.study.paths import PLAN, write_json
from caffe_split.study.publish import _method
from caffe_split.study.read import read_study

RESNET = ROOT / "studies/resnet20_cifar10.yaml"


@pytest.mark.parametrize("value", [0, "0", "1/0", "2", "-1/2", "half", "1/64/2", None, True, "1e-3", "0.0"])
def test_what_is_no_scale_is_refused(value: Any) -> None:
    with pytest.raises(CaffeSplitError, match="expected a scale above 0 and at most 1, such as 1/16"):
        parse_scale(value)


def test_the_whole_recipe_is_shortened_alike() -> None:
    study = read_study(RESNET, {"scale": "1/64", "seeds": 2})
    solver = study_solver(study)
    assert (study.split, study.window, study.interval, study.seeds) == (781, (625, 781), 2, (1, 2))
    assert length(study) == 1000 and list(solver.get_all("stepvalue")) == [500, 750]
    assert solver.get("display") == 2 and solver.get("snapshot") == 39
    # At 1/16 an interval of 6 would not end at the window's end.
    assert read_study(RESNET, {"scale": "1/16"}).interval == 5


def test_scale_1_leaves_the_solver_as_it_is() -> None:
    study = read_study(RESNET)
    solver = study_solver(study)
    solver.set("test_interval", 500)
    assert solver.to_bytes() == (ROOT / "prototxt/resnet20_cifar10/solver.prototxt").read_bytes()


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        ("fixed", {}),
        ("step", {"stepsize": 8, "gamma": 0.5}),
        ("multistep", {"stepvalue": 16, "gamma": 0.1}),
        ("exp", {"gamma": 0.9}),
        ("inv", {"gamma": 0.01, "power": 0.75}),
        ("sigmoid", {"gamma": 0.2, "stepsize": 16}),
    ],
)
def test_at_each_share_of_the_training_the_rate_is_that_of_the_whole(
    policy: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    file = write_study(tmp_path, split=16, window="0:16", interval=4, scale="1/4")
    path = tmp_path / "solver.prototxt"
    solver = prototxt.read(path)
    for key in ("stepvalue", "gamma", "stepsize", "power"):
        solver.remove(key)
    solver.set("max_iter", 32)
    solver.set("test_interval", 8)
    solver.set("lr_policy", policy)
    for key, value in fields.items():
        solver.set(key, value)
    prototxt.write(solver, path)
    short = study_solver(read_study(file))
    assert short.get("max_iter") == 8
    assert rates(short, 8) == pytest.approx(rates(solver, 32)[::4], rel=1e-6)


def test_steps_of_the_rate_that_are_rounded_lead_to_the_same_rates(tmp_path: Path) -> None:
    """A step of 6 at 1/4 is one of 2 iterations, not 1.5: three of them are four of the whole training's."""
    file = write_study(tmp_path, split=16, window="0:16", interval=4, scale="1/4")
    path = tmp_path / "solver.prototxt"
    solver = prototxt.read(path)
    solver.remove("stepvalue")
    for key, value in {"max_iter": 32, "lr_policy": "step", "stepsize": 6, "gamma": 0.5}.items():
        solver.set(key, value)
    prototxt.write(solver, path)
    short = study_solver(read_study(file))
    assert short.get("stepsize") == 2 and rates(short, 8)[6] == pytest.approx(rates(solver, 32)[24], rel=1e-6)
    # A baseline of a version that left the factor as it was has other rates than the runs to come.
    study = read_study(file)
    write_json(tmp_path / PLAN, {"study": study.as_dict()})
    begun = tmp_path / "s3/baseline/solver.prototxt"
    begun.parent.mkdir(parents=True)
    prototxt.write(short, begun)
    check_same(study, {}, tmp_path)
    prototxt.write(solver, begun)
    with pytest.raises(
        CaffeSplitError, match=r"baseline/solver.prototxt: gamma is 0\.5, and at scale 1/4 .* of 0\.3968"
    ):
        check_same(study, {}, tmp_path)


def rates(solver: prototxt.Document, iterations: int) -> list[float]:
    """The rate of each iteration, by the engine, which the solver tests hold to Caffe."""
    policy, current, found = Policy.of(Options("SolverParameter", [solver])), 0, []
    for iteration in range(iterations):
        current = policy.next_step(iteration, current)
        found.append(policy.rate(iteration, current))
    return found


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ("1/5000", "stepvalue 48000 (48,000) and the split (50,000) both fall on iteration 10; choose a larger scale"),
        ("1/9000", "both fall on iteration 4; choose a larger scale"),
        ("1/200000", "both fall on iteration 0; choose a larger scale"),
        ("1/20000", "window: 2:3 at scale 1/20000 is one step of TPM (interval 1), which then is 1 for each kernel"),
    ],
)
def test_iterations_that_fall_together_are_refused(scale: str, said: str) -> None:
    with pytest.raises(CaffeSplitError) as caught:
        study_solver(read_study(RESNET, {"scale": scale}))
    assert said in str(caught.value) and str(caught.value).endswith("choose a larger scale")


@pytest.mark.parametrize(
    ("number", "wanted", "found"), [(781, 39, 71), (1000, 62, 50), (7, 3, 7), (12, 4, 4), (6, 9, 6)]
)
def test_the_nearest_divisor(number: int, wanted: int, found: int) -> None:
    assert nearest_divisor(number, wanted) == found


def test_a_length_without_divisors_is_sampled_and_tested_with_measure() -> None:
    """9973 is prime. One step of TPM would say nothing, a test at each iteration would take days."""
    study = read_study(RESNET, {"scale": "9973/10000"})
    assert (study.window, study.interval) == ((39892, 49865), 1)
    assert read_study(RESNET, {"scale": "5/10000", "interval": 5000}).interval == 1  # of 5, not 5
    for scale, end in (("1009/64000", 1009), ("2017/64000", 2017)):
        solver = study_solver(read_study(RESNET, {"scale": scale}))
        assert solver.get("max_iter") == end and solver.get("test_interval") == end


def test_the_interval_divides_the_windows_of_all_rounds() -> None:
    """At 1/4 of 250, 175 and 175 iterations: by 5, but not by the scaled interval of 2."""
    study = read_study(ROOT / "studies/cifar10_quick_carries.yaml", {"scale": "1/4"})
    assert study.windows == [(250, 500), (500, 675), (675, 850)] and study.interval == 5
    assert all((stop - start) % study.interval == 0 for start, stop in study.windows)


def test_a_scale_at_which_too_little_is_tested_is_named() -> None:
    """313 is prime: a training of that length that ends with a test has one test, or one in each iteration."""
    study = read_study(ROOT / "studies/cifar10_quick_carries.yaml", {"scale": "1/16"})
    with pytest.raises(CaffeSplitError, match=r"test_interval is 313 at scale 1/16, .*@1, 125 to 169; choose another"):
        check_tests(study, study_net(study))


def test_trainings_are_tested_where_they_run(tmp_path: Path) -> None:
    """After `restart` from the beginning to the end, which the baseline reaches, too."""
    spans = {how: _parts(read_study(write_study(tmp_path, schedule=how)), 30) for how in ("continue", "restart")}
    assert spans["continue"] == [("the baseline", 0, 10), ("arm added", 10, 30)]
    assert spans["restart"] == [("the baseline", 0, 30)]


def test_a_rehearsal_is_tested_at_its_end() -> None:
    solvers = {scale: study_solver(read_study(RESNET, {"scale": scale})) for scale in ("1/64", "1/32", "1/16")}
    assert {scale: solver.get("test_interval") for scale, solver in solvers.items()} == {
        "1/64": 1000,
        "1/32": 2000,
        "1/16": 250,
    }
    assert [bool(solver.get("test_initialization", True)) for solver in solvers.values()] == [False, False, True]


def test_a_rehearsal_learns_from_small_batches_and_is_tested_as_the_study_is() -> None:
    sizes = {}
    for scale in ("1/64", "1/16"):
        for most in (32, 1000):
            net = study_net(read_study(RESNET, {"scale": scale, "rehearsal_batch": most}))
            data = [layer for layer in all_layers(net) if layer.type == "Data"]
            sizes[scale, most] = [layer.message.sub("data_param").get("batch_size") for layer in data]
    whole = [128, 100]
    assert sizes == {("1/64", 32): [32, 100], ("1/64", 1000): whole, ("1/16", 32): whole, ("1/16", 1000): whole}
    page = "\n".join(_method(read_study(RESNET, {"scale": "1/64"})))
    assert "- This is a rehearsal: each training is tested at its end alone, and learns from batches of at most" in page
    assert "rehearsal" not in "\n".join(_method(read_study(RESNET, {"scale": "1/16"})))


def test_a_data_layer_of_both_phases_keeps_its_batches(tmp_path: Path) -> None:
    """test_iter counts batches: of smaller ones a test would have fewer records."""
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "Data" top: "data" top: "label" '
        'data_param { source: "d" batch_size: 50 backend: LMDB } }'
    )
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 100 test_iter: 1 test_interval: 100'
    )
    study = tmp_path / "study.yaml"
    study.write_text(
        "{solver: solver.prototxt, seeds: 2, split: 50, schedule: restart, rehearsal: 1, rehearsal_batch: 8, "
        "num_splits: 1, arms: [{name: skip, kind: skip}]}"
    )
    (layer,) = all_layers(study_net(read_study(study)))
    assert layer.message.sub("data_param").get("batch_size") == 50
