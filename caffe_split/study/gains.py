"""The gains of a study's runs over their controls, as its figure has them."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_split.plot.gains import Gain
from caffe_split.study.rows import Count, Row, differences


def gains_of(rows: Sequence[Row]) -> list[Gain]:
    """A `Gain` in points of each row less its control, then of each less the other runs that it is compared with.

    What has no seed in common is left out.
    """
    finals = {row.run: row.final_by_seed for row in rows}
    own = [(row, row.control, row.final_difference) for row in rows]
    others = [(row, other, difference) for row in rows for other, difference in differences(row).items()]
    found = []
    for row, other, difference in [*own, *others]:
        control = finals.get(other, {})
        points = {seed: 100 * (value - control[seed]) for seed, value in row.final_by_seed.items() if seed in control}
        if difference is None or not points:
            continue
        interval = (100 * difference.low, 100 * difference.high)
        together = (100 * difference.together[0], 100 * difference.together[1])
        found.append(Gain(row.run, other, points, interval, together, _cost(row)))
    return found


def _cost(row: Row) -> float | None:
    """The run's multiply-adds, folded where it is, as a multiple of the baseline's; None where not known."""
    macs = row.folded.macs if row.folded is not None and row.folded.n else row.macs
    before, after = _most(row.macs_before), _most(macs)
    return after / before if before and after else None


def _most(count: Count) -> int | None:
    return max(count) if isinstance(count, list) else count
