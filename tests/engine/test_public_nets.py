"""The check of a net's text takes what people published, without any file, and names what it refuses.

`public_nets/` holds nets in the forms in which people published them in 2014-2019, written anew and small: each has the
layers, fields and spelling of its kind, with few channels.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_split.engine.spec.support import Problem, judge, judge_training, lacking_files, layers_of
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import Layer
from caffe_split.net.state import NetState

NETS = {path.stem: path for path in sorted(Path(__file__).with_name("public_nets").glob("*.prototxt"))}
# Nets that have no layer that gives data in that state, as Caffe says too.
ONLY_TRAIN = {
    *("inception_train", "siamese", "windows", "deeplab_train", "unet_train", "hed_train", "yolo_v3_train", "lstm"),
    *("tsn_train", "autoencoder", "nvcaffe", "faces_train", "sphere_train", "am_softmax_train"),
}
STAGES = {"digits": {"TRAIN": "train", "TEST": "val"}}
# Nets that run and are not trained, since their loss is not known.
NOT_TRAINED = {"yolo_v3_train": "its type YoloV3Loss is not known: without this loss the net is run, and not trained"}
CASES = [(name, phase) for name in NETS for phase in ("TRAIN", "TEST")]


def opened(name: str, phase: str) -> tuple[prototxt.Document, list[Layer]]:
    document = read_net(NETS[name], upgrade=True)
    stages = (STAGES[name][phase],) if name in STAGES else ()
    return document, layers_of(document, NetState(phase, stages))


def problems(name: str, phase: str) -> list[Problem]:
    return judge(*opened(name, phase))[0]


@pytest.mark.parametrize(("name", "phase"), CASES)
def test_the_text_of_public_nets_passes(name: str, phase: str) -> None:
    found = problems(name, phase)
    if phase == "TEST" and name in ONLY_TRAIN:
        assert "is no top of a layer above it in this phase" in found[0].text
    else:
        assert not found


@pytest.mark.parametrize("name", NETS)
def test_nets_are_trained_whose_losses_are_known(name: str) -> None:
    found = [problem for problem in judge_training(*opened(name, "TRAIN")) if "not trained" in problem.text]
    assert len(NETS) > 60 and len(found) == (name in NOT_TRAINED)
    assert not found or (NOT_TRAINED[name] in found[0].text and found[0].line > 1)


@pytest.mark.parametrize("name", [name for name, path in NETS.items() if b"Input" in path.read_bytes()])
def test_the_shapes_of_deploy_nets_are_known(name: str) -> None:
    _, layers = opened(name, "TEST")
    unknown = infer_shapes(layers).unknown
    python = [layer.name for layer in layers if layer.type == "Python"]
    assert name in STAGES or not unknown or next(iter(unknown)) in python


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v1", "no LevelDB"),
        ("train_val", "no LMDB"),
        ("images", "source: no file"),
        ("regression", "source: no file"),
        ("windows", "source: no file"),
        ("fcn_train", "no PyTorch class is known"),
    ],
)
def test_what_is_not_there_is_asked_for_apart(name: str, said: str) -> None:
    assert said in str(lacking_files(*opened(name, "TRAIN")))


def test_losses_without_a_top_get_one() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split.engine.model.net import Net

    def net(tops: tuple[str, str]) -> Net:
        text = 'layer { name: "d" type: "DummyData" top: "x" top: "t" dummy_data_param { shape { dim: 2 dim: 3 } shape '
        text += '{ dim: 2 dim: 3 } data_filler { type: "gaussian" } } }\n'
        for name, top in zip("ab", tops):
            text += f'layer {{ name: "{name}" type: "EuclideanLoss" bottom: "x" bottom: "t" {top} loss_weight: 2 }}\n'
        return Net(prototxt.parse(text, "net"), "TRAIN", seed=1)

    automatic, named = net(("", "")), net(('top: "a"', 'top: "b"'))
    assert automatic.outputs == ["(automatic)", "(automatic) of b"]
    assert float(automatic.forward().loss) == float(named.forward().loss) > 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"ReLU"', '"ReLu"', "type ReLu is not handled; did you mean ReLU?"),
        ('"ReLU"', '"RELU"', "type RELU is not handled; did you mean ReLU?"),
        ('"ReLU"', '"Foo"', "type Foo is not handled"),
        ("{ phase: TEST }", '{ stage: "deploy" }', "layer 'data' of line 1 gives it with stage deploy"),
        ("{ phase: TEST }", "{ phase: TRAIN }", "layer 'data' of line 1 gives it in phase TRAIN"),
        ('bottom: "data"', 'bottom: "dat"', "bottom 'dat' is no top of a layer above it in this phase"),
    ],
)
def test_a_slip_is_named_with_what_was_meant(old: str, new: str, message: str) -> None:
    text = (
        'layer { name: "data" type: "Input" top: "data" include { phase: TEST } input_param { shape { dim: 2 } } }\n'
        'layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }\n'
    ).replace(old, new)
    document = prototxt.parse(text, "net")
    found, _ = judge(document, layers_of(document, NetState("TEST")))
    assert len(found) == 1 and found[0].text.endswith(message)
