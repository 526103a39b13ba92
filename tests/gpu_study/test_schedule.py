"""The schedule of tools/gpu_study, and its packed images."""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import pytest

from tests.support import ROOT

torch = pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "tools"))

import gpu_study_parts.arms as arms  # noqa: E402
import gpu_study_parts.data as packed  # noqa: E402
import gpu_study_parts.split as nets  # noqa: E402
from gpu_study_parts.start import BASELINE  # noqa: E402

from caffe_split import CaffeSplitError  # noqa: E402


@pytest.mark.parametrize("scale", [*arms.SCALES, Fraction(1, 2000)], ids=str)
def test_a_schedule_fits_together(scale: Fraction) -> None:
    s = arms.schedule_of(str(scale))
    start, stop = s.window
    assert stop == s.split < s.total and start > 0
    for count in (start, stop, s.total, s.test_interval):
        assert count % s.interval == 0
    assert s.interval % s.unroll == 0 and s.total % s.test_interval == 0
    if scale >= Fraction(1, 16):
        assert abs(s.tests - 65) <= 3
        assert s.total == pytest.approx(64000 * scale, rel=0.05) and s.split == pytest.approx(50000 * scale, rel=0.02)
    rates = s.rates()
    assert rates[0] == pytest.approx(0.1) and rates[-1] == pytest.approx(0.001) and len(rates) == s.total


def test_a_scale_that_is_none_or_too_small_is_told() -> None:
    for text in ("0", "2", "-1/4", "1/0", "a half"):
        with pytest.raises(CaffeSplitError, match="expected auto, or a number above 0"):
            arms.schedule_of(text)
    with pytest.raises(CaffeSplitError, match="the recipe's steps collide"):
        arms.schedule_of("1/20000")


def test_the_recipe_is_scale_1() -> None:
    s = arms.Schedule(Fraction(1))
    assert (s.total, s.split, s.window, s.rate_steps, s.interval) == (64000, 50000, (40000, 50000), (32000, 48000), 100)
    text = s.solver((BASELINE / nets.SOLVER).read_text(), "s1/baseline")
    assert 'net: "s1/baseline/train_val.prototxt"' in text and "stepvalue: 32000\nstepvalue: 48000\n" in text
    assert "max_iter: 64000" in text and "weight_decay: 0.0001" in text


def test_the_time_is_that_of_all_iterations_where_the_device_is_full() -> None:
    """With one pace for any number it is iterations times pace; on a device that is never full, the chain of rounds."""
    s, seeds = arms.Schedule(Fraction(1, 4)), [1, 2, 3]
    factors = {arm.name: 1.0 for arm in arms.arms_of(0)}
    count = len(seeds) * len(factors) * s.total
    assert arms.seconds_for(s, seeds, 6, lambda k: 0.5, factors) == pytest.approx(count * 0.0005, rel=1e-3)
    alone = arms.seconds_for(s, [1], 10, lambda k: 1.0 / k, factors)
    assert alone == pytest.approx((3 * s.split + s.total) * 0.001, rel=1e-2)
    pace = arms.pace_from({1: 1.0, 6: 0.5})
    assert pace(1) == 1 and pace(6) == pace(9) == 0.5 and 0.5 < pace(3) < 1


def test_packed_images_come_back_to_the_last_bit(tmp_path, monkeypatch) -> None:
    from caffe_split.data.store import write_store

    monkeypatch.setattr(packed, "COUNTS", {"train": 1500, "test": 40})
    generator = np.random.default_rng(0)
    sets = {
        half: (generator.integers(0, 256, (count, 3, 32, 32), np.uint8), generator.integers(0, 10, count))
        for half, count in packed.COUNTS.items()
    }
    for half, (images, labels) in sets.items():
        write_store(tmp_path / f"cifar10_{half}_lmdb", zip(images, map(int, labels)))
    with pytest.raises(CaffeSplitError, match="another set: the training images' mean is"):
        packed.read_stores(tmp_path)
    monkeypatch.setattr(packed, "MEAN", sets["train"][0].mean((0, 2, 3)))
    parts = [tmp_path / "part1", tmp_path / "part2"]
    packed.pack(tmp_path, parts)
    found = packed.load(parts)
    for half, (images, labels) in sets.items():
        assert (found[half][0] == images.transpose(0, 2, 3, 1)).all() and (found[half][1] == labels).all()
    with pytest.raises(CaffeSplitError, match=r"sheets of the train images are in none of .*Give all parts"):
        packed.load(parts[1:])
    (parts[0] / "test_labels.bin").write_bytes(bytes(40))
    with pytest.raises(CaffeSplitError, match="the test labels are not those that were packed"):
        packed.load(parts)
    with pytest.raises(CaffeSplitError, match=r"no cifar10\.json in"):
        packed.load([tmp_path])
