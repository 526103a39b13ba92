"""Every layer type that the engine runs, exported and run by onnxruntime: it gives what the engine gives."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from caffe_split import CaffeSplitError
from caffe_split.exporting.options import OLDEST_OPSET, ExportOptions
from caffe_split.exporting.table import CANNOT, EXPORTERS, left_out
from caffe_split.formats.onnx.write import newest_opset
from caffe_split.layertypes.table import RECORDS
from tests.engine.cases import CASES, Case
from tests.exporting.judge import compare, drawn, exported, run_engine, run_model

OPSETS = (OLDEST_OPSET, ExportOptions().opset, min(newest_opset(), 23))
GIVING = {"Input", "Data", "ImageData", "HDF5Data", "MemoryData", "WindowData"}


def made(name: str, seed: int) -> tuple[Case, np.random.Generator]:
    rng = np.random.default_rng([seed, *name.encode()])
    return CASES[name](rng), rng


def is_exported(name: str) -> bool:
    case, _ = made(name, 0)
    return not left_out(case.text.rpartition('type: "')[2].split('"')[0])


NAMES = [name for name in CASES if is_exported(name)]


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_gives_what_the_engine_gives(name: str, tmp_path: Path) -> None:
    """In one of the versions of operators, by its number; and at other sizes, where these may vary."""
    case, rng = made(name, 1)
    given, inputs = drawn(case, rng)
    opset = OPSETS[NAMES.index(name) % len(OPSETS)]
    model = exported(tmp_path, case.prototxt(), given, ExportOptions(opset))
    compare(model, run_model(model, inputs), run_engine(case.prototxt(), given, inputs))
    for word, axis, more in (("batch", 0, 1), ("height", 2, 3), ("width", 3, 2)):
        try:
            model = exported(tmp_path, case.prototxt(), given, ExportOptions(opset, (word,)))
        except CaffeSplitError as error:
            if "layer 'l'" not in str(error):
                raise
            continue
        longer = {
            key: np.concatenate([array, array.take(range(more), axis, mode="wrap")], axis)
            if array.ndim > axis and (axis == 0 or array.ndim == 4)
            else array
            for key, array in inputs.items()
        }
        compare(model, run_model(model, longer), run_engine(case.prototxt(), given, longer))


def test_each_type_that_the_engine_runs_is_expressed_or_said_not_to_be() -> None:
    run = {name for name, record in RECORDS.items() if record.engine and not left_out(name)}
    assert run - EXPORTERS.keys() - CANNOT.keys() == GIVING
    assert not EXPORTERS.keys() & CANNOT.keys()
    assert EXPORTERS.keys() | CANNOT.keys() <= RECORDS.keys()
