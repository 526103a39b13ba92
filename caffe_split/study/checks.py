"""Checks before a study starts: it can be trained, and it matches its output folder."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np

from caffe_split import jsontext
from caffe_split.backends.check_data import missing_data
from caffe_split.derivation.choose import candidates, choose_layers
from caffe_split.errors import CaffeSplitError
from caffe_split.files import free_name, sha256
from caffe_split.formats import prototxt
from caffe_split.net.geometry import convolution_geometry
from caffe_split.net.layers import Layer, all_layers
from caffe_split.net.state import state_of_solver
from caffe_split.split.partition import divide, parse_rule
from caffe_split.study import nets
from caffe_split.study.arm import Arm
from caffe_split.study.controls import raisable
from caffe_split.study.data import check_data
from caffe_split.study.model import Study, random_name, wider_name
from caffe_split.study.paths import PLAN, prefix, read_json, run_folder
from caffe_split.study.plan import StudyStep, runs_in, stages_of
from caffe_split.study.results import read_mark
from caffe_split.tpm.layers import watchers, windows_of
from caffe_split.trainlog.outputs import is_accuracy

# The settings that the runs in a folder share.
_SAME = (
    "solver",
    "root",
    "data",
    "engine",
    "device",
    "precision",
    "scale",
    "split",
    "window",
    "interval",
    "schedule",
    "tests",
)


def check_study(study: Study) -> None:
    """Raises `CaffeSplitError` for a study that could not be trained to its end."""
    if importlib.util.find_spec("snakemake") is None:
        if sys.version_info < (3, 11):
            version = ".".join(map(str, sys.version_info[:2]))
            raise CaffeSplitError(f"a study needs Snakemake 8, and that Python 3.11 or later; this is Python {version}")
        raise CaffeSplitError("a study needs Snakemake, which is not installed: pip install 'snakemake>=8'")
    net = nets.study_net(study)
    if nets.study_solver(study).has("weights"):
        raise CaffeSplitError(
            f"{study.solver}: weights: a study trains its baselines from their fillers, and would not read them; take "
            "`weights` out, or use `caffe-split multisplit`, whose baseline starts from them"
        )
    missing = [path for path in nets.data_files(study) if not path.exists()]
    if missing and not study.make:
        raise CaffeSplitError(
            f"{study.file}: data {missing[0]} is not there; make it with `caffe-split data`, or let the key `data` "
            "name the folder that holds it"
        )
    check_data(study)
    nets.check_lists(study)
    if not missing:
        states = (state_of_solver(nets.study_solver(study), phase).in_net(net) for phase in ("TRAIN", "TEST"))
        lacking = missing_data((net, state) for state in states)
        if lacking:
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            raise CaffeSplitError(f"{study.file}: data: {lacking[0]}{more}; see the keys `root` and `data`")
    check_tests(study, net)
    for arm in study.arms:
        _check_arm(study, net, arm)


def check_tests(study: Study, net: prototxt.Document) -> None:
    """Raises `CaffeSplitError` where a training would not end with a test, or where tests print no accuracy."""
    solver, end = nets.study_solver(study), nets.length(study)
    every = int(solver.get("test_interval", 0))
    at = "" if study.scale == "1" else f" at scale {study.scale}"
    if every < 1 or end % every:
        raise CaffeSplitError(
            f"{study.solver}: test_interval is {every}{at}, so that nothing is tested at the end, at {end}; a study "
            "compares the last tests: choose one that divides max_iter"
        )
    starts = bool(solver.get("test_initialization", True))
    for name, start, stop in _parts(study, end):
        first = start if start or starts else 1
        if stop // every * every < first:
            raise CaffeSplitError(
                f"{study.solver}: test_interval is {every}{at}, so that nothing is tested in the training of {name}, "
                f"{start} to {stop}; {'test more often' if study.scale == '1' else 'choose another scale'}"
            )
    # Its include and exclude rules are not looked at: an Accuracy layer in the file is taken to be used.
    if not any(layer.type == "Accuracy" or any(is_accuracy(top) for top in layer.tops) for layer in all_layers(net)):
        raise CaffeSplitError(f"{net.filename}: no Accuracy layer, and a study compares test accuracies; add one")


def _parts(study: Study, end: int) -> list[tuple[str, int, int]]:
    """The trainings whose accuracy a study reads: name, first and last iteration."""
    # With `restart` all of them are trained from 0 to the end, as the baseline is.
    arms = study.arms if study.schedule == "continue" else ()
    stages = {stage.name: (stage.at, stage.until or end) for arm in arms for stage in stages_of(study, arm)}
    return [
        ("the baseline", 0, nets.baseline_length(study)),
        *((f"arm {name}", *span) for name, span in stages.items()),
    ]


def _check_arm(study: Study, net: prototxt.Document, arm: Arm) -> None:
    """Raises `CaffeSplitError` where layers cannot be split, are too few, or have no wider control."""
    state = state_of_solver(nets.study_solver(study), "TRAIN").in_net(net)
    try:
        if arm.layers:
            found = choose_layers(net, arm.layers, 1, [], arm.options(0), state)
        else:
            found = candidates(net, arm.options(0), state)
    except CaffeSplitError as error:
        raise CaffeSplitError(f"{study.file}: arm {arm.name}: {error}") from None
    names = [layer.name for layer in found]
    if len(names) < arm.num_splits:
        raise CaffeSplitError(
            f"{study.file}: arm {arm.name}: num_splits is {arm.num_splits}, and the net has {len(names)} "
            f"convolutions that can be split: {', '.join(names) or 'none'}"
        )
    refused = [f"{layer.name}: {why}" for layer in found if (why := _undivided(layer, arm))]
    if len(names) - len(refused) < (arm.num_splits or len(names)):
        raise CaffeSplitError(f"{study.file}: arm {arm.name}: {refused[0]}")
    if arm.name in study.wider:
        try:
            raisable(net, names)
        except CaffeSplitError as error:
            raise CaffeSplitError(f"{study.file}: controls: {wider_name(arm.name)}: {error}") from None


def _undivided(layer: Layer, arm: Arm) -> str:
    """Why the kernels of a layer cannot be divided by an arm's rule, whatever their scores; empty where they can."""
    param = layer.message.sub("convolution_param")
    assert param is not None
    try:
        kernels = np.zeros(int(param.get("num_output")))
        divide(parse_rule(arm.options(0).partition), kernels, convolution_geometry(layer).group, layer.name)
    except CaffeSplitError as error:
        return str(error)
    return ""


def check_folder(out: Path) -> None:
    """Raises `CaffeSplitError` where `out` holds something and is no study's folder."""
    if not os.path.lexists(out) or (out / PLAN).exists():
        return
    if not out.is_dir():
        raise CaffeSplitError(f"{out}: this is no folder; choose another --out")
    # A study that was killed at its very start has left its locks.
    found = sorted(path.name for path in out.iterdir() if path.name != "locks")
    if found:
        listed = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise CaffeSplitError(
            f"{out} is no folder of a study: it has no {PLAN}, and holds {listed}; choose another --out, such as "
            f"{free_name(out)}"
        )


def inputs_of(study: Study) -> dict[str, str]:
    """The files that all runs depend on -> their hashes; an LMDB stands for its data file."""
    paths = [study.solver, nets.net_path(study)]
    paths += [path / "data.mdb" if path.is_dir() else path for path in nets.data_files(study)]
    return {str(path): sha256(path) for path in paths if path.is_file()}


def check_name(study: Study, begun: str, out: Path) -> None:
    """Raises `CaffeSplitError` where `out` was begun by a study of another name."""
    if begun != study.name:
        raise CaffeSplitError(
            f"{out}: it is the folder of the study {begun}, and {study.file} is {study.name}; choose another --out, or "
            f"write `name: {begun}` if it is the same study"
        )


def check_same(study: Study, inputs: dict[str, str], out: Path) -> None:
    """Raises `CaffeSplitError` where `out` holds runs of other files or settings than the study's."""
    if not (out / PLAN).exists():
        return
    plan = read_json(out / PLAN)
    if not isinstance(plan, dict) or not isinstance(plan.get("study"), dict) or "arms" not in plan["study"]:
        raise CaffeSplitError(f"{out / PLAN}: no plan of a study; choose another --out")
    check_name(study, str(plan["study"].get("name")), out)
    before, now = plan["study"], json.loads(jsontext.dumps(study.as_dict()))
    for path, digest in inputs.items():
        if plan.get("inputs", inputs).get(path, digest) != digest:
            raise CaffeSplitError(f"{path}: it has changed since {out} was begun; choose another --out")
    before = {"scale": "1", "tests": 0, **before}  # a folder of an earlier version has neither
    for key in _SAME:
        if key == "interval" and now["window"] is None:
            continue  # nothing is sampled
        if before.get(key) != now[key]:
            raise CaffeSplitError(f"{out}: its runs have {key} {before.get(key)}, not {now[key]}; choose another --out")
    try:
        known = Study.from_dict(before)
    except (TypeError, KeyError, AttributeError):
        raise CaffeSplitError(f"{out / PLAN}: a plan of another version; choose another --out") from None
    if known.rehearses != study.rehearses:
        said = "only at their ends" if known.rehearses else "on the way"
        raise CaffeSplitError(f"{out}: its runs are tested {said} (the key `rehearsal`); choose another --out")
    if known.most_records != study.most_records:
        raise CaffeSplitError(f"{out}: its runs have another `rehearsal_batch`; choose another --out")
    # A folder of an earlier version may have arms with options that nothing reads, which no file may have now.
    arms = {arm.name: arm.as_read for arm in (*known.arms, *known.gone)}
    runs = runs_in(out)
    for arm in study.arms:
        if arms.get(arm.name, arm) != arm:
            raise CaffeSplitError(f"{out}: its arm {arm.name} is another; choose another name, or another --out")
        if arm.name not in arms and runs & {arm.name, random_name(arm.name), wider_name(arm.name)}:
            # A version that forgot arms that were taken out of the file has left its runs.
            raise CaffeSplitError(
                f"{out}: it has runs of an arm {arm.name} that its {PLAN} does not describe; choose another name, or "
                "another --out"
            )
    _check_windows(study, out)
    _check_rates(study, out)
    _check_parents(study, out)


def _check_parents(study: Study, out: Path) -> None:
    """Raises `CaffeSplitError` where a run that is done has kept no snapshot for one that is to begin from it.

    An earlier version kept it only where such a run was planned.
    """
    starts = [
        *((arm.name, arm.after) for arm in study.all_arms() if arm.after),
        *zip(study.controls[1:], study.controls),
    ]
    for seed in study.seeds:
        for run, parent in starts:
            ours, theirs = (read_mark(StudyStep("train", seed, name, ()), out) for name in (run, parent))
            kept = out / f"{prefix(study, run_folder(seed, parent))}_iter_{study.split}.caffemodel"
            if (ours is None or ours.failed) and theirs is not None and not theirs.failed and not kept.exists():
                raise CaffeSplitError(
                    f"{out}: its run {parent} of seed {seed} is done without {kept.name}, from which {run} is to "
                    "begin; choose another --out"
                )


def _check_rates(study: Study, out: Path) -> None:
    """Raises `CaffeSplitError` where a version that shortened a solver's rates otherwise began a baseline."""
    gamma = float(nets.study_solver(study).get("gamma", 0))
    for seed in study.seeds:
        path = out / run_folder(seed, "baseline") / nets.SOLVER
        begun = float(prototxt.read(path).get("gamma", 0)) if path.exists() else gamma
        if begun != gamma:
            raise CaffeSplitError(
                f"{path}: gamma is {begun}, and at scale {study.scale} the rates of {study.solver} are those of "
                f"{gamma}: an earlier version began the folder; choose another --out"
            )


def _check_windows(study: Study, out: Path) -> None:
    """Raises `CaffeSplitError` where a baseline was begun without TPM layers for a window that is needed now."""
    for seed in study.seeds:
        path = out / run_folder(seed, "baseline") / nets.NET
        if not path.exists():
            continue
        watched = {pair for layer in watchers(prototxt.read(path)).values() for pair in windows_of(layer).pairs}
        new = [window for window in study.windows if window not in watched]
        if new:
            start, stop = new[0]
            raise CaffeSplitError(
                f"{out}: the baseline of seed {seed} was begun without TPM over {start}:{stop}, which a round needs; "
                "choose another --out"
            )
