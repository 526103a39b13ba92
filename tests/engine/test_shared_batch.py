"""Each layer gives the same on two halves of a batch as on the whole, forward and backward, or is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.engine import cases_recurrent
from tests.engine.case import Case, layer
from tests.engine.cases import CASES
from tests.engine.fork_cases_more import JUDGED
from tests.engine.runs import near

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.model.net import Net
from caffe_split.engine.parallel.group import ALONE
from caffe_split.formats import prototxt
from tests.engine.processes_job import run

FEW = 'layer { name: "few" type: "Parameter" top: "s" parameter_param { shape { dim: 3 dim: 2 } } }\n'
MORE = {
    "scale_by_record": Case(layer("Scale", "x s", options="scale_param { axis: 0 }"), {"x": (4, 3, 2), "s": (4, 3)}),
    "same": Case(FEW + layer("Scale", "x s"), {"x": (4, 3, 2)}),
    "mean_of_sums": Case(
        layer("Reduction", "x", "s", "reduction_param { axis: 1 operation: SUMSQ }").replace('"l"', '"r"')
        + layer("Reduction", "s", "y", "reduction_param { operation: MEAN coeff: 3 }"),
        {"x": (4, 3)},
    ),
    "loss_of_losses": Case(
        layer("EuclideanLoss", "x z", "a").replace('"l"', '"a"')
        + layer("EuclideanLoss", "z x", "b").replace('"l"', '"b"')
        + layer("Eltwise", "a b", options="eltwise_param { coeff: 2 coeff: 3 }"),
        {"x": (4, 3), "z": (4, 3)},
    ),
    "all_values": Case(layer("Reshape", options="reshape_param { shape { dim: -1 } }"), {"x": (4, 3)}),
}
# Of layers of forks those that random bottoms suit. BN takes the statistics of a process's part, as BatchNorm does.
MORE.update(
    {
        name: replace(judged.case, inputs={blob: (2 * n, *rest) for blob, (n, *rest) in judged.case.inputs.items()})
        for name, judged in JUDGED.items()
        if judged.bottoms is None and (judged.case.phase == "TEST" or "norm_" not in name) and "bn_" not in name
    }
)
REFUSED = {
    **dict.fromkeys(cases_recurrent.CASES, "the first axis of its bottoms is time"),
    **dict.fromkeys(("batch_reindex", "filter", "filter_long_selector"), "are those of the whole batch"),
    "bias_bottom": "do not go together record by record",
    "scale_bottom": "do not go together record by record",
    "scale_all_axes": "learns a value for each record",
    "scale_bottom_bias": "learns a value for each record",
    "conv_axis_first": "its axis is that of the records",
    **dict.fromkeys(("infogain", "infogain_sure"), "its matrix 'h' is not the same in all"),
    "mil": "its rows are regions of several images",
    "transpose": "it moves the axis of the records",
    "concat_records": "its axis is that of the records",
    "concat_old": "its concat_dim is that of the records",
    "slice_records": "its axis is that of the records",
    "softmax_records": "its axis is that of the records",
    "fixed": "it fixes the length of the first axis to 4",
    "square_of_mean": "its bottoms ('s' a mean over the batch) are not all of single records",
    "shifted_sum": "its bottoms ('s' a sum over the batch) are not all of single records",
    "loss_of_few": "do not hold records",
    "smooth_l1_ohem": "it compares all records of a batch",
    "sum_of_kinds": "of several kinds ('m' a mean over the batch, 's' a sum over the batch)",
}
SUM = layer("Reduction", "x", "s").replace('"l"', '"r"')
MEAN = layer("Reduction", "x", "m", "reduction_param { operation: MEAN }").replace('"l"', '"m"')
ODD = {
    "concat_records": Case(layer("Concat", "x z", options="concat_param { axis: 0 }"), {"x": (4, 3), "z": (4, 3)}),
    "concat_old": Case(layer("Concat", "x z", options="concat_param { concat_dim: 0 }"), {"x": (4, 3), "z": (4, 3)}),
    "slice_records": Case(layer("Slice", "x", "y z", "slice_param { axis: -2 }"), {"x": (4, 3)}),
    "softmax_records": Case(layer("Softmax", options="softmax_param { axis: 0 }"), {"x": (4, 3)}),
    "fixed": Case(layer("Reshape", options="reshape_param { shape { dim: 4 dim: -1 } }"), {"x": (4, 4)}),
    "square_of_mean": Case(
        MEAN.replace('"m"', '"s"') + layer("Power", "s", options="power_param { power: 2 }"), {"x": (4, 3)}
    ),
    "shifted_sum": Case(SUM + layer("Power", "s", options="power_param { shift: 2 }"), {"x": (4, 3)}),
    "loss_of_few": Case(
        FEW + FEW.replace('"few"', '"more"').replace('"s"', '"t"') + layer("EuclideanLoss", "s t"), {"x": (4, 3)}
    ),
    "sum_of_kinds": Case(MEAN + SUM + layer("Eltwise", "m s"), {"x": (4, 3)}),
}


def doubled(case: Case) -> Case:
    case.inputs = {name: (2 * shape[0], *shape[1:]) for name, shape in case.inputs.items()}
    return case


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parted")
    cases = {name: doubled(make(np.random.default_rng([*name.encode()]))) for name, make in CASES.items()}
    for name, case in {**cases, **MORE, **ODD}.items():
        rng = np.random.default_rng([*name.encode()])
        (folder / f"{name}.prototxt").write_text(case.prototxt())
        given: dict[str, object] = {"phase": case.phase}
        if name not in REFUSED:
            net = Net(prototxt.parse(case.prototxt(), kind="net"), case.phase)
            for blob, shape in case.inputs.items():
                drawn = np.abs(rng.normal(size=shape)) + 0.1 if blob in case.positive else rng.normal(size=shape)
                given[f"blob:{blob}"] = (
                    rng.integers(case.integers[blob], size=shape) if blob in case.integers else drawn
                ).astype(np.float32)
            for param in net.params:
                drawn = np.abs(rng.normal(size=tuple(param.values.shape))) + 0.5
                given[f"param:{param.layer}:{param.index}"] = drawn.astype(np.float32)
            for top in case.tops:
                given[f"diff:{top}"] = rng.normal(size=net.shapes[top]).astype(np.float32)
        np.savez(folder / f"{name}.in.npz", **given)  # type: ignore[arg-type]
    (folder / "jobs.json").write_text(json.dumps([{"name": "all", "folder": str(folder), "size": 2, "layers": True}]))
    script = Path(__file__).with_name("processes_job.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(folder / "jobs.json")], check=True, timeout=300, env=environment)
    return folder


@pytest.mark.parametrize("name", [name for name in (*CASES, *MORE) if name not in REFUSED])
def test_two_halves_give_what_the_whole_batch_gives(parted: Path, name: str) -> None:
    with np.load(parted / f"{name}.in.npz") as arrays:
        given = dict(arrays)
    phase = str(given.pop("phase"))
    whole = run(Net(prototxt.parse((parted / f"{name}.prototxt").read_text(), kind="net"), phase), given, ALONE)
    for rank in range(2):
        with np.load(parted / f"{name}.{rank}.npz") as ours:
            assert set(ours.files) == set(whole)
            for key in whole:
                near(ours[key], whole[key], 1e-5 if "diff" not in key else 1e-4, f"{name} {key}")


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_mixes_records_is_refused(parted: Path, name: str) -> None:
    said = [(parted / f"{name}.{rank}.refused").read_text() for rank in range(2)]
    assert REFUSED[name] in said[0] and said[0] == said[1]
    assert f"{name}.prototxt" in said[0]
