"""tools/caffe_edits.py: each edit finds its place once, or says that it does not fit."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_edits():
    spec = importlib.util.spec_from_file_location("caffe_edits", ROOT / "tools" / "caffe_edits.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    # It stands beside the tables of edits that it imports.
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


caffe_edits = load_edits()
Edit, EditError = caffe_edits.Edit, caffe_edits.EditError


def edit(find="old();\n", put="new();\n"):
    return Edit("some-edit", "a.cpp", find, put, "the reason of it")


def test_edit_replaces_its_place(tmp_path):
    (tmp_path / "a.cpp").write_text("before\nold();\nafter\n")
    caffe_edits.apply_edits(tmp_path, [edit()])
    assert (tmp_path / "a.cpp").read_text() == "before\nnew();\nafter\n"


@pytest.mark.parametrize(("text", "times"), [("nothing\n", 0), ("old();\nold();\n", 2)])
def test_edit_must_find_its_place_exactly_once(tmp_path, text, times):
    (tmp_path / "a.cpp").write_text(text)
    message = rf"some-edit: .* found {times} times in a\.cpp.*the reason of it.*old\(\);"
    with pytest.raises(EditError, match=message):
        caffe_edits.apply_edits(tmp_path, [edit()])
    assert (tmp_path / "a.cpp").read_text() == text


def test_no_file_is_written_when_one_edit_fails(tmp_path):
    (tmp_path / "a.cpp").write_text("old();\n")
    with pytest.raises(EditError, match=r"no-file: the tree has no b\.cpp"):
        caffe_edits.apply_edits(tmp_path, [edit(), Edit("no-file", "b.cpp", "x", "y", "why")])
    assert (tmp_path / "a.cpp").read_text() == "old();\n"


@pytest.mark.parametrize(("find", "put"), [("old();\n", "new();\n"), ("old();\n", "old();\nnew();\n")])
def test_edited_tree_is_left_as_it_is(tmp_path, find, put):
    (tmp_path / "a.cpp").write_text("before\nold();\nafter\n")
    caffe_edits.apply_edits(tmp_path, [edit(find, put)])
    once = (tmp_path / "a.cpp").read_text()
    caffe_edits.apply_edits(tmp_path, [edit(find, put)])
    assert (tmp_path / "a.cpp").read_text() == once == f"before\n{put}after\n"


def test_every_edit_is_documented():
    docs = (ROOT / "docs" / "caffe.md").read_text()
    more = [Edit(*row) for row in (*caffe_edits.CUDA_EDITS, *caffe_edits.OPENCV_EDITS)]
    edits = [*caffe_edits.EDITS, *more]
    assert [e.name for e in edits if f"`{e.name}`" not in docs] == []
    assert len({e.name for e in edits}) == len(edits)
    # What an edit puts is how a tree that has it already is known.
    assert all(e.reason and e.put for e in edits)


def test_edits_are_listed_with_their_reasons():
    command = [sys.executable, ROOT / "tools" / "caffe_edits.py", "--list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "cuda-clock-rate  src/caffe/common.cpp\n    CUDA 13 has dropped" in listed
    assert listed.count("\n") == 2 * sum(
        map(len, (caffe_edits.EDITS, caffe_edits.CUDA_EDITS, caffe_edits.OPENCV_EDITS))
    )


def test_edits_script_ends_with_one_line(tmp_path):
    command = [sys.executable, ROOT / "tools" / "caffe_edits.py", tmp_path, ROOT / "layers"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "edit total-bytes-limit: the tree has no src/caffe/util/io.cpp" in run.stderr
