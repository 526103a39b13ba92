"""`caffe-split draw`: files of each kind, the whole net or its splits, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.plot.draw import draw_file, draw_svg
from tests.plot.drawn_nets import CONV, DATA, RESNET, layer
from tests.support import caffe_split


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<svg "), ("pdf", b"%PDF")])
def test_files(rounds: dict[str, Path], tmp_path: Path, ending: str, start: bytes) -> None:
    out = tmp_path / f"net.{ending}"
    said = caffe_split("draw", rounds["round1"], "--out", out, cwd=tmp_path).stdout
    assert said == f"wrote {out}\n" and out.read_bytes().startswith(start)
    draw_file(prototxt.parse(DATA, "net"), tmp_path / f"again.{ending}", title="once more")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, f"again.{ending}"])


def test_whole_and_split(rounds: dict[str, Path], tmp_path: Path) -> None:
    run = lambda *words: caffe_split("draw", *words, cwd=tmp_path)  # noqa: E731
    run(rounds["round1"], "--out", "split.svg", "--title", "Nine splits")
    run(rounds["round1"], "--out", "whole.svg", "--whole")
    split, whole = ((tmp_path / name).read_text() for name in ("split.svg", "whole.svg"))
    assert "Nine splits" in split and split.count("<text") <= whole.count("<text")
    with pytest.raises(CaffeSplitError, match="no layer of the net was split"):
        draw_svg(prototxt.read(RESNET), whole=False)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["net.prototxt", "--out", "x.gif"], 1, "must end in .png, .svg, .pdf"),
        (["missing.prototxt", "--out", "x.svg"], 1, "missing.prototxt"),
        (["net.prototxt", "--out", "there.svg"], 1, "there.svg exists; nothing is overwritten unasked"),
        (["net.prototxt", "--out", "no/x.svg"], 1, "no/x.svg: there is no folder 'no'."),
        (["net.prototxt", "--out", "x.svg", "--split"], 1, "no layer of the net was split; draw the whole net"),
        (["net.prototxt", "--out", "folder.svg", "--force"], 1, "folder.svg is a folder; give the name of a file."),
        (["empty.prototxt", "--out", "x.svg"], 1, "no layer of it runs in phase TRAIN"),
        (["net.prototxt"], 2, "--out"),
        (["net.prototxt", "--out", "x.svg", "--aspect", "0"], 2, "--aspect"),
    ],
)
def test_refused(tmp_path: Path, words: list[str], status: int, said: str) -> None:
    (tmp_path / "net.prototxt").write_text(DATA + layer("c", "Convolution", "d", "c", CONV))
    (tmp_path / "empty.prototxt").write_text(layer("c", "Silence", "d", "c", "include { phase: TEST }"))
    (tmp_path / "there.svg").write_text("old")
    (tmp_path / "folder.svg").mkdir()
    result = caffe_split("draw", *words, cwd=tmp_path, status=status)
    assert said in result.stderr and not (tmp_path / "x.svg").exists()
    assert (tmp_path / "there.svg").read_text() == "old"


def test_a_bottom_that_no_layer_gives_is_noted(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(DATA + layer("c", "Convolution", "dd", "c", CONV))
    said = caffe_split("draw", "net.prototxt", "--out", "x.svg", cwd=tmp_path)
    assert "layer 'c': bottom 'dd' is no top of a layer above it in this phase" in said.stderr
    assert said.stdout == "wrote x.svg\n" and (tmp_path / "x.svg").exists()
