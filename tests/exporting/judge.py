"""Exported models held against the engine: a net from its text, random weights and inputs, the model in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from caffe_split.engine.model.net import Net
from caffe_split.exporting.make import DEFAULTS, export
from caffe_split.exporting.options import ExportOptions
from caffe_split.formats import prototxt
from caffe_split.formats.onnx import write
from caffe_split.formats.onnx.graph import Model
from caffe_split.formats.weights.caffemodel import write_weights
from tests.engine.cases import Case
from tests.engine.judge import values

Arrays = Mapping[str, np.ndarray]


def exported(folder: Path, text: str, given: Arrays, options: ExportOptions = DEFAULTS) -> Model:
    """The model of a net of which `given` holds the parameters, under the names of tests.engine.judge."""
    net, weights = folder / "net.prototxt", folder / "net.caffemodel"
    net.write_text(text)
    blobs: dict[str, list[np.ndarray]] = {"of no layer": [np.zeros(1)]}
    for key, array in given.items():
        if key.startswith("param:"):
            blobs.setdefault(key[6:].rpartition(":")[0], []).append(array)
    write_weights(weights, blobs)
    return export(net, weights, out=folder / "net.onnx", options=options).model


def run_model(model: Model, inputs: Arrays) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(b"".join(write.pieces(model)), options, providers=["CPUExecutionProvider"])
    wanted = {each.name for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: array for name, array in inputs.items() if name in wanted})))


def run_engine(text: str, given: Arrays, inputs: Arrays) -> dict[str, np.ndarray]:
    net = Net(prototxt.parse(text, "net"), "TEST", inputs={name: array.shape for name, array in inputs.items()})
    with torch.no_grad():
        for param in net.params:
            param.values.copy_(torch.tensor(given[f"param:{param.layer}:{param.index}"]))
        return {name: blob.numpy() for name, blob in net.forward(inputs, keep=True).blobs.items()}


def drawn(case: Case, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(parameters, inputs) of a case."""
    net = Net(prototxt.parse(case.prototxt(), "net"), "TEST")
    given = values(case, net, rng)
    return given, {key[5:]: array for key, array in given.items() if key.startswith("blob:")}


def compare(model: Model, found: Arrays, expected: Arrays, tolerance: float = 1e-5) -> None:
    """Every output is there, in Caffe's shape, and differs by at most the tolerance, relative to its largest value."""
    assert found and set(found) == {output.name for output in model.graph.outputs}
    for name, array in found.items():
        assert array.shape == expected[name].shape, name
        most = np.abs(expected[name]).max(initial=0)
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=tolerance * max(most, 1e-6), err_msg=name)
