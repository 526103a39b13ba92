"""The records of layer types: no type is known in one place and forgotten in another."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import caffe_split.engine.layers
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.old_types import V1_TYPES, V1_TYPES_OF_FORKS
from caffe_split.formats.prototxt.proto2 import with_forks
from caffe_split.layertypes import records
from caffe_split.layertypes.record import LayerType
from caffe_split.layertypes.records import arrangement, loss, pointwise
from caffe_split.layertypes.shape_rules import same
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.layertypes.table import RECORDS, record_of
from caffe_split.net.layers import Layer, phase_layers
from caffe_split.plot.draw import draw_svg
from tests.engine.cases import CASES as ENGINE_CASES
from tests.layertypes.shape_cases import CASES, net_of
from tests.support import ROOT

every_type = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
PARAMS = {
    name: field for name, field in with_forks().messages["LayerParameter"].fields.items() if name.endswith("_param")
}


def layer_of(text: str) -> Layer:
    return phase_layers(prototxt.parse(text, "net"), "TRAIN")[-1]


# -- nothing is missing


def test_every_option_message_of_the_schema_is_read_by_a_type() -> None:
    assert {name for record in RECORDS.values() for name in record.options} == set(PARAMS)


def test_every_type_of_the_old_forms_has_a_record() -> None:
    assert {*V1_TYPES.values(), *V1_TYPES_OF_FORKS.values()} - {""} <= set(RECORDS)


def test_every_record_of_a_family_is_in_the_table_once() -> None:
    families = [
        importlib.import_module(f"{records.__name__}.{info.name}") for info in pkgutil.iter_modules(records.__path__)
    ]
    names = [record.name for family in families for record in family.RECORDS]
    assert sorted(names) == sorted(RECORDS)


@every_type
def test_every_record_has_a_shape_rule_or_a_reason(record: LayerType) -> None:
    if isinstance(record.shapes, str):
        text = f'layer {{ name: "x" type: "{record.name}" top: "y" }}'
        unknown = infer_shapes(phase_layers(prototxt.parse(text, "net"), "TRAIN")).unknown
        assert record.shapes and record.shapes in unknown["x"]
    else:
        assert callable(record.shapes)


@every_type
def test_every_record_is_described_and_drawn(record: LayerType) -> None:
    for options in ("", *(f"{name} {{ }}" for name in record.options)):
        for bottoms in ("", ' bottom: "c"', ' bottom: "c" bottom: "data"'):
            text = 'layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 2 } }'
            text += f'layer {{ name: "x" type: "{record.name}"{bottoms} top: "y" {options} }}'
            words = record.words(layer_of(text))
            assert words and all(words)
            assert "<svg" in draw_svg(prototxt.parse(text, "net"), "TRAIN")


@pytest.mark.parametrize("name", CASES)
def test_every_type_is_drawn_with_real_settings(name: str) -> None:
    assert "<svg" in draw_svg(prototxt.parse(net_of([name]), "net"), "TRAIN")


# -- the engine


def engine_classes() -> Iterator[tuple[str, str]]:
    """(module, class) of every layer of the engine that can run."""
    pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split.engine.layers.base import Layer as Base

    for info in pkgutil.iter_modules(caffe_split.engine.layers.__path__):
        module = importlib.import_module(f"caffe_split.engine.layers.{info.name}")
        for name, value in vars(module).items():
            own = isinstance(value, type) and issubclass(value, Base) and value.__module__ == module.__name__
            if own and not name.startswith("_") and value.run is not Base.run:
                yield info.name, name


def test_every_record_with_an_engine_has_a_class_and_every_class_a_record() -> None:
    recorded = {
        (record.engine.module, record.engine.class_name or name) for name, record in RECORDS.items() if record.engine
    }
    assert set(engine_classes()) == recorded


@every_type
def test_the_page_of_the_engine_names_every_type(record: LayerType) -> None:
    assert re.search(rf"\b{record.name}\b", (ROOT / "docs/engine.md").read_text(encoding="utf-8"))


@every_type
def test_what_the_engine_runs_several_processes_can_judge(record: LayerType) -> None:
    assert (record.batch is None) == (record.engine is None)


@every_type
def test_fields_are_those_of_the_schema(record: LayerType) -> None:
    ignored = set(record.engine.ignored) if record.engine else set()
    known = set(PARAMS)
    for name, fields in record.options.items():
        message = PARAMS[name].message
        assert message is not None
        assert set(fields.split()) <= set(message.fields), name
        assert not set(fields.split()) & ignored
        known |= set(message.fields) | {f"{name}.{field}" for field in message.fields}
    assert ignored <= known | {"*"}
    assert record.engine is None or all(reason for reason in record.engine.ignored.values())


def overwritable() -> Iterator[str]:
    """The engine's cases whose last layer lets its top be overwritten."""
    for name, make in ENGINE_CASES.items():
        case = make(np.random.default_rng(1))
        last = phase_layers(prototxt.parse(case.prototxt(), kind="net"), case.phase)[-1]
        engine = record_of(last.type).engine
        if engine is not None and engine.lets_overwrite(last):
            yield name


@pytest.mark.parametrize("name", list(overwritable()))
def test_a_top_may_be_overwritten_where_its_record_says_so(name: str) -> None:
    """Going back after the values of the top are gone: PyTorch refuses it where the gradient needs them."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
    from caffe_split.engine.model.net import Net

    case = ENGINE_CASES[name](np.random.default_rng(1))
    net = Net(prototxt.parse(case.prototxt(), kind="net"), case.phase)
    inputs = {blob: torch.rand(shape, requires_grad=blob not in case.integers) for blob, shape in case.inputs.items()}
    top = net.forward(inputs, keep=True).blobs[case.tops[0]]
    top.detach().zero_()
    top.sum().backward()


# -- families


@every_type
def test_types_that_keep_channels_do(record: LayerType) -> None:
    """Their tops have the channels of their first bottom; and types whose tops have its shape are among them."""
    if record.shapes is same and record.name != "LSTMUnit":  # Its second bottom has four times as many.
        assert record.keeps_channels
    if not record.keeps_channels:
        return
    layers = phase_layers(prototxt.parse(net_of([record.name]), "net"), "TRAIN")
    shapes = infer_shapes(layers)
    tried = 0
    for layer in layers:
        if layer.type == record.name:
            tried += 1
            assert {shapes.blobs[top][1] for top in layer.tops} == {shapes.blobs[layer.bottoms[0]][1]}
    assert tried


def test_types_that_join_a_box_change_no_shape() -> None:
    joining = {name for name, record in RECORDS.items() if record.joins_box}
    assert joining >= {record.name for record in pointwise.RECORDS} >= {"Swish", "Clip", "ReLU", "Dropout"}
    assert all(RECORDS[name].keeps_channels for name in joining)
    assert not joining & {record.name for family in (arrangement, loss) for record in family.RECORDS}


def test_losses_are_the_types_that_caffe_calls_so() -> None:
    assert {name for name, record in RECORDS.items() if record.is_loss} == {
        name for name in RECORDS if name.endswith(("Loss", "LossOHEM"))
    }


def test_a_type_that_is_not_caffes_has_a_record_without_knowledge() -> None:
    record = record_of("MyOwn")
    assert record.shapes == "the type is not one of Caffe's own" and record.engine is None and record.batch is None
    assert record.words(layer_of('layer { name: "x" type: "MyOwn" }')) == ["MyOwn"]
    assert not (record.joins_box or record.keeps_channels or record.has_kernels or record.is_loss)


# -- without PyTorch


BLOCKED = """
import importlib, pkgutil, sys
sys.modules["torch"] = None
import caffe_split.engine.spec, caffe_split.layertypes
for package in (caffe_split.layertypes, caffe_split.engine.spec):
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(info.name)
        print(info.name)
"""


def test_records_and_spec_need_no_pytorch() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert {"caffe_split.layertypes.records.pooling", "caffe_split.engine.spec.support"} <= set(done.stdout.split())
