"""The runs of a report: each a log, what the table says of it, and the manifest beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_split.derivation.after_split import Course, read_course
from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.cost import cost_beside
from caffe_split.report.derived_from import Manifest, read_manifest
from caffe_split.trainlog import pipeline, query
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.read import read_log
from caffe_split.trainlog.summary import Summary


@dataclass(frozen=True)
class Asked:
    """What of the logs is read.

    output: the test output to compare by; None: the first accuracy. rank: of logs into which several processes wrote;
    None: the first. net: the test net to compare by; None: the first that printed the output.
    """

    output: str | None = None
    rank: int | None = None
    net: int | None = None

    def words(self, *names: str) -> list[str]:
        """The options of these names that say so on the command line."""
        given = [(f"--{name}", getattr(self, name)) for name in names]
        return [str(word) for option, value in given if value is not None for word in (option, value)]


USUAL = Asked()


@dataclass(frozen=True)
class Run:
    """One training.

    log_path: as given. manifest: None if the folder was not made by `make-derived`. course: its gradients after the
    split, where they were measured. notes: what is to be known of the log, and why the net's cost is not known.
    """

    log_path: Path
    log: TrainingLog
    summary: Summary
    manifest: Manifest | None
    course: Course | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in the table."""
        return self.summary.net


def logs_in(path: Path) -> list[Path]:
    """The logs that a folder stands for: its train.log, else the logs of trainings inside it. A file stands for itself.

    Raises `CaffeSplitError` if there is none.
    """
    if not path.is_dir():
        return [path]
    if (path / pipeline.LOG_NAME).is_file():
        return [path / pipeline.LOG_NAME]
    found = pipeline.logs_under(path)
    if not found:
        raise CaffeSplitError(f"{path}: no {pipeline.LOG_NAME} in it, and no file there holds lines of Caffe")
    return found


def read_runs(
    paths: Sequence[Path],
    say: Callable[[str], None],
    asked: Asked = USUAL,
) -> list[Run]:
    """The runs of some folders, those that were not derived first, otherwise as given.

    say: called with a line about each log that cannot be read, and about anything else that is left out. Raises
    `CaffeSplitError` if no run is left.
    """
    output, rank, net = asked.output, asked.rank, asked.net
    found: list[tuple[Path, TrainingLog, Manifest | None]] = []
    files: list[Path] = []
    for path in paths:
        try:
            files += logs_in(path)
        except CaffeSplitError as error:
            say(str(error))
    for file in pipeline.each_once(files):
        try:
            log = read_log(file, rank)
            if log.training is None:
                log.values()  # raises, and says what the log is instead
            if output is not None or net is not None:
                log.values(output, net)  # raises if there is none
        except CaffeSplitError as error:
            say(str(error))
        else:
            found.append((file, log, _manifest_beside(file, say)))
    if not found:
        raise CaffeSplitError("nothing to report: none of the logs can be read")
    found.sort(key=lambda entry: entry[2] is not None)
    summaries = query.summarise([log for _, log, _ in found], output, net)
    runs = []
    for (file, log, manifest), row in zip(found, summaries):
        summary, why_not = _with_cost(row)
        course = read_course(file.parent) if manifest is not None else None
        runs.append(Run(file, log, summary, manifest, course, (*log.notes, *why_not)))
    return runs


def _manifest_beside(log: Path, say: Callable[[str], None]) -> Manifest | None:
    try:
        return read_manifest(log.parent)
    except CaffeSplitError as error:
        say(str(error))
        return None


def _with_cost(row: Summary) -> tuple[Summary, tuple[str, ...]]:
    """The row with its net's cost, or as it is and the reason."""
    if not any(Path(row.path).parent.glob("*.prototxt")):
        return row, ()  # only a log: then there is nothing to count and nothing to say
    try:
        found = cost_beside(Path(row.path))
    except CaffeSplitError as error:
        return row, (str(error),)
    return row.with_cost(found.parameters, found.macs), ()
