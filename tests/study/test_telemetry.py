"""How far a split's parts moved: against a change of known size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_split.formats.weights.caffemodel import write_weights
from caffe_split.study.telemetry import movements


def test_movements_are_relative_to_where_a_part_began(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ["c_split1", "c_split2", "c_split2_skip", "c_split2_residual_pre", "c_reorder", "other"]
    start = {name: [rng.normal(size=(2, 3, 3, 3)).astype(np.float32)] for name in names}
    scale = dict(zip(names, (1.1, 0.8, 1.0, 2.0, 1.0, 3.0)))
    end = {name: [(scale[name] * blobs[0]).astype(np.float32)] for name, blobs in start.items()}
    for name, weights in (("a", start), ("b", end)):
        write_weights(tmp_path / f"{name}.caffemodel", weights)
    found = movements(tmp_path / "a.caffemodel", tmp_path / "b.caffemodel")
    assert set(found) == {"c"}
    assert found["c"] == pytest.approx(
        {"split1": 0.1, "split2": 0.2, "skip": 0.0, "residual_pre": 1.0, "reorder": 0.0}, abs=1e-6
    )
