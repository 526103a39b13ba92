"""The folder of a study is one: what others have is never mixed with it, nor removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.study.study_files import HERE, write_study
from tests.support import caffe_split

pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")

from caffe_split.data.digits import write_digits
from caffe_split.errors import CaffeSplitError
from caffe_split.net.layers import all_layers
from caffe_split.net.training import open_training
from caffe_split.study.checks import check_folder
from caffe_split.study.model import Study
from caffe_split.study.nets import check_lists, data_files, study_net
from caffe_split.study.paths import made
from caffe_split.study.read import read_study
from caffe_split.tpm.attach import instrument


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    check_folder(out)
    out.mkdir()
    (out / "locks").mkdir()
    check_folder(out)
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(CaffeSplitError, match=r"is no folder of a study.*holds thesis.tex; .*tiny2"):
        check_folder(out)
    file = write_study(tmp_path, engine=HERE)
    for words in ([], ["--dry-run"]):
        result = caffe_split("study", file, *words, cwd=tmp_path, status=1)
        assert "tiny is no folder of a study" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["locks", "thesis.tex"]
    (out / "plan.json").write_text("{}")
    check_folder(out)


def test_of_a_plan_that_is_not_whole_and_of_what_snakemake_refuses_it_is_said(tmp_path: Path) -> None:
    pytest.importorskip("snakemake")
    file = write_study(tmp_path, engine=HERE)
    said = caffe_split("study", file, "other.yaml", "--dry-run", cwd=tmp_path, status=2).stderr
    assert "'other.yaml' is one file too many: a study is one FILE" in said
    ignored = ["--json", "--publish", ".", "--logs"]
    said = caffe_split("study", file, "--dry-run", *ignored, cwd=tmp_path, status=2).stderr
    assert "has no results: leave out --publish, --logs, --json." in " ".join(said.split())
    said = caffe_split("study", file, "--out", "out", "--", "--nosuch", cwd=tmp_path, status=1).stderr
    assert "Snakemake ran no step: unrecognized arguments: --nosuch (from " in said
    (tmp_path / "out/plan.json").write_text("{")
    for words in ([], ["--no-run"]):
        said = caffe_split("study", file, "--out", "out", *words, cwd=tmp_path, status=1).stderr
        assert "plan.json: cannot be read (" in said and "put a copy of it in its place, or " in said


def test_a_run_is_made_again_only_where_nothing_else_is_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "s1" / "skip"
    made(folder, {"solver.prototxt": b"1"})
    (folder / "tiny_iter_5.caffemodel").write_bytes(b"x")
    made(folder, {"solver.prototxt": b"1"})
    assert (folder / "tiny_iter_5.caffemodel").exists()
    made(folder, {"solver.prototxt": b"2"})
    assert [path.name for path in folder.iterdir()] == ["solver.prototxt"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(CaffeSplitError, match=r"notes.txt was not written by this program; move it away"):
        made(folder, {"solver.prototxt": b"3"})
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "solver.prototxt").read_bytes() == b"2"


def test_a_net_that_is_watched_already_is_studied_without(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    write_digits(tmp_path / "data")
    study = read_study(write_study(tmp_path))
    plain = study_net(study).to_bytes()
    watched = tmp_path / "net.prototxt"
    watched.write_bytes(plain)
    instrument(open_training(watched), [(0, 10)]).write()
    solver = tmp_path / "solver.prototxt"
    text = solver.read_text()
    name = next(line for line in text.splitlines() if line.startswith("net:"))
    solver.write_text(text.replace(name, f'net: "{watched}"'))
    assert any(layer.type == "TPM" for layer in all_layers(open_training(watched).net))
    assert study_net(read_study(write_again(tmp_path, solver))).to_bytes() == plain


def test_all_files_that_layers_name_are_found_from_any_folder(tmp_path: Path) -> None:
    """Runs train in folders of their own. Caffe puts `root_folder` before names as it is, so its last `/` stays."""
    file = write_study(tmp_path, data=None, make_data=None)
    net = tmp_path / "net.prototxt"
    net.write_text(
        """
        layer { name: "w" type: "WindowData" top: "data" top: "label" window_data_param {
          source: "w.txt" mean_file: "m.binaryproto" root_folder: "windows/" batch_size: 1 } }
        layer { name: "i" type: "ImageData" top: "data" top: "label" transform_param { mean_file: "t.binaryproto" }
          image_data_param { source: "i.txt" mean_file: "o.binaryproto" root_folder: "photos/2014-" } }
        layer { name: "h" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "h.txt" } }
        layer { name: "l" type: "InfogainLoss" bottom: "data" bottom: "label"
          infogain_loss_param { source: "H.binaryproto" } }
        """
    )
    solver = tmp_path / "solver.prototxt"
    text = solver.read_text()
    name = next(line for line in text.splitlines() if line.startswith("net:"))
    solver.write_text(text.replace(name, f'net: "{net}"'))
    study = read_study(file)
    files = ["w.txt", "m.binaryproto", "i.txt", "o.binaryproto", "t.binaryproto", "h.txt", "H.binaryproto"]
    assert set(data_files(study)) == {study.root / name for name in files}
    written = study_net(study).to_bytes().decode()
    assert all(f'"{study.root / name}"' in written for name in files)
    for folder in ("windows/", "photos/2014-"):
        assert f'root_folder: "{study.root}/{folder}"' in written


def with_data(folder: Path, layer: str) -> Study:
    """A study of a net that consists of a data layer."""
    file = write_study(folder, data=None, make_data=None, root=str(folder))
    (folder / "net.prototxt").write_text(layer)
    solver = folder / "solver.prototxt"
    text = solver.read_text()
    name = next(line for line in text.splitlines() if line.startswith("net:"))
    solver.write_text(text.replace(name, f'net: "{folder / "net.prototxt"}"'))
    return read_study(file)


@pytest.mark.parametrize(
    ("kind", "param", "text"),
    [
        ("ImageData", "image_data_param", "{}a b.png 0\n\n{}c.png 1\n"),
        ("WindowData", "window_data_param", "# 0\n{}a.png\n3\n4\n4\n1\n1 0.9 0 0 2 2\n# 1\n{}b.png\n3\n4\n4\n0\n"),
    ],
)
def test_names_of_a_list_without_a_root_folder_are_found_from_any_folder(
    kind: str, param: str, text: str, tmp_path: Path
) -> None:
    layer = f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {param} {{ source: "list.txt" }} }}'
    study = with_data(tmp_path, layer)
    (study.root / "list.txt").write_text(text.format("", "photos/"))
    assert study.root == tmp_path and f'root_folder: "{study.root}/"' in study_net(study).to_bytes().decode()
    (study.root / "list.txt").write_text(text.format("/x/", "/y/"))
    assert "root_folder" not in study_net(study).to_bytes().decode()
    (study.root / "list.txt").write_text(text.format("/x/", ""))
    with pytest.raises(CaffeSplitError, match=r"list.txt: /x/a.* is a whole path and .* is none; .*write whole paths"):
        study_net(study)


def test_a_list_of_hdf5_files_has_whole_paths(tmp_path: Path) -> None:
    study = with_data(
        tmp_path, 'layer { name: "h" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "h.txt" } }'
    )
    (study.root / "h.txt").write_text("/x/a.h5\n")
    check_lists(study)
    (study.root / "h.txt").write_text("/x/a.h5\nrows/b.h5\n")
    with pytest.raises(CaffeSplitError, match=rf"h.txt: rows/b.h5 is no whole path, .* write {study.root}/rows/b.h5"):
        check_lists(study)


def write_again(folder: Path, solver: Path) -> Path:
    text = solver.read_text()
    file = write_study(folder)
    solver.write_text(text)
    return file
