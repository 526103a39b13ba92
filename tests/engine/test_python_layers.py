"""Python layers by registered PyTorch classes, beside Caffe's own Python layers of the same formulas."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.engine.case import Case, layer
from tests.engine.runs import numbers, ours, write_training
from tests.support import caffe_split

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split import load
from caffe_split.engine import Net, python_layer
from caffe_split.engine.spec import python_layers
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from tests.engine.judge import built, compare, run_pycaffe, values

# Caffe's side: a smooth absolute value times the factor in param_str, and a loss, by hand.
CAFFE_LAYERS = """
import caffe
import numpy as np

class Smooth(caffe.Layer):
    def setup(self, bottom, top):
        self.factor = float(self.param_str)
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        self.root = np.sqrt(bottom[0].data ** 2 + 1)
        top[0].data[...] = self.factor * self.root
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff * self.factor * bottom[0].data / self.root

class Distance(caffe.Layer):
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        top[0].reshape(1)
    def forward(self, bottom, top):
        self.difference = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.difference ** 2) / len(self.difference)
    def backward(self, top, propagate_down, bottom):
        for index, sign in enumerate((1, -1)):
            bottom[index].diff[...] = sign * 2 * self.difference / len(self.difference) * top[0].diff[0]
"""
OURS = """
import torch
from caffe_split.engine import python_layer

@python_layer("formulas", "Smooth")
class Smooth:
    def __init__(self, param_str, phase):
        self.factor = float(param_str)

    def __call__(self, x):
        return self.factor * (x * x + 1).sqrt()

@python_layer("formulas", "Distance")
class Distance(torch.nn.Module):
    def __init__(self, param_str, phase):
        super().__init__()

    def shapes(self, bottoms):
        return [(1,)]

    def forward(self, a, b):
        return ((a - b) ** 2).sum().reshape(1) / len(a)
"""


def python(name: str, bottoms: str, top: str, more: str = "") -> str:
    options = f'python_param {{ module: "formulas" layer: "{name}" {more} }} '
    return layer("Python", bottoms, top, options).replace('"l"', f'"{name.lower()}"')


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(python_layers, "_KNOWN", {})
    Path("ours.py").write_text(OURS)
    yield
    sys.modules.pop("caffe_split_layers_ours", None)


@pytest.mark.caffe
def test_registered_classes_compute_what_caffes_python_layers_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("formulas.py").write_text(CAFFE_LAYERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    python_layers.load_python_layers("ours.py")
    text = python("Smooth", "x", "s", "param_str: '-1.5'") + python("Distance", "s t", "y")
    case = Case(text.replace('top: "y"', 'top: "y" loss_weight: 0.5'), {"x": (3, 2, 4), "t": (3, 2, 4)})
    rng = np.random.default_rng(1)
    given = values(case, built(case), rng)
    compare(case, given, run_pycaffe(tmp_path, {"case": case}, {"case": given})["case"])


class Batches:
    """A data layer: images of several sizes, in param_str, one after the other."""

    def __init__(self, param_str: str, phase: str) -> None:
        self.sizes = ast.literal_eval(param_str)
        self.phase, self.number = phase, 0

    def __call__(self) -> tuple[torch.Tensor, list[float]]:
        height, width = self.sizes[self.number % len(self.sizes)]
        self.number += 1
        return torch.full((1, 3, height, width), float(self.number)), [float(self.number)]


class Learnt(torch.nn.Module):
    """Factors per channel, learnt."""

    def __init__(self, param_str: str, phase: str) -> None:
        super().__init__()
        self.factors = torch.nn.Parameter(torch.full((3, 1, 1), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.factors).mean((2, 3))


FED = (
    """layer { name: "data" type: "Python" top: "x" top: "n" python_param { module: "m" layer: "Batches"
  param_str: "[(4, 5), (3, 2), (6, 6)]" } }
"""
    + layer("Python", "x", "y", 'python_param { module: "m" layer: "Learnt" }')
    + layer("Reduction", "y", "loss", "loss_weight: 1").replace('"l"', '"sum"')
)


def test_batches_of_any_size_and_learnt_parameters() -> None:
    python_layer("m", "Batches")(Batches)
    python_layer("m", "Learnt")(Learnt)
    net = Net(prototxt.parse(FED, kind="net"), "TRAIN")
    assert net.shapes["x"] == (1, 3, 4, 5) and [tuple(blob.shape) for blob in net.arrays()["l"]] == [(3, 1, 1)]
    for number, size in enumerate([(4, 5), (3, 2), (6, 6), (4, 5)], 1):
        out = net.forward(keep=True)
        assert out.blobs["x"].shape[2:] == size and out.blobs["n"].tolist() == [number]
        assert out.loss.item() == pytest.approx(6 * number)
    out.loss.backward()
    assert net.params[0].values.grad is not None and net.params[0].values.grad.sum().item() == pytest.approx(12)
    net.load({"l": [np.full((3, 1, 1), 0.5)]}, "given")
    assert net.forward().loss.item() == pytest.approx(1.5 * 5)
    later = Net(prototxt.parse(FED, kind="net"), "TRAIN")
    later.go_to(2)
    assert later.forward(keep=True).blobs["n"].tolist() == [3]


class Normed(torch.nn.Module):
    """Buffers of several kinds: running statistics, a count of batches, a constant that is not kept, a new tensor."""

    running: torch.Tensor

    def __init__(self, param_str: str, phase: str) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3, momentum=None)
        self.register_buffer("running", torch.zeros(3))
        self.register_buffer("one", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nothing = 0 * self.norm.weight * self.running  # the backward pass reads it as it was
        if self.training:
            self.running = self.running + x.mean(0)
        return self.norm(x * self.one) + nothing


NORMED = (
    """layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 8 dim: 3 }
  data_filler { type: "gaussian" mean: 5 } } }
"""
    + layer("Python", "x", "y", 'python_param { module: "m" layer: "Normed" } param { } param { lr_mult: 0 }')
    + layer("Reduction", "y", "loss", "loss_weight: 1 reduction_param { operation: SUMSQ }").replace('"l"', '"sum"')
)


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_buffers_are_state_of_the_training(tmp_path: Path, form: str) -> None:
    """Tests use those of TRAIN, snapshots have them, and a resumed training goes on with them."""
    python_layer("m", "Normed")(Normed)
    write_training(tmp_path, f'base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" snapshot_format: {form}', 8, net=NORMED)
    text = Path("solver.prototxt").read_text()
    whole, log = ours("solver.prototxt")
    blobs = whole.net.arrays()["l"]
    factor, shift, running, mean, _, count = blobs
    assert [param.lr_mult for param in whole.net.params] == [1, 0, 0, 0, 0, 0] and np.abs(shift).max() == 0
    assert float(count) == 8 + 1 and np.abs(running - 9 * mean).max() < 1e-4 and abs(mean.mean() - 5) < 0.3
    assert all(a is b for a, b in zip(whole.net.layers[1].blobs, whole.test_nets[0].layers[1].blobs))
    tests = numbers(log)["Test net output #0: loss"]
    assert tests[1] < 4 * 24 * float(factor.max()) ** 2
    Path("solver.prototxt").write_text(text.replace("max_iter: 8", "max_iter: 4"))
    ours("solver.prototxt")
    Path("solver.prototxt").write_text(text)
    again, _ = ours("solver.prototxt", snapshot="auto")
    assert all(np.array_equal(a, b) for a, b in zip(again.net.arrays()["l"], blobs))
    Path("solver.prototxt").write_text(text)
    Path("net.prototxt").write_text(NORMED.replace("param { }", "param { } param { } param { lr_mult: 2 }"))
    with pytest.raises(CaffeSplitError, match="blob 2 is state, which is not learnt"):
        ours("solver.prototxt")


def test_a_pytorch_module_has_them_as_buffers() -> None:
    python_layer("m", "Normed")(Normed)
    Path("net.prototxt").write_text(NORMED)
    module = load("net.prototxt", inputs={"x": (8, 3)})
    assert [name for name, _ in module.named_parameters()] == ["l.weight", "l.bias"]
    assert [name for name, _ in module.named_buffers()] == [f"l.blob{index}" for index in range(2, 6)]
    module.train()(torch.full((8, 3), 4.0))
    assert module.eval().state_dict()["l.blob3"].tolist() == [4, 4, 4]


def test_a_module_is_imported_only_if_the_user_names_it(tmp_path: Path) -> None:
    Path("formulas.py").write_text("raise SystemExit('imported')")
    text = FED.replace('"m"', '"formulas"')
    with pytest.raises(CaffeSplitError) as said:
        Net(prototxt.parse(text, kind="net"), "TRAIN")
    assert 'no PyTorch class is known for layer: "Batches" of module: "formulas"' in str(said.value)
    assert str(said.value).count("--python-layers") == 2  # one line per layer


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("import nowhere_at_all", "own.py", "No module named 'nowhere_at_all'"),
        ("def broken(:", "own.py", "own.py: SyntaxError"),
        ("x = 1", "own.py", "registers no class"),
        (None, "own.py", "no such file seen from"),
        (None, "own_layers", "No module named 'own_layers'"),
    ],
)
def test_what_cannot_be_imported_is_said(text: str | None, name: str, expected: str) -> None:
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(CaffeSplitError, match="--python-layers") as said:
        python_layers.load_python_layers(name)
    assert expected in str(said.value)


def test_errors_in_a_class_name_the_layer_and_the_line() -> None:
    text = OURS.replace("(a - b)", "(a - c)")
    Path("ours.py").write_text(text)
    python_layers.load_python_layers("ours.py")
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ dim: 2 }} }} }}\n'
        for name in "st"
    )
    net = Net(prototxt.parse(inputs + python("Distance", "s t", "y"), kind="net"), "TEST")
    with pytest.raises(CaffeSplitError, match=r"layer 'distance' \(line 3\): .*ours.py:22: NameError: name 'c'"):
        net.forward()
    with pytest.raises(CaffeSplitError, match="its class gives 1 tops; the layer has 2"):
        Net(prototxt.parse(inputs + python("Distance", "s t", "y z"), kind="net"), "TEST")


def test_a_command_trains_with_them(tmp_path: Path) -> None:
    head = """layer { name: "data" type: "Data" top: "data" top: "label"
  data_param { source: "train" batch_size: 8 backend: LMDB } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "x"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "quiet" type: "Silence" bottom: "label" }
"""
    net = head + python("Smooth", "x", "s", "param_str: '0.5'") + layer("Reduction", "s", "y", "loss_weight: 1")
    write_training(tmp_path, 'base_lr: 1e-6 lr_policy: "fixed" snapshot_after_train: false', 3, net=net)
    said = caffe_split("train", "solver.prototxt", "--engine", "torch", cwd=tmp_path, status=1).stderr
    assert "--python-layers FILE.py" in said and not Path("train.log").exists()
    caffe_split("train", "solver.prototxt", "--engine", "torch", "--python-layers", "ours.py", cwd=tmp_path)
    assert "Iteration 2 " in Path("train.log").read_text()
