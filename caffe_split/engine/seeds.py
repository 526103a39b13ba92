"""Seeds for the several sources of random numbers in a training."""

from __future__ import annotations

import numpy as np


def mixed_seed(*numbers: int) -> int:
    """A seed made from several numbers, such as the training's seed, the iteration and the process.

    Returns: 0 <= seed < 2^63. The same numbers, each 0 or more, give the same seed.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
