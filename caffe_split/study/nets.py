"""The nets and solvers of a study's runs: the user's files with the data, seed and length of each run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from caffe_split.backends.choose import get_backend
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net, read_solver
from caffe_split.net.data_sources import BATCHES, ROOTS, named_files, source_of
from caffe_split.net.layers import all_layers
from caffe_split.net.state import NetState
from caffe_split.net.which_net import solver_test_net_fields
from caffe_split.study.model import Study
from caffe_split.study.scale import nearest_divisor, scale_solver, space_tests
from caffe_split.tpm.layers import remove_watchers

NET, SOLVER = "train_val.prototxt", "solver.prototxt"


def study_solver(study: Study) -> prototxt.Document:
    """The study's solver. Raises `CaffeSplitError` where it cannot be used."""
    if study.solver.is_dir():
        raise CaffeSplitError(f"{study.file}: solver: {study.solver} is a folder; name the solver's file in it")
    if not study.solver.is_file():
        raise CaffeSplitError(f"{study.file}: solver: {study.solver} is not there")
    solver = read_solver(study.solver, upgrade=True)
    if not solver.has("net") or solver_test_net_fields(solver):
        raise CaffeSplitError(
            f"{study.solver}: a study needs a solver that names one net for training and testing, with `net`"
        )
    try:
        scale_solver(solver, study)
    except CaffeSplitError as error:
        raise CaffeSplitError(f"{study.solver}: {error}") from None
    if study.rehearses:
        space_tests(solver, 1)
        solver.set("test_initialization", False)
    elif study.tests:
        space_tests(solver, study.tests)
    end = int(solver.get("max_iter", 0))
    if end < study.split:
        raise CaffeSplitError(f"{study.solver}: max_iter is {end}, before the split at {study.split}; split earlier")
    if end == study.split and study.schedule == "continue":
        raise CaffeSplitError(f"{study.solver}: max_iter is {end}, so nothing is left after the split at {study.split}")
    late = [at for arm in study.arms for at in arm.rounds if at >= end]
    if late:
        raise CaffeSplitError(f"{study.file}: a round at {late[0]} is not before the end at {end}")
    if solver.get("lr_policy", None) == "poly":
        raise CaffeSplitError(
            f"{study.solver}: lr_policy poly takes its rates from max_iter, and a study trains in parts; use another"
        )
    if not solver.has("test_iter"):
        raise CaffeSplitError(f"{study.solver}: no test_iter, and a study compares test accuracies")
    return solver


def net_path(study: Study) -> Path:
    """The file of the net that the solver names. Raises `CaffeSplitError` where it is not there."""
    name = str(study_solver(study).get("net"))
    for place in (study.root / name, study.solver.parent / Path(name).name):
        if place.is_file():
            return place
    raise CaffeSplitError(f"{study.solver}: its net {name} is not there, seen from {study.root} (the key `root`)")


def study_net(study: Study) -> prototxt.Document:
    """The net that the solver names, without TPM layers, with absolute paths of its data files.

    The steps add TPM layers for the windows of the study. Raises `CaffeSplitError` where two of the files would be one.
    """
    net = read_net(net_path(study), upgrade=True)
    remove_watchers(net)
    placed: dict[Path, str] = {}
    for message, key in _named_files(net):
        name = str(message.get(key))
        place = _place(study, name)
        other = placed.setdefault(place, name)
        if os.path.normpath(other) != os.path.normpath(name):
            raise CaffeSplitError(
                f"{study.file}: data: {other} and {name} of {net.filename} would both be {place}; give one of them "
                "another name, or leave the key `data` out and let `root` lead to them"
            )
        message.set(key, str(place))
    for layer in all_layers(net):
        for param in ROOTS:
            options = layer.message.sub(param)
            if options is None:
                continue
            root = str(options.get("root_folder", ""))
            if root:
                options.set("root_folder", f"{_place(study, root)}{'/' if root.endswith('/') else ''}")
            elif root := _root_for(study, options, param == "window_data_param"):
                options.set("root_folder", root)
    if study.most_records:
        _shorten_batches(net, study.most_records)
    return net


def _shorten_batches(net: prototxt.Document, most: int) -> None:
    """Let data layers that run in TRAIN alone give at most `most` records: test_iter counts the batches of a test."""
    for layer in all_layers(net):
        if not layer.runs_in(NetState("TRAIN")) or layer.runs_in(NetState("TEST")):
            continue
        for message in filter(None, map(layer.message.sub, BATCHES)):
            if int(message.get("batch_size", 0)) > most:
                message.set("batch_size", most)


def with_own_data(study: Study, path: Path) -> bytes:
    """The net of a run, at `path`, with the data files named as in the net that the solver names."""
    names = [str(message.get(key)) for message, key in _named_files(read_net(net_path(study)))]
    placed = {str(_place(study, name)): name for name in names}
    # Of a net that was written where the data lay elsewhere, the last parts of the names are left.
    last: dict[str, set[str]] = {}
    for name in names:
        last.setdefault(Path(name).name, set()).add(name)
    net = read_net(path)
    for message, key in _named_files(net):
        name = str(message.get(key))
        alike = last.get(Path(name).name, set())
        message.set(key, placed.get(name) or (alike.copy().pop() if len(alike) == 1 else name))
    return net.to_bytes()


def _named_files(net: prototxt.Document) -> Iterator[tuple[prototxt.Message, str]]:
    return (field for layer in all_layers(net) for field in named_files(layer))


def _names_in(listing: Path, windows: bool) -> list[str]:
    """The images that a list names, before a blank and a label, or, in a window file, behind each `# INDEX`."""
    lines = [line.strip() for line in listing.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    if windows:
        return [name for before, name in zip(lines, lines[1:]) if before.startswith("#")]
    return [line.rpartition(" ")[0] for line in lines if line]


def _root_for(study: Study, message: prototxt.Message, windows: bool) -> str:
    """What has to stand before the names of a list that has no `root_folder`; "" where they are whole paths.

    Raises `CaffeSplitError` where some are and some are not.
    """
    listing = Path(str(message.get("source", "")))
    names = _names_in(listing, windows) if listing.is_file() else []
    whole = [os.path.isabs(name) for name in names]
    if any(whole) and not all(whole):
        raise CaffeSplitError(
            f"{listing}: {names[whole.index(True)]} is a whole path and {names[whole.index(False)]} is none; a study "
            "trains in folders of its own: write whole paths."
        )
    return "" if not names or all(whole) else f"{study.root}/"


def data_files(study: Study) -> list[Path]:
    """The data sets and mean files that the net names."""
    named = _named_files(study_net(study))
    return list(dict.fromkeys(Path(str(message.get(key))) for message, key in named))


def check_lists(study: Study) -> None:
    """Raises `CaffeSplitError` for a list of HDF5 files that names them from the folder of a program."""
    for layer in all_layers(study_net(study)):
        if layer.type != "HDF5Data":
            continue
        listing = Path(source_of(layer))
        names = listing.read_text(encoding="utf-8", errors="surrogateescape").split() if listing.is_file() else []
        relative = [name for name in names if not os.path.isabs(name)]
        if relative:
            raise CaffeSplitError(
                f"{listing}: {relative[0]} is no whole path, and a study trains in folders of its own; write "
                f"{study.root / relative[0]}."
            )


def _place(study: Study, name: str) -> Path:
    if study.data is not None:
        return study.data / Path(name).name
    return study.root / name


def solver_for(study: Study, seed: int, folder: Path, prefix: str, max_iter: int) -> prototxt.Document:
    """The study's solver for the run in `folder`; one that others start from keeps its snapshot at the split."""
    solver = study_solver(study)
    solver.set("net", str(folder / NET))
    solver.set("max_iter", max_iter)
    solver.set("random_seed", seed)
    every = int(solver.get("snapshot", 0)) if get_backend(study.engine).reads_on else 0
    if folder.name.split("@")[0] in study.parents and max_iter > study.split:
        wanted = every or study.split
        every = nearest_divisor(study.split, wanted, least=min(study.split, wanted / 2))
    # 0: a training of a back end that does not read on starts again where it was killed, without snapshots; see `fit`.
    solver.set("snapshot", every)
    solver.set("snapshot_prefix", prefix)
    if solver.get("snapshot_format") == "HDF5":
        # The steps of a study read binary snapshots only.
        solver.remove("snapshot_format")
    for key in ("weights", "snapshot_after_train"):
        solver.remove(key)
    return solver


def baseline_length(study: Study) -> int:
    """The iteration at which the baseline ends: where all others begin anew, it is trained whole, to be compared."""
    return length(study) if study.schedule == "restart" else study.split


def length(study: Study) -> int:
    """The iteration at which the trainings after the split end."""
    return int(study_solver(study).get("max_iter"))
