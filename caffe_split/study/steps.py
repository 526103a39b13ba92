"""What the steps of a study do, in the study's folder."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from caffe_split.backends.verify import VerifyOptions
from caffe_split.data.digits import write_digits
from caffe_split.derivation.after_split import record_course
from caffe_split.derivation.make import derive
from caffe_split.derivation.solver import testing_solver
from caffe_split.errors import CaffeSplitError
from caffe_split.files import copy_file, remove_file, remove_folder, write_atomic
from caffe_split.folding.make import FoldOptions, fold
from caffe_split.formats import prototxt
from caffe_split.layertypes.cost import Cost
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.manifest import manifest_of
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TRAIN
from caffe_split.net.training import open_training
from caffe_split.study import nets
from caffe_split.study.accuracies import accuracies, earlier_seconds, read_trained
from caffe_split.study.controls import widened
from caffe_split.study.locks import Held, holding
from caffe_split.study.model import Study
from caffe_split.study.paths import PLAN, is_ours, made, open_study, prefix, read_json, run_folder
from caffe_split.study.plan import StudyStep, Verb, stage_of, stages_of, steps_of
from caffe_split.study.processes import StepFailedError
from caffe_split.study.results import (
    DataMade,
    Derived,
    Failed,
    Folded,
    Mark,
    Result,
    Trained,
    read_mark,
    write_mark,
)
from caffe_split.study.telemetry import movements
from caffe_split.study.train import FIRST, TRAINED, Fit, fit
from caffe_split.tpm.attach import instrument


def run_step(title: str) -> None:
    """Run one step of the study in whose folder we are, and mark its end, good or bad, in `done/`.

    A step whose mark is there is left alone: an earlier process that was cut off from its parent may have finished it.
    Raises `CaffeSplitError` where there is no such step.
    """
    study = open_study()
    steps = {step.title: step for step in steps_of(study)}
    if title not in steps:
        raise CaffeSplitError(f"{PLAN}: no step '{title}'")
    step = steps[title]
    with holding(Path("locks") / f"{title}.lock") as held:
        if Path(step.output).exists():
            return
        start = time.time()
        result: Result
        try:
            _check_needs(step, {each.output: each for each in steps.values()})
            result = VERBS[step.verb](study, step, held)
        except (CaffeSplitError, StepFailedError, OSError) as error:
            result = Failed(" ".join(str(error).split()))
        except Exception as error:
            # A bug must not stop the other runs either; Snakemake's log has the traceback.
            traceback.print_exc()
            result = Failed(f"{type(error).__name__}: {' '.join(str(error).split())}")
        seconds = time.time() - start
        if isinstance(result, Trained):
            # A training that was killed and resumed took what its earlier starts took, too.
            folder = run_folder(step.seed, step.name)
            seconds += sum(earlier_seconds(folder / name) for name in (FIRST, TRAINED))
        write_mark(step, Mark(result, seconds))


def _check_needs(step: StudyStep, by_output: dict[str, StudyStep]) -> None:
    for need in step.needs:
        mark = read_mark(by_output[need])
        if mark is None:
            raise CaffeSplitError(f"{need}: it is not there; remove {PLAN.parent / 'done'} and start the study again.")
        if mark.failed:
            first = "" if mark.failed.startswith("after ") else f"after {Path(need).stem} failed: "
            raise StepFailedError(first + mark.failed)


def _data(study: Study, _: StudyStep, held: Held) -> DataMade:
    missing = [path for path in nets.data_files(study) if not path.exists()]
    if missing and study.make:
        # An earlier start may have been killed between the two sets.
        write_digits(missing[0].parent, keep=True)
    return DataMade()


def _train(study: Study, step: StudyStep, held: Held) -> Trained:
    folder = run_folder(step.seed, step.name)
    if step.name == "baseline":
        return _train_baseline(study, step.seed, held, folder)
    if step.name in study.controls or step.name in study.rated:
        return _train_on(study, step, held, study.rated.get(step.name, 1))
    if study.widened(step.name) is not None:
        return _train_wider(study, step, held, folder)
    return _train_derived(study, step, held, folder)


def _train_baseline(study: Study, seed: int, held: Held, folder: Path) -> Trained:
    plain = folder / "plain.prototxt"
    end = nets.baseline_length(study)
    solver = nets.solver_for(study, seed, folder, prefix(study, folder), end)
    made(folder, {plain.name: nets.study_net(study).to_bytes(), nets.SOLVER: solver.to_bytes()})
    net = folder / nets.NET
    if study.window is None:
        copy_file(plain, net)
    elif not net.exists():
        instrument(open_training(plain), study.windows, interval=study.interval).write(net)
    fit(study, held, Fit(folder, seed, end))
    return _trained(study, folder, [plain, folder / nets.SOLVER], end)


def _train_on(study: Study, step: StudyStep, held: Held, rate: float) -> Trained:
    """A control: its parent trained on from the split without one, at `rate` times the solver's rate."""
    end, folder = nets.length(study), run_folder(step.seed, step.name)
    chain = ["baseline", *study.controls]
    parent = run_folder(step.seed, chain[chain.index(step.name) - 1] if step.name in chain else "baseline")
    solver = nets.solver_for(study, step.seed, folder, prefix(study, folder), end)
    if rate != 1:
        solver.set("base_lr", float(f"{rate * float(solver.get('base_lr')):.7g}"))
    made(folder, {nets.NET: (parent / nets.NET).read_bytes(), nets.SOLVER: solver.to_bytes()})
    start = f"{prefix(study, parent)}_iter_{study.split}"
    fit(study, held, Fit(folder, step.seed, end, start))
    return _trained(study, folder, [Path(f"{start}.caffemodel"), folder / nets.SOLVER], end)


def _train_derived(study: Study, step: StudyStep, held: Held, folder: Path) -> Trained:
    end = stage_of(study, step.name)[1].until or nets.length(study)
    start = folder / "init.caffemodel"
    fit(study, held, Fit(folder, step.seed, end, str(folder / "init")))
    result = _trained(study, folder, [start, folder / nets.NET, folder / nets.SOLVER], end)
    record_course(folder / nets.SOLVER, study.engine)
    return replace(result, movements=movements(start, _weights(study, folder, end)))


def _train_wider(study: Study, step: StudyStep, held: Held, folder: Path) -> Trained:
    """The unsplit net of equal parameters, from its fillers, interrupted at the split as all other runs are."""
    end = nets.length(study)
    arm = study.widened(step.name)
    assert arm is not None
    stages = stages_of(study, arm)
    first, last = (read_json(run_folder(step.seed, stages[i].name) / "manifest.json")["plan"] for i in (0, -1))
    # The layers that later rounds split are parts of these.
    names = [layer["name"] for layer in first["layers"]]
    net, raised = widened(nets.study_net(study), names, last["after"]["parameters"])
    start = f"{prefix(study, folder)}_first"
    begin = nets.solver_for(study, step.seed, folder, start, study.split)
    goes_on = nets.solver_for(study, step.seed, folder, prefix(study, folder), end)
    made(folder, {nets.NET: net.to_bytes(), "first.prototxt": begin.to_bytes(), nets.SOLVER: goes_on.to_bytes()})
    fit(study, held, Fit(folder, step.seed, study.split, solver="first.prototxt", log=FIRST))
    fit(study, held, Fit(folder, step.seed, end, f"{start}_iter_{study.split}"))
    return replace(_trained(study, folder, [folder / nets.NET, folder / nets.SOLVER], end), raised=raised)


def _derive(study: Study, step: StudyStep, held: Held) -> Derived:
    arm, stage = stage_of(study, step.name)
    folder = run_folder(step.seed, step.name)
    # The parent that is split: the net that was trained, with a solver that ends where the derived run is to end.
    whole = run_folder(step.seed, f"{step.name}@parent")
    parent = run_folder(step.seed, stage.parent)
    for each in (folder, whole):
        remove_folder(each, is_ours)
    end = stage.until or nets.length(study)
    solver = nets.solver_for(study, step.seed, whole, prefix(study, parent), end)
    made(whole, {nets.NET: (parent / nets.NET).read_bytes(), nets.SOLVER: solver.to_bytes()})
    options = replace(arm.options(step.seed), schedule=study.schedule, engine=study.engine, window=stage.window)
    training = open_training(whole / nets.SOLVER)
    plan = derive(training, stage.at, layers=arm.layers or arm.num_splits, options=options, out=folder)
    write_atomic(whole / "derive.log", f"{plan}\n".encode("utf-8", "surrogateescape"))
    plan.write()
    return Derived(plan.as_dict())


def _fold(study: Study, step: StudyStep, held: Held) -> Folded:
    folder = run_folder(step.seed, step.name)
    folded = run_folder(step.seed, f"{step.name}@folded")
    remove_folder(folded, is_ours)
    weights = _weights(study, folder, nets.length(study))
    options = FoldOptions(state=open_training(folder / nets.SOLVER).state_in("TEST"))
    plan = fold(folder / nets.NET, weights, out=folded, options=options)
    write_atomic(folder / "fold.log", f"{plan}\n".encode("utf-8", "surrogateescape"))
    comparisons = plan.write(check=VerifyOptions(engine=study.engine))
    copy_file(folder / nets.NET, folded / "unfolded.prototxt")
    return Folded(
        parameters=plan.after.parameters,
        macs=plan.after.macs,
        kept=plan.kept,
        # Not the last test of the training: Caffe forwards a training batch before it, which moves BatchNorm's means.
        unfolded=_tested(study, step.seed, held, folded, "unfolded.prototxt", weights),
        final=_tested(study, step.seed, held, folded, nets.NET, folded / "folded.caffemodel"),
        largest_difference=[comparison.worst for comparison in comparisons],
    )


def _tested(study: Study, seed: int, held: Held, folder: Path, net: str, weights: Path) -> float:
    """The test accuracy of a net in `folder` with weights."""
    own = nets.solver_for(study, seed, folder, prefix(study, folder), 0)
    solver = testing_solver(own, folder / net, prefix(study, folder))
    name = f"test_{Path(net).stem}"
    prototxt.write(solver, folder / f"{name}.prototxt")
    fit(study, held, Fit(folder, seed, 0, weights=str(weights), solver=f"{name}.prototxt", log=f"{name}.log"))
    return accuracies(folder / f"{name}.log").final


def _weights(study: Study, folder: Path, iteration: int) -> Path:
    return Path(f"{prefix(study, folder)}_iter_{iteration}.caffemodel")


def _trained(study: Study, folder: Path, inputs: list[Path], end: int) -> Trained:
    """The result of a training: its net's cost, its accuracies, and its manifest."""
    net = prototxt.read(folder / nets.NET)
    cost = Cost.of(infer_shapes(phase_layers(net, TRAIN)))
    found = read_trained(folder / TRAINED)
    for path in folder.glob("*_iter_*"):
        # A snapshot that served only to go on from after an interruption.
        if f"_iter_{end}." not in path.name and f"_iter_{study.split}." not in path.name:
            remove_file(path)
    manifest = manifest_of(folder, inputs, [_weights(study, folder, end).name], {})
    return Trained(
        parameters=cost.parameters,
        macs=cost.macs,
        output=found.output,
        final=found.final,
        best=found.best,
        best_iteration=found.best_iteration,
        curve=found.curve,
        training_seconds=found.seconds,
        speed=found.speed,
        manifest=manifest,
    )


VERBS: dict[Verb, Callable[[Study, StudyStep, Held], Result]] = {
    "data": _data,
    "train": _train,
    "derive": _derive,
    "fold": _fold,
}
