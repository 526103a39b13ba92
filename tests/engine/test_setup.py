"""What Caffe checks when it sets up a layer, the engine checks too, before it trains.

`setup_checks.txt` lists the conditions of each type that the engine handles, from `LayerSetUp`, `Reshape`, `Net::Init`
and the fillers in Caffe's source: for each, nets that just hold it (+) and nets that violate it (-). A line gives the
shapes of the inputs a, b, ...; then layers as TYPE BOTTOMS > TOPS | OPTIONS, where @ is the type of the condition.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.model.net import Net
from caffe_split.engine.spec.support import judge_training, layers_of
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.layertypes.record import ANY
from caffe_split.layertypes.records import fork_data
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.layertypes.table import RECORDS
from caffe_split.net.state import TRAIN, NetState
from tests.layertypes.shape_cases import FORKS

# Types without a condition of their own beside the number of bottoms and tops; TPM is the project's own.
UNCONDITIONAL = {
    *("BNLL", "Clip", "Dropout", "ELU", "Parameter", "Power", "Sigmoid", "Silence", "Swish", "TanH", "Threshold", "TPM")
}
# Their conditions are about files, and classes.
OF_FILES = {"Data", "HDF5Data", "HDF5Output", "ImageData", "Python", "WindowData"}


@dataclass
class Condition:
    """A condition of a type: `good` and `bad` are whole nets; `said` is in the engine's refusal."""

    type: str
    text: str
    said: str
    good: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


def net(line: str, kind: str) -> str:
    """The net of a line of the table."""
    shapes, _, layers = line.partition(":")
    text = ""
    for name, shape in zip("abcdef", shapes.split()):
        dims = "" if shape == "scalar" else " ".join(f"dim: {n}" for n in shape.split("x"))
        text += f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
    for name, layer in zip("lr", layers.split(";")):
        wires, _, options = layer.partition("|")
        before, _, tops = wires.partition(">")
        type_name, *bottoms = before.split()
        blobs = [f'bottom: "{blob}"' for blob in bottoms] + [f'top: "{blob}"' for blob in tops.split()]
        head = f'name: "{name}" type: "{type_name}" {" ".join(blobs)} {options}'.replace(
            "@_param", f"{kind.lower()}_param"
        )
        text += f"layer {{ {head.replace('@', kind)} }}\n"
    return text


def conditions() -> Iterator[Condition]:
    now: list[Condition] = []
    for line in Path(__file__).with_name("setup_checks.txt").read_text().splitlines():
        if not line.startswith(" "):
            yield from now
            types, _, text = line.partition(": ")
            text, _, said = text.partition("  [")
            now = [Condition(kind, text, said.rstrip("]")) for kind in types.split()]
        else:
            for each in now:
                (each.good if line.split()[0] == "+" else each.bad).append(net(line.split(None, 1)[1], each.type))
    yield from now


CONDITIONS = list(conditions())


def counts() -> Iterator[str]:
    """Nets of a layer with one bottom or top too few or too many, of each type."""
    for name, record in RECORDS.items():
        if record.engine is None or name in OF_FILES | {"TPM"}:
            continue
        (least_in, most_in), (least_out, most_out) = record.engine.bottoms, record.engine.tops
        # A second top of these stands in Caffe, or falls over another of its checks.
        most_out = ANY if name in ("SoftmaxWithLoss", "Pooling") else most_out
        # Caffe makes the top of a loss that has none.
        least_out = 0 if record.is_loss else least_out
        for bottoms, tops in (
            (least_in - 1, least_out),
            (most_in + 1, least_out),
            (least_in, least_out - 1),
            (least_in, most_out + 1),
        ):
            if 0 <= bottoms < ANY and 0 <= tops < ANY and (bottoms or tops or least_in):
                yield net(
                    f"{'2x4 ' * bottoms}: {name} {' '.join('abcdef'[:bottoms])} > {' '.join('tuvwxyz'[:tops])}", name
                )


def refusal(text: str) -> str | None:
    """The engine's refusal of a net, or of its training; None if it takes it."""
    document = prototxt.parse(text, kind="net")
    try:
        Net(document, "TRAIN")
    except CaffeSplitError as error:
        return str(error)
    # What a filler of a type that is not known would fill matters in trainings alone.
    problems = judge_training(document, layers_of(document, NetState("TRAIN")))
    return next((problem.text for problem in problems if "filler" in problem.text), None)


# Conditions on how the shapes of several bottoms go together, which the shape rules hold by themselves.
TOGETHER = re.compile(
    "as many|a label|labels|one shape|same shape|second bottom|of one length|within the bounds|a square matrix|in each"
)


@pytest.mark.parametrize("held", CONDITIONS, ids=lambda held: f"{held.type}: {held.text}")
def test_shapes_are_known_of_what_caffe_takes_and_bottoms_that_do_not_fit_each_other_are_refused(
    held: Condition,
) -> None:
    for text in held.good:
        assert not inferred_refusal(text), text
    inferred = RECORDS[held.type].engine is not None and not isinstance(RECORDS[held.type].shapes, str)
    of_bottoms = TOGETHER.search(held.text) and "as many tops" not in held.text and inferred
    for text in held.bad if of_bottoms and len(layers_of(prototxt.parse(held.bad[0], "net"), TRAIN)) > 2 else ():
        assert re.search(r"layer 'l'", inferred_refusal(text)), text


def inferred_refusal(text: str) -> str:
    """The refusal of a net where shapes are inferred; "" if there is none."""
    try:
        infer_shapes(layers_of(prototxt.parse(text, "net"), TRAIN))
    except CaffeSplitError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("held", CONDITIONS, ids=lambda held: f"{held.type}: {held.text}")
def test_the_engine_holds_each_condition(held: Condition) -> None:
    for text in held.good:
        assert refusal(text) is None, text
    for text in held.bad:
        said = refusal(text)
        assert said is not None, text
        assert re.search(r"layer '[lr]'", said) and held.said in said, (said, text)


def test_too_few_and_too_many_bottoms_and_tops_are_refused() -> None:
    nets = list(counts())
    assert len(nets) > 80
    for text in nets:
        assert "expected" in (refusal(text) or ""), text


@pytest.mark.caffe
def test_caffe_agrees(tmp_path: Path) -> None:
    good = [text for held in CONDITIONS for text in held.good]
    bad = [text for held in CONDITIONS for text in held.bad] + list(counts())
    (tmp_path / "texts.json").write_text(json.dumps(good + bad))
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("setup_job.py")), "texts.json", "results.json"],
        cwd=tmp_path,
        env={**os.environ, "GLOG_minloglevel": "4", "OPENBLAS_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        timeout=300,
        check=True,
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert [text for text, taken in zip(good, results) if not taken] == []
    assert [text for text, taken in zip(bad, results[len(good) :]) if taken] == []


def test_each_type_has_its_conditions() -> None:
    handled = {name for name, record in RECORDS.items() if record.engine} - set(FORKS) - fork_data.NAMES
    assert {held.type for held in CONDITIONS} | UNCONDITIONAL | OF_FILES == handled
