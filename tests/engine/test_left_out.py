"""Nets with forms of forks that are run in part: losses that nothing reads are left out, and data are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_split.engine.spec.command import check_training
from caffe_split.engine.spec.support import judge, judge_training, layers_of
from caffe_split.errors import CaffeSplitError
from caffe_split.exporting.opened import open_net
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.net.state import NetState

HEAD = """layer { name: "x" type: "Input" top: "x" top: "t" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 4 } }
"""
KNOWN = HEAD + 'layer { name: "p" type: "Softmax" bottom: "ip" top: "p" }\n'
LOSS = 'layer { name: "l" type: "%s" bottom: "ip" bottom: "t" %s }\n'


def judged(text: str, phase: str = "TRAIN") -> tuple[list[str], list[str], list[str]]:
    """(what is refused, which layers are left out, what is refused of a training), with lines."""
    document = prototxt.parse(text, "net")
    layers = layers_of(document, NetState(phase))
    problems, notes = judge(document, layers)
    training = [] if problems else judge_training(document, layers)
    lines = [[f"{each.line}: {each.text}" for each in found] for found in (problems, training)]
    return lines[0], [note.layer for note in notes if not note.field], lines[1]


@pytest.mark.parametrize(
    "loss",
    [
        LOSS % ("QuartetLoss", 'top: "l"'),
        LOSS % ("MULTI_SOFTMAX_LOSS", ""),
        LOSS % ("SetLoss2", 'top: "l" top: "m"'),
        LOSS % ("Covariance", 'top: "l" loss_weight: 0.5'),
        LOSS % ("SoftmaxWithLoss", 'bottom: "x" top: "l"'),
        LOSS % ("SoftmaxWithLoss", 'top: "l" loss_param { adaptive_weighting: true }'),
        LOSS % ("FocalLoss", 'top: "l" focal_loss_param { type: LINEAR alpha: 1 gamma: 2 }'),
        LOSS % ("SoftmaxWithLoss", 'top: "l" softmaxwithloss_param { weight_source: "w" }'),
        LOSS % ("WarpCTC", 'top: "l"'),
        LOSS % ("MSE", 'top: "l"'),
        LOSS % ("SequenceAccuracy", 'top: "l" loss_weight: 1'),
    ],
)
def test_a_loss_of_a_fork_is_left_out_and_not_trained(loss: str) -> None:
    known = HEAD + 'layer { name: "k" type: "SoftmaxWithLoss" bottom: "ip" bottom: "t" top: "k" }\n'
    for phase in ("TRAIN", "TEST"):
        problems, gone, training = judged(known + loss, phase)
        assert problems == [] and gone == ["l"]
        assert len(training) == 1 and training[0].startswith("4: layer 'l': ") and "not trained" in training[0]


@pytest.mark.parametrize(
    "measure",
    [
        LOSS % ("LabelsequenceAccuracy", 'top: "a"'),
        LOSS % ("MAE", 'top: "a" loss_weight: 0'),
        LOSS % ("EvalDetection", 'top: "a"'),
        LOSS % ("Accuracy", 'top: "a" accuracy_param { weights_of_classes: true }'),
    ],
)
def test_a_measure_of_a_fork_is_left_out_of_a_training(measure: str) -> None:
    known = HEAD + 'layer { name: "k" type: "SoftmaxWithLoss" bottom: "ip" bottom: "t" top: "k" }\n'
    assert judged(known + measure) == ([], ["l"], [])


def test_a_training_needs_a_loss_that_is_left() -> None:
    """An accuracy that is left out is none; without any loss there is nothing to train."""
    problems, gone, training = judged(KNOWN + LOSS % ("SequenceAccuracy", 'top: "a"'))
    assert (problems, gone) == ([], ["l"]) and len(training) == 1 and "no loss is left" in training[0]


@pytest.mark.parametrize(
    "kind",
    ["FeatureMap", "HeatMap", "APLayer", "ErrorFeedback", "EvalNet", "ROCPooling", "Lossless", "Gloss", "AccuracyMap"],
)
def test_a_last_layer_that_is_no_loss_is_refused(kind: str) -> None:
    assert judged(KNOWN + LOSS % (kind, 'top: "l"'))[0][0].startswith(f"4: layer 'l': type {kind} is not handled")


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (LOSS % ("SoftmaxWithLoss", "loss_param { ignore_lable: 255 }"), "did you mean 'ignore_label'"),
        (LOSS % ("SoftmaxWithLoss", "loss_weigth: 0"), "did you mean 'loss_weight'"),
        (LOSS % ("SoftmaxWithLoss", "loss_param { normalization: BATCHSIZE }"), "BATCHSIZE"),
        (LOSS % ("SoftmaxWithLoss", 'include { stagee: "a" }'), "stagee"),
        (LOSS % ("Accuracy", 'top: "a" accuracy_param { topk: 5 }'), "did you mean 'top_k'"),
        (LOSS % ("CenterLoss", 'top: "l" center_loss_param { }'), "num_output is missing"),
        (LOSS % ("DetectionEvaluate", 'top: "e"'), "num_classes is missing"),
    ],
)
def test_a_slip_in_a_known_loss_is_refused(layer: str, said: str) -> None:
    problems = judged(KNOWN + layer)[0]
    assert len(problems) == 1 and problems[0].startswith("4: layer 'l': ") and said in problems[0]


def test_a_known_type_is_not_said_to_be_meant() -> None:
    document = prototxt.parse(KNOWN + LOSS % ("SoftmaxWithLoss", 'bottom: "x" top: "l"'), "net")
    (note,) = judge(document, layers_of(document, NetState("TRAIN")))[1]
    assert note.reason == "SoftmaxWithLoss of 3 bottoms is a form of a fork"


def test_an_export_leaves_out_what_the_engine_does() -> None:
    """Not a layer in the middle that is called as a measure is."""
    middle = KNOWN + (LOSS % ("FancyLoss", 'top: "l"')) + 'layer { name: "r" type: "ReLU" bottom: "l" top: "r" }'
    opened = open_net(prototxt.parse(middle, "net"), NetState("TEST"), {})
    assert [layer.type for layer in opened.layers][-2:] == ["FancyLoss", "ReLU"]


def test_a_module_needs_no_labels_of_a_loss_that_is_left_out(tmp_path: Path) -> None:
    """One trains it with a loss of one's own."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split import load

    (tmp_path / "n.prototxt").write_text(KNOWN + LOSS % ("FancyLoss", 'top: "l"'))
    module = load(tmp_path / "n.prototxt").train()
    top = module(x=torch.ones(2, 3))
    assert list(top) == ["p"]
    top["p"][:, 0].sum().backward()
    assert module.ip.weight.grad.abs().sum() > 0


def test_a_loss_that_is_left_out_is_not_0(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split.formats.weights.caffemodel import write_weights
    from caffe_split.inference.given import RunOptions
    from caffe_split.inference.scores import score_net
    from caffe_split.inference.timing import time_net

    shape = "shape { dim: 2 dim: 3 } shape { dim: 2 }"
    text = KNOWN.replace('"Input"', '"DummyData"').replace(
        f"input_param {{ {shape} }}", f"dummy_data_param {{ {shape} }}"
    )
    (tmp_path / "n.prototxt").write_text(text + LOSS % ("FancyLoss", 'top: "l"'))
    write_weights(tmp_path / "w.caffemodel", {"ip": [np.ones((4, 3)), np.zeros(4)]})
    torch = RunOptions("torch")
    found = score_net(tmp_path / "n.prototxt", tmp_path / "w.caffemodel", iterations=1, options=torch)
    said = "Leaving out layer l (line 4): its type FancyLoss is not known"
    assert found.lines()[0] == "Loss: not known" and np.isnan(found.loss) and said in found.notes
    times = time_net(tmp_path / "n.prototxt", iterations=1, options=torch)
    assert times.notes == (said,) and "notes" not in times.as_dict()


def test_what_gives_something_to_a_loss_alone_is_left_out_with_it() -> None:
    """A layer that nobody reads on is not: it may be the net's result."""
    text = KNOWN + 'layer { name: "u" type: "Fancy" bottom: "t" top: "u" }\n'
    assert judged(text)[0] == ["4: layer 'u': type Fancy is not handled"]
    text += 'layer { name: "l" type: "FancyLoss" bottom: "ip" bottom: "u" top: "l" top: "m" }\n'
    problems, gone, training = judged(text + 'layer { name: "s" type: "Silence" bottom: "m" }\n')
    assert (problems, gone, len(training)) == ([], ["u", "l", "s"], 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            KNOWN + LOSS % ("FancyLoss", 'top: "l"') + 'layer { name: "r" type: "ReLU" bottom: "l" top: "r" }',
            "4: layer",
        ),
        (HEAD.splitlines()[0] + "\n" + (LOSS % ("FancyLoss", 'top: "l"')).replace('"ip"', '"x"'), "2: layer 'l': type"),
        (KNOWN + LOSS % ("FancyLoss", 'top: "ip"'), "type FancyLoss is not handled"),
        (KNOWN + LOSS % ("FancyLoss", 'bottom: "z"'), "bottom 'z' is no top"),
        (KNOWN + LOSS % ("HingeLoss", 'bottom: "x" top: "l"'), "a HingeLoss with 3 bottoms is not handled"),
    ],
)
def test_other_losses_are_refused(text: str, said: str) -> None:
    problems = judged(text)[0]
    assert problems and any(said in problem for problem in problems)


def test_a_net_runs_and_is_exported_without_them(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split.engine.model.net import Net

    x = np.random.default_rng(1).normal(size=(2, 3))
    whole, known = (
        Net(prototxt.parse(text, "net"), "TEST", seed=3) for text in (KNOWN + LOSS % ("FancyLoss", 'top: "l"'), KNOWN)
    )
    np.testing.assert_array_equal(
        whole.forward({"x": x}).blobs["p"].detach(), known.forward({"x": x}).blobs["p"].detach()
    )
    assert whole.outputs == ["p"] and known.outputs == ["p", "t"]
    assert [note.text for note in whole.notes] == ["Leaving out layer l (line 4): its type FancyLoss is not known"]
    opened = open_net(whole.document, NetState("TEST"), {})
    assert [layer.type for layer in opened.layers] == ["Input", "InnerProduct", "Softmax"]
    assert any("layer 'l' (line 4) is left out" in note for note in opened.notes)


def solver(tmp_path: Path, text: str) -> Path:
    (tmp_path / "n.prototxt").write_text(text)
    (tmp_path / "s.prototxt").write_text(f'net: "{tmp_path}/n.prototxt" base_lr: 0.1 lr_policy: "fixed"')
    return tmp_path / "s.prototxt"


def test_a_training_without_its_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaffeSplitError, match=r"n\.prototxt:4: layer 'l': its type FancyLoss is not known: without"):
        check_training(solver(tmp_path, KNOWN + LOSS % ("FancyLoss", 'top: "l"')))


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("Data", "data_param { shuffle: true batch_size: 2 }", "DataParameter has no field 'shuffle'"),
        ("Data", "transform_param { resize_param { height: 3 } }", "no field 'resize_param'"),
        ("ImageData", "image_data_param { label_dim: 3 }", "no field 'label_dim'"),
        ("MemoryData", "memory_data_param { dim: 3 }", "no field 'dim'"),
    ],
)
def test_data_of_a_forks_form_are_given(kind: str, options: str, said: str, tmp_path: Path) -> None:
    text = f'layer {{ name: "d" type: "{kind}" top: "x" {options} }}\n'
    text += 'layer { name: "e" type: "EuclideanLoss" bottom: "x" bottom: "x" }\n'
    assert judged(text) == ([], [], [])
    with pytest.raises(CaffeSplitError, match="its arrays in Python") as error:
        check_training(solver(tmp_path, text))
    assert said in str(error.value)


def test_a_slip_in_a_data_layer_is_refused() -> None:
    text = 'layer { name: "d" type: "ImageData" top: "x" top: "t" transform_param { mirorr: true } }\n'
    problems = judged(text)[0]
    assert len(problems) == 1 and "no field 'mirorr'; did you mean 'mirror'?" in problems[0]


def test_what_is_a_forks_is_named_where_a_shape_is_asked_for() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split.engine.model.net import Net

    text = 'layer { name: "d" type: "ImageData" top: "x" top: "t" image_data_param { label_dim: 2 } }\n'
    with pytest.raises(CaffeSplitError, match=r"no field 'label_dim' in BVLC's Caffe \(line 1\), so nothing is read"):
        Net(prototxt.parse(text, "net"), "TEST")


def test_data_that_nobody_gave_are_no_zeros() -> None:
    """Each top that is read has to be given, by whatever runs the net; others need not."""
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split.engine.model.net import Net

    text = 'layer { name: "d" type: "MemoryData" top: "x" top: "t" top: "u" memory_data_param { dim: 3 } }\n'
    text += 'layer { name: "e" type: "EuclideanLoss" bottom: "x" bottom: "t" top: "e" }\n'
    net = Net(prototxt.parse(text, "net"), "TEST", inputs=dict.fromkeys("xtu", (2, 3)))
    for given in ({}, {"x": np.ones((2, 3))}):
        with pytest.raises(CaffeSplitError, match=r"layer 'd' .* no field 'dim' .* no array of '[xt]' was given"):
            net.forward(given)
    assert float(net.forward({"t": np.zeros((2, 3))}).loss) == 1.5


def test_a_field_of_the_net_is_noted_as_one() -> None:
    document = prototxt.parse("optimize_mem: TRAIN_ONLY_OPTIM\n" + KNOWN, "net")
    (note,) = judge(document, layers_of(document, NetState("TEST")))[1]
    assert note.text.startswith("Ignoring field optimize_mem of the net (line 1): ")


def test_a_field_within_a_forks_message_changes_nothing_at_0() -> None:
    options = "roi_pooling_param { pooled_w: 2 pooled_h: 2 pad_ratio: %s }"
    for value, passes in (("0.0", True), ("0.1", False)):
        text = KNOWN + f'layer {{ name: "r" type: "ROIPooling" bottom: "x" bottom: "t" top: "r" {options % value} }}'
        assert (judged(text)[0] == []) == passes


def test_fields_that_change_nothing_by_their_value_are_noted() -> None:
    field = "bias_param { channel_shared: %s }"
    for value, passes in (("false", True), ("0", True), ("true", False)):
        text = KNOWN + f'layer {{ name: "b" type: "Bias" bottom: "x" top: "b" {field % value} }}'
        assert (not judged(text)[0]) == passes


@pytest.mark.parametrize(
    "field",
    [
        "param { lr_mult: 1 breadth_decay_mult: 2 }",
        "inner_product_param { num_output: 4 weight_filler { type: 'gaussian' orthog: NEAREST } }",
    ],
)
def test_fields_of_trainings_alone_are_refused_by_a_training(field: str) -> None:
    text = HEAD.replace("inner_product_param { num_output: 4 }", f"inner_product_param {{ num_output: 4 }} {field}")
    text = text.replace("inner_product_param { num_output: 4 } inner_product_param", "inner_product_param")
    problems, _, training = judged(text)
    assert problems == [] and len(training) == 1
    assert training[0].startswith("2: layer 'ip': ") and training[0].endswith("the net is run, and not trained")


@pytest.mark.parametrize(
    ("filler", "said"),
    [
        ("orthogonal", ""),
        ("file", ""),
        ("guassian", "'guassian' is not handled"),
        ("Xavier", "'Xavier' is not handled"),
    ],
)
def test_a_forks_filler_is_run_with_weights_and_not_trained(filler: str, said: str) -> None:
    options = f'inner_product_param {{ num_output: 4 bias_filler {{ type: "{filler}" }} }}'
    problems, _, training = judged(HEAD.replace("inner_product_param { num_output: 4 }", options))
    if said:
        assert len(problems) == 1 and said in problems[0]
        return
    assert problems == [] and len(training) == 1
    assert training[0].startswith(f"2: layer 'ip': a bias_filler of type '{filler}' is not handled; constant,")


def test_what_a_forks_filler_would_fill_shows_until_it_is_loaded() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split.engine.model.net import Net

    options = 'inner_product_param { num_output: 4 bias_filler { type: "file" } }'
    net = Net(prototxt.parse(HEAD.replace("inner_product_param { num_output: 4 }", options), "net"), "TEST")
    assert np.isnan(net.forward({"x": np.ones((2, 3))}).blobs["ip"].detach().numpy()).all()
    net.load({"ip": [np.ones((4, 3)), np.zeros(4)]}, "w")
    assert (net.forward({"x": np.ones((2, 3))}).blobs["ip"].detach() == 3).all()


def test_a_dropout_of_everything_runs_in_test_alone() -> None:
    text = HEAD + 'layer { name: "d" type: "Dropout" bottom: "ip" top: "d" dropout_param { dropout_ratio: 1 } }'
    problems, _, training = judged(text)
    assert problems == [] and len(training) == 1 and "3: layer 'd': dropout_ratio: 1" in training[0]
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split.engine.model.net import Net

    assert Net(prototxt.parse(text, "net"), "TEST").outputs
    with pytest.raises(CaffeSplitError, match="divides by 0"):
        Net(prototxt.parse(text, "net"), "TRAIN")


def test_a_normalize_without_options_is_not_trained() -> None:
    """SSD's learns a factor."""
    problems, _, training = judged(HEAD + 'layer { name: "n" type: "Normalize" bottom: "ip" top: "n" }')
    assert problems == [] and len(training) == 1 and "3: layer 'n': without norm_param" in training[0]
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split.engine.model.net import Net

    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 1 dim: 1 } } }\n'
    net = Net(prototxt.parse(text + 'layer { name: "n" type: "Normalize" bottom: "x" top: "n" }', "net"), "TEST")
    x = np.random.default_rng(1).normal(size=(2, 3, 1, 1))
    found = net.forward({"x": x}).blobs["n"].numpy()
    np.testing.assert_allclose(found, x / np.sqrt((x**2).sum(1, keepdims=True)), rtol=1e-6)


def test_pooling_over_a_volume_is_read_and_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "n.prototxt"
    path.write_text(
        HEAD + 'layer { name: "p" type: "Pooling" bottom: "x" top: "p"\n'
        "pooling_param { kernel_size: 2\nkernel_size: 3 } }"
    )
    document = read_net(path, upgrade=True)
    problems, _ = judge(document, layers_of(document, NetState("TEST")))
    assert [(problem.line, problem.text) for problem in problems] == [
        (5, "layer 'p': kernel_size is given twice in one message, first at line 4")
    ]


def test_dropout_in_test_draws_where_a_fork_says_so() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split.engine.model.net import Net

    options = "dropout_param { dropout_ratio: 0.25 sample_weights_test: true %s }"
    for more, kept in (("", 1 / 0.75), ("scale_train: false", 1.0)):
        text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 5000 } } }\n'
        text += f'layer {{ name: "d" type: "Dropout" bottom: "x" top: "d" {options % more} }}'
        top = Net(prototxt.parse(text, "net"), "TEST").forward({"x": np.ones((4, 5000))}).blobs["d"].numpy()
        np.testing.assert_allclose(np.unique(top), [0, kept], rtol=1e-6)
        assert abs((top == 0).mean() - 0.25) < 0.02


def test_the_phase_that_is_asked_for_wins_over_the_nets_own_except_in_a_training(tmp_path: Path) -> None:
    text = (
        "state { phase: TEST }\n"
        + KNOWN
        + 'layer { name: "o" type: "ReLU" bottom: "p" top: "o" include { phase: TRAIN } }'
    )
    names = [layer.name for layer in layers_of(prototxt.parse(text, "net"), NetState("TRAIN"))]
    assert names == ["x", "ip", "p", "o"]
    with pytest.raises(CaffeSplitError, match=r":1: the net's own state asks for phase TEST always"):
        check_training(solver(tmp_path, text))


def test_an_old_type_of_a_fork_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "old.prototxt"
    text = 'input: "x" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4\n'
    path.write_text(text + 'layers { name: "c" type: CCCP bottom: "x" top: "y" }')
    document = read_net(path, upgrade=True)
    problems, _ = judge(document, layers_of(document, NetState("TEST")))
    assert [problem.text for problem in problems] == ["layer 'c': type CCCP is not handled"]


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ('type: "InnerProduct" bottom: "x" top: "y" inner_product_param { }', "num_output is missing"),
        ('type: "ReLU" bottom: "x" top: "y" param { }', "1 param for 0 blobs"),
        (
            'type: "Scale" bottom: "x" bottom: "x" top: "y" scale_param { bias_term: true } param { } param { }',
            "2 param for 1 blobs",
        ),
    ],
)
def test_the_check_refuses_what_a_net_refuses(layer: str, said: str) -> None:
    problems = judged(HEAD + f'layer {{ name: "l" {layer} }}')[0]
    assert len(problems) == 1 and said in problems[0]
