"""The files at the end of a loop: the table, the outcome as JSON, the curves, the report, and the best net."""

from __future__ import annotations

from pathlib import Path

from caffe_split import jsontext
from caffe_split.backends.check_weights import FOLDED_WEIGHTS_NAME
from caffe_split.derivation.after_split import read_course
from caffe_split.errors import CaffeSplitError
from caffe_split.files import copy_file, new_folder, write_atomic
from caffe_split.formats import prototxt
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.manifest import write_manifest
from caffe_split.net.layers import phase_layers
from caffe_split.net.training import Training
from caffe_split.plot.figure import draw
from caffe_split.plot.picture_file import write_picture
from caffe_split.plot.series import collect as curves_of
from caffe_split.report.gradients import chart
from caffe_split.report.page import write_report
from caffe_split.report.runs import read_runs
from caffe_split.rounds.result import MultiSplits
from caffe_split.rounds.steps import Start
from caffe_split.rounds.training import LOG
from caffe_split.tpm.layers import remove_watchers
from caffe_split.trainlog.outputs import is_accuracy
from caffe_split.trainlog.read import read_log

BEST = "best"
# Inches.
SIZE = (9.0, 7.5)


def tested_images(training: Training) -> int | None:
    """How many images a test reads: test_iter batches of the test net; None where the batch is not known.

    Raises `CaffeSplitError` where the test net has no accuracy.
    """
    assert training.solver is not None
    layers = phase_layers(training.net, training.state_in("TEST"))
    judge = next((each for each in layers if each.type == "Accuracy" or any(map(is_accuracy, each.tops))), None)
    if judge is None:
        raise CaffeSplitError(
            f"{training.net_path}: its test net has no Accuracy layer, and rounds are compared by accuracy; add one."
        )
    shape = infer_shapes(layers).blobs.get(judge.bottoms[-1]) if judge.bottoms else None
    if not shape or not shape[0]:
        return None
    return int(training.solver.get_all("test_iter")[0]) * int(shape[0])


def write_outputs(folder: Path, found: MultiSplits, start: Start, deploy: Path | None) -> None:
    """Write the outcome into the loop's folder, over that of an earlier end."""
    write_atomic(folder / "table.md", f"{found.table()}\n\n{found.sentence()}\n".encode("utf-8", "surrogateescape"))
    write_atomic(folder / "result.json", (jsontext.dumps(found.as_dict()) + "\n").encode())
    names = [row.name for row in found.rows()]
    logs = [folder / name / LOG for name in names if (folder / name / LOG).is_file()]
    if logs:
        curves = curves_of([read_log(log) for log in logs])
        write_picture(folder / "curves.png", lambda figure: draw(figure, curves), force=True, size=SIZE)
        write_report(read_runs(logs, lambda _: None), folder / "report.html", "MultiSplits", force=True)
    courses = {row.name: read_course(folder / row.name) for row in found.rows()}
    for name, course in courses.items():
        if course is not None:
            write_atomic(folder / f"gradients-{name}.svg", chart(course, name).encode())
    if found.best is not None:
        _write_best(folder, found, start, deploy)


def _write_best(folder: Path, found: MultiSplits, start: Start, deploy: Path | None) -> None:
    """The folded net, its weights and the deploy net of the best round, as a folder of its own."""
    best = found.best
    assert best is not None
    source = folder / f"{best.split.name}-folded"
    nets = [start.training.net_path.name]
    net = prototxt.read(source / nets[0])
    # Its TPM layers are the loop's: the user's net has its own, or none.
    remove_watchers(net)
    plain = start.training.net.copy()
    remove_watchers(plain)
    if net.to_bytes() == plain.to_bytes():
        net = start.training.net
    with new_folder(folder / BEST, force=True) as building:
        prototxt.write(net, building / nets[0])
        copy_file(source / FOLDED_WEIGHTS_NAME, building / FOLDED_WEIGHTS_NAME)
        if deploy is not None and not best.kept:
            copy_file(deploy, building / deploy.name)
            nets.append(deploy.name)
        write_manifest(building, [source / FOLDED_WEIGHTS_NAME], [*nets, FOLDED_WEIGHTS_NAME], found.as_dict())
