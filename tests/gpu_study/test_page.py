"""The page of tools/gpu_study, from results that nobody trained."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support import ROOT

torch = pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "tools"))

import gpu_study_parts.arms as arms  # noqa: E402
from gpu_study_parts.report import write_report  # noqa: E402

from caffe_split import CaffeSplitError  # noqa: E402


def made_up(seeds: int, gain: float) -> dict:
    """A table.json in which every MultiSplits arm is `gain` points above its control."""
    results = []
    for seed in range(1, seeds + 1):
        for arm in arms.arms_of(seed):
            accuracy = 0.9 + seed / 1000 + (gain / 100 + seed / 10000 if arm.name.startswith("Multi") else 0)
            cost = {"parameters": 100, "macs": 1000}
            seen = dict.fromkeys(("final", "folded", "best", "last_test"), accuracy)
            results.append(
                {
                    "seed": seed,
                    "arm": arm.name,
                    **seen,
                    "differ": int(arm.name == "MultiSplits"),
                    "images": 10000,
                    "cost": cost,
                    "folded_cost": cost,
                    "seconds": 1.0,
                }
            )
    return {
        "results": results,
        "scale": "1/4",
        "total": 16000,
        "batch": 128,
        "split": 12500,
        "window": [10000, 12500],
        "interval": 25,
        "test_interval": 250,
        "seeds": list(range(1, seeds + 1)),
        "way": "bf16",
        "device": "none",
        "torch": "0",
        "together": 6,
        "seconds": 1.0,
        "whole": seeds > 2,
        "failed": {},
    }


def test_the_page_tells_what_is_reached_and_what_is_chance(tmp_path) -> None:
    (tmp_path / "table.json").write_text(json.dumps(made_up(3, 1.2)))
    page = write_report(tmp_path, tmp_path / "results")
    text = page.read_text()
    assert "at the baseline's cost against equal training: reached; the most is MultiSplits's +1.22 (" in text
    assert "3 seeds: fewer than the 5 that a claim needs" in text and "did not come to its end" not in text
    assert "differ in the class of 3 of 180,000 images" in text
    assert "- SkipSplit_1x1 against continue: +0.00 (+0.00 to +0.00) points, all pairs alike: no interval." in text
    assert "| MultiSplits against random-MultiSplits | +1.22 (+1.20 to +1.24) | 3 | above zero" in text
    # What a person has written stays when the page is made again.
    page.write_text(text.replace("<!-- end -->", "It was chance.\n<!-- end -->"))
    (tmp_path / "table.json").write_text(json.dumps(made_up(2, 0.2)))
    text = write_report(tmp_path, tmp_path / "results").read_text()
    assert "It was chance." in text and "not reached; the most is" in text and "did not come to its end" in text


def test_a_page_of_nothing_is_refused(tmp_path) -> None:
    (tmp_path / "table.json").write_text(json.dumps({**made_up(3, 1), "results": []}))
    with pytest.raises(CaffeSplitError, match="no training of this study came to its end"):
        write_report(tmp_path, tmp_path)
