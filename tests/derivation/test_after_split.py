"""Gradients in the parts of a derived net: their sizes are those of the saliency; what cannot be read is left out."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

import caffe_split as cs
from caffe_split.derivation.after_split import BATCHES, ROLES, Course, measure_course, read_course
from caffe_split.report.gradients import chart
from tests.support import caffe_split


@pytest.mark.parametrize("partition", ["random:0", "all"])
def test_each_role_has_the_mean_square_of_its_layers(
    digits: Path, monkeypatch: pytest.MonkeyPatch, partition: str
) -> None:
    monkeypatch.chdir(digits)
    words = ("make-derived", "digits/solver.prototxt", "--iter", 100, "--layers", "conv1,res2_conv1")
    caffe_split(*words, "--partition", partition, "--kind", "conv1x1", cwd=digits)
    course = measure_course(Path("derived1/solver.prototxt"))
    assert course.iterations == (0,) and course.batches == BATCHES
    convolutions = [
        str(layer.get("name"))
        for layer in cs.read_net("derived1/train_val.prototxt").subs("layer")
        if layer.get("type") == "Convolution"
    ]
    training = cs.open_training("derived1/solver.prototxt")
    found = cs.measure_saliency(training, weights="derived1/init.caffemodel", layers=convolutions, batches=BATCHES)
    roles = {"_split1": "halves", "_split2": "halves", "_conv1x1": "added", "_reorder": "reorder"}
    groups: dict[str, list[cs.Saliency]] = {}
    for each in found:
        ending = next((end for end in roles if each.layer.endswith(end)), "")
        groups.setdefault(roles.get(ending, "untouched"), []).append(each)
    assert set(groups) == set(course.rms) == set(ROLES) - ({"reorder"} if partition == "all" else set())
    assert sorted(each.layer for each in groups["added"]) == ["conv1_split2_conv1x1", "res2_conv1_split2_conv1x1"]
    for role, layers in groups.items():
        square = sum(each.whole["grad-norm"] ** 2 for each in layers) / sum(math.prod(each.shape) for each in layers)
        assert course.rms[role] == pytest.approx((math.sqrt(square),), rel=1e-6)  # type: ignore[index]
    course.write(Path("derived1"))
    assert read_course(Path("derived1")) == course


def test_a_frozen_skip_has_no_gradient_and_no_curve(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(digits)
    words = ("make-derived", "digits/solver.prototxt", "--iter", 100, "--layers", "conv1", "--kind", "skip")
    caffe_split(*words, cwd=digits)
    course = measure_course(Path("derived1/solver.prototxt"))
    assert set(course.rms) == {"untouched", "halves", "reorder"} and course.sentence() == ""


COURSE = Course(
    (0, 100, 2000),
    5,
    "caffe",
    {
        "untouched": (1e-3, 2e-3, 1e-5),
        "halves": (9e-4, 2e-3, 1.1e-5),
        "added": (5e-4, 4e-3, 1.2e-5),
        "reorder": (0.0, math.nan, 3e-5),
    },
)


def test_the_sentence_compares_added_with_untouched() -> None:
    assert "0.5 times the gradient" in COURSE.sentence() and "1.2 to 2 times afterwards" in COURSE.sentence()


def test_the_chart_has_every_value_in_its_frame_and_names_apart() -> None:
    svg = str(chart(COURSE, "a & b"))
    assert "a &amp; b" in svg and svg.count("<polyline") == 4 and svg.count("<circle") == 10  # 0 and NaN have no place
    heights = [float(y) for y in re.findall(r'<circle[^>]* cy="([\d.]+)"', svg)]
    assert all(14 <= y <= 260 for y in heights)
    # The larger of two values stands higher.
    assert heights[0] < heights[2] and heights[1] < heights[0]
    names = [float(y) for y in re.findall(r'<text x="560.0" y="([\d.]+)"', svg)]
    assert len(names) == 4 and all(b - a >= 14.9 for a, b in zip(sorted(names), sorted(names)[1:]))


@pytest.mark.parametrize("rms", [{"added": [1.0]}, {"added": 3}, None, {"added": ["x", "y"]}])
def test_what_is_no_course_is_left_out(tmp_path: Path, rms: object) -> None:
    assert read_course(tmp_path) is None
    value = {"iterations": [0, 100], "batches": 5, "engine": "caffe", "rms": rms}
    (tmp_path / "gradients.json").write_text(json.dumps(value))
    assert read_course(tmp_path) is None
