"""Folding in nets as people write them: where a new bias goes, what is shared, what only one phase has, the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs
from caffe_split.backends.choose import get_backend
from caffe_split.backends.compare import compare_blobs
from caffe_split.backends.protocol import Forwarding, NetFiles
from caffe_split.formats import prototxt
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TEST, NetState
from tests.support import caffe_split

DATA = """\
layer { name: "data" type: "Input" top: "data" include { phase: TEST }
  input_param { shape { dim: 2 dim: 4 dim: 7 dim: 7 } } }
layer { name: "data" type: "DummyData" top: "data" include { phase: TRAIN } dummy_data_param {
  shape { dim: 2 dim: 4 dim: 7 dim: 7 } data_filler { type: "gaussian" std: 1 } } }
"""
SHARED = 'param { name: "m" } param { name: "v" } param { name: "s" }'
SCALE = "scale_param { bias_term: true }"
TRAIN_ONLY, TEST_ONLY, BIG = "include { phase: TRAIN }", "include { phase: TEST }", 'include { stage: "big" }'


def layer(name: str, kind: str, bottom: str, more: str = "", top: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top or name}" {more} }}\n'


def conv(name: str, bottom: str, more: str = "", bias: str = "bias_term: false") -> str:
    return layer(
        name, "Convolution", bottom, f"{more} convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 {bias} }}"
    )


def norm(name: str, bottom: str, more: str = "", top: str = "") -> str:
    return layer(name, "BatchNorm", bottom, more, top)


# A net, and where the bias of its layer `a` goes.
MEAN, BIAS, OWN = "its new bias taken off the mean of 'n'", "with a bias, which it did not have", ""
NETS = {
    "not in place": (conv("a", "data") + norm("n", "a") + layer("s", "Scale", "n", SCALE) + conv("b", "s"), MEAN),
    "in place": (conv("a", "data") + norm("n", "a", top="a") + layer("s", "Scale", "a", SCALE, "a"), MEAN),
    "another reader": (conv("a", "data") + norm("n", "a") + conv("b", "a"), BIAS),
    "stored statistics in TRAIN": (
        conv("a", "data") + norm("n", "a", "batch_norm_param { use_global_stats: true }"),
        MEAN,
    ),
    "two BatchNorms": (conv("a", "data") + norm("n", "a") + norm("o", "a"), BIAS),
    "a Scale alone": (conv("a", "data") + layer("n", "Scale", "a", SCALE), BIAS),
    "shared BatchNorm": (conv("a", "data") + norm("n", "a", SHARED) + conv("b", "data") + norm("o", "b", SHARED), BIAS),
    "shared Scale": (
        conv("a", "data")
        + norm("n", "a")
        + layer("s", "Scale", "n", 'param { name: "g" }')
        + conv("b", "data")
        + layer("o", "Scale", "b", 'param { name: "g" }'),
        MEAN,
    ),
    "siamese": (
        conv("p", "data", 'param { name: "w" }')
        + conv("q", "data", 'param { name: "w" }')
        + conv("a", "p")
        + norm("n", "a")
        + conv("b", "q"),
        MEAN,
    ),
    "BatchNorm once per phase": (
        conv("a", "data") + norm("n", "a", TRAIN_ONLY) + norm("n", "a", TEST_ONLY) + conv("b", "n"),
        MEAN,
    ),
    "BatchNorm in one phase": (conv("a", "data") + norm("n", "a", TEST_ONLY), BIAS),
    "once per phase": (conv("a", "data", TRAIN_ONLY) + conv("a", "data", TEST_ONLY) + norm("n", "a"), MEAN),
    "named parameters": (conv("a", "data", "param { name: 'w' lr_mult: 2 } param { }", ""), OWN),
    "an empty param": (conv("a", "data", "param {}", ""), OWN),
    "stages": (conv("a", "data", BIG) + norm("n", "a", BIG) + conv("c", "data"), MEAN),
}
STATE = NetState("TEST", ("big",))


def random_weights(text: str, folder: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {}
    for state in (STATE, STATE.in_phase("TRAIN")):
        layers = phase_layers(prototxt.parse(text, "net"), state)
        shapes = infer_shapes(layers)
        for each in layers:
            if each.type == "BatchNorm":
                weights[each.name] = [rng.standard_normal(6), rng.uniform(0.5, 2, 6), np.array([1.5])]
            elif shapes.params.get(each.name):
                weights[each.name] = [0.4 * rng.standard_normal(shape) for shape in shapes.params[each.name]]
    cs.write_weights(folder / "w.caffemodel", weights)


def moved(path: Path) -> Path:
    """Weights beside `path` that differ from those in it at every number, as after a training."""
    rng = np.random.default_rng(1)
    read = cs.read_weights(path)
    weights = {name: [np.abs(b) + rng.uniform(0.1, 0.2, b.shape) for b in read[name]] for name in read}
    cs.write_weights(path.with_name("moved.caffemodel"), weights)
    return path.with_name("moved.caffemodel")


@pytest.fixture(scope="module")
def engine() -> str:
    """A back end for nets that both of them know: the one without a process of its own, if it is there."""
    found = [name for name in ("torch", "caffe") if get_backend(name).is_there()]
    if not found:
        pytest.skip("neither PyTorch nor a built Caffe is here")
    return found[0]


@pytest.mark.parametrize("case", NETS)
def test_a_bias_goes_where_nothing_else_notices(tmp_path: Path, engine: str, case: str) -> None:
    """Untouched, the text is the baseline's; with all weights moved every blob agrees, whatever the bias became."""
    text, note = DATA + NETS[case][0], NETS[case][1]
    (tmp_path / "n.prototxt").write_text(text)
    (tmp_path / "s.prototxt").write_text(
        f'net: "{tmp_path}/n.prototxt" train_state {{ stage: "big" }} test_state {{ stage: "big" }} base_lr: 1 '
        f'lr_policy: "fixed" snapshot_prefix: "{tmp_path}/s" test_iter: 1 test_interval: 9'
    )
    random_weights(text, tmp_path)
    options = cs.DeriveOptions(kind="skip", partition="random:0", branch_norm=1, engine=engine)
    training = cs.open_training(tmp_path / "s.prototxt")
    split = ["a", "b"] if conv("b", "data").split(" bottom")[0] in text else ["a"]
    cs.derive(training, weights=tmp_path / "w.caffemodel", layers=split, options=options, out=tmp_path / "d").write()
    fold = cs.FoldOptions(state=STATE)
    check = cs.VerifyOptions(engine=engine)
    same = cs.fold(tmp_path / "d/n.prototxt", tmp_path / "d/init.caffemodel", out=tmp_path / "same", options=fold)
    assert same.write(check=check)[0].passed
    assert (tmp_path / "same/n.prototxt").read_text() == text and not same.folded[0].note

    weights = moved(tmp_path / "d/init.caffemodel")
    plan = cs.fold(tmp_path / "d/n.prototxt", weights, out=tmp_path / "f", options=fold)
    plan.write(check=None)
    assert plan.folded[0].note == note
    nets = [
        NetFiles(tmp_path / "d/n.prototxt", weights),
        NetFiles(tmp_path / "f/n.prototxt", tmp_path / "f/folded.caffemodel"),
    ]
    rows = compare_blobs(*get_backend(engine).forward(nets, Forwarding(state=STATE)))
    assert max(row.relative for row in rows if row.is_output or row.blob not in "ab") < 1e-5
    # The blob between the convolution and its BatchNorm lacks a constant, which verify knows.
    result = cs.verify(
        tmp_path / "d/n.prototxt", tmp_path / "f/n.prototxt", options=cs.VerifyOptions(engine=engine, state=STATE)
    )
    assert result.passed and result.worst < 1e-5
    assert [row.taken_by for row in result.rows if row.taken_by] == (
        ["n"] if note == MEAN and case != "in place" else []
    )


HEAD = layer("x", "InnerProduct", "a", f"{TRAIN_ONLY} inner_product_param {{ num_output: 3 }}")


def test_a_head_that_only_training_has(tmp_path: Path, engine: str) -> None:
    """Its weights are no error for the deploy net that is folded beside the training net; alone, an option says so."""
    text, deploy = DATA + conv("a", "data") + HEAD, DATA + conv("a", "data")
    (tmp_path / "n.prototxt").write_text(text)
    (tmp_path / "deploy.prototxt").write_text(deploy)
    random_weights(text, tmp_path)
    options = cs.DeriveOptions(partition="random:0", engine=engine)
    derived, weights = tmp_path / "d", tmp_path / "d/init.caffemodel"
    training = cs.open_training(tmp_path / "n.prototxt")
    cs.derive(
        training,
        weights=tmp_path / "w.caffemodel",
        layers=["a"],
        options=options,
        out=derived,
        deploy=tmp_path / "deploy.prototxt",
    ).write()
    plan = cs.fold(
        derived / "n.prototxt", weights, out=tmp_path / "f", options=cs.FoldOptions(deploy=derived / "deploy.prototxt")
    )
    assert len(plan.write(check=cs.VerifyOptions(engine=engine))) == 2
    assert "x" in cs.read_weights(tmp_path / "f/folded.caffemodel")
    assert (tmp_path / "f/deploy.prototxt").read_text() == deploy

    alone = ("fold", "d/deploy.prototxt", "d/init.caffemodel", "--engine", engine, "--out", "g")
    said = caffe_split(*alone, cwd=tmp_path, status=1).stderr
    assert "it has weights of 'x'" in said and "--ignore-extra-weights leaves them out" in said
    caffe_split(*alone, "--ignore-extra-weights", cwd=tmp_path)
    assert list(cs.read_weights(tmp_path / "g/folded.caffemodel")) == ["a"]


@pytest.mark.parametrize("norm_behind", [False, True])
def test_the_deploy_net_of_before_fits_the_folded_weights(tmp_path: Path, engine: str, norm_behind: bool) -> None:
    text = DATA + conv("a", "data") + (norm("n", "a") if norm_behind else "") + HEAD
    deploy = DATA + conv("a", "data") + (norm("n", "a") if norm_behind else "")
    (tmp_path / "n.prototxt").write_text(text)
    (tmp_path / "deploy.prototxt").write_text(deploy)
    random_weights(text, tmp_path)
    options = cs.DeriveOptions(kind="skip", partition="random:0", branch_norm=1, engine=engine)
    training = cs.open_training(tmp_path / "n.prototxt")
    cs.derive(training, weights=tmp_path / "w.caffemodel", layers=["a"], options=options, out=tmp_path / "d").write()
    weights = moved(tmp_path / "d/init.caffemodel")
    given = cs.FoldOptions(deploy=tmp_path / "deploy.prototxt")
    plan = cs.fold(tmp_path / "d/n.prototxt", weights, out=tmp_path / "f", options=given)
    assert len(plan.write(check=cs.VerifyOptions(engine=engine))) == 1
    # The head reads `a`, too, so that no BatchNorm can take the bias, and the deploy net gains it.
    assert f"{tmp_path}/deploy.prototxt: no split in it; folded.caffemodel fits it with the bias" in str(plan)
    (whole,) = get_backend(engine).forward(
        [NetFiles(tmp_path / "f/deploy.prototxt", tmp_path / "f/folded.caffemodel")], Forwarding(state=TEST)
    )
    (split,) = get_backend(engine).forward([NetFiles(tmp_path / "d/n.prototxt", weights)], Forwarding(state=TEST))
    assert np.abs(whole.batches[0]["a"] - split.batches[0]["a"]).max() < 1e-5
    same = cs.fold(tmp_path / "d/n.prototxt", tmp_path / "d/init.caffemodel", out=tmp_path / "g", options=given)
    assert f"{tmp_path}/deploy.prototxt: no split in it; folded.caffemodel fits it as it is" in str(same)
    assert same.texts["deploy.prototxt"] == deploy.encode()


def test_a_deploy_net_of_before_does_not_fit_where_a_split_stays(tmp_path: Path, engine: str) -> None:
    text = DATA + conv("a", "data") + conv("b", "a")
    (tmp_path / "n.prototxt").write_text(text)
    (tmp_path / "deploy.prototxt").write_text(text)
    random_weights(text, tmp_path)
    step = tmp_path / "n.prototxt"
    weights = tmp_path / "w.caffemodel"
    for number, (name, activation) in enumerate([("a", "relu"), ("b", "none")]):
        options = cs.DeriveOptions(partition="random:0", activation=activation, engine=engine)  # type: ignore[arg-type]
        out = tmp_path / f"d{number}"
        cs.derive(cs.open_training(step), weights=weights, layers=[name], options=options, out=out).write()
        step, weights = out / "n.prototxt", out / "init.caffemodel"
    with pytest.raises(cs.CaffeSplitError, match=r"no split in it, but 'a' stays split: .* is a ReLU"):
        cs.fold(step, weights, out=tmp_path / "f", options=cs.FoldOptions(deploy=tmp_path / "deploy.prototxt"))


def test_shared_parameters_have_the_values_that_caffe_loads(tmp_path: Path, engine: str) -> None:
    """The last layer of the file counts, and HDF5 has the values once: folding BatchNorm takes these."""
    text = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 7 dim: 7 } } }\n'
    text += conv("a", "data") + norm("n", "a", SHARED) + conv("b", "data") + norm("o", "b", SHARED)
    (tmp_path / "n.prototxt").write_text(text)
    random_weights(text, tmp_path)
    read = cs.read_weights(tmp_path / "w.caffemodel")
    weights = {name: [np.array(blob) for blob in read[name]] for name in read}
    weights["n"] = [np.zeros(0, np.float32)] * 3
    cs.write_weights(tmp_path / "w.caffemodel", {**weights, "n": [blob + 1 for blob in weights["o"]]})
    plan = cs.fold(
        tmp_path / "n.prototxt", tmp_path / "w.caffemodel", out=tmp_path / "f", options=cs.FoldOptions(batch_norm=True)
    )
    assert set(plan.norms) == {"a", "b"}
    (result,) = plan.write(check=cs.VerifyOptions(engine=engine))
    assert result.worst < 1e-5 and {row.blob for row in result.rows} >= {"n", "o"}
