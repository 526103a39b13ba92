"""What the steps of a study do, each by the program's own commands, in the study's folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from caffe_split.cost import Cost
from caffe_split.errors import CaffeSplitError
from caffe_split.files import write_atomic
from caffe_split.net import phase_layers
from caffe_split.proto import prototxt
from caffe_split.shapes import infer_shapes
from caffe_split.study import nets
from caffe_split.study.controls import widened
from caffe_split.study.holding import holding
from caffe_split.study.measure import accuracies, measured
from caffe_split.study.places import PLAN, open_study, prefix, read_json, run_folder, write_json
from caffe_split.study.plan import Step, steps_of
from caffe_split.study.read import Arm, Study
from caffe_split.study.telemetry import movements

TRAINED = "train.log"


class Crashed(Exception):
    """A run ended badly; the rest of the study goes on."""


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
    with holding(Path("locks") / f"{title}.lock"):
        if mark.exists():
            return
        start = time.time()
        try:
            for need in step.needs:
                failed = read_json(Path(need)).get("failed")
                if failed:
                    raise Crashed(failed if failed.startswith("because ") else f"because {Path(need).stem}: {failed}")
            result = _VERBS[step.verb](study, step)
        except (CaffeSplitError, Crashed, OSError) as error:
            result = {"failed": " ".join(str(error).split())}
        write_json(mark, {**result, "step": title, "seconds": time.time() - start})


def _data(study: Study, _: Step) -> dict[str, object]:
    missing = [path for path in nets.data_files(study) if not path.exists()]
    if missing and study.make:
        _command(["data", study.make, "--out", str(missing[0].parent)], Path("data.log"))
    return {}


def _train(study: Study, step: Step) -> dict[str, object]:
    folder = run_folder(step.seed, step.name)
    end = nets.length(study)
    parent = run_folder(step.seed, "baseline")
    if step.name == "baseline":
        _prepare_baseline(study, step.seed, folder)
        _fit(study, step.seed, folder, None)
        return _row(study, folder)
    if step.name == "continue":
        _new(folder)
        shutil.copyfile(parent / nets.NET, folder / nets.NET)
        _write(nets.solver_for(study, step.seed, folder, prefix(study, folder), end), folder / nets.SOLVER)
        stem = f"{prefix(study, parent)}_iter_{study.split}"
        _fit(study, step.seed, folder, stem)
        return _row(study, folder)
    if step.name.startswith("wider-"):
        return _train_wider(study, step, folder)
    _clear_run(folder)
    state = str(folder / "init") if study.schedule == "continue" else None
    _fit(study, step.seed, folder, state, "init.solverstate")
    last = Path(f"{prefix(study, folder)}_iter_{end}.caffemodel")
    return {**_row(study, folder), "movements": movements(folder / "init.caffemodel", last)}


def _prepare_baseline(study: Study, seed: int, folder: Path) -> None:
    _new(folder)
    _write(nets.study_net(study), folder / nets.NET)
    _write(nets.solver_for(study, seed, folder, prefix(study, folder), study.split), folder / nets.SOLVER)
    if study.window is not None:
        start, stop = study.window
        words = ["instrument", str(folder / nets.NET), "--window", f"{start}:{stop}", "--interval", str(study.interval)]
        _command([*words, "--in-place"], folder / "instrument.log")


def _train_wider(study: Study, step: Step, folder: Path) -> dict[str, object]:
    """Both parts of the training, with the stop between them that the others have."""
    _new(folder)
    plan = read_json(run_folder(step.seed, step.name[len("wider-") :]) / "manifest.json")["plan"]
    net = nets.study_net(study)
    net, raised = widened(net, [layer["name"] for layer in plan["layers"]], plan["after"]["parameters"])
    _write(net, folder / nets.NET)
    _write(nets.solver_for(study, step.seed, folder, prefix(study, folder), study.split), folder / nets.SOLVER)
    _fit(study, step.seed, folder, None, log="first.log")
    end = nets.length(study)
    _write(nets.solver_for(study, step.seed, folder, prefix(study, folder), end), folder / nets.SOLVER)
    _fit(study, step.seed, folder, f"{prefix(study, folder)}_iter_{study.split}")
    return {**_row(study, folder), "raised": raised}


def _derive(study: Study, step: Step) -> dict[str, object]:
    arm = _arm(study, step.name)
    folder = run_folder(step.seed, step.name)
    if folder.exists():
        shutil.rmtree(folder)
    parent = run_folder(step.seed, "baseline")
    # The parent whose schedule goes on is the baseline with the length of the whole.
    whole = run_folder(step.seed, f"parent-{step.name}")
    _new(whole)
    shutil.copyfile(parent / nets.NET, whole / nets.NET)
    _write(nets.solver_for(study, step.seed, whole, prefix(study, parent), nets.length(study)), whole / nets.SOLVER)
    words = ["make-derived", str(whole / nets.SOLVER), "--iter", str(study.split), *arm.words(step.seed)]
    words += ["--schedule", study.schedule, "--engine", study.engine, "--out", str(folder)]
    if study.window is not None:
        words += ["--window", f"{study.window[0]}:{study.window[1]}"]
    log = whole / "derive.log"
    _command(words, log)
    return {"plan": read_json(folder / "manifest.json")["plan"]}


def _fold(study: Study, step: Step) -> dict[str, object]:
    folder = run_folder(step.seed, step.name)
    folded = run_folder(step.seed, f"{step.name}-folded")
    if folded.exists():
        shutil.rmtree(folded)
    weights = Path(f"{prefix(study, folder)}_iter_{nets.length(study)}.caffemodel")
    words = ["fold", str(folder / nets.NET), str(weights), "--out", str(folded), "--engine", study.engine]
    _command(words, folder / "fold.log")
    plan = read_json(folded / "manifest.json")
    shutil.copyfile(folder / nets.NET, folded / "unfolded.prototxt")
    before = _tested(study, step.seed, folded, "unfolded.prototxt", weights)
    after = _tested(study, step.seed, folded, nets.NET, folded / "folded.caffemodel")
    return {
        "parameters": plan["plan"]["after"]["parameters"], "macs": plan["plan"]["after"]["macs"],
        "kept": plan["plan"]["kept"], "final": after, "unfolded": before,
        "largest_difference": plan["largest_difference"],
    }  # fmt: skip


def _tested(study: Study, seed: int, folder: Path, net: str, weights: Path) -> float:
    """The test accuracy of a net in `folder` with weights: a training of no iterations is a test.

    The last test in a training's own log is not that of its last snapshot where BatchNorm has seen a batch in between,
    as it has where the end falls on a display.
    """
    solver = nets.solver_for(study, seed, folder, prefix(study, folder), 0)
    for key, value in (("net", str(folder / net)), ("display", 0), ("snapshot", 0), ("snapshot_after_train", False)):
        solver.set(key, value)
    _write(solver, folder / nets.SOLVER)
    log = f"{Path(net).stem}.log"
    _fit(study, seed, folder, None, weights=str(weights), log=log)
    return accuracies(folder / log).final


def _fit(
    study: Study, seed: int, folder: Path, stem: str | None, state: str = "", log: str = TRAINED, weights: str = ""
) -> None:
    """Train the solver of a folder; `stem` is the snapshot to go on from."""
    words = ["train", str(folder / nets.SOLVER), "--engine", study.engine, "--threads", str(study.threads)]
    words += ["--log", str(folder / log), "--force"]
    if study.engine == "torch":
        words += ["--seed", str(seed), "--device", "cpu", "--precision", study.precision]
    if stem is not None and study.schedule == "continue":
        words += ["--snapshot", f"{stem}.solverstate"]
    elif stem is not None:
        words += ["--weights", f"{stem}.caffemodel"]
    elif weights:
        words += ["--weights", weights]
    _command(words, folder / "command.log")


def _row(study: Study, folder: Path) -> dict[str, object]:
    """What the table says of a training."""
    net = prototxt.read(folder / nets.NET)
    cost = Cost.of(infer_shapes(phase_layers(net, "TRAIN")))
    return {"parameters": cost.parameters, "macs": cost.macs, **measured(folder / TRAINED)}


def _command(words: list[str], log: Path) -> None:
    """Run a command of this program; what it says goes to `log`. Raises `Crashed` with its last line."""
    with log.open("ab") as stream:
        done = subprocess.run([sys.executable, "-m", "caffe_split", *words], stdin=subprocess.DEVNULL, stdout=stream,
                              stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "200"}, check=False)  # fmt: skip
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise Crashed(f"caffe-split {words[0]} ended with {done.returncode}: {lines[-1] if lines else 'nothing said'}")


def _write(document: prototxt.Document, path: Path) -> None:
    write_atomic(path, document.to_bytes())


def _new(folder: Path) -> None:
    """An empty folder: what an interrupted run left is made again."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _clear_run(folder: Path) -> None:
    """Take out of a derived folder what an interrupted training left."""
    keep = {*read_json(folder / "manifest.json")["outputs"], "manifest.json"}
    for path in folder.iterdir():
        if path.name not in keep:
            path.unlink()


def _arm(study: Study, name: str) -> Arm:
    return next(arm for arm in study.all_arms() if arm.name == name)


_VERBS = {"data": _data, "train": _train, "derive": _derive, "fold": _fold}
