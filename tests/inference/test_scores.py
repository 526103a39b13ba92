"""`test`: beside the real `caffe test`, and counts against a plain computation."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs
from caffe_split.data.store import write_store
from caffe_split.inference.counts import Counts, Head, find_head
from caffe_split.inference.given import open_net
from tests.inference.conftest import NET, RECORDS, write_weights
from tests.support import caffe_split, run_caffe


def real_lines(folder: Path, iterations: int) -> list[str]:
    """What `caffe test` prints from its first batch on, without glog's prefix."""
    said = run_caffe(
        "test", "-model", "net.prototxt", "-weights", "w.caffemodel", "-iterations", iterations, cwd=folder
    )
    lines = [line.split("] ", 1)[1] for line in said.splitlines() if "] " in line]
    start = next(index for index, line in enumerate(lines) if line.startswith("Batch 0,"))
    return [line for line in lines[start:] if " = " in line or line.startswith("Loss: ")]  # without "Restarting data"


@pytest.mark.caffe
@pytest.mark.parametrize("iterations", [1, 7])
def test_it_prints_what_caffe_test_prints(small: Path, backend: str, iterations: int) -> None:
    ours = caffe_split("test", "net.prototxt", "w.caffemodel", "--iterations", iterations, cwd=small)
    theirs = real_lines(small, iterations)
    found = ours.stdout.splitlines()
    assert len(theirs) == 3 * iterations + 4
    if backend == "caffe":
        assert found == theirs
    # PyTorch adds in another order, which may show in the last of the six digits.
    split = re.compile(r"(?<= )\d[-+.e\d]*")
    assert [split.sub("#", line) for line in found] == [split.sub("#", line) for line in theirs]
    assert [float(n) for line in found for n in split.findall(line)] == pytest.approx(
        [float(n) for line in theirs for n in split.findall(line)], rel=1e-5
    )


def test_a_data_set_is_run_once_by_default(small: Path, backend: str) -> None:
    """10 records in batches of 4: three batches, and the two records that come twice are said, and counted once."""
    result = caffe_split("test", "net.prototxt", "w.caffemodel", "--confusion", "c.csv", "--top", 3, cwd=small)
    assert "Batch 2, loss" in result.stdout and "Batch 3, loss" not in result.stdout
    assert "10 records in batches of 4: the last batch has the first 2 once more" in result.stderr
    rows = list(csv.reader(Path("c.csv").read_text().splitlines()))
    assert rows[0] == ["label", *map(str, range(6))] and [row[0] for row in rows[1:]] == rows[0][1:]
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == RECORDS
    # The same from a data set that the batches divide, in which every record comes as often.
    scores = cs.score_net("net.prototxt", "w.caffemodel", iterations=5, top=[3, 1], confusion=True)
    assert scores.counts is not None and scores.counts.total == 2 * RECORDS
    assert (scores.counts.matrix == 2 * np.array([row[1:] for row in rows[1:]], int)).all()
    assert scores.shares()["top-3"] == pytest.approx(scores.scores[2].value) and scores.scores[2].name == "top3"
    assert scores.shares()["top-1"] == pytest.approx(scores.scores[0].value)
    assert np.trace(scores.counts.matrix) / scores.counts.total == pytest.approx(scores.scores[0].value)
    assert f"top-3 = {scores.shares()['top-3']:.6g}" in result.stdout


def test_both_engines_agree(small: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("caffe")
    one, other = (
        cs.score_net("net.prototxt", "w.caffemodel", confusion=True, options=cs.RunOptions(engine))
        for engine in ("caffe", "torch")
    )
    assert one.loss == pytest.approx(other.loss, rel=1e-6) and one.counts is not None and other.counts is not None
    assert [score.value for score in one.scores] == pytest.approx([score.value for score in other.scores], rel=1e-6)
    assert (one.counts.matrix == other.counts.matrix).all()


def test_layers_that_compute_as_in_training_are_said(small: Path, backend: str) -> None:
    """By a phase of their own, which is their net's otherwise."""
    drop = 'layer { name: "drop" type: "Dropout" bottom: "conv" top: "dropped" phase: %s }\n'
    for phase, notes in (
        ("TRAIN", ["computed as in training, by a `phase: TRAIN` of their own: layer 'drop' (line 14)"]),
        ("TEST", []),
    ):
        Path("net.prototxt").write_text(NET + drop % phase)
        found = cs.score_net("net.prototxt", "w.caffemodel").notes
        assert [note.split(";")[0] for note in found if "training" in note] == notes


def test_several_weights_make_a_table(small: Path, backend: str) -> None:
    for number in (9, 10, 8):
        write_weights(small / f"n_iter_{number}.caffemodel", number)
    files = [f"n_iter_{number}.caffemodel" for number in (10, 8, 9)]
    lines = caffe_split("test", "net.prototxt", *files, cwd=small).stdout.splitlines()
    assert lines[0].split() == ["weights", "Loss", "accuracy", "loss", "top3"]
    alone = [cs.score_net("net.prototxt", file) for file in files]
    for line, file, one in zip(lines[1:], files, alone):
        assert line.split()[:3] == [file, f"{one.loss:.6g}", f"{one.scores[0].value:.6g}"]
        assert ("final" in line) == (file == "n_iter_10.caffemodel")
    best = max(range(3), key=lambda index: alone[index].scores[0].value)
    assert [index for index, line in enumerate(lines[1:]) if "best" in line] == [best]
    # All weights are looked at before the first is run.
    cs.write_weights("bad.caffemodel", {"conv": [np.ones((5, 2, 3, 3)), np.ones(5)], "ip": [np.ones((7, 5))]})
    result = caffe_split("test", "net.prototxt", files[0], "bad.caffemodel", cwd=small, status=1)
    assert "bad.caffemodel: layer 'ip'" in result.stderr and "(1 of 2)" not in result.stderr


MEASURED = """layer { name: "d" type: "DummyData" top: "d" top: "t" dummy_data_param {
  shape { dim: 2 dim: 3 } shape { dim: 2 dim: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "d" top: "ip" inner_product_param { num_output: 1 } }
layer { name: "error" type: "EuclideanLoss" bottom: "ip" bottom: "t" top: "error" loss_weight: 0 }
layer { name: "class" type: "ArgMax" bottom: "ip" top: "class" argmax_param { axis: 1 } }
"""
LOSS = 'layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "t" top: "loss" }'


@pytest.mark.parametrize(
    ("more", "best"),
    [
        (LOSS, "low"),
        (LOSS.replace('"loss"', '"accuracy"') + " # named as a measure", "low"),
        (LOSS + 'layer { name: "m" type: "Reduction" bottom: "ip" top: "m_acc" }', "high"),
        ("", None),  # nothing in it says which is the better one
    ],
)
def test_the_best_of_a_net_with_neither_accuracy_nor_loss_first(
    tmp_path: Path, any_backend: str, more: str, best: str | None
) -> None:
    """An error without a weight and a class are no accuracies: they are not best where they are high."""
    (tmp_path / "net.prototxt").write_text(MEASURED + more)
    for name, value in (("low", 0.1), ("high", 5.0)):
        cs.write_weights(tmp_path / f"{name}.caffemodel", {"ip": [np.full((1, 3), value), np.zeros(1)]})
    words = ("test", "net.prototxt", "high.caffemodel", "low.caffemodel", "--iterations", 1)
    lines = caffe_split(*words, cwd=tmp_path).stdout.splitlines()
    assert [line.split(".")[0] for line in lines if "best" in line] == ([] if best is None else [best])


def test_json(small: Path, any_backend: str) -> None:
    (said,) = json.loads(caffe_split("test", "net.prototxt", "w.caffemodel", "--json", "--top", 2, cwd=small).stdout)
    found = cs.score_net("net.prototxt", "w.caffemodel", top=[2])
    assert said["loss"] == pytest.approx(found.loss) and said["iterations"] == 3
    assert [each["name"] for each in said["outputs"]] == ["accuracy", "loss", "top3"]
    assert said["top"] == {"2": pytest.approx(found.shares()["top-2"])} and np.sum(said["confusion"]) == RECORDS


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_picture_of_the_matrix(small: Path, any_backend: str, ending: str) -> None:
    names = [f"class {letter}" for letter in "abcdef"]
    (small / "names.txt").write_text("\n".join(names) + "\n\n")
    words = ("test", "net.prototxt", "w.caffemodel", "--confusion", f"c.{ending}", "--labels", "names.txt")
    caffe_split(*words, cwd=small)
    data = (small / f"c.{ending}").read_bytes()
    assert data.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    assert ending == "png" or b"of 10 right" in data
    said = caffe_split(*words, cwd=small, status=1).stderr
    assert f"c.{ending} exists" in said
    (small / "names.txt").write_text("a\nb\n")
    said = caffe_split(*words, "--force", cwd=small, status=1).stderr
    assert "names.txt names 2 classes, and the net scores 6" in said and data == (small / f"c.{ending}").read_bytes()


def test_scores_of_places_and_labels_that_do_not_count() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 4, (2, 5, 3, 4)).astype(np.float32)  # with ties
    labels = rng.integers(0, 5, (2, 1, 3, 4)).astype(np.float32)
    counts = Counts(Head("loss", "s", "l", 1, 2), list("abcde"), [1, 2])
    counts.add(scores, labels)
    matrix, among = np.zeros((5, 5), int), [0, 0]
    for n, y, x in np.ndindex(2, 3, 4):
        own, label = scores[n, :, y, x], int(labels[n, 0, y, x])
        if label != 2:
            matrix[label, np.argmax(own)] += 1
            for place, most in enumerate((1, 2)):
                among[place] += sum(own >= own[label]) - 1 < most
    assert (counts.matrix == matrix).all() and list(counts.among.values()) == among
    assert counts.total == matrix.sum() < labels.size
    with pytest.raises(cs.CaffeSplitError, match="layer 'loss': a label is 5, but bottom 's' scores the 5 classes"):
        counts.add(scores, np.full((2, 1, 3, 4), 5))


@pytest.mark.parametrize(
    ("kind", "message", "ignored"),
    [
        ("Accuracy", "accuracy_param", 3),
        ("Accuracy", "loss_param", None),
        ("SoftmaxWithLoss", "loss_param", 3),
        ("InfogainLoss", "loss_param", 3),
        ("MultinomialLogisticLoss", "loss_param", None),
        ("HingeLoss", "loss_param", None),
    ],
)
def test_labels_are_ignored_where_the_layer_ignores_them(
    tmp_path: Path, kind: str, message: str, ignored: int | None
) -> None:
    """Caffe reads ignore_label in these alone."""
    net = tmp_path / "net.prototxt"
    net.write_text(f'layer {{ name: "x" type: "{kind}" bottom: "s" bottom: "l" {message} {{ ignore_label: 3 }} }}')
    assert find_head(open_net(net, cs.RunOptions())) == Head("x", "s", "l", 1, ignored)


def test_a_net_of_a_solver_and_its_test_state(small: Path, any_backend: str) -> None:
    """The stage of test_state brings in a second output."""
    stage = 'layer { name: "sum" type: "Reduction" bottom: "ip" top: "sum" include { stage: "sums" } }'
    (small / "net.prototxt").write_text(NET + stage)
    (small / "s.prototxt").write_text('net: "net.prototxt" test_iter: 9 test_interval: 1 test_state { stage: "sums" }')
    names = [score.name for score in cs.score_net("s.prototxt", "w.caffemodel", iterations=1).scores]
    assert names == ["accuracy", "loss", "sum", "top3"]
    assert len(cs.score_net("net.prototxt", "w.caffemodel", iterations=1).scores) == 3
    said = caffe_split("test", "net.prototxt", "w.caffemodel", "--stage", "sums", "--iterations", 1, cwd=small).stdout
    assert "Batch 0, sum = " in said


def test_the_solver_beside_a_net_that_lacks_its_data_says_the_stages(small: Path, any_backend: str) -> None:
    """So in `test`, `time` and `extract`; and a net may stand within the solver."""
    expected = cs.score_net("net.prototxt", "w.caffemodel")
    (small / "net.prototxt").write_text(
        NET.replace("phase: TRAIN", 'stage: "train"').replace("phase: TEST", 'stage: "t"')
    )
    with pytest.raises(cs.CaffeSplitError, match="bottom 'data' is no top of a layer above it"):
        cs.score_net("net.prototxt", "w.caffemodel")
    (small / "s.prototxt").write_text('net: "net.prototxt" train_state { stage: "train" } test_state { stage: "t" }')
    (small / "inner").mkdir()
    (small / "inner/net_param.prototxt").write_text(f"net_param {{ {NET} }}")
    (small / "inner/test_net_param.prototxt").write_text(f'test_net_param {{ {NET} }} train_net: "net.prototxt"')
    for number, name in enumerate(("net", "s", "inner/net_param", "inner/test_net_param")):
        net = f"{name}.prototxt"
        assert cs.score_net(net, "w.caffemodel").scores == expected.scores
        assert [layer.name for layer in cs.time_net(net, iterations=1, phase="TEST").layers if layer.name == "top3"]
        assert cs.extract(net, "w.caffemodel", ["ip"], f"f{number}").rows == RECORDS
    assert cs.time_net("net.prototxt", iterations=1, phase="TRAIN").iterations == 1


@pytest.mark.parametrize(
    "case", ["no data", "broken", "empty", "deploy", "head", "more", "phase", "labels", "ending", "folder"]
)
def test_what_is_refused(small: Path, backend: str, case: str) -> None:
    net = small / "net.prototxt"
    words: tuple[object, ...] = ()
    if case == "no data":
        net.write_text(NET.replace("test_lmdb", "gone_lmdb"))
        expected = r"net.prototxt:2: layer 'data': no data set 'gone_lmdb' \(LMDB\)"
    elif case == "broken":
        (small / "test_lmdb/data.mdb").write_bytes(b"no LMDB" * 2000)
        expected = "net.prototxt:2: layer 'data': test_lmdb: no LMDB that can be read: .*MDB_INVALID"
    elif case == "empty":
        write_store("empty_lmdb", [])
        net.write_text(NET.replace("test_lmdb", "empty_lmdb"))
        expected = "net.prototxt:2: layer 'data': empty_lmdb: the LMDB holds no record"
    elif case == "deploy":
        data = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } } }'
        net.write_text(data + NET.split("} }\n", 2)[2].split('layer { name: "accuracy"')[0])
        expected = "net.prototxt: a deploy net has no data to be tested on; give .* images"
    elif case == "ending":
        words, expected = ("--confusion", "c.txt"), "cannot write c.txt: the name must end in .csv, .png, .svg, .pdf"
    elif case == "folder":
        words, expected = ("--confusion", "none/c.csv"), "none/c.csv: there is no folder 'none'"
    elif case == "head":
        words, expected = ("--head", "conv"), "no layer 'conv' of scores and labels .* There is: accuracy, top3, loss"
    elif case == "more":
        words, expected = ("--top", 7), "top 7: blob 'ip' scores 6 classes"
    elif case == "phase":
        net.write_text(re.sub(r"(layer \{)", r"\1 include { phase: TRAIN }", re.sub(r"include \{[^}]*\}", "", NET)))
        expected = "net.prototxt: no layer of it runs in the TEST phase"
    else:
        (small / "test_lmdb").rename(small / "old")
        write_store("test_lmdb", [(np.zeros((2, 3, 3), np.uint8), 6)])
        words, expected = ("--confusion", "c.csv"), "label"
    said = caffe_split("test", "net.prototxt", "w.caffemodel", *words, cwd=small, status=1).stderr
    assert re.search(expected, said), said
    assert not (small / "c.csv").exists()
