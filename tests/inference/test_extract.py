"""Features: the values of both engines in every form, the same after a kill, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import caffe_split as cs
from caffe_split.backends.protocol import Session
from caffe_split.data.store import open_store
from caffe_split.errors import BusyError
from caffe_split.files import locked
from caffe_split.formats.weights.datum import read_datum
from caffe_split.inference import extract as room
from caffe_split.inference.extract import extract
from caffe_split.inference.feature_files import file_names
from caffe_split.inference.given import RunOptions
from tests.inference.conftest import NET, RECORDS
from tests.support import caffe_split, run_caffe, start_process


def plain(small: Path) -> dict[str, np.ndarray]:
    """The blobs of each record, computed by NumPy."""
    with open_store(small / "test_lmdb").begin() as transaction:
        read = [read_datum(value) for _, value in transaction.cursor()]
    weights = {name: list(map(np.asarray, blobs)) for name, blobs in cs.read_weights(small / "w.caffemodel").items()}
    images = np.stack([record.values for record in read]).astype(np.float32) * np.float32(0.01)
    conv = np.einsum("nchw,kchw->nk", images, weights["conv"][0]) + weights["conv"][1]
    conv = np.maximum(conv, 0)
    found = {"conv": conv[:, :, None, None], "ip": conv @ weights["ip"][0].T + weights["ip"][1]}
    return {**found, "data": images, "label": np.array([record.label for record in read])}


BLOBS = ["conv", "ip", "label", "data"]


def test_npy_has_each_record_once(small: Path, backend: str) -> None:
    said = caffe_split("extract", "net.prototxt", "w.caffemodel", "--blob", ",".join(BLOBS), "--out", "f", cwd=small)
    assert "10 of 10 rows" in said.stderr and "wrote 10 rows into f: conv.npy, ip.npy," in said.stdout
    for name, values in plain(small).items():
        found = np.load(small / f"f/{name}.npy")
        assert found.dtype == np.float32 and found.shape == (RECORDS, *values.shape[1:])
        assert found == pytest.approx(values, rel=1e-5, abs=1e-6)
    manifest = json.loads((small / "f/manifest.json").read_text())
    assert set(manifest["outputs"]) == {f"{name}.npy" for name in BLOBS} and manifest["plan"]["engine"] == backend
    assert not (small / "f.unfinished").exists() and not (small / "f/job.json").exists()


def test_hdf5_is_read_by_caffes_hdf5_layer(small: Path, backend: str) -> None:
    h5py = pytest.importorskip("h5py")
    extract("net.prototxt", "w.caffemodel", ["ip", "label"], "f", form="hdf5")
    with h5py.File("f/features.h5") as file:
        assert file["ip"][()] == pytest.approx(plain(small)["ip"], rel=1e-5, abs=1e-6)
    assert sorted(path.name for path in Path("f").iterdir()) == ["features.h5", "manifest.json"]
    Path("list.txt").write_text("f/features.h5\n")
    Path("top.prototxt").write_text(
        'layer { name: "d" type: "HDF5Data" top: "ip" top: "label"'
        '        hdf5_data_param { source: "list.txt" batch_size: 5 } }'
        'layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }'
        'layer { name: "none" type: "Scale" bottom: "ip" top: "scaled" }'
        'layer { name: "s" type: "Silence" bottom: "scaled" }'
    )
    cs.write_weights("scale.caffemodel", {"none": [np.ones(6)]})
    top = cs.score_net("top.prototxt", "scale.caffemodel")
    assert top.iterations == 2
    whole = cs.score_net("net.prototxt", "w.caffemodel", top=[1])
    assert top.scores[0].value == pytest.approx(whole.shares()["top-1"])


@pytest.mark.caffe
def test_an_lmdb_is_read_by_caffes_data_layer(small: Path, any_backend: str) -> None:
    extract("net.prototxt", "w.caffemodel", ["ip", "conv"], "f", form="lmdb")
    Path("top.prototxt").write_text(
        'layer { name: "d" type: "Data" top: "x" data_param { source: "f/ip_lmdb" batch_size: 10 backend: LMDB } }'
        'layer { name: "sum" type: "Reduction" bottom: "x" top: "sum" reduction_param { axis: 1 } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 1 } }'
        'layer { name: "s" type: "Silence" bottom: "y" }'
    )
    cs.write_weights("y.caffemodel", {"ip": [np.ones((1, 6)), np.ones(1)]})
    said = run_caffe("test", "-model", "top.prototxt", "-weights", "y.caffemodel", "-iterations", 1, cwd=small)
    sums = [float(line.rpartition("= ")[2]) for line in said.splitlines() if "Batch 0, sum" in line]
    assert sums == pytest.approx(plain(small)["ip"].sum(axis=1), rel=1e-4, abs=1e-5)
    with open_store("f/conv_lmdb").begin() as transaction:
        first = read_datum(next(iter(transaction.cursor()))[1])
    assert first.values is not None and first.values.shape == (5, 1, 1) and first.values.dtype == np.float32


def test_iterations_count_batches(small: Path, any_backend: str) -> None:
    """Of 10 records: 5 batches of 4 have each of them twice."""
    done = extract("net.prototxt", "w.caffemodel", ["ip"], "f", iterations=5)
    assert done.rows == 20
    assert np.load("f/ip.npy") == pytest.approx(np.tile(plain(small)["ip"], (2, 1)), rel=1e-5, abs=1e-6)


class StoppedError(Exception):
    """In the place of an interrupt, which would end the tests."""


def stopped_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Let `run_net` give nets that fail behind so many batches."""
    run_net = room.run_net

    @contextlib.contextmanager
    def failing(*given: object, **how: object) -> Iterator[Session]:
        with run_net(*given, **how) as session:  # type: ignore[arg-type]
            forward, done = session.forward, []

            def once(*values: object) -> object:
                if len(done) == batches:
                    raise StoppedError
                done.append(1)
                return forward(*values)  # type: ignore[arg-type]

            monkeypatch.setattr(session, "forward", once)
            yield session

    monkeypatch.setattr(room, "run_net", failing)


@pytest.mark.parametrize("form", ["npy", "hdf5", "lmdb"])
def test_the_same_call_goes_on(small: Path, backend: str, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """What half a row is left is cut off; what is there is not computed again."""
    extract("net.prototxt", "w.caffemodel", ["ip", "conv"], "whole", form=form)
    with monkeypatch.context() as patch:
        stopped_after(patch, 1)
        with pytest.raises(StoppedError):
            extract("net.prototxt", "w.caffemodel", ["ip", "conv"], "f", form=form)
    assert not Path("f").exists()
    with Path("f.unfinished/ip.npy").open("ab") as stream:
        stream.write(b"half a row")
    seen: list[int] = []
    with monkeypatch.context() as patch:
        stopped_after(patch, 2)  # of three
        extract("net.prototxt", "w.caffemodel", ["ip", "conv"], "f", form=form, say=lambda done, _: seen.append(done))
    assert seen == [4, 8, 10]
    files = sorted(str(path.relative_to("whole")) for path in Path("whole").rglob("*") if path.is_file())
    assert files == sorted(str(path.relative_to("f")) for path in Path("f").rglob("*") if path.is_file())
    for file in files:
        if file != "manifest.json" and form != "lmdb":
            assert (small / "whole" / file).read_bytes() == (small / "f" / file).read_bytes()


STATE = """
layer { name: "data" type: "DummyData" top: "x" top: "goes_on" dummy_data_param {
  shape { dim: 3 dim: 2 dim: 4 } shape { dim: 3 dim: 2 } data_filler { value: 1 } data_filler { value: 1 } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "goes_on" top: "h" recurrent_param { num_output: 2 } }
"""


def test_a_state_is_that_of_all_batches(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An LSTM goes on from batch to batch, also where the rows of the first ones are there already."""
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(STATE)
    rng = np.random.default_rng(0)
    cs.write_weights("w.caffemodel", {"lstm": [rng.normal(size=shape) for shape in ((8, 4), (8,), (8, 2))]})
    extract("net.prototxt", "w.caffemodel", ["h"], "whole", iterations=4)
    with monkeypatch.context() as patch:
        stopped_after(patch, 2)
        with pytest.raises(StoppedError):
            extract("net.prototxt", "w.caffemodel", ["h"], "f", iterations=4)
    extract("net.prototxt", "w.caffemodel", ["h"], "f", iterations=4)
    whole = np.load("whole/h.npy")
    assert not np.array_equal(whole[:3], whole[6:9])
    assert np.array_equal(np.load("f/h.npy"), whole)


def test_a_kill_at_any_time(small: Path, any_backend: str) -> None:
    """A process that is killed while it works, with one that begins at once behind it."""
    (small / "net.prototxt").write_text(NET.replace("batch_size: 4", "batch_size: 1"))
    words = ["extract", "net.prototxt", "w.caffemodel", "--blob", "ip", "--out", "f", "--iterations", "30000"]
    child = start_process(
        [sys.executable, "-m", "caffe_split", *words], cwd=small, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    grown = small / "f.unfinished/ip.npy"
    while not grown.exists() or grown.stat().st_size < 200:
        assert child.poll() is None, child.communicate()
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = (grown.stat().st_size - 128) // 24
    assert 0 < before < 30000
    seen: list[int] = []

    def say(done: int, _rows: int) -> None:
        seen.append(done)
        if len(seen) == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        extract("net.prototxt", "w.caffemodel", ["ip"], "f", iterations=30000, say=say)
    assert seen == [before, before + 1, before + 2, before + 3]
    rows = np.memmap(grown, np.float32, "r", 128).reshape(-1, 6)
    expected = plain(small)["ip"]
    assert np.asarray(rows) == pytest.approx(expected[np.arange(len(rows)) % RECORDS], rel=1e-5, abs=1e-6)


def test_images_of_a_folder(small: Path, backend: str) -> None:
    Path("photos/more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = ["photos/b.png", "photos/a.png", "photos/more/c.png", "one.png", "two.png"]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (3, 3), dtype=np.uint8)).save(name)
    Path("photos/notes.txt").write_text("no image")
    Path("deploy.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 1 dim: 3 dim: 3 } } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 } }'
    )
    cs.write_weights("ip.caffemodel", {"ip": [rng.normal(size=(2, 9)), np.zeros(2)]})
    words = ("--images", "one.png", "--images", "photos", "--images", "two.png", "--mean", "100", "--scale", "0.5")
    caffe_split("extract", "deploy.prototxt", "ip.caffemodel", "--blob", "ip", *words, "--out", "f", cwd=small)
    order = ["one.png", "photos/a.png", "photos/b.png", "photos/more/c.png", "two.png"]
    assert Path("f/images.txt").read_text().splitlines() == order
    pixels = np.stack([(np.asarray(Image.open(name), np.float32) - 100) * 0.5 for name in order]).reshape(5, 9)
    weight = np.asarray(cs.read_weights("ip.caffemodel")["ip"][0])
    assert np.load("f/ip.npy") == pytest.approx(pixels @ weight.T, rel=1e-4, abs=1e-4)


def test_what_is_refused(small: Path, any_backend: str) -> None:
    def refused(message: str, *blobs: str, out: str = "f", net: str = "net.prototxt", **how: object) -> None:
        with pytest.raises(cs.CaffeSplitError, match=message):
            extract(net, "w.caffemodel", list(blobs), out, **how)  # type: ignore[arg-type]

    refused("no blob 'fc7'; it has data, label, conv, ip, accuracy, top3, loss.", "ip", "fc7")
    refused("no blob is asked for")
    refused(r"blob 'loss' has shape \(\), no row for each of the 4 records", "ip", "loss")
    refused("there is no folder .*none", "ip", out="none/f")
    refused("form is 'csv'; expected one of npy, hdf5, lmdb", "ip", form="csv")
    refused("net.prototxt: images are for a deploy net with one input", "ip", images=["w.caffemodel"])
    Path("deploy.prototxt").write_text(
        NET.replace(
            'type: "Data" top: "data" top: "label" include { phase: TEST }',
            'type: "Input" top: "data" top: "label" '
            "input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } shape { dim: 1 } }",
        )
    )
    refused("a deploy net is given its data; give --images FILE or FOLDER", "ip", net="deploy.prototxt")
    dummy = NET.replace("include { phase: TRAIN }", "").replace("phase: TEST", "stage: 'x'", 1)
    Path("dummy.prototxt").write_text(dummy)
    refused("how many records it reads is not known; give --iterations N", "ip", net="dummy.prototxt")
    stages = NET.replace("include { phase: TRAIN }", 'include { stage: "x" }').replace("phase: TEST", "phase: TRAIN", 1)
    Path("stages.prototxt").write_text(stages)
    said = (
        r"no top of a layer above it in this phase; layer 'data' of line 2 gives it in phase TRAIN; layer 'data' of "
        r"line 4 gives it with stage x\n.*\n.*\n.*\nSay the stage: by the option of that name"
    )
    refused(said, "ip", net="stages.prototxt")
    refused(said, "ip", net="stages.prototxt", iterations=2)
    assert not list(small.glob("f*"))
    Path("f").mkdir()
    refused(r"f exists; nothing is overwritten. Choose another --out \(f2 is free\)", "ip")
    Path("g.unfinished").mkdir()
    Path("g.unfinished/mine").write_text("x")
    refused("g.unfinished is no unfinished extraction; remove it, or choose another --out", "ip", out="g")
    assert Path("g.unfinished/mine").read_text() == "x"


def test_an_extraction_of_another_kind_or_at_the_same_time(
    small: Path, any_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopped_after(patch, 1)
        with pytest.raises(StoppedError):
            extract("net.prototxt", "w.caffemodel", ["ip"], "f")
    with pytest.raises(cs.CaffeSplitError, match=r"f.unfinished is of another extraction \(blobs, form differ\)"):
        extract("net.prototxt", "w.caffemodel", ["conv"], "f", form="hdf5")
    words = ("extract", "net.prototxt", "w.caffemodel", "--blob", "ip", "--out", "/proc/f")
    said = caffe_split(*words, cwd=small, status=1).stderr
    assert said.startswith("caffe-split: /proc/f.unfinished: cannot be written: ") and said.count("\n") == 1
    with locked(small / ".f.unfinished.lock"), pytest.raises(BusyError, match="another process extracts into"):
        extract("net.prototxt", "w.caffemodel", ["ip"], "f")
    extract("net.prototxt", "w.caffemodel", ["ip"], "f")


def test_what_ended_before_its_first_batch_stands_in_nobodys_way(
    small: Path, any_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise cs.CaffeSplitError("no GPU")

    with monkeypatch.context() as patch:
        patch.setattr(room.GrowingRows, "add", broken)
        with pytest.raises(cs.CaffeSplitError, match="no GPU"):
            extract("net.prototxt", "w.caffemodel", ["ip", "conv"], "f")
    assert sorted(path.name for path in Path("f.unfinished").iterdir()) == ["conv.npy", "ip.npy", "job.json"]
    # What somebody else put there stays.
    Path("f.unfinished/mine").write_text("x")
    with pytest.raises(cs.CaffeSplitError, match=r"f.unfinished is of another extraction \(blobs differ\)"):
        extract("net.prototxt", "w.caffemodel", ["label"], "f")
    Path("f.unfinished/mine").unlink()
    assert extract("net.prototxt", "w.caffemodel", ["label"], "f").files == ("label.npy",)
    assert sorted(path.name for path in Path("f").iterdir()) == ["label.npy", "manifest.json"]


def test_rows_that_a_datum_does_not_hold_are_refused_at_once(small: Path, any_backend: str) -> None:
    shape = 'layer { name: "five" type: "Reshape" bottom: "conv" top: "../five" reshape_param { shape { %s } } }'
    Path("net.prototxt").write_text(NET + shape % "dim: 0 dim: 1 dim: 1 dim: 5 dim: 1")
    with pytest.raises(
        cs.CaffeSplitError, match=r"blob '../five' has rows of shape \(1, 1, 5, 1\).*give --format hdf5"
    ):
        extract("net.prototxt", "w.caffemodel", ["../five"], "f", form="lmdb")
    assert not list(small.glob("f*"))
    # Its file is not a hidden one.
    assert extract("net.prototxt", "w.caffemodel", ["../five"], "f").files == ("_._five.npy",)
    with pytest.raises(cs.CaffeSplitError, match="the same name: / and a point in front become _"):
        file_names(["../five", "_._five"], ".npy")


def test_images_may_have_any_name_that_a_file_can_have(small: Path, backend: str) -> None:
    Path("deploy.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 2 dim: 2 } } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 1 } }'
    )
    cs.write_weights("d.caffemodel", {"ip": [np.ones((1, 12)), np.zeros(1)]})
    Path("photos").mkdir()
    name = b"photos/x\xff.png"
    Image.new("RGB", (2, 2)).save("one.png")
    Path("one.png").rename(os.fsdecode(name))
    found = extract("deploy.prototxt", "d.caffemodel", ["ip"], "f", images=["photos"])
    assert found.rows == 1 and Path("f/images.txt").read_bytes() == name + b"\n"


DEPLOY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 2 dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 1 } }
"""


@pytest.mark.parametrize("mend", ["replaced", "removed"])
def test_a_damaged_image_costs_no_rows(small: Path, any_backend: str, mend: str) -> None:
    """The same command goes on behind the last whole batch; images that have rows may not have changed."""
    Path("deploy.prototxt").write_text(DEPLOY)
    cs.write_weights("d.caffemodel", {"ip": [np.arange(12, dtype="f4").reshape(1, 12), np.zeros(1)]})
    Path("photos").mkdir()
    for index in range(7):
        Image.new("RGB", (2, 2), (index, 10 * index, 3)).save(f"photos/{index}.png")
    whole = Path("photos/5.png").read_bytes()
    Path("photos/5.png").write_bytes(whole[:40])

    def call(out: str = "f") -> np.ndarray:
        seen: list[int] = []
        extract(
            "deploy.prototxt", "d.caffemodel", ["ip"], out, images=["photos"], say=lambda done, _: seen.append(done)
        )
        assert seen[0] == (4 if out == "f" else 0)
        return np.load(f"{out}/ip.npy")

    with pytest.raises(cs.CaffeSplitError, match=r"photos/5.png: .*image"):
        extract("deploy.prototxt", "d.caffemodel", ["ip"], "f", images=["photos"])
    if mend == "replaced":
        Path("photos/5.png").write_bytes(whole)
    else:
        Path("photos/5.png").unlink()
    Path("photos/1.png").rename("photos/x.png")
    with pytest.raises(cs.CaffeSplitError, match=r"f.unfinished is of another extraction \((rows, )?images differ\)"):
        call()
    Path("photos/x.png").rename("photos/1.png")
    found = call()
    assert len(found) == (7 if mend == "replaced" else 6)
    assert np.array_equal(found, call("g"))
    names = Path("f/images.txt").read_text().split()
    assert len(names) == len(found) and ("photos/5.png" in names) == (mend == "replaced")


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_number_of_batches_is_a_whole_number_from_1(small: Path, count: object) -> None:
    files = "net.prototxt", "w.caffemodel"
    for call in (
        lambda: extract(*files, ["ip"], "f", iterations=count),  # type: ignore[arg-type]
        lambda: cs.score_net(*files, iterations=count),  # type: ignore[arg-type]
        lambda: cs.score_net(*files, top=[1, count]),  # type: ignore[list-item]
        lambda: cs.time_net("net.prototxt", iterations=count),  # type: ignore[arg-type]
        lambda: cs.classify("net.prototxt", "w.caffemodel", ["a.png"], top=count),  # type: ignore[arg-type]
    ):
        with pytest.raises(cs.CaffeSplitError, match=rf"is {count}, expected a whole number of 1 or more"):
            call()
    assert not Path("f").exists() and not Path("f.unfinished").exists()


def test_what_data_layers_do_at_random_is_said(small: Path, any_backend: str) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File("rows.h5", "w") as file:
        file["x"] = np.arange(12, dtype=np.float32).reshape(6, 2)
    Path("list.txt").write_text("rows.h5\n")
    Path("rows.prototxt").write_text(
        'layer { name: "rows" type: "HDF5Data" top: "x"\n'
        'hdf5_data_param { source: "list.txt" batch_size: 2 shuffle: true } }\n'
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 1 } }\n'
    )
    cs.write_weights("r.caffemodel", {"ip": [np.ones((1, 2)), np.zeros(1)]})
    notes = extract("rows.prototxt", "r.caffemodel", ["ip"], "r", iterations=3).notes
    assert notes == ("layer 'rows' (line 1) has shuffle: the rows are not in the order of the data set",)
    # As in Caffe, images are mirrored in tests, too, and cut out at random where the layer is in the TRAIN phase.
    own = "phase: TRAIN transform_param { mirror: true crop_size: 2"
    Path("net.prototxt").write_text(
        NET.replace("transform_param {", own, 1).replace("kernel_size: 3", "kernel_size: 2")
    )
    cs.write_weights("w.caffemodel", {"conv": [np.ones((5, 2, 2, 2)), np.ones(5)], "ip": [np.ones((6, 5)), np.ones(6)]})
    notes = extract("net.prototxt", "w.caffemodel", ["ip"], "f").notes
    assert notes == (
        "layer 'data' (line 2) has mirror: records are mirrored at random",
        "layer 'data' (line 2) is in the TRAIN phase: records are cut to crop_size at random",
    )


def test_what_is_not_computed_is_said(small: Path) -> None:
    """A fork's loss that nothing reads is left out, as `test` and `time` say, too."""
    pytest.importorskip("torch")
    Path("fork.prototxt").write_text(
        Path("net.prototxt").read_text() + 'layer { name: "far" type: "QuartetLoss" bottom: "ip" bottom: "label" }'
    )
    words = ("fork.prototxt", "w.caffemodel", "--blob", "ip", "--out", "f", "--engine", "torch")
    said = caffe_split("extract", *words, cwd=small)
    assert "note: Leaving out layer far (line 14): its type QuartetLoss" in said.stderr
    assert "wrote 10 rows into f" in said.stdout
    assert np.load(small / "f/ip.npy") == pytest.approx(plain(small)["ip"], rel=1e-5, abs=1e-6)
    assert extract(*words[:2], ["ip"], "g", options=RunOptions("torch")).notes[0].startswith("Leaving out layer far")
