"""Skellam noise: the difference of two Poisson counts. Sums of independent Skellam shares are Skellam again.

A sample is drawn by inverting the distribution function, tabulated in 200-bit integers and cut to 64 bits: no floating
point decides it. In total variation the law drawn differs from the exact one by less than 2^-63 times the length of the
table (some thousands of entries: about 2^-51) for each coordinate, which is not accounted.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.random_words import RandomWords
from mmfed.types import IntArray

UNIT = 1024  # Poisson rates are multiples of 1 / UNIT, so that the table is exact
_ONE = 1 << 200
_NEGLIGIBLE = 1 << 72  # a probability below 2^-128 of the largest
_LARGEST_RATE = 10**10  # a table of 3 million entries


def skellam(ticks: int, size: int, source: RandomWords) -> IntArray:
    """``size`` independent samples with mean 0 and variance 2 · ticks / 1024, int64.

    Raises:
        MmfedError: the rate is not above zero, or too large for a table.
    """
    return _poisson(ticks, size, source) - _poisson(ticks, size, source)


def _poisson(ticks: int, size: int, source: RandomWords) -> IntArray:
    first, thresholds = poisson_table(ticks)
    return first + np.searchsorted(thresholds, source.words(size), side="right").astype(np.int64)


@lru_cache(maxsize=8)
def poisson_table(ticks: int) -> tuple[int, IntArray]:
    """The smallest value, and for it and every next one the 64-bit threshold below which a word gives at most it."""
    if isinstance(ticks, bool) or not isinstance(ticks, int) or not 1 <= ticks <= _LARGEST_RATE * UNIT:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"a Poisson rate of {ticks!r} / {UNIT} cannot be drawn.",
            "take a noise multiplier that is not so large or so small.",
        )
    mode = ticks // UNIT
    above, weight, value = [_ONE], _ONE, mode
    while weight > _NEGLIGIBLE:
        value += 1
        weight = weight * ticks // (value * UNIT)
        above.append(weight)
    below, weight, value = [], _ONE, mode
    while weight > _NEGLIGIBLE and value > 0:
        weight = weight * value * UNIT // ticks
        value -= 1
        below.append(weight)
    weights = below[::-1] + above
    total, so_far, thresholds = sum(weights), 0, []
    for one in weights[:-1]:
        so_far += one
        thresholds.append((so_far << 64) // total)
    # a threshold of 2^64 (rounding) is never passed, nor needed
    kept = [threshold for threshold in thresholds if threshold < 1 << 64]
    return value, np.array(kept, dtype=np.uint64)
