"""What the steps of a study do, each by the program's own commands and functions, in the study's folder."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.layertypes.cost import Cost
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.manifest import manifest_of
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TRAIN
from caffe_split.study import nets
from caffe_split.study.accuracies import accuracies, measured
from caffe_split.study.controls import widened
from caffe_split.study.locks import Held, holding
from caffe_split.study.model import Study
from caffe_split.study.paths import PLAN, made, open_study, prefix, read_json, run_folder, write_json
from caffe_split.study.plan import Step, stage_of, stages_of, steps_of
from caffe_split.study.processes import Crashed, run_ours
from caffe_split.study.telemetry import movements
from caffe_split.study.train import TRAINED, Fit, fit

WIDER = "wider-"


def run_step(title: str) -> None:
    """Run one step of the study in whose folder we are, and mark its end, good or bad, in `done/`.

    A step whose mark is there is left alone: an earlier process that was cut off from its parent may have finished it.
    Raises `CaffeSplitError` where there is no such step.
    """
    study = open_study()
    step = next((step for step in steps_of(study) if step.title == title), None)
    if step is None:
        raise CaffeSplitError(f"{PLAN}: no step '{title}'")
    mark = Path(step.output)
    with holding(Path("locks") / f"{title}.lock") as held:
        if mark.exists():
            return
        start = time.time()
        try:
            _check_needs(step)
            result = _VERBS[step.verb](study, step, held)
        except (CaffeSplitError, Crashed, OSError) as error:
            result = {"failed": " ".join(str(error).split())}
        except Exception as error:
            # A fault of ours stops no other run either; Snakemake's log has where it was.
            traceback.print_exc()
            result = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        write_json(mark, {**result, "step": title, "seconds": time.time() - start})


def _check_needs(step: Step) -> None:
    for need in step.needs:
        failed = read_json(Path(need)).get("failed")
        if failed:
            raise Crashed(failed if failed.startswith("after ") else f"after {Path(need).stem} failed: {failed}")


def _data(study: Study, _: Step, held: Held) -> dict[str, Any]:
    missing = [path for path in nets.data_files(study) if not path.exists()]
    if missing and study.make:
        run_ours(["data", study.make, "--out", str(missing[0].parent)], Path("data.log"), held)
    return {}


def _train(study: Study, step: Step, held: Held) -> dict[str, Any]:
    folder = run_folder(step.seed, step.name)
    if step.name == "baseline":
        return _train_baseline(study, step.seed, held, folder)
    if step.name == "continue" or step.name in study.rated:
        return _train_on(study, step.seed, held, folder, study.rated.get(step.name, 1))
    if step.name.startswith(WIDER):
        return _train_wider(study, step, held, folder)
    return _train_derived(study, step, held, folder)


def _train_baseline(study: Study, seed: int, held: Held, folder: Path) -> dict[str, Any]:
    plain = folder / "plain.prototxt"
    solver = nets.solver_for(study, seed, folder, prefix(study, folder), study.split)
    made(folder, {plain.name: nets.study_net(study).to_bytes(), nets.SOLVER: solver.to_bytes()})
    net = folder / nets.NET
    if study.window is None:
        shutil.copyfile(plain, net)
    elif not net.exists():
        words = ["instrument", str(plain), "--interval", str(study.interval)]
        for start, stop in study.windows:
            words += ["--window", f"{start}:{stop}"]
        run_ours([*words, "--out", str(net)], folder / "instrument.log", held)
    fit(study, held, Fit(folder, seed, study.split))
    return _row(study, folder, [plain, folder / nets.SOLVER], study.split)


def _train_on(study: Study, seed: int, held: Held, folder: Path, rate: float) -> dict[str, Any]:
    """The control: the baseline, trained on without a split, at `rate` times the solver's rate."""
    end, parent = nets.length(study), run_folder(seed, "baseline")
    solver = nets.solver_for(study, seed, folder, prefix(study, folder), end)
    if rate != 1:
        solver.set("base_lr", float(f"{rate * float(solver.get('base_lr')):.7g}"))
    made(folder, {nets.NET: (parent / nets.NET).read_bytes(), nets.SOLVER: solver.to_bytes()})
    start = f"{prefix(study, parent)}_iter_{study.split}"
    fit(study, held, Fit(folder, seed, end, start))
    return _row(study, folder, [Path(f"{start}.caffemodel"), folder / nets.SOLVER], end)


def _train_derived(study: Study, step: Step, held: Held, folder: Path) -> dict[str, Any]:
    end = stage_of(study, step.name)[1].until or nets.length(study)
    start = folder / "init.caffemodel"
    fit(study, held, Fit(folder, step.seed, end, str(folder / "init")))
    row = _row(study, folder, [start, folder / nets.NET, folder / nets.SOLVER], end)
    return {**row, "movements": movements(start, _weights(study, folder, end))}


def _train_wider(study: Study, step: Step, held: Held, folder: Path) -> dict[str, Any]:
    """The unsplit net of equal parameters, from scratch, with the stop at the split that the others have."""
    end = nets.length(study)
    arm = next(arm for arm in study.all_arms() if arm.name == step.name[len(WIDER) :])
    stages = stages_of(study, arm)
    first, last = (read_json(run_folder(step.seed, stages[i].name) / "manifest.json")["plan"] for i in (0, -1))
    # The layers of later rounds are parts of these.
    names = [layer["name"] for layer in first["layers"]]
    net, raised = widened(nets.study_net(study), names, last["after"]["parameters"])
    start = f"{prefix(study, folder)}_first"
    begin = nets.solver_for(study, step.seed, folder, start, study.split)
    goes_on = nets.solver_for(study, step.seed, folder, prefix(study, folder), end)
    made(folder, {nets.NET: net.to_bytes(), "first.prototxt": begin.to_bytes(), nets.SOLVER: goes_on.to_bytes()})
    fit(study, held, Fit(folder, step.seed, study.split, solver="first.prototxt", log="first.log"))
    fit(study, held, Fit(folder, step.seed, end, f"{start}_iter_{study.split}"))
    return {**_row(study, folder, [folder / nets.NET, folder / nets.SOLVER], end), "raised": raised}


def _derive(study: Study, step: Step, held: Held) -> dict[str, Any]:
    arm, stage = stage_of(study, step.name)
    folder = run_folder(step.seed, step.name)
    # The parent whose schedule goes on is what was trained, with the length of what is to come.
    whole = run_folder(step.seed, f"{step.name}@parent")
    parent = run_folder(step.seed, stage.parent)
    for each in (folder, whole):
        if each.exists():
            shutil.rmtree(each)
    end = stage.until or nets.length(study)
    solver = nets.solver_for(study, step.seed, whole, prefix(study, parent), end)
    made(whole, {nets.NET: (parent / nets.NET).read_bytes(), nets.SOLVER: solver.to_bytes()})
    words = ["make-derived", str(whole / nets.SOLVER), "--iter", str(stage.at), *arm.words(step.seed)]
    words += ["--schedule", study.schedule, "--engine", study.engine, "--out", str(folder)]
    if stage.window is not None:
        words += ["--window", f"{stage.window[0]}:{stage.window[1]}"]
    run_ours(words, whole / "derive.log", held)
    return {"plan": read_json(folder / "manifest.json")["plan"]}


def _fold(study: Study, step: Step, held: Held) -> dict[str, Any]:
    folder = run_folder(step.seed, step.name)
    folded = run_folder(step.seed, f"{step.name}@folded")
    if folded.exists():
        shutil.rmtree(folded)
    weights = _weights(study, folder, nets.length(study))
    words = ["fold", str(folder / nets.NET), str(weights), "--out", str(folded), "--engine", study.engine]
    run_ours(words, folder / "fold.log", held)
    manifest = read_json(folded / "manifest.json")
    shutil.copyfile(folder / nets.NET, folded / "unfolded.prototxt")
    return {
        "parameters": manifest["plan"]["after"]["parameters"],
        "macs": manifest["plan"]["after"]["macs"],
        "kept": manifest["plan"]["kept"],
        "unfolded": _tested(study, step.seed, held, folded, "unfolded.prototxt", weights),
        "final": _tested(study, step.seed, held, folded, nets.NET, folded / "folded.caffemodel"),
        "largest_difference": manifest["largest_difference"],
    }


def _tested(study: Study, seed: int, held: Held, folder: Path, net: str, weights: Path) -> float:
    """The test accuracy of a net in `folder` with weights: a training of no iterations is a test.

    The last test in a training's own log is not that of its last snapshot where BatchNorm has seen a batch in between,
    as it has where the end falls on a display.
    """
    solver = nets.solver_for(study, seed, folder, prefix(study, folder), 0)
    for key, value in (("net", str(folder / net)), ("display", 0), ("snapshot", 0), ("snapshot_after_train", False)):
        solver.set(key, value)
    name = f"test_{Path(net).stem}"
    (folder / f"{name}.prototxt").write_bytes(solver.to_bytes())
    fit(study, held, Fit(folder, seed, 0, weights=str(weights), solver=f"{name}.prototxt", log=f"{name}.log"))
    return accuracies(folder / f"{name}.log").final


def _weights(study: Study, folder: Path, iteration: int) -> Path:
    return Path(f"{prefix(study, folder)}_iter_{iteration}.caffemodel")


def _row(study: Study, folder: Path, inputs: list[Path], end: int) -> dict[str, Any]:
    """What the table says of a training, and its manifest."""
    net = prototxt.read(folder / nets.NET)
    cost = Cost.of(infer_shapes(phase_layers(net, TRAIN)))
    found = measured(folder / TRAINED)
    for path in folder.glob("*_iter_*"):
        # What was only to go on from.
        if f"_iter_{end}." not in path.name and f"_iter_{study.split}." not in path.name:
            path.unlink()
    manifest = manifest_of(folder, inputs, [_weights(study, folder, end).name], {})
    return {"parameters": cost.parameters, "macs": cost.macs, **found, "manifest": manifest}


_VERBS: dict[str, Callable[[Study, Step, Held], dict[str, Any]]] = {
    "data": _data,
    "train": _train,
    "derive": _derive,
    "fold": _fold,
}
