"""Logs as other tools leave them: compressed, in UTF-16, coloured, of several ranks, of forks, with blanks in paths."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from caffe_split.cli import cli
from caffe_split.errors import CaffeSplitError
from caffe_split.plot.series import collect
from caffe_split.tpm.from_log import printed_tpm
from caffe_split.trainlog import TrainingLog, pipeline, read_log
from caffe_split.trainlog.follow import Follower
from caffe_split.trainlog.progress import max_iter_in
from caffe_split.trainlog.query import piped_values, read_lines
from caffe_split.trainlog.snapshots import nearest_snapshot
from caffe_split.trainlog.text import Text

LOGS = Path(__file__).parent / "logs"
PLAIN = (LOGS / "bvlc_1_0.log").read_bytes()
HEAD = "I0311 09:00:{:02d}.{:06d}  41{:02d} solver.cpp:1] "


def command(*words: object) -> Result:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def coloured(data: bytes) -> bytes:
    """Colours at both ends and in the middle of a line, a title for the terminal's window, a cleared line."""
    title = b"\x1b]0;training\x07"
    return b"".join(
        title + b"\x1b[1;32m" + line.replace(b"] ", b"]\x1b[0m \x1b[38;5;208m", 1) + b"\x1b[0m\x1b[K\n"
        for line in data.split(b"\n")[:-1]
    )


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "two gzip files": lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:]) + b"\0" * 512,
    "utf-8 mark": lambda data: b"\xef\xbb\xbf" + data,
    "utf-16 little": lambda data: ("\ufeff" + data.decode()).encode("utf-16-le"),
    "utf-16 big": lambda data: ("\ufeff" + data.decode()).encode("utf-16-be"),
    "utf-16 little without mark": lambda data: data.decode().encode("utf-16-le"),
    "utf-16 big without mark": lambda data: data.decode().encode("utf-16-be"),
    "colours": coloured,
    "coloured, in utf-16, compressed": lambda data: gzip.compress(coloured(data).decode().encode("utf-16")),
}


def said(log: TrainingLog) -> str:
    """All that a log says, without byte offsets."""
    parts: list[object] = []
    for run in log.runs:
        for table in (run.displays, run.train, run.lr, *run.tests.values()):
            parts.append(table.iteration.tolist())
            parts += [(name, table[name].tolist(), table.lines[name].tolist()) for name in table.names]
        parts += [(event.kind, event.text, event.line) for event in run.events]
    return str(parts)


@pytest.mark.parametrize("form", ENCODINGS)
def test_an_encoded_log_says_the_same(tmp_path: Path, form: str) -> None:
    plain, path = tmp_path / "plain.log", tmp_path / "train.log"
    plain.write_bytes(PLAIN)
    path.write_bytes(ENCODINGS[form](PLAIN))
    log, expected = read_log(path), read_log(plain)
    assert said(log) == said(expected) and log.notes == ()
    assert [f.text for f in pipeline.best_lines(path, 3)] == [f.text for f in pipeline.best_lines(plain, 3)]
    assert [f.text for f in pipeline.final_lines(path)] == [f.text for f in pipeline.final_lines(plain)]
    assert read_lines(log, piped_values(log, 3)) == [f.text for f in pipeline.best_lines(plain, 3)]
    assert pipeline.looks_like_log(path)
    follower = Follower(path)
    follower.poll()
    assert said(follower.log) == said(expected)


@pytest.mark.parametrize("form", ENCODINGS)
@pytest.mark.parametrize("size", [1, 5, 700])
def test_blocks_of_an_encoded_log_do_not_matter(form: str, size: int) -> None:
    data = ENCODINGS[form](PLAIN)
    text = Text()
    pieces = [piece for at in range(0, len(data), size) for piece in text.feed(data[at : at + size])]
    assert b"".join([*pieces, *text.finish()]) == PLAIN


def test_a_cut_or_damaged_archive_gives_what_stands_before(tmp_path: Path) -> None:
    path = tmp_path / "train.log.gz"
    whole = gzip.compress(PLAIN * 60, 1)
    path.write_bytes(whole[: len(whole) // 2])
    done = command("table", path)
    assert done.exit_code == 0 and "0.6716" in done.stdout
    assert "gzip data end too early" in done.stderr
    path.write_bytes(whole[: len(whole) // 2] + b"\xff" * 300 + whole[len(whole) // 2 :])
    (note,) = read_log(path).notes
    assert note.startswith("its gzip data are damaged (Error") and read_log(path).runs


def test_zstandard_is_read_or_refused_with_what_to_do(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "train.log").write_bytes(zstandard.ZstdCompressor().compress(PLAIN))
    assert read_log(tmp_path / "train.log").best().value == 0.6716


def test_without_zstandard_the_next_step_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from caffe_split.trainlog import compressed

    def none(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(compressed.importlib, "import_module", none)
    (tmp_path / "train.log").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(99))
    with pytest.raises(CaffeSplitError, match=r"train\.log: it is compressed by zstandard.*zstd -d"):
        read_log(tmp_path / "train.log")


def test_a_growing_log_in_utf_16_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    data = ("\ufeff" + PLAIN.decode()).encode("utf-16-le")
    path.write_bytes(data[:501])  # in the middle of a character
    follower = Follower(path)
    follower.poll()
    path.write_bytes(data)
    assert follower.poll() and said(follower.log) == said(read_log(path))


# Several ranks

TAGS = {
    "mpirun -l": "[{}] ",
    "mpirun --tag-output": "[1,{}]<stdout>:",
    "mpirun --tag-output, stderr": "[1,{}]<stderr>: ",
    "open mpi 5": "[prterun-host-2901@1,{}]<stderr>: ",
    "mpirun --tag-output --timestamp-output": "Sun Nov  1 10:00:00 2026[1,{}]<stderr>:",
    "docker compose": "train-worker_{}  | ",
    "docker compose 2": "worker-{}   | ",
    "srun --label": "{}: ",
    "srun --label, padded": "{:>3}: ",
    "torchrun": "[default{}]:",
}


def interleaved(tag: str, ranks: int, order: int = 1, broken: int | None = None) -> str:
    """A log of which each rank writes every line, with values of its own. broken: the rank whose loss becomes nan."""
    lines = ["mpirun starts", ""]
    messages = ["Solving net", "max_iter: 20"]
    for k in (0, 10, 20):
        messages += [
            f"Iteration {k}, Testing net (#0)",
            "    Test net output #0: accuracy = 0.{k}{rank}5",
            f"Iteration {k}, loss = {{loss}}",
            "    Train net output #0: loss = {loss} (* 1 = {loss} loss)",
            f"Iteration {k}, lr = 0.1",
        ]
        messages = [message.replace("{k}", str(k // 10)) for message in messages]
    for second, message in enumerate([*messages, "Optimization Done."]):
        for rank in list(range(ranks))[::order]:
            head = "" if message.startswith("max_iter") else HEAD.format(second, rank, rank)
            loss = "nan" if rank == broken and second > 8 else f"2.{rank}"
            lines.append(tag.format(rank) + head + message.replace("{rank}", str(rank)).replace("{loss}", loss))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("tag", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("order", [1, -1])
def test_each_rank_is_a_run_of_its_own(tmp_path: Path, tag: str, order: int) -> None:
    path = tmp_path / "train.log"
    path.write_text(interleaved(tag, 4, order))
    for rank in (None, 0, 3):
        log = read_log(path, rank)
        shown = rank or 0
        (run,) = log.runs
        assert log.rank == shown and run.state == "done" and run.displays.iteration.tolist() == [0, 10, 20]
        assert set(run.displays["loss"].tolist()) == {2 + shown / 10}
        assert run.tests[0]["accuracy"].tolist() == [float(f"0.{k}{shown}5") for k in range(3)]
        assert log.notes == (f"4 ranks wrote into it (0-3); shown is rank {shown}, --rank N shows another",)
        (best,) = pipeline.best_lines(path, 1, rank)
        assert (
            best.text
            == HEAD.format(13, shown, shown).encode() + f"    Test net output #0: accuracy = 0.2{shown}5".encode()
        )
        assert read_lines(log, [log.best()]) == [best.text]
        # Lines keep their numbers in the file.
        assert path.read_text().splitlines()[log.best().line - 1].endswith(best.text.decode())
        assert max_iter_in(path, rank) == 20
        assert collect([log]).train[0].y.tolist() == [2 + shown / 10] * 3


def _displays(rank: int, iterations: range, starts: bool = True) -> list[str]:
    lines = [f"I0305 16:47:00.000000 {100 + rank} solver.cpp:1] Solving net"] * starts
    for k in iterations:
        stamp = f"I0305 16:47:{k % 60:02d}.000000 {100 + rank} solver.cpp:1] "
        lines += [f"{stamp}Iteration {k}, Testing net (#0)", f"{stamp}    Test net output #0: accuracy = 0.{rank}{k}"]
        lines += [f"{stamp}Iteration {k}, loss = {rank}.5"]
    return lines


def _out_of_step(lead: int, by: int) -> list[str]:
    """Two processes, one `lead` lines ahead, that take turns after `by` lines each."""
    first, second = _displays(0, range(0, 90, 5)), _displays(1, range(0, 90, 5))
    lines, first = first[:lead], first[lead:]
    while first or second:
        lines += first[:by] + second[:by]
        first, second = first[by:], second[by:]
    return lines


@pytest.mark.parametrize(
    ("lines", "mixed"),
    [
        (_out_of_step(0, 1), True),
        (_out_of_step(0, 3), True),
        (_out_of_step(7, 2), True),
        (_out_of_step(13, 9), True),
        (_out_of_step(0, 1)[:14], True),
        # One process: once, resumed, two logs one after another, and what a grep for displays leaves of six runs.
        (_displays(0, range(0, 60, 5)), False),
        (_displays(0, range(0, 60, 5)) + _displays(1, range(40, 100, 5)), False),
        ([line for k in range(6) for line in _displays(k, range(0, 60, 5), starts=False) if "loss" in line], False),
        (_displays(0, range(0, 60, 5)) + _displays(0, range(55, 60, 5), starts=False), False),
    ],
)
def test_processes_whose_lines_are_mixed_without_ranks_are_noted(tmp_path: Path, lines: list[str], mixed: bool) -> None:
    path = tmp_path / "train.log"
    path.write_text("\n".join(lines) + "\n")
    assert ["several processes seem to" in note for note in read_log(path).notes] == [True] * mixed
    follower = Follower(path)
    follower.poll()
    assert follower.log.notes == read_log(path).notes


def test_a_rank_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(interleaved("[{}] ", 2))
    with pytest.raises(CaffeSplitError, match=r"has no rank 7: it has 0-1"):
        read_log(path, 7)
    with pytest.raises(CaffeSplitError, match=r"has no rank 7: it has 0-1"):
        pipeline.best_lines(path, 3, 7)
    path.write_bytes(PLAIN)
    with pytest.raises(CaffeSplitError, match=r"has no rank 0: no rank stands before its lines"):
        read_log(path, 0)


def test_a_growing_log_of_ranks_is_read_from_the_first_rank(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    text = interleaved("[{}] ", 3, -1)
    path.write_text(text[:80])
    follower = Follower(path)
    for end in range(100, len(text) + 150, 150):
        path.write_text(text[:end])
        follower.poll()
    assert follower.log.rank == 0 and said(follower.log) == said(read_log(path))


def test_ranks_are_asked_for_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(interleaved("[{}] ", 2))
    for words in (["table"], ["best"], ["final"], ["watch", "--once"], ["table", "--csv", tmp_path / "csv"]):
        assert "2 ranks wrote into it (0-1); shown is rank 0" in command(*words, path).stderr
        assert "shown is rank 1" in command(*words, path, "--rank", 1).stderr
    assert "0.215" in (tmp_path / "csv/train.log.test").read_text()


def test_a_rank_that_is_not_shown_and_went_to_nan_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(interleaved("[{}] ", 4, broken=2))
    assert read_log(path).notes[1] == "the loss of rank 2 has become nan or inf"
    assert read_log(path, 2).trouble == "nan from iteration 10" and len(read_log(path, 2).notes) == 1


# Forks and old versions


def log_of(folder: Path, *messages: str) -> Path:
    path = folder / "train.log"
    path.write_text("".join(HEAD.format(k, 0, 1) + message + "\n" for k, message in enumerate(messages)))
    return path


@pytest.mark.parametrize(
    ("display", "rate"),
    [
        ("Iteration 7 (4.2 s), loss = 2.5", "Iteration 7, lr = 0.01, m = 0.9, wd = 0.0005, gs = 1"),
        (
            "Iteration 7 (20.2 iter/s, 4.9s/100 iter), 1.6/16ep, loss = 2.5",
            "Iteration 7, lr = 0.01, m = 0.9, lrm = 1, wd = 0",
        ),
        ("Iteration 7/500 (20.2 iter/s, 4.9s/100 iter), loss = 2.5", "Iteration 7/500, lr = 0.01"),
        ("[0] Iteration 7 (0.5 s), loss = 2.5", "[0] Iteration 7, lr = 0.01, m = 0.9"),
        ("[n0.d1] Iteration 7 (1e-3 s), 0.1/2 ep, loss = 2.5", "Iteration 7, lr = 0.01"),
    ],
)
def test_displays_of_nvcaffe_are_read(tmp_path: Path, display: str, rate: str) -> None:
    (run,) = read_log(log_of(tmp_path, "Solving net", display, "    Train net output #0: loss = 2.5", rate)).runs
    assert (run.displays.iteration.tolist(), run.displays["loss"].tolist()) == ([7], [2.5])
    assert run.lr["lr"].tolist() == [0.01] and run.train["loss"].tolist() == [2.5]
    assert ("iter/s" in run.displays.names) == ("iter/s" in display)


def test_scores_of_2014_are_outputs_of_their_net(tmp_path: Path) -> None:
    path = log_of(
        tmp_path,
        "Solving old",
        "Iteration 0, Testing net (#0)",
        "Test score #0: 2.31",
        "Test score #1: 0.11",
        "Iteration 0, Testing net (#1)",
        "Test score #0: 0.2",
        "Iteration 5, Testing net (#0)",
        "Test score #0: 1.5",
        "Test score #1: 0.4",
        "Iteration 5, Testing net (#1)",
        "Test score #0: 0.3",
    )
    log = read_log(path)
    assert log.test_outputs() == [(0, "score 0"), (0, "score 1"), (1, "score 0")]
    assert log.table("tests", 1)["score 0"].tolist() == [0.2, 0.3]
    assert log.main_output() == (0, "score 1") and log.best().value == 0.4
    done = command("best", path)
    assert done.stdout.splitlines()[-1].endswith("Test score #1: 0.4") and "no names; score 1" in done.stderr
    assert "| 0.4 |" in command("table", path).stdout


def test_the_first_versions_name_no_test_net(tmp_path: Path) -> None:
    log = read_log(log_of(tmp_path, "Iteration 0, Testing net", "Test score #0: 0.5", "Test score #1: 7"))
    assert log.table("tests")["score 1"].tolist() == [7.0]


# Blanks in paths

SNAPSHOTS = [
    "Snapshotting to binary proto file {}_iter_20.caffemodel",
    "Snapshotting to HDF5 file {}_iter_20.caffemodel.h5",
    "Snapshotting to {}_iter_20.caffemodel",
    "Snapshotting to {}_iter_20",
    "Snapshotting solver state to binary proto file {}_iter_20.solverstate",
    "Snapshotting solver state to HDF5 file {}_iter_20.solverstate.h5",
    "Snapshotting solver state to {}_iter_20.solverstate",
]


@pytest.mark.parametrize("prefix", ["net", "my runs/base line", "a to b file c_iter_3. d/net", "/abs path/x"])
@pytest.mark.parametrize("form", SNAPSHOTS)
def test_snapshots_are_found_whatever_their_path(tmp_path: Path, form: str, prefix: str) -> None:
    (event,) = read_log(log_of(tmp_path, "Solving net", form.format(prefix))).runs[0].of_kind("snapshot")
    assert (event.path, event.iteration) == (form[form.index("{}") :].format(prefix), 20)


def test_snapshots_of_a_moved_folder_are_found_beside_its_log(tmp_path: Path) -> None:
    log = "Snapshotting to binary proto file old place/run 1/snap shots/n_iter_20.caffemodel"
    near = nearest_snapshot(read_log(log_of(tmp_path, log)), 20)
    assert near is not None and not near.exists and near.path.startswith("old place/")
    (tmp_path / "snap shots").mkdir()
    (tmp_path / "snap shots/n_iter_20.caffemodel").write_text("x")
    near = nearest_snapshot(read_log(log_of(tmp_path, log)), 20)
    assert near is not None and near.exists and near.path == str(tmp_path / "snap shots/n_iter_20.caffemodel")


def test_tpm_is_read_out_of_a_compressed_log(tmp_path: Path) -> None:
    path = log_of(
        tmp_path,
        "TPM layer 'conv': window 1 from 0 to 20, interval 10",
        "Iteration 20, loss = 1",
        "    Train net output #0: conv_tpm = 0.5",
    )
    path.write_bytes(gzip.compress(path.read_bytes()))
    (printed,) = printed_tpm(read_log(path))
    assert printed.tpm.tolist() == [0.5] and np.array_equal(printed.iteration, [20])
