from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.net.training import open_training
from caffe_split.tpm.attach import check_windows, instrument, instrument_training, several_gpus, states_left_behind
from caffe_split.tpm.cost import watch_cost
from caffe_split.tpm.layers import Windows, add_watchers, remove_watchers, watchers, windows_of
from tests.support import CAFFE, ROOT, Trained, caffe_split

NET = """# a net of mine
name: "mine"
input: "data"  # old form
input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }
layer {
\tname: 'a'   # the first
\ttype: "Convolution" bottom: "data" top: "a"
\tparam { lr_mult: 1 }  # weight
\tparam { lr_mult: 2 }
\tconvolution_param { num_output: 4 kernel_size: 3 }
}
layer { name: "b" type: "Convolution" bottom: "a" top: "b" convolution_param { num_output: 2 kernel_size: 1 } }
layer {
  name: "c"
  type: "Convolution"
  bottom: "b"
  top: "c"
  param { name: "shared" }
  convolution_param { num_output: 2 kernel_size: 1 }
  # param { name: "not this one" }
}"""
SHAPES = {"a": (4, 3, 3, 3), "b": (2, 4, 1, 1), "c": (2, 2, 1, 1)}
WINDOWS = Windows(((0, 100), (100, 300)), 10, 2)


def test_add_and_remove_give_the_file_back() -> None:
    document = prototxt.parse(NET, "net")
    assert add_watchers(document, SHAPES, WINDOWS) == ["a_tpm", "b_tpm", "c_tpm"]
    again = prototxt.parse(str(document), "net")
    found = watchers(again)
    assert {name: layer.name for name, layer in found.items()} == {"a": "a_tpm", "b": "b_tpm", "c": "c_tpm"}
    assert windows_of(found["a"]) == WINDOWS
    assert found["c"].param_names() == ["shared"] and found["a"].param_names() == ["a_tpm_w"]
    assert remove_watchers(again) == ["a", "b", "c"]
    assert str(again) == NET


def test_other_text_stays() -> None:
    document = prototxt.parse(NET, "net")
    add_watchers(document, {"a": SHAPES["a"]}, WINDOWS)
    changed = [line for line in str(document).splitlines() if line not in NET.splitlines()]
    assert changed[0] == '\tparam { lr_mult: 1 name: "a_tpm_w" }  # weight'
    assert NET.split("param { lr_mult: 2 }")[1].rstrip("}") in str(document)


def drawn_net(rng: random.Random) -> str:
    """A net with a convolution in any of the layouts that people write."""
    gaps = [" ", "\n", "\r\n", "  ", " # c\n", "\t", "\n  # c\n  ", "\n\n", "\n    "]

    def gap(*more: str) -> str:
        return rng.choice([*gaps, *more])

    fields = [
        'name: "c"',
        'type: "Convolution"',
        'bottom:"d"' if rng.random() < 0.3 else 'bottom: "d"',
        'top:"c"' if rng.random() < 0.3 else 'top: "c"',
        f"convolution_param {{{gap('')}num_output: 8{gap()}kernel_size: 3{gap('')}}}",
    ]
    params = [
        "param {}",
        "param { }",
        "param {\n  }",
        f"param {{{gap('')}lr_mult: 1{gap('')}}}",
        f"param{{{gap('')}lr_mult: 1{gap()}decay_mult: 1{gap('')}}}",
        "param: <lr_mult: 2>",
        f"param: {{ lr_mult: 2, decay_mult: 0;{gap('')}}}",
    ]
    rng.shuffle(fields)
    at = rng.randrange(len(fields) + 1)
    fields[at:at] = [rng.choice(params) for _ in range(rng.randrange(3))]
    # Strings in quotes and messages need no gap behind them.
    body = "".join(field + gap(*([""] if field[-1] in '"}>' else [])) for field in fields)
    opener = f"layer{rng.choice(['', ' ', ': ', chr(10)])}{{{rng.choice(['', ' ', chr(10), ' # hi' + chr(10)])}"
    ending = rng.choice(["\n", " ", "\n\n", " # end\n", " # end\n\n", "\r\n", ""])
    parted = rng.choice(["", "\n"])
    return f'layer {{ name: "d" type: "Input" top: "d" }}\n{parted}{opener}{body}}}{ending}'


def test_the_file_comes_back_in_any_layout() -> None:
    rng = random.Random(0)
    for _ in range(1500):
        before = drawn_net(rng).encode()
        document = prototxt.parse(before.decode(), kind="net")
        assert document.to_bytes() == before
        add_watchers(document, {"c": (8, 1, 3, 3)}, Windows(((0, 9),), 1))
        watched = document.to_bytes()
        again = prototxt.parse(watched.decode(), kind="net")
        assert remove_watchers(again) == ["c"]
        assert again.to_bytes() == before, watched.decode()


def test_remove_some() -> None:
    document = prototxt.parse(NET, "net")
    add_watchers(document, SHAPES, WINDOWS)
    assert remove_watchers(document, ["b"]) == ["b"]
    assert set(watchers(document)) == {"a", "c"}


def test_errors_change_nothing() -> None:
    document = prototxt.parse(NET, "net")
    for shapes, message in (
        ({"a": (4, 3, 3, 3), "z": (1,)}, "no layer 'z'. Its layers: a, b, c"),
        ({"a": (4, 3, 3, 3), "b": (2, 4, 1, 1)}, "watched already"),
    ):
        if "already" in message:
            add_watchers(document, {"b": SHAPES["b"]}, WINDOWS)
        before = str(document)
        with pytest.raises(CaffeSplitError, match=message):
            add_watchers(document, shapes, WINDOWS)
        assert str(document) == before


@pytest.mark.parametrize(
    ("pairs", "interval", "message"),
    [
        (((0, 5),), 10, "does not hold two samples 10 iterations apart"),
        (((0, 50), (40, 90)), 10, "starts before the one before it stops"),
        (((0, 5000),), 10, "whose max_iter is 2000"),
    ],
)
def test_windows_that_cannot_be(pairs: tuple[tuple[int, int], ...], interval: int, message: str) -> None:
    with pytest.raises(CaffeSplitError, match=message):
        check_windows(Windows(pairs, interval), 2000)


def test_shapes_cannot_be_told_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    training = open_training(ROOT / "prototxt/digits/train_val.prototxt")
    with pytest.raises(CaffeSplitError, match=r"data/digits_train_lmdb' is not there.*Make the data set"):
        instrument_training(training, [(0, 100)], 1, None)


def two_sharing() -> prototxt.Document:
    net = NET.replace('layer { name: "b" type', 'layer { name: "b" param { name: "shared" } type')
    return prototxt.parse(net, "net")


def test_a_shared_weight_is_watched_once(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(str(two_sharing()))
    training = open_training(path, upgrade=False)
    cost = instrument_training(training, [(0, 100)], 1, None)
    assert cost.layers == ("a", "b") and set(watchers(training.net)) == {"a", "b"}
    with pytest.raises(
        CaffeSplitError, match=r"'c' shares the weight of an earlier layer: watch that. Its conv.* a, b"
    ):
        instrument_training(open_training(path), [(0, 100)], 1, ["c"])
    assert remove_watchers(training.net) == ["a", "b"]
    assert str(training.net) == path.read_text()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("", True),
        ("solver_mode: GPU", True),
        ("solver_mode: GPU layer_wise_reduce: true", True),
        ("layer_wise_reduce: false", False),
        ("layer_wise_reduce: 0", False),
        ("solver_mode: CPU", False),
        ("solver_mode: 0", False),
    ],
)
def test_what_several_gpus_want_is_told(tmp_path: Path, setting: str, told: bool) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f'net: "{tmp_path}/net.prototxt" max_iter: 100 {setting}')
    done = caffe_split("instrument", solver, "--window", "0:9", cwd=tmp_path)
    notes = [line for line in done.stderr.splitlines() if "several GPUs" in line]
    assert len(notes) == told
    assert all(f"write `layer_wise_reduce: false` into {solver}: a watched" in note for note in notes)


def test_several_gpus_without_a_solver(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    told = several_gpus(open_training(tmp_path / "net.prototxt"))
    assert told is not None and "into the solver: " in told


@pytest.mark.parametrize(("solver", "histories"), [("SGD", 1), ("Adam", 2)])
def test_costs(solver: str, histories: int) -> None:
    cost = watch_cost({"a": (1000, 100, 1, 1), "b": (100, 100, 3, 3)}, 2, solver)
    assert cost.weights == 190_000
    # Two copies, each with its gradient and history; the results are small beside them.
    assert cost.memory_bytes == pytest.approx(4 * 190_000 * 2 * (2 + histories), rel=0.02)
    assert cost.snapshot_bytes == pytest.approx(4 * 190_000 * 3, rel=0.02)
    assert cost.state_bytes == pytest.approx(4 * 190_000 * 2 * histories, rel=0.02)
    hdf5 = watch_cost({"a": (1000, 100, 1, 1)}, 2, solver, hdf5=True)
    assert hdf5.snapshot_bytes == pytest.approx(4 * 100_000 * 2, rel=0.04)
    assert "series of snapshots" not in str(cost)
    large = watch_cost({"fc6": (4096, 512, 7, 7)}, 1, solver)
    assert re.search(r"1176.\d\d MiB more a caffemodel.*a series of snapshots over the window and `caffe-s", str(large))


@pytest.mark.caffe
def test_costs_are_those_of_the_real_files(trained: Trained) -> None:
    """Blob by blob: what the TPM layers add to a caffemodel and to a solver state."""
    snapshot, state = (trained.folder / f"digits/digits_iter_100.{end}" for end in ("caffemodel", "solverstate"))
    weights = caffemodel.read_weights(snapshot)
    shapes = {name[:-4]: blobs[0].shape for name, blobs in weights.items() if name.endswith("_tpm")}
    assert len(shapes) == 9
    cost = watch_cost(shapes, 1)
    added = [blob for name, blobs in weights.items() if name.endswith("_tpm") for blob in blobs]
    assert cost.snapshot_bytes == sum(blob.nbytes for blob in added)
    # The state's history follows the weights'; nine layers of four blobs that are not shared.
    assert cost.state_bytes == sum(blob.nbytes for blob in caffemodel.read_solverstate(state).history[-36:])


@pytest.mark.caffe
def test_states_made_without_the_layers_are_told(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caffe_split("instrument", "digits/train_val.prototxt", "--remove", "--in-place", cwd=digits)
    again = caffe_split(
        "instrument", "digits/train_val.prototxt", "--window", "50:100", "--in-place", cwd=digits
    ).stderr.splitlines()
    assert len(again) == 2 and again[0].startswith("watched: conv1, ")
    assert "the last of iteration 100) were made without these TPM layers, and Caffe will not resume" in again[1]
    # It is true.
    arguments = ["train", "-solver", "digits/solver.prototxt", "-snapshot", "digits/digits_iter_50.solverstate"]
    plain = (digits / "digits/train_val.prototxt").read_text()
    fewer = plain.split('layer {\n  name: "res3_proj_tpm"')
    assert len(fewer) == 2
    (digits / "digits/train_val.prototxt").write_text(fewer[0])
    done = subprocess.run([str(CAFFE), *arguments], cwd=digits, capture_output=True, text=True, timeout=100)
    assert done.returncode != 0 and "Incorrect length of history blobs" in done.stderr
    for path in (digits / "digits").glob("*.solverstate"):
        path.unlink()
    monkeypatch.chdir(digits)
    assert states_left_behind(open_training("digits/solver.prototxt")) is None


def test_solvers_that_name_one_net_are_all_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    plan = instrument(open_training("net.prototxt"), [(0, 15)])
    assert not any("choose a longer window" in note for note in plan.notes)
    for name, momentum in (("one", 0.9), ("two", 0)):
        text = f'net: "net.prototxt" momentum: {momentum} max_iter: 30 snapshot_prefix: "{name}"'
        Path(f"{name}.prototxt").write_text(text)
        Path(f"{name}_iter_{20 + len(name + str(momentum))}.solverstate").touch()
    both = instrument(open_training("net.prototxt"), [(0, 15)]).notes
    alone = instrument(open_training("one.prototxt"), [(0, 15)]).notes
    assert "one_iter_* (the last of iteration 26) and two_iter_* (the last of iteration 24) were made" in both[0]
    assert "at one_iter_* (the last of iteration 26) were made" in alone[0]
    # The longest window that one of them asks for.
    assert both[-1] == alone[-1] and "has N = 15 steps of 1; TPM means something from N = " in both[-1]


@pytest.mark.caffe
def test_command(digits: Path) -> None:
    plain = (ROOT / "prototxt/digits/train_val.prototxt").read_text()
    printed = caffe_split("instrument", "digits/train_val.prototxt", "--remove", cwd=digits)
    assert printed.stdout == plain
    watched = (digits / "digits/train_val.prototxt").read_text()
    refused = caffe_split(
        "instrument", "digits/train_val.prototxt", "--remove", "--out", "digits/solver.prototxt", cwd=digits, status=1
    )
    assert "exists; nothing is overwritten unasked" in refused.stderr
    words = ("instrument", "digits/train_val.prototxt", "--remove", "--force", "--out")
    refused = caffe_split(*words, "digits/solver.prototxt", cwd=digits, status=1)
    assert "this is a solver; only a net is replaced" in refused.stderr
    again = caffe_split("instrument", "digits/train_val.prototxt", "--window", "0:9", cwd=digits, status=1)
    assert "watched already" in again.stderr
    assert (digits / "digits/train_val.prototxt").read_text() == watched
    caffe_split("instrument", "digits/train_val.prototxt", "--window", "9:0", cwd=digits, status=2)
