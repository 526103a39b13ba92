"""Files that are given in the wrong place: what they are is said, and where they belong; for every argument."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pytest

import caffe_split as cs
from caffe_split.cli import COMMANDS, cli
from caffe_split.cli.given import TAKEN, taken_by
from caffe_split.formats.kinds import kind_of
from tests.support import caffe_split

# Parameters that are paths and name what is written, or a program.
WRITTEN = {
    "out",
    "csv_file",
    "picture",
    "csv_folder",
    "series_folder",
    "event_folder",
    "publish",
    "log",
    "caffe",
    "confusion",
}

FILES = {
    "net": "a net",
    "solver": "a solver",
    "weights": "weights (a caffemodel)",
    "state": "a solver state",
    "log": "a training log",
    "folder": "a folder",
    "array": "an array that NumPy wrote",
    "arrays": "an archive of arrays that NumPy wrote",
    "schema": "a schema (.proto)",
    "strange": "a web page",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind, under names that say nothing."""
    folder = tmp_path_factory.mktemp("kinds")
    found = {kind: folder / f"file{number}" for number, kind in enumerate(FILES)}
    found["net"].write_text(
        '# I0305 16:47:02.0 1 a.cpp:1] a net { of "old"\nname: "n{"\nlayer { name: "d" type: "Input" top: "d" }\n'
    )
    found["solver"].write_text('type: "SGD" # rate\nnet: "n.prototxt"\nbase_lr: 0.1\n')
    cs.write_weights(found["weights"], {"x": [np.ones((2, 2))]})
    found["state"].write_bytes(b"\x08\x05\x12\x01w\x1a\x08\x2a\x04\0\0\x80\x3f\x3a\0\x20\x00")
    found["log"].write_text(
        'I0305 16:47:02.008569 17823 solver.cpp:433] Initializing\nbase_lr: 0.1\nnet: "n.prototxt"\n'
    )
    found["folder"].mkdir()
    np.save(folder / "a.npy", np.ones(3))
    found["array"].write_bytes((folder / "a.npy").read_bytes())
    np.savez(folder / "several.npz", x=np.ones(3))
    found["arrays"].write_bytes((folder / "several.npz").read_bytes())
    found["schema"].write_text('syntax = "proto2";\npackage caffe;\nmessage NetParameter {\n}\n')
    found["strange"].write_text("<!DOCTYPE html><html>")
    return found


def test_each_kind_is_known_by_its_first_bytes(files: dict[str, Path], tmp_path: Path) -> None:
    for kind, words in FILES.items():
        found = kind_of(files[kind])
        assert (
            found is not None and found.kind == {"arrays": "array"}.get(kind, kind) and found.words.startswith(words)
        ), kind
    (tmp_path / "empty").write_text("")
    (tmp_path / "text").write_text("some words: of no file\n")
    (tmp_path / "study.yaml").write_text("arms:\n- kind: skip\n  layers: [conv9]\n")
    (tmp_path / "lines.yaml").write_text("layers:\n- conv9\n")
    assert [kind_of(tmp_path / name) for name in ("empty", "text", "none", "study.yaml", "lines.yaml")] == [None] * 5


@pytest.mark.parametrize("text", ["layer { }", "layers: <>", "# c\nlayer\n{", 'layer: [ { name: "a" } ]', "layers{}"])
def test_a_layer_makes_a_net(text: str, tmp_path: Path) -> None:
    (tmp_path / "n").write_text(text)
    found = kind_of(tmp_path / "n")
    assert found is not None and found.kind == "net"


def parameters() -> list[tuple[str, click.Parameter]]:
    commands = {name: cli.get_command(click.Context(cli), name) for name in COMMANDS}
    return [(name, param) for name, command in commands.items() if command is not None for param in command.params]


def test_every_path_is_in_the_table_or_is_written() -> None:
    for name, param in parameters():
        named = param.name in ("logs", "source", "weights", "snapshot") and param.type.name != "boolean"
        if isinstance(param.type, click.Path) or named:
            assert taken_by(name, param) is not None or param.name in WRITTEN, (name, param.name)
    known = {(name, param.name) for name, param in parameters()}
    assert all((name, each) in known for name, taken in TAKEN.items() for each in taken)


def words_of(name: str, param: click.Parameter, path: Path, good: dict[str, Path]) -> list[str]:
    """A command line with `path` for a parameter, and something fitting for the arguments that must be there."""
    words = [name]
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for other in command.params:
        kinds = taken_by(name, other) or ()
        if isinstance(other, click.Argument) and other is not param and other.required:
            words.append(str(good.get(kinds[0], "digits")) if kinds else "digits")
    at = 1 if isinstance(param, click.Argument) and command.params.index(param) == 0 else len(words)
    return [*words[:at], *([] if isinstance(param, click.Argument) else [param.opts[0]]), str(path), *words[at:]]


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_kind_is_named_for_every_argument(tmp_path: Path, files: dict[str, Path], kind: str) -> None:
    tried = 0
    for name, param in parameters():
        taken = taken_by(name, param)
        if taken is None or {"arrays": "array"}.get(kind, kind) in taken:
            continue
        words = words_of(name, param, files[kind], files)
        words += {"instrument": ["--remove"], "make-derived": ["--iter", "5"]}.get(name, [])
        if name == "make-derived" and param.name == "weights":
            words = words[:-2]
        if name == "extract":
            words += ["--blob", "x", "--out", "f"]
        if name in ("draw", "kernels"):
            words += ["--out", "p.png"] + (["--layer", "x"] if name == "kernels" else [])
        said = caffe_split(*words, cwd=tmp_path, status=1).stderr
        assert f"{files[kind]}: {'these are' if kind == 'weights' else 'this is'} {FILES[kind]}" in said, (words, said)
        shown = param.human_readable_name if isinstance(param, click.Argument) else param.opts[0]
        assert f"{shown} takes " in said and said.count("\n") == 1, said
        tried += 1
    assert tried > 20


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("fold", "weights", "net"), "NET takes a net or a solver. Give it as WEIGHTS."),
        (
            ("fold", "net", "log"),
            "WEIGHTS takes weights (.caffemodel). Commands that take one: tpm, best, final, table,",
        ),
        (("verify", "net", "net", "--derived-weights", "array"), "Give it as --input."),
        (("train", "solver", "--weights", "state"), "Give it as --snapshot."),
        (
            ("best", "net"),
            "LOGS takes a training log or a folder. Commands that take one: instrument, tpm, make-derived,",
        ),
        (("test", "net", "weights", "--labels", "net"), "takes a text file with the name of one class per line.\n"),
        (("study", "net"), "FILE takes a study (.yaml). Commands that take one: instrument,"),
        (("export", "net", "weights", "--transform-of", "solver"), "--transform-of takes a net. Commands"),
        (("summary", "folder"), "this is a folder; NET takes a net or a solver.\n"),
        (("train", "weights"), "SOLVER takes a solver. Give it as --weights.\n"),
        (("multisplit", "folder"), "SOLVER takes a solver.\n"),
        (("report", "array"), "DIR... takes a training log or a folder."),
        (("tpm", "array"), "SOURCE takes a net or a solver or weights (.caffemodel) or a training log."),
    ],
)
def test_where_it_belongs(tmp_path: Path, files: dict[str, Path], words: tuple[str, ...], hint: str) -> None:
    line = [str(files.get(word, word)) if place else word for place, word in enumerate(words)]
    assert hint in caffe_split(*line, cwd=tmp_path, status=1).stderr
